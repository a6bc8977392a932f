//! The words that CrumbleCracker's processes say to each other.
//!
//! Each module holds the whole vocabulary of one boundary: [`agent`] between the host and the
//! guest's init, [`vmm`] between the supervisor and the VMM, [`vsock`] between the supervisor and
//! the vsock device, [`net`] between the network device and the dialer, [`unpack`] between the
//! supervisor and what unpacks a layer, [`console`] between the console device and who is at its ports;
//! [`fs`] and [`block`] are what those devices are started with.
//! [`frame`] is how a message travels over a byte stream; over sockets that keep message boundaries,
//! [`encode`] and [`decode`] are enough.
//!
//! Every boundary separates trust: sizes are capped before anything is allocated, and a message
//! that does not decode is an error for the connection it came over and for nothing else.

#![forbid(unsafe_code)]

pub mod agent;
pub mod block;
pub mod console;
pub mod frame;
pub mod fs;
pub mod net;
pub mod unpack;
pub mod vmm;
pub mod vsock;

use serde::{Deserialize, Serialize};

/// The largest encoded message, in bytes. It leaves room for a command line and an environment as
/// long as Linux takes them in practice, and bounds what a peer can make the other side allocate.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What can be wrong with a message or the stream that carries it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer announced, or we were asked to send, more than [`MAX_MESSAGE`] bytes.
    #[error("a message of {0} bytes exceeds the limit of {MAX_MESSAGE}")]
    TooLong(usize),
    /// The bytes are not a message of this vocabulary.
    #[error("malformed message")]
    Malformed(#[source] postcard::Error),
    /// The message decoded, but bytes were left over.
    #[error("{0} bytes follow a complete message")]
    Trailing(usize),
    /// The stream failed or ended inside a frame.
    #[error("the connection failed in the middle of a message")]
    Io(#[from] std::io::Error),
}

/// An error and its causes on one line, as they travel in a message or go to a log.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Encodes one message.
///
/// # Errors
/// [`Error::TooLong`] if it exceeds [`MAX_MESSAGE`], [`Error::Malformed`] if the type cannot be
/// represented (a sequence of unknown length, say).
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    let bytes = postcard::to_allocvec(message).map_err(Error::Malformed)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(Error::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// As [`encode`], into the beginning of `buffer`; how much of it.
///
/// # Errors
/// [`Error::Malformed`] if it does not fit.
pub fn encode_into<'b, T: Serialize>(message: &T, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
    let bytes = postcard::to_slice(message, buffer).map_err(Error::Malformed)?;
    Ok(bytes)
}

/// Decodes exactly one message from `bytes`.
///
/// # Errors
/// [`Error::TooLong`], [`Error::Malformed`] or [`Error::Trailing`].
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Error::TooLong(bytes.len()));
    }
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(Error::Malformed)?;
    if !rest.is_empty() {
        return Err(Error::Trailing(rest.len()));
    }
    Ok(message)
}
