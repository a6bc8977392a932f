//! Records of POSIX's extended headers (pax, "Extended Header"): `LENGTH KEY=VALUE\n`.

use std::collections::BTreeMap;

use erofs::{Time, Xattrs};

use super::sparse::{Fragments, pairs};

/// What goes before an extended attribute's name.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Values by key; of several the last one counts.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

/// What is wrong with a record's value.
type Wrong = &'static str;

impl Records {
    /// # Errors
    /// What is wrong with them.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Wrong> {
        let mut records = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() && !rest.iter().all(|byte| *byte == 0) {
            let (record, behind) = split(rest).ok_or("a record of a pax header is malformed")?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = equals
                .and_then(|at| Some((record.get(..at)?, record.get(at.checked_add(1)?..)?)))
                .filter(|(key, _)| !key.is_empty())
                .ok_or("a record of a pax header has no key")?;
            records.insert(key, value)?;
            rest = behind;
        }
        Ok(records)
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Wrong> {
        // The oldest form of sparse files has a record for each number.
        let part = match key {
            b"GNU.sparse.offset" => 0,
            b"GNU.sparse.numbytes" => 1,
            _ => {
                self.0.insert(key.to_vec(), value.to_vec());
                return Ok(());
            }
        };
        let map = self.0.entry(b"GNU.sparse.map".to_vec()).or_default();
        let commas = map.iter().filter(|byte| **byte == b',').count();
        if commas % 2 != part || value.contains(&b',') {
            return Err("records of a sparse file are out of order");
        }
        map.extend(value);
        map.push(b',');
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        let value = self.0.get(key.as_bytes()).map(Vec::as_slice);
        // An empty value stands for none.
        value.filter(|value| !value.is_empty())
    }

    fn number(&self, key: &str, wrong: Wrong) -> Result<Option<u64>, Wrong> {
        let number = |value| decimal(value).ok_or(wrong);
        self.get(key).map(number).transpose()
    }

    fn short(&self, key: &str, wrong: Wrong) -> Result<Option<u32>, Wrong> {
        let number = self.number(key, wrong)?;
        let short = |number| u32::try_from(number).map_err(|_| wrong);
        number.map(short).transpose()
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        self.get("GNU.sparse.name").or_else(|| self.get("path"))
    }

    pub(super) fn target(&self) -> Option<&[u8]> {
        self.get("linkpath")
    }

    pub(super) fn size(&self) -> Result<Option<u64>, Wrong> {
        self.number("size", "its size is no number")
    }

    pub(super) fn uid(&self) -> Result<Option<u32>, Wrong> {
        self.short("uid", "its owner is no number below 2^32")
    }

    pub(super) fn gid(&self) -> Result<Option<u32>, Wrong> {
        self.short("gid", "its group is no number below 2^32")
    }

    pub(super) fn mtime(&self) -> Result<Option<Time>, Wrong> {
        let time = |value| time(value).ok_or("its time is no number");
        self.get("mtime").map(time).transpose()
    }

    pub(super) fn xattrs(&self) -> Xattrs {
        let records = self.0.iter();
        let named = records.filter_map(|(key, value)| {
            let name = key.strip_prefix(XATTR)?;
            Some((unescaped(name), value.clone()))
        });
        named.collect()
    }

    /// The size of a sparse file with its holes, and where its contents go; no such list if it is at
    /// the beginning of the contents. None if it is not sparse.
    pub(super) fn sparse(&self) -> Result<Option<(Option<Fragments>, u64)>, Wrong> {
        const WRONG: Wrong = "its map of holes makes no sense";
        let map = match (self.get("GNU.sparse.major"), self.get("GNU.sparse.minor")) {
            (Some(b"1"), Some(b"0")) => None,
            (None | Some(b"0"), _) => match self.get("GNU.sparse.map") {
                Some(map) => Some(pairs(map, b',').ok_or(WRONG)?),
                None => return Ok(None),
            },
            _ => return Err("its map of holes is of an unknown version"),
        };
        let size = match self.number("GNU.sparse.realsize", WRONG)? {
            Some(size) => Some(size),
            None => self.number("GNU.sparse.size", WRONG)?,
        };
        Ok(Some((map, size.ok_or(WRONG)?)))
    }
}

/// The first record without its length and newline, and what is behind it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let (whole, behind) = bytes.split_at_checked(length)?;
    let record = whole.get(space.checked_add(1)?..)?;
    Some((record.strip_suffix(b"\n")?, behind))
}

/// Digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds since 1970 with a fraction, of which nine digits count.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    decimal(fraction.get(..1).unwrap_or(b"0"))?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nine = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = u32::try_from(decimal(&nine.copied().collect::<Vec<_>>())?).ok()?;
    Some(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time {
            seconds: seconds.checked_neg()?,
            nanos,
        },
        (true, _) => Time {
            seconds: seconds.checked_neg()?.checked_sub(1)?,
            nanos: 1_000_000_000_u32.checked_sub(nanos)?,
        },
    })
}

/// GNU's tar writes `=` and `%` of an attribute's name as `%3D` and `%25`.
fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, behind)) = rest.split_first() {
        (bytes, rest) = match behind.get(..2) {
            Some(b"3D") if *first == b'%' => (
                [bytes, vec![b'=']].concat(),
                behind.get(2..).unwrap_or_default(),
            ),
            Some(b"25") if *first == b'%' => (
                [bytes, vec![b'%']].concat(),
                behind.get(2..).unwrap_or_default(),
            ),
            _ => {
                bytes.push(*first);
                (bytes, behind)
            }
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<(i64, u32)> {
        time(text.as_bytes()).map(|time| (time.seconds, time.nanos))
    }

    #[test]
    fn times_have_fractions_on_either_side_of_1970() {
        assert_eq!(at("1.5"), Some((1, 500_000_000)));
        assert_eq!(at("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(at("-1"), Some((-1, 0)));
        assert_eq!(at("-0.000000001"), Some((-1, 999_999_999)));
        assert_eq!(at("12.1234567899"), Some((12, 123_456_789)));
        for wrong in [
            "",
            "-",
            ".5",
            "1.x",
            "1.5x",
            "--1",
            "99999999999999999999",
            "1e3",
        ] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn values_are_bytes_newlines_and_equals_signs_included() {
        let text = b"30 SCHILY.xattr.user.a=b\n=c\0\xff\n12 path=a=b\n";
        let records = Records::parse(text).unwrap();
        assert_eq!(records.path(), Some(&b"a=b"[..]));
        let value = b"b\n=c\0\xff".to_vec();
        assert_eq!(
            records.xattrs(),
            Xattrs::from([(b"user.a".to_vec(), value)])
        );
        assert_eq!(unescaped(b"user.a%3Db%25%3"), b"user.a=b%%3");
    }

    #[test]
    fn records_that_are_none_are_refused() {
        for text in [
            "x", "5 a=b\n", "99 a=b\n", "6 a=bx", "5 ab\n", "6 =ab\n", " a=b\n",
        ] {
            assert!(Records::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Records::parse(b"6 a=b\n").is_ok());
        let disorder = b"26 GNU.sparse.numbytes=12\n";
        assert!(Records::parse(disorder).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_records_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(records) = Records::parse(&bytes) {
                let _ = (records.mtime(), records.sparse(), records.xattrs(), records.uid());
            }
        }
    }
}
