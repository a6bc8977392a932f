//! The last words of a component.

use std::{
    collections::VecDeque,
    io::{self, Read},
};

/// How much is kept of what a component wrote, in bytes. A component that writes more loses the
/// beginning, not our memory.
const KEPT: usize = 8 << 10;

/// The end of a stream of log lines.
#[derive(Debug, Default)]
pub(crate) struct Tail(VecDeque<u8>);

impl Tail {
    /// Takes what can be read from `source` now; false at its end. It stops at what is kept anyway,
    /// so that a source without an end does not hold up everything else.
    pub(crate) fn fill(&mut self, mut source: impl Read) -> bool {
        let mut buffer = [0; 4096];
        for _ in 0..KEPT.div_ceil(buffer.len()) {
            match source.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.push(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let excess = self.0.len().saturating_sub(KEPT);
        self.0.drain(..excess);
    }

    /// What is kept, as text without control characters: it came from a less trusted process and
    /// may be shown on a terminal.
    pub(crate) fn text(&self) -> String {
        printable(&self.0.iter().copied().collect::<Vec<_>>())
    }
}

/// `bytes` as text that is safe to show on a terminal.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end()
        .chars()
        .filter(|c| matches!(c, '\n' | '\t') || !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = Tail::default();
        assert!(tail.fill(&[b'x'; 3 * KEPT][..]));
        assert!(!tail.fill(&b"end\n"[..]));
        assert_eq!(tail.0.len(), KEPT);
        assert!(tail.text().ends_with("xend"));
    }

    #[test]
    fn a_source_without_an_end_is_left_after_a_while() {
        assert!(Tail::default().fill(io::repeat(b'x')));
    }

    #[test]
    fn terminal_control_is_taken_out() {
        assert_eq!(printable(b"a\x1b[2Jb\r\n\tc\x07\xff"), "a[2Jb\n\tc\u{fffd}");
    }
}
