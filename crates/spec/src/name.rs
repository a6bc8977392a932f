//! What machines are called.

use std::{fmt, str::FromStr};

use crate::Error;

/// The name of a machine: 1 to 63 lower-case letters, digits, hyphens and dots, beginning with a
/// letter or a digit. It names a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let sound = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
            && text.bytes().next().is_some_and(plain)
            && text.bytes().next_back().is_some_and(plain)
            && !text.contains("..");
        sound
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| Error::Name(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_that_of_a_directory_and_of_a_repository() {
        for good in ["a", "web-1", "v1.2", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "A",
            "-a",
            "a-",
            "a/b",
            "..",
            "a..b",
            "a b",
            ".",
            &"x".repeat(64),
        ] {
            let message = bad.parse::<Name>().unwrap_err().to_string();
            assert!(message.contains("lower-case"), "{message}");
        }
    }
}
