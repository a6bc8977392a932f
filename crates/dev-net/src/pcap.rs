//! A record of every frame, in the format that Wireshark reads (draft-ietf-opsawg-pcap).

use std::fs::File;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Says that times have nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;

/// The longest frame: an Ethernet header and 65535 bytes.
const SNAP_LENGTH: u32 = 65549;

/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// Writes frames to a file until that fails.
#[derive(Debug)]
pub(crate) struct Pcap {
    file: Option<File>,
    buffer: Vec<u8>,
}

impl Pcap {
    /// A record in `file`, of which it writes the beginning.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn new(mut file: File) -> io::Result<Self> {
        let words = [MAGIC, 4 << 16 | 2, 0, 0, SNAP_LENGTH, ETHERNET];
        file.write_all(&words.map(u32::to_le_bytes).concat())?;
        Ok(Self {
            file: Some(file),
            buffer: Vec::new(),
        })
    }

    /// Records a frame that is in `parts`.
    pub(crate) fn record(&mut self, parts: &[&[u8]]) {
        let Some(file) = &mut self.file else { return };
        let length = parts
            .iter()
            .fold(0, |sum: usize, part| sum.saturating_add(part.len()));
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let now = SystemTime::now();
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        self.buffer.clear();
        for word in [seconds, now.subsec_nanos(), length, length] {
            self.buffer.extend(word.to_le_bytes());
        }
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        if let Err(error) = file.write_all(&self.buffer) {
            device::report(&format!("the record of frames ends here: {error}"));
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn a_record_has_a_beginning_and_a_header_before_each_frame() {
        let mut file = tempfile::tempfile().unwrap();
        let mut pcap = Pcap::new(file.try_clone().unwrap()).unwrap();
        pcap.record(&[b"head", b"", b"payload"]);
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let (beginning, frame) = bytes.split_at(24);
        assert!(beginning.starts_with(&[0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]));
        assert!(beginning.ends_with(&[1, 0, 0, 0]));
        let (header, frame) = frame.split_at(16);
        assert!(header.ends_with(&[11, 0, 0, 0, 11, 0, 0, 0]));
        assert_eq!(frame, b"headpayload");
    }
}
