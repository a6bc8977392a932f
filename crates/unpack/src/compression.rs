//! Undoes a layer's compression.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use wire::unpack::Compression;

use crate::Error;

/// How much is read at a time.
const BUFFER: usize = 128 << 10;

/// The archive in a layer.
pub(crate) enum Decoder<R> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<Frames<BufReader<R>>>),
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(compression: Compression, layer: R) -> Self {
        match compression {
            Compression::None => Self::Plain(layer),
            Compression::Gzip => {
                let layer = BufReader::with_capacity(BUFFER, layer);
                Self::Gzip(Box::new(MultiGzDecoder::new(layer)))
            }
            Compression::Zstd => {
                let layer = BufReader::with_capacity(BUFFER, layer);
                Self::Zstd(Box::new(Frames::new(layer)))
            }
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (name, read) = match self {
            Self::Plain(layer) => return layer.read(buffer),
            Self::Gzip(decoder) => ("gzip", decoder.read(buffer)),
            Self::Zstd(frames) => ("zstd", frames.read(buffer)),
        };
        read.map_err(|error| io::Error::other(Error::Compression(name, error)))
    }
}

/// Any number of Zstandard frames, one after the other, the skippable ones left out.
pub(crate) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    /// A frame has begun.
    is_inside: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            decoder: FrameDecoder::new(),
            is_inside: false,
        }
    }

    /// Begins the next frame. False if there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.is_inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let mut frame = self.source.by_ref().take(length);
                    if io::copy(&mut frame, &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_inside && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.is_inside = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
        let mut packed = Vec::new();
        encoder.read_to_end(&mut packed).unwrap();
        packed
    }

    fn undo(compression: Compression, layer: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Decoder::new(compression, layer).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn several_members_and_frames_are_one_stream() {
        let (first, second) = (vec![1; 500_000], b"and the rest".to_vec());
        let both = [first.as_slice(), &second].concat();
        let packed = [gzip(&first), gzip(&second)].concat();
        assert!(undo(Compression::Gzip, &packed).unwrap() == both);
        // A skippable frame (RFC 8878, section 3.1.2) of 3 bytes in between.
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        let packed = [&skippable[..], &zstd(&first), &skippable, &zstd(&second)].concat();
        assert!(undo(Compression::Zstd, &packed).unwrap() == both);
        assert_eq!(undo(Compression::Zstd, &[]).unwrap(), b"");
        assert!(undo(Compression::None, &both).unwrap() == both);
    }

    #[test]
    fn every_cut_is_an_error_that_names_the_compression() {
        let text = b"some text that is long enough, long enough, long enough";
        for (compression, name, packed) in [
            (Compression::Gzip, "gzip", gzip(text)),
            (Compression::Zstd, "zstd", zstd(text)),
        ] {
            for length in 1..packed.len() {
                let error = undo(compression, &packed[..length]).unwrap_err();
                assert!(error.to_string().contains(name), "{length}: {error}");
            }
            let garbage = [packed, b"garbage".to_vec()].concat();
            assert!(undo(compression, &garbage).is_err());
        }
    }
}
