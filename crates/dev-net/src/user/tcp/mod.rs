//! TCP between the guest and sockets of the host.

mod connection;
mod ring;
mod segment;
mod table;

pub(crate) use connection::{Connection, Fate, Key, Limits};
pub(crate) use segment::{CHECKSUM_OFFSET, Segment, Seq};
pub(crate) use table::Table;
