//! Archives that are wrong, by accident or on purpose.

use erofs::{Kind, Reader, Special};
use proptest::collection::vec;
use proptest::prelude::*;
use wire::unpack::{Compression, Config, Limits};

use crate::made::{
    LIMITS, contents, digest, entry, find, header, image, link, packed, pax, plain, refused,
    refused_with, sealed,
};

/// One of everything.
fn sound() -> Vec<u8> {
    [
        entry(b'5', "d/", b""),
        entry(b'0', "d/file", &[7; 5000]),
        pax(&[("mtime", b"-1.5"), ("SCHILY.xattr.user.a", b"x")]),
        entry(b'0', "d/small", b"abc"),
        entry(b'L', "././@LongLink", &[b'n'; 150]),
        entry(b'0', "n", b"abc"),
        link(b'2', "link", "d/small"),
        link(b'1', "other", "d/file"),
        entry(b'0', "d/.wh.gone", b""),
        entry(b'0', "d/.wh..wh..opq", b""),
        pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9000"),
            ("GNU.sparse.name", b"sparse"),
        ]),
        entry(
            b'0',
            "GNUSparseFile.1/sparse",
            &[&b"1\n4096\n3\n"[..], &[0; 503], b"abc"].concat(),
        ),
        vec![0; 1024],
    ]
    .concat()
}

#[test]
fn the_archive_that_the_others_are_made_of_is_sound() {
    let reader = image(&sound());
    let sparse = find(&reader, "sparse").unwrap();
    let expected = [&[0; 4096][..], b"abc", &[0; 4901]].concat();
    assert!(contents(&reader, &sparse) == expected);
    let gone = find(&reader, "d/gone").unwrap();
    assert!(gone.kind().is_whiteout());
    assert!(reader.is_opaque(&find(&reader, "d").unwrap()).unwrap());
    assert_eq!(find(&reader, "other"), find(&reader, "d/file"));
    assert!(find(&reader, &"n".repeat(150)).is_some());
    let small = find(&reader, "d/small").unwrap().attributes();
    assert_eq!((small.mtime.seconds, small.mtime.nanos), (-2, 500_000_000));
}

#[test]
fn every_cut_is_an_error_or_between_entries() {
    let archive = sound();
    for length in (0..archive.len()).step_by(64) {
        match plain(&archive[..length], LIMITS) {
            // Of the zeros at the end, the first block is the end.
            Ok(_) => assert!(
                length % 512 == 0 || length > archive.len() - 512,
                "{length}"
            ),
            Err(error) => {
                let text = wire::chain(&error);
                let known = ["cut off", "end after", "ends where", "not in this layer"];
                assert!(
                    known.iter().any(|words| text.contains(words)),
                    "{length}: {text}"
                );
            }
        }
    }
}

#[test]
fn the_digest_is_that_of_all_bytes_also_behind_the_end() {
    let archive = [sound(), b"and something behind the end".to_vec()].concat();
    let (summary, _) = plain(&archive, LIMITS).unwrap();
    assert_eq!(summary.archive, archive.len() as u64);
    let config = Config {
        compression: Compression::None,
        diff_id: digest(&sound()),
        limits: LIMITS,
    };
    let error = packed(&config, &archive).map(drop).unwrap_err().to_string();
    assert!(
        error.starts_with("the layer's digest is sha256:"),
        "{error}"
    );
}

#[test]
fn a_bomb_ends_at_the_limit_whatever_it_is_made_of() {
    let few = Limits {
        bytes: 100_000,
        entries: 10,
    };
    // Bytes that are there.
    let text = refused_with(&entry(b'0', "large", &[1; 200_000]), few);
    assert!(text.contains("more than 100000 bytes"), "{text}");
    // Behind the end, too.
    let text = refused_with(&[vec![0; 1024], vec![1; 200_000]].concat(), few);
    assert!(text.contains("more than 100000 bytes"), "{text}");
    // Holes.
    let records: [(&str, &[u8]); 2] = [
        ("GNU.sparse.size", b"99999999999"),
        ("GNU.sparse.map", b"0,0"),
    ];
    let text = refused_with(&[pax(&records), entry(b'0', "holes", b"")].concat(), few);
    assert!(
        text.contains("more than 100000 bytes of contents"),
        "{text}"
    );
    // Entries, and parents without one.
    let entries: Vec<u8> = (0..11)
        .flat_map(|n| entry(b'5', &format!("{n}"), b""))
        .collect();
    let text = refused_with(&entries, few);
    assert!(text.contains("more than 10 entries"), "{text}");
    let text = refused_with(&entry(b'5', "1/2/3/4/5/6/7/8/9/10/11", b""), few);
    assert!(text.contains("more than 10 entries"), "{text}");
    // A compressed one.
    let zeros = vec![0; 10_000_000];
    let layer =
        ruzstd::encoding::compress_to_vec(&zeros[..], ruzstd::encoding::CompressionLevel::Fastest);
    let config = Config {
        compression: Compression::Zstd,
        diff_id: digest(&zeros),
        limits: few,
    };
    let error = packed(&config, &layer).map(drop).unwrap_err();
    assert!(wire::chain(&error).contains("more than 100000 bytes"));
    // Names.
    let mut long = header(b'L', b"././@LongLink", 2 << 20);
    long.set_cksum();
    assert!(refused(long.as_bytes()).contains("more than 1 MiB"));
}

