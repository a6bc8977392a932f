//! A layer of an image, as a registry may send it. It is unpacked, or refused with a reason.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use unpack::{Error, unpack};
use wire::unpack::{Compression, Config, Limits};

fuzz_target!(|data: &[u8]| {
    let Some((first, layer)) = data.split_first() else {
        return;
    };
    let compression = match first % 3 {
        0 => Compression::None,
        1 => Compression::Gzip,
        _ => Compression::Zstd,
    };
    // Headers have the checksums that they should have.
    let mut layer = layer.to_vec();
    if compression == Compression::None {
        for block in layer.as_chunks_mut::<512>().0 {
            let mut header = tar::Header::new_old();
            *header.as_mut_bytes() = *block;
            if block[148..156] == *b"checksum" {
                header.set_cksum();
                *block = *header.as_bytes();
            }
        }
    }
    let limits = Limits {
        bytes: 1 << 20,
        entries: 1000,
    };
    let mut config = Config {
        compression,
        diff_id: [0; 32],
        limits,
    };
    let mut image = Cursor::new(Vec::new());
    // The digest is the last thing that can be wrong; with the right one there is an image.
    if let Err(Error::Digest { found, .. }) = unpack(&config, &layer[..], &mut image) {
        for (byte, digits) in config
            .diff_id
            .iter_mut()
            .zip(found.as_bytes().as_chunks::<2>().0)
        {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        }
        let mut image = Cursor::new(Vec::new());
        unpack(&config, &layer[..], &mut image).unwrap();
        erofs::Reader::open(image.into_inner()).unwrap();
    }
});
