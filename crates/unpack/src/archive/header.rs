//! The fields of one header.

use erofs::{Attributes, Time};
use tar::{GnuHeader, Header};

use super::pax::Records;

/// A header whose checksum is right.
pub(super) struct Fields<'a>(pub(super) &'a Header);

impl<'a> Fields<'a> {
    /// What kind of entry or header it is.
    pub(super) fn kind(&self) -> u8 {
        let [kind] = self.0.as_old().linkflag;
        kind
    }

    pub(super) fn size(&self) -> Option<u64> {
        u64::try_from(number(&self.0.as_old().size)?).ok()
    }

    pub(super) fn path(&self) -> Vec<u8> {
        self.0.path_bytes().into_owned()
    }

    pub(super) fn target(&self) -> Vec<u8> {
        text(&self.0.as_old().linkname).to_vec()
    }

    pub(super) fn gnu(&self) -> Option<&'a GnuHeader> {
        self.0.as_gnu()
    }

    /// Major and minor number.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        let (major, minor) = match (self.0.as_ustar(), self.0.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            (None, None) => return None,
        };
        let short = |field| u32::try_from(number(field)?).ok();
        Some((short(major)?, short(minor)?))
    }

    /// The attributes, of which records know better.
    pub(super) fn attributes(&self, records: &Records) -> Result<Attributes, &'static str> {
        let header = self.0.as_old();
        let mode = number(&header.mode).ok_or("its mode is no number")? & 0o7777;
        let uid = match records.uid()? {
            Some(uid) => Some(uid),
            None => number(&header.uid).and_then(|uid| u32::try_from(uid).ok()),
        };
        let gid = match records.gid()? {
            Some(gid) => Some(gid),
            None => number(&header.gid).and_then(|gid| u32::try_from(gid).ok()),
        };
        let mtime = match records.mtime()? {
            Some(mtime) => mtime,
            None => Time {
                seconds: number(&header.mtime).ok_or("its time is no number")?,
                nanos: 0,
            },
        };
        Ok(Attributes {
            mode: u16::try_from(mode).unwrap_or(0),
            uid: uid.ok_or("its owner is no number below 2^32")?,
            gid: gid.ok_or("its group is no number below 2^32")?,
            mtime,
            xattrs: records.xattrs(),
        })
    }
}

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let mut parts = field.split(|byte| *byte == 0);
    parts.next().unwrap_or_default()
}

/// A number: octal digits between spaces and NULs, of which there may be none; or, if the highest
/// bit is set, the rest as two's complement, the most significant byte first.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let first = if negative { *first } else { first & 0x3f };
        let start = i128::from(first.cast_signed());
        let join = |sum: i128, byte: &u8| sum.checked_mul(256)?.checked_add((*byte).into());
        return i64::try_from(rest.iter().try_fold(start, join)?).ok();
    }
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let begin = field.iter().position(|byte| !is_padding(byte));
    let Some(begin) = begin else {
        return Some(0);
    };
    let digits = field.get(begin..)?;
    let end = digits.iter().position(is_padding).unwrap_or(digits.len());
    let (digits, behind) = digits.split_at_checked(end)?;
    if !behind.iter().all(is_padding) {
        return None;
    }
    let text = std::str::from_utf8(digits).ok()?;
    let is_octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    i64::from_str_radix(text, 8).ok().filter(|_| is_octal)
}

/// Where the checksum is.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Whether the checksum is right: the sum of all bytes, its own taken for spaces. Old archives took
/// bytes for signed.
pub(super) fn is_sound(block: &[u8]) -> bool {
    let Some(stated) = block.get(CHECKSUM).and_then(number) else {
        return false;
    };
    let bytes = block.iter().enumerate();
    let bytes = bytes.map(|(at, byte)| if CHECKSUM.contains(&at) { b' ' } else { *byte });
    let unsigned: i64 = bytes.clone().map(i64::from).sum();
    let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
    stated == unsigned || stated == signed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary_and_nothing_is_zero() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"77777777777\0"), Some(0o77777777777));
        for wrong in [&b"0000648\0"[..], b"12 34\0", b"+1\0", b"-1\0", b"", b"x"] {
            assert_eq!(number(wrong), None, "{wrong:?}");
        }
        let binary = |bytes: &[u8]| number(bytes);
        assert_eq!(
            binary(&[0x80, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0]),
            Some(1 << 36)
        );
        assert_eq!(binary(&[0xff; 12]), Some(-1));
        assert_eq!(
            binary(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
            Some(-256)
        );
        assert_eq!(binary(&[0x80, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
