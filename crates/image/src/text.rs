//! Words of others, made fit to be shown.

/// As many characters of others are shown at most.
const SHOWN: usize = 200;

/// `text` without what moves a terminal's cursor, and not too long.
pub(crate) fn shown(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut shown: String = printable.take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_do_not_reach_the_terminal_as_they_are() {
        assert_eq!(shown("\x1b[2Jno\r\n"), "[2Jno");
        assert_eq!(shown(&"x".repeat(999)).chars().count(), SHOWN + 1);
    }
}
