//! What may not be there to be read.

use std::io;

use serde::{Serialize, Serializer};

/// What stands for a field that the caller has no right to see.
pub const HIDDEN: &str = "not visible to you";

/// A field of a process, as far as the kernel shows it to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<T> {
    /// It was read.
    Read(T),
    /// The caller has no right to see it.
    Hidden,
    /// This kernel does not have it, or writes it in a way that is not known here.
    Absent,
}

impl<T> Field<T> {
    /// What was read, if it was.
    pub const fn read(&self) -> Option<&T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Hidden | Self::Absent => None,
        }
    }

    /// What `parse` makes of it; absent if that is nothing.
    pub(crate) fn parse<U>(self, parse: impl FnOnce(T) -> Option<U>) -> Field<U> {
        match self {
            Self::Read(value) => Field::from(parse(value)),
            Self::Hidden => Field::Hidden,
            Self::Absent => Field::Absent,
        }
    }
}

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Self::Read)
    }
}

impl<T> From<io::Result<T>> for Field<T> {
    fn from(result: io::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Read(value),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::Hidden,
            Err(_) => Self::Absent,
        }
    }
}

/// The value itself, the words for a hidden one, or null.
impl<T: Serialize> Serialize for Field<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Read(value) => value.serialize(serializer),
            Self::Hidden => serializer.serialize_str(HIDDEN),
            Self::Absent => serializer.serialize_none(),
        }
    }
}
