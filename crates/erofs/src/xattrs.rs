//! Extended attributes: which ones a layer may have, and their form in the file.

use std::collections::BTreeMap;

use crate::format::{Fields, XATTR_HEAD};
use crate::{Error, Result, shown};

/// Values by their full names.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Marks a directory that hides what is below it.
pub(crate) const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// The value of [`OPAQUE`].
pub(crate) const YES: &[u8] = b"y";

/// The most bytes of one inode's attributes in the file.
const MOST: usize = 128 << 10;

/// Prefixes of names, and the numbers that stand for them. Those of access control lists are whole
/// names, and stand first.
const PREFIXES: [(u8, &[u8]); 5] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
];

/// Whether a prefix is a whole name.
const fn is_whole(index: u8) -> bool {
    matches!(index, 2 | 3)
}

/// The number for a name's prefix, and the rest of it; none if there is no number.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        (rest.is_empty() == is_whole(*index)).then_some((*index, rest))
    })
}

/// Without what overlayfs keeps for itself, which could make it look up names elsewhere, and what no
/// file system of Linux has: names outside of the known name spaces.
pub(crate) fn clean(path: &[u8], mut xattrs: Xattrs) -> Result<Xattrs> {
    xattrs.retain(|name, _| {
        let private = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
        !private && split(name).is_some()
    });
    let refuse = |name: &[u8], why| Error::Attribute {
        path: shown(path),
        what: format!("the extended attribute `{}`", shown(name)),
        why,
    };
    for (name, value) in &xattrs {
        if name.len() > 255 || name.contains(&0) {
            return Err(refuse(
                name,
                "its name is longer than 255 bytes or has a NUL",
            ));
        }
        if value.len() > usize::from(u16::MAX) {
            return Err(refuse(name, "its value is longer than 65535 bytes"));
        }
    }
    if size(&xattrs) > MOST {
        let last = xattrs.keys().next_back().map_or(&[][..], Vec::as_slice);
        return Err(refuse(last, "all of them together take more than 128 KiB"));
    }
    Ok(xattrs)
}

/// Bytes in the file; none if there are no attributes.
pub(crate) fn size(xattrs: &Xattrs) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    let entries = xattrs.iter().map(|(name, value)| {
        let name = split(name).map_or(0, |(_, rest)| rest.len());
        name.saturating_add(value.len())
            .saturating_add(4)
            .next_multiple_of(4)
    });
    entries.fold(XATTR_HEAD, usize::saturating_add)
}

/// The attributes as they follow their inode: a head without shared ones, then each with the lengths
/// of its name and value.
pub(crate) fn encode(xattrs: &Xattrs) -> Vec<u8> {
    if xattrs.is_empty() {
        return Vec::new();
    }
    let mut bytes = vec![0; XATTR_HEAD];
    for (name, value) in xattrs {
        let Some((index, rest)) = split(name) else {
            continue;
        };
        // `clean` has seen to it that both fit.
        bytes.push(u8::try_from(rest.len()).unwrap_or(u8::MAX));
        bytes.push(index);
        bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend(rest);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// The reverse of [`encode`].
pub(crate) fn decode(bytes: &[u8]) -> Result<Xattrs> {
    const CUT: Error = Error::Damaged("extended attributes are cut off");
    let mut xattrs = Xattrs::new();
    if bytes.is_empty() {
        return Ok(xattrs);
    }
    let head = bytes.get(..XATTR_HEAD).ok_or(CUT)?;
    if head.get(4) != Some(&0) {
        return Err(Error::Unsupported("shared extended attributes"));
    }
    let mut rest = bytes.get(XATTR_HEAD..).ok_or(CUT)?;
    while !rest.is_empty() {
        let fields = &mut Fields(rest);
        let (length, index) = (fields.u8()?, fields.u8()?);
        let value = usize::from(fields.u16()?);
        let (name, behind) = fields.0.split_at_checked(length.into()).ok_or(CUT)?;
        let value = behind.get(..value).ok_or(CUT)?;
        let (_, prefix) = PREFIXES
            .iter()
            .find(|(known, _)| *known == index)
            .ok_or(Error::Unsupported("extended attributes of unknown kinds"))?;
        xattrs.insert([prefix, name].concat(), value.to_vec());
        let whole = name.len().saturating_add(value.len()).saturating_add(4);
        rest = rest.get(whole.next_multiple_of(4)..).ok_or(CUT)?;
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(names: &[&str]) -> Xattrs {
        let name = |name: &&str| (name.as_bytes().to_vec(), b"value".to_vec());
        names.iter().map(name).collect()
    }

    #[test]
    fn overlayfs_own_attributes_and_unknown_ones_are_dropped() {
        let kept = [
            "user.a",
            "trusted.b",
            "security.capability",
            "system.posix_acl_access",
        ];
        let dropped = [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "trusted.overlay.metacopy",
            "user.overlay.opaque",
            "system.nfs4_acl",
            "system.posix_acl_access2",
            "com.apple.provenance",
            "user.",
            "",
        ];
        let all = some(&[&kept[..], &dropped[..]].concat());
        assert_eq!(clean(b"x", all).unwrap(), some(&kept));
    }

    #[test]
    fn what_has_no_room_is_refused_with_its_name() {
        let one = |name: Vec<u8>, length| Xattrs::from([(name, vec![0; length])]);
        let long = [b"user.".as_slice(), &[b'x'; 251]].concat();
        for xattrs in [one(long, 1), one(b"user.big".into(), 65536)] {
            let text = clean(b"file", xattrs).unwrap_err().to_string();
            assert!(text.starts_with("`file` cannot have the extended attribute `user."));
        }
        let many = ["user.a", "user.b", "user.c"].map(|name| (name.into(), vec![0; 65535]));
        let text = clean(b"file", many.into()).unwrap_err().to_string();
        assert!(text.contains("128 KiB"), "{text}");
    }

    #[test]
    fn every_cut_is_noticed_or_is_between_attributes() {
        let bytes = encode(&some(&["user.a", "security.b"]));
        assert_eq!(bytes.len(), size(&some(&["user.a", "security.b"])));
        for length in 1..bytes.len() {
            if let Ok(xattrs) = decode(&bytes[..length]) {
                assert!(length >= XATTR_HEAD && xattrs.len() < 2);
            }
        }
    }
}
