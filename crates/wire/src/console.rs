//! What the console device is started with, and what it says to whoever is at the other end.
//!
//! A port is one end of a pair of sockets that keep the boundaries of messages. What the guest
//! writes are messages of bytes; what it is sent are [`Input`]s.

use serde::{Deserialize, Serialize};

/// What the console device is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The names of its ports, 1 to [`Config::MOST_PORTS`]; the guest has `/dev/hvc0` for the first.
    pub ports: Vec<String>,
}

impl Config {
    /// The most ports of one device.
    pub const MOST_PORTS: usize = 8;

    /// The longest name of a port, in bytes.
    pub const LONGEST_NAME: usize = 64;

    /// The resource that is a port's socket.
    #[must_use]
    pub fn resource(port: usize) -> String {
        format!("port{port}")
    }
}

/// The most bytes of a message, in either direction.
pub const LONGEST: usize = 1024;

/// What a port is sent, in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'b> {
    /// What was typed, at most [`LONGEST`] - 1 bytes.
    Bytes(&'b [u8]),
    /// The terminal has this size from now on, in characters.
    Size {
        /// How many lines it has.
        rows: u16,
        /// How wide they are.
        columns: u16,
    },
}

impl<'b> Input<'b> {
    const BYTES: u8 = 0;
    const SIZE: u8 = 1;

    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => [&[Self::BYTES], *bytes].concat(),
            Self::Size { rows, columns } => {
                let mut message = vec![Self::SIZE];
                message.extend(rows.to_le_bytes());
                message.extend(columns.to_le_bytes());
                message
            }
        }
    }

    /// What a message says; none if it is none of these.
    #[must_use]
    pub fn parse(message: &'b [u8]) -> Option<Self> {
        match message {
            [Self::BYTES, bytes @ ..] => Some(Self::Bytes(bytes)),
            [Self::SIZE, rows0, rows1, columns0, columns1] => Some(Self::Size {
                rows: u16::from_le_bytes([*rows0, *rows1]),
                columns: u16::from_le_bytes([*columns0, *columns1]),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_what_they_were() {
        let size = Input::Size {
            rows: 24,
            columns: 300,
        };
        for input in [Input::Bytes(b""), Input::Bytes(b"\x01ls\n"), size] {
            assert_eq!(Input::parse(&input.encode()), Some(input));
        }
    }

    #[test]
    fn nothing_else_is_an_input() {
        for wrong in [&b""[..], b"\x01", b"\x01\0\0\0", b"\x01\0\0\0\0\0", b"\x02"] {
            assert_eq!(Input::parse(wrong), None, "{wrong:?}");
        }
    }
}
