//! Counts the bytes of a stream, and computes their digest.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::Error;

/// A stream of limited length whose digest is taken.
pub(crate) struct Measured<R> {
    inner: R,
    digest: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> Measured<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            digest: Sha256::new(),
            count: 0,
            limit,
        }
    }

    /// How many bytes there were, and their digest.
    pub(crate) fn finish(self) -> (u64, [u8; 32]) {
        (self.count, self.digest.finalize().into())
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count = self.count.saturating_add(count as u64);
        if self.count > self.limit {
            return Err(io::Error::other(Error::TooLarge(self.limit)));
        }
        self.digest.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// In hexadecimal.
pub(crate) fn hexadecimal(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_all_bytes_and_the_limit_is_exact() {
        let mut measured = Measured::new(&b"abc"[..], 3);
        io::copy(&mut measured, &mut io::sink()).unwrap();
        let (count, digest) = measured.finish();
        assert_eq!(count, 3);
        // FIPS 180-4, the example.
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hexadecimal(&digest), text);
        let mut measured = Measured::new(&b"abc"[..], 2);
        let error = io::copy(&mut measured, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("more than 2 bytes"), "{error}");
    }
}