#[test]
fn an_entry_that_makes_no_sense_is_named_with_the_reason() {
    let mut no_number = header(b'0', b"n", 0);
    no_number.as_old_mut().uid = *b"nonsense";
    let mut no_size = header(b'0', b"n", 0);
    no_size.as_old_mut().size = *b"-00000000001";
    let mut huge = header(b'0', b"n", 0);
    huge.as_old_mut().size = [
        0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    let old_sparse = header(b'S', b"n", 0);
    let mut wrong_sparse = old_sparse.clone();
    wrong_sparse.as_gnu_mut().unwrap().realsize = *b"00000000010\0";
    wrong_sparse.as_gnu_mut().unwrap().sparse[0].offset = *b"00000000000\0";
    wrong_sparse.as_gnu_mut().unwrap().sparse[0].numbytes = *b"00000000005\0";
    let with = |key: &str, value: &[u8]| [pax(&[(key, value)]), entry(b'0', "n", b"")].concat();
    for (archive, words) in [
        (sealed(no_number, b""), "its owner is no number"),
        (sealed(no_size, b""), "its size is no number"),
        (sealed(huge, b""), "more than 1073741824 bytes of contents"),
        (sealed(wrong_sparse, b""), "does not fit its contents"),
        (
            with("uid", b"4294967296"),
            "its owner is no number below 2^32",
        ),
        (with("mtime", b"soon"), "its time is no number"),
        (with("size", b"x"), "its size is no number"),
        (with("path", b"a/../../b"), "`a/../../b` is no path"),
        (with("path", b"a\0b"), "a name has a NUL"),
        (
            with("GNU.sparse.map", b"0,1,2"),
            "its map of holes makes no sense",
        ),
        (with("GNU.sparse.major", b"2"), "unknown version"),
        (
            with("SCHILY.xattr.user.a", &[0; 70_000]),
            "the extended attribute `user.a`",
        ),
        (
            entry(b'V', "n", b""),
            "`n` of the layer's archive is of the unknown kind 'V'",
        ),
        (
            entry(b'0', "a/.wh.b/c", b""),
            "nothing can be in what its layer removes",
        ),
        (
            link(b'1', "n", "missing"),
            "`n` cannot be a hard link to `missing`",
        ),
        (link(b'2', "n", ""), "`n` cannot have the target ``"),
        (entry(b'x', "n", b"nonsense"), "malformed"),
        (pax(&[("path", b"x")]), "ends where an entry was announced"),
        (vec![1; 512], "its checksum is wrong"),
    ] {
        let text = refused(&archive);
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn names_and_marks_mean_what_they_mean_to_other_readers() {
    let mut device = header(b'3', b"dev/null", 0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    let reader = image(
        &[
            // Of several, the last one counts; a global one does not.
            entry(b'g', "g", b"16 path=ignored\n"),
            pax(&[("path", b"first"), ("path", b"second")]),
            entry(b'0', "header", b"1"),
            // Only files have contents: the next header follows at once.
            sealed(header(b'5', b"directory", 512), b""),
            sealed(device, b""),
            // Before POSIX.
            entry(0, "old/", b""),
            entry(b'7', "contiguous", b"2"),
            entry(b'0', ".wh..wh.plnk/1", b"x"),
            pax(&[("linkpath", b"second"), ("path", b"")]),
            link(b'1', "linked", "nowhere"),
        ]
        .concat(),
    );
    let root = reader.root();
    let names = reader.entries(&root).map(|entry| entry.unwrap().name);
    let names: Vec<_> = names.map(|name| String::from_utf8(name).unwrap()).collect();
    assert_eq!(
        names,
        ["contiguous", "dev", "directory", "linked", "old", "second"]
    );
    let null = Special::Character { major: 1, minor: 3 };
    assert_eq!(
        find(&reader, "dev/null").unwrap().kind(),
        Kind::Special(null)
    );
    assert_eq!(find(&reader, "old").unwrap().kind(), Kind::Directory);
    assert_eq!(find(&reader, "linked"), find(&reader, "second"));
}

/// Opens what was written, if anything was.
fn sound_or_nothing(archive: &[u8]) {
    let limits = Limits {
        bytes: 1 << 20,
        entries: 1000,
    };
    if let Ok((_, image)) = plain(archive, limits) {
        Reader::open(image).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn changed_archives_are_unpacked_or_refused_and_never_panic(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
    ) {
        let mut archive = sound();
        for (index, byte) in changes {
            let at = index.index(archive.len());
            archive[at] = byte;
        }
        // Headers whose checksum is right get further.
        for at in (0..archive.len()).step_by(512) {
            let block: [u8; 512] = archive[at..at + 512].try_into().unwrap();
            let mut header = tar::Header::new_old();
            *header.as_mut_bytes() = block;
            if block[100..148].is_ascii() {
                header.set_cksum();
                archive[at..at + 512].copy_from_slice(header.as_bytes());
            }
        }
        sound_or_nothing(&archive);
    }

    #[test]
    fn any_sequence_of_entries_is_unpacked_or_refused(
        entries in vec((prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5'), Just(b'6')],
            "(\\.wh\\.)?[ab./]{1,12}", "[ab./]{1,12}"), 0..40),
    ) {
        let archive: Vec<u8> = entries.iter()
            .flat_map(|(kind, path, target)| link(*kind, path, target))
            .collect();
        sound_or_nothing(&archive);
    }

    #[test]
    fn arbitrary_bytes_are_no_layer(bytes in vec(any::<u8>(), 1..2000)) {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let config = Config { compression, diff_id: [0; 32], limits: LIMITS };
            prop_assert!(packed(&config, &bytes).is_err());
        }
    }
}
