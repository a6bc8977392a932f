//! Archives that `ADD` unpacks, told by their first bytes.

use std::{
    io::{self, BufReader, Read, Seek},
    path::Path,
};

use crate::{
    error::{BoxError, Fault},
    root::Root,
};

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Plain,
    Gzip,
    Zstd,
    Xz,
}

/// A block of an archive.
const BLOCK: usize = 512;

/// The format of a file; `None` if it is no archive.
pub(crate) fn format(root: &mut dyn Root, path: &Path) -> Result<Option<Format>, Fault> {
    let start = start(&mut *open(root, path)?, path)?;
    let format = match start.get(..6).unwrap_or(&start) {
        [0x1f, 0x8b, ..] => Format::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Format::Xz,
        [b'B', b'Z', b'h', ..] => {
            return Err(format!(
                "/{} is compressed with bzip2, which is not unpacked; compress it with gzip, zstd or xz, or \
                 COPY it and unpack it with RUN",
                path.display()
            )
            .into());
        }
        _ => return Ok(is_tar(&start).then_some(Format::Plain)),
    };
    // A compressed file that is no archive is copied as it is; so is one that is damaged.
    let mut inside = || -> Result<Vec<u8>, Fault> {
        let mut contents = decompressed(root, path, format)?;
        self::start(&mut *contents, path)
    };
    Ok(inside().is_ok_and(|start| is_tar(&start)).then_some(format))
}

/// The contents of an archive, no longer compressed.
pub(crate) fn decompressed<'a>(
    root: &'a mut dyn Root,
    path: &Path,
    format: Format,
) -> Result<Box<dyn Read + 'a>, Fault> {
    let file = BufReader::new(open(root, path)?);
    let unpack = || format!("decompress /{}", path.display());
    Ok(match format {
        Format::Plain => Box::new(file),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Format::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(file);
            Box::new(decoder.map_err(|error| Fault::failed(unpack())(error.to_string()))?)
        }
        Format::Xz => Box::new(xz(file).map_err(Fault::failed(unpack()))?),
    })
}

/// Into a file, since the decoder writes and does not read.
fn xz(mut compressed: impl io::BufRead) -> Result<impl Read, BoxError> {
    let mut file = tempfile::tempfile()?;
    let mut out = io::BufWriter::new(&mut file);
    lzma_rs::xz_decompress(&mut compressed, &mut out).map_err(|error| format!("{error:?}"))?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(BufReader::new(file))
}

fn open<'a>(root: &'a mut dyn Root, path: &Path) -> Result<Box<dyn Read + 'a>, Fault> {
    root.open(path)
        .map_err(Fault::failed(format!("open /{}", path.display())))
}

fn start(contents: &mut dyn Read, path: &Path) -> Result<Vec<u8>, Fault> {
    let mut start = Vec::new();
    let limit = u64::try_from(BLOCK).unwrap_or(u64::MAX);
    let read = contents.take(limit).read_to_end(&mut start);
    read.map_err(Fault::failed(format!("read /{}", path.display())))?;
    Ok(start)
}

/// Whether a block is a header, which its check sum says (POSIX pax, "ustar Interchange Format").
fn is_tar(block: &[u8]) -> bool {
    let Ok(block) = <&[u8; BLOCK]>::try_from(block) else {
        return false;
    };
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let said = header.cksum();
    header.set_cksum();
    block.iter().any(|byte| *byte != 0) && said.is_ok() && said.ok() == header.cksum().ok()
}
