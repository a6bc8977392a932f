//! Numbers of vCPUs and amounts of memory.

use std::{fmt, str::FromStr};

use crate::Error;

/// A number of vCPUs, 1 to [`Cpus::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u8);

impl Cpus {
    /// Local APIC ids are one byte and 255 is the broadcast address.
    pub const MAX: u8 = 254;
    /// One vCPU.
    pub const ONE: Self = Self(1);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Cpus {
    type Error = Error;

    fn try_from(number: u8) -> Result<Self, Error> {
        match number {
            1..=Self::MAX => Ok(Self(number)),
            _ => Err(Error::Cpus(number.to_string())),
        }
    }
}

impl FromStr for Cpus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Cpus(text.to_owned());
        let number: u8 = text.parse().map_err(|_| wrong())?;
        Self::try_from(number).map_err(|_| wrong())
    }
}

/// An amount of guest memory in bytes, a multiple of [`Memory::GRANULE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(u64);

impl Memory {
    /// Guest memory comes in pieces of this many bytes, so that it can be backed by huge pages.
    pub const GRANULE: u64 = 2 << 20;
    /// The least that a Linux guest is given.
    pub const MIN: Self = Self(64 << 20);
    /// The most: what fits below the 64-bit PCI window of a CPU with 40 physical address bits.
    pub const MAX: Self = Self(512 << 30);
    /// What a machine has if nothing is said.
    pub const DEFAULT: Self = Self(512 << 20);

    /// The amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// This many bytes, rounded up to a whole [`Memory::GRANULE`].
    ///
    /// # Errors
    /// [`Error::MemoryRange`] outside [`Memory::MIN`] to [`Memory::MAX`].
    pub fn from_bytes(bytes: u64) -> Result<Self, Error> {
        let range = || Error::MemoryRange {
            given: human(bytes),
        };
        let rounded = bytes
            .checked_next_multiple_of(Self::GRANULE)
            .ok_or_else(range)?;
        if bytes < Self::MIN.0 || rounded > Self::MAX.0 {
            return Err(range());
        }
        Ok(Self(rounded))
    }
}

impl FromStr for Memory {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::MemorySyntax(text.to_owned());
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..].to_ascii_lowercase()[..] {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let bytes = number
            .checked_mul(1 << shift)
            .ok_or_else(|| Error::MemoryRange {
                given: text.to_owned(),
            })?;
        Self::from_bytes(bytes)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&human(self.0))
    }
}

/// `bytes` in the largest unit that divides it.
fn human(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    UNITS
        .iter()
        .find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(
            || format!("{bytes} bytes"),
            |(shift, unit)| format!("{} {unit}", bytes >> shift),
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn suffixes_are_binary() {
        assert_eq!("512M".parse::<Memory>().unwrap().bytes(), 512 << 20);
        assert_eq!("2g".parse::<Memory>().unwrap().bytes(), 2 << 30);
        assert_eq!("65536KiB".parse::<Memory>().unwrap().bytes(), 64 << 20);
    }

    #[test]
    fn amounts_are_rounded_up_to_huge_pages() {
        assert_eq!("65M".parse::<Memory>().unwrap().bytes(), 66 << 20);
    }

    #[test]
    fn impossible_amounts_name_the_range() {
        for bad in ["0", "1", "63M", "513G", "99999999999T"] {
            let message = bad.parse::<Memory>().unwrap_err().to_string();
            assert!(
                message.contains("from 64 MiB to 512 GiB"),
                "{bad}: {message}"
            );
        }
    }

    #[test]
    fn what_is_not_an_amount_is_said_to_be_none() {
        for bad in ["", "M", "5X", "-1", "1.5G", "1 G"] {
            let error = bad.parse::<Memory>().unwrap_err();
            assert!(matches!(error, Error::MemorySyntax(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn there_are_1_to_254_cpus() {
        assert_eq!("254".parse::<Cpus>().unwrap().get(), 254);
        for bad in ["0", "255", "256", "-1", "two", ""] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_amount_or_an_error(text in ".*") {
            let _ = text.parse::<Memory>();
        }

        #[test]
        fn display_is_read_back(granules in 32u64..262_144) {
            let memory = Memory::from_bytes(granules * Memory::GRANULE).unwrap();
            let text = memory.to_string().replace(' ', "");
            prop_assert_eq!(text.parse::<Memory>().unwrap(), memory);
        }
    }
}
