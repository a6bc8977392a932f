//! Messages over a byte stream: a length as little-endian `u32`, then that many bytes of postcard.

use std::io::{ErrorKind, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, MAX_MESSAGE, decode, encode};

/// Writes one message as a single `write`, so that a frame is never split by our own doing.
///
/// # Errors
/// As [`encode`], or [`Error::Io`].
pub fn write<T: Serialize>(mut stream: impl Write, message: &T) -> Result<(), Error> {
    let body = encode(message)?;
    let length = u32::try_from(body.len()).map_err(|_| Error::TooLong(body.len()))?;
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&body);
    stream.write_all(&bytes)?;
    stream.flush()?;
    Ok(())
}

/// Reads one message; `None` if the stream ended between messages.
///
/// # Errors
/// [`Error::TooLong`] before anything is allocated, [`Error::Io`] if the stream ended inside a
/// frame, or as [`decode`].
pub fn read<T: DeserializeOwned>(mut stream: impl Read) -> Result<Option<T>, Error> {
    let mut header = [0; 4];
    if !read_header(&mut stream, &mut header)? {
        return Ok(None);
    }
    let length = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(Error::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// Fills `header`; false if the stream had already ended.
fn read_header(stream: &mut impl Read, header: &mut [u8; 4]) -> Result<bool, Error> {
    let [first, rest @ ..] = header;
    loop {
        match stream.read(std::slice::from_mut(first)) {
            Ok(0) => return Ok(false),
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    stream.read_exact(rest)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_stream_is_no_message() {
        assert!(read::<u32>(&b""[..]).unwrap().is_none());
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_an_error() {
        assert!(matches!(
            read::<u32>(&b"\x05\0\0\0a"[..]),
            Err(Error::Io(_))
        ));
        assert!(matches!(read::<u32>(&b"\x05\0"[..]), Err(Error::Io(_))));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_read() {
        assert!(matches!(
            read::<u32>(&b"\xff\xff\xff\xff"[..]),
            Err(Error::TooLong(_))
        ));
    }

    #[test]
    fn bytes_after_a_message_are_refused() {
        assert!(matches!(
            read::<u8>(&b"\x02\0\0\0\x01\x02"[..]),
            Err(Error::Trailing(1))
        ));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(strings in proptest::collection::vec(".*", 0..8)) {
            let mut stream = Vec::new();
            write(&mut stream, &strings).unwrap();
            let back: Option<Vec<String>> = read(&stream[..]).unwrap();
            prop_assert_eq!(back, Some(strings));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = read::<crate::agent::Opening>(&bytes[..]);
            let _ = read::<crate::agent::Event>(&bytes[..]);
            let _ = decode::<crate::vmm::Event>(&bytes);
            let _ = decode::<crate::vsock::Request>(&bytes);
        }
    }
}
