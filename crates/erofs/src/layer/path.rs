//! Paths of entries, taken apart.

use crate::directory::NAME;
use crate::{Error, Result, shown};

/// The components of an entry's path, without empty ones and `.`.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let refuse = |why| Error::Path {
        path: shown(path),
        why,
    };
    let components: Vec<_> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .collect();
    for name in &components {
        if *name == b".." {
            return Err(refuse("`..` leads out of a directory"));
        }
        if let Some(why) = wrong(name) {
            return Err(refuse(why));
        }
    }
    Ok(components)
}

/// What is wrong with a name.
pub(super) fn wrong(name: &[u8]) -> Option<&'static str> {
    if name.len() > NAME {
        return Some("a name is longer than 255 bytes");
    }
    name.contains(&0).then_some("a name has a NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_those_that_lead_out_are_refused() {
        let names: Vec<&[u8]> = vec![b"a", b"b"];
        for path in ["a/b", "/a/b", "./a//b/", "././a/./b/."] {
            assert_eq!(components(path.as_bytes()).unwrap(), names, "{path}");
        }
        assert!(components(b"./").unwrap().is_empty());
        for path in ["..", "a/..", "../a", "/..", "a/../b", "a\0b"] {
            assert!(components(path.as_bytes()).is_err(), "{path}");
        }
        assert!(components(&[b'x'; 255]).is_ok());
        assert!(components(&[b'x'; 256]).is_err());
    }
}
