//! What GNU's tar packs is in the image as it was in the directory.

use std::fs::{self, File, Metadata};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use erofs::{Inode, Kind, Reader, Special, Xattrs};
use rustix::fs::{FileType, Mode, Timespec, Timestamps, XattrFlags};
use wire::unpack::{Compression, Config};

use crate::made::{LIMITS, contents, digest, find, packed, plain};

/// Says loudly what is left out.
fn left_out(what: &str, why: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {what}: {why}");
}

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output.stdout
}

/// What a format has room for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Paths of at most 256 bytes, numbers of 21 bits, seconds from 1970 on.
    Ustar,
    /// Any path, any number, whole seconds.
    Gnu,
    /// Everything.
    Pax,
}

fn set(path: &Path, name: &str, value: &[u8]) {
    if let Err(error) = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
        left_out(name, error);
    }
}

/// Fills a directory with everything that `room` has room for.
fn furnish(root: &Path, room: Room) {
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("usr/lib/a/b")).unwrap();
    for length in [0, 1, 4095, 4096, 4097, 5000, 1_000_000] {
        let bytes: Vec<u8> = (0..length)
            .map(|at| (at % 251).try_into().unwrap())
            .collect();
        fs::write(path(&format!("usr/{length}")), bytes).unwrap();
    }
    fs::write(path("usr/ä €"), "x").unwrap();
    fs::write(path(&format!("usr/{}", "n".repeat(99))), "x").unwrap();
    symlink("../usr/lib", path("usr/relative")).unwrap();
    symlink("/no/where", path("absolute")).unwrap();
    fs::hard_link(path("usr/5000"), path("usr/lib/link")).unwrap();
    fs::hard_link(path("absolute"), path("usr/lib/linked-link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        FileType::Fifo,
        Mode::from(0o640),
        0,
    )
    .unwrap();
    for (name, mode) in [("usr/1", 0o4755), ("usr/lib", 0o3777), ("usr/0", 0)] {
        let mode: fs::Permissions = PermissionsExt::from_mode(mode);
        fs::set_permissions(path(name), mode).unwrap();
    }
    if room != Room::Ustar {
        let deep = format!("deep/{}/{}", "d".repeat(150), "e".repeat(150));
        fs::create_dir_all(path(&deep)).unwrap();
        fs::write(path(&format!("{deep}/{}", "f".repeat(255))), "deep").unwrap();
        fs::hard_link(path(&format!("{deep}/{}", "f".repeat(255))), path("far")).unwrap();
        symlink("t".repeat(3000), path("long")).unwrap();
        time(&path("usr/4096"), -100, 0);
        time(&path("usr/4095"), 10_000_000_000, 0);
    }
    if room == Room::Pax {
        time(&path("usr/4097"), -3, 250_000_000);
        time(&path("usr/5000"), 1_700_000_000, 123_456_789);
        set(&path("usr/1"), "user.a=b", b"line\nline\0");
        set(&path("usr/lib"), "trusted.t", b"x");
        // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE, and a newline in the unused half.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0];
        set(&path("usr/4096"), "security.capability", &capability);
    }
    owned_by_others(root, room);
}

fn time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

fn owned_by_others(root: &Path, room: Room) {
    let path = |name: &str| root.join(name);
    let large = if room == Room::Ustar {
        70_000
    } else {
        4_000_000_000
    };
    for (name, uid, gid) in [("fifo", 1, 2), ("usr/lib/a", large, 70_000)] {
        if let Err(error) = std::os::unix::fs::chown(path(name), Some(uid), Some(gid)) {
            left_out(name, error);
        }
    }
    let char_device = rustix::fs::makedev(1, 3);
    let block_device = rustix::fs::makedev(259, 70_000);
    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, char_device),
        ("disk", FileType::BlockDevice, block_device),
    ] {
        let made =
            rustix::fs::mknodat(rustix::fs::CWD, path(name), kind, Mode::from(0o600), device);
        if let Err(error) = made {
            left_out(name, error);
        }
    }
}

fn xattrs(path: &Path) -> Xattrs {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0);
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        (name.to_vec(), value[..length].to_vec())
    };
    names.filter(|name| !name.is_empty()).map(value).collect()
}

fn kind(data: &Metadata) -> Kind {
    let kind = data.file_type();
    let (major, minor) = (
        rustix::fs::major(data.rdev()),
        rustix::fs::minor(data.rdev()),
    );
    match () {
        () if kind.is_dir() => Kind::Directory,
        () if kind.is_file() => Kind::File,
        () if kind.is_symlink() => Kind::Symlink,
        () if kind.is_fifo() => Kind::Special(Special::Fifo),
        () if kind.is_char_device() => Kind::Special(Special::Character { major, minor }),
        () if kind.is_block_device() => Kind::Special(Special::Block { major, minor }),
        () => Kind::Special(Special::Socket),
    }
}

/// Compares a directory with an image; how many paths.
fn compare(root: &Path, reader: &Reader<Vec<u8>>, room: Room) -> usize {
    let mut pending = vec![String::new()];
    let mut count = 0;
    while let Some(path) = pending.pop() {
        let place = root.join(&path);
        let inode = find(reader, &path).unwrap_or_else(|| panic!("{path} is missing"));
        same(&place, reader, &inode, room);
        count += 1;
        if inode.kind() == Kind::Directory {
            let names = fs::read_dir(&place).unwrap();
            let names: Vec<_> = names.map(|one| one.unwrap().file_name()).collect();
            assert_eq!(reader.entries(&inode).count(), names.len(), "{path}");
            let slash = if path.is_empty() { "" } else { "/" };
            pending.extend(
                names
                    .into_iter()
                    .map(|name| format!("{path}{slash}{}", name.to_str().unwrap())),
            );
        }
    }
    count
}

fn same(place: &Path, reader: &Reader<Vec<u8>>, inode: &Inode, room: Room) {
    let data = fs::symlink_metadata(place).unwrap();
    let attributes = inode.attributes();
    assert_eq!(inode.kind(), kind(&data), "{}", place.display());
    let mode = u32::from(attributes.mode);
    assert_eq!(
        (
            mode,
            attributes.uid,
            attributes.gid,
            u64::from(inode.links())
        ),
        (data.mode() & 0o7777, data.uid(), data.gid(), data.nlink()),
        "{}",
        place.display()
    );
    let nanos = if room == Room::Pax {
        data.mtime_nsec()
    } else {
        0
    };
    let mtime = (attributes.mtime.seconds, i64::from(attributes.mtime.nanos));
    assert_eq!(mtime, (data.mtime(), nanos), "{}", place.display());
    match inode.kind() {
        Kind::File => assert!(contents(reader, inode) == fs::read(place).unwrap()),
        Kind::Symlink => {
            let target = fs::read_link(place).unwrap();
            assert_eq!(
                reader.target(inode).unwrap(),
                target.as_os_str().as_encoded_bytes()
            );
        }
        _ => {}
    }
    let expected = match room {
        Room::Pax => xattrs(place),
        _ => Xattrs::new(),
    };
    assert_eq!(
        reader.xattrs(inode).unwrap(),
        expected,
        "{}",
        place.display()
    );
}

fn pack(root: &Path, arguments: &[&str]) -> Vec<u8> {
    let root = root.to_str().unwrap();
    run(
        "tar",
        &[&["-C", root, "-cf", "-"], arguments, &["."]].concat(),
    )
}

#[test]
fn every_format_of_gnu_tar_is_unpacked_as_it_was_packed() {
    for (format, room) in [
        ("--format=ustar", Room::Ustar),
        ("--format=gnu", Room::Gnu),
        ("--format=oldgnu", Room::Gnu),
        ("--format=posix", Room::Pax),
    ] {
        let directory = tempfile::tempdir().unwrap();
        furnish(directory.path(), room);
        let mut arguments = vec![format, "--numeric-owner"];
        if room == Room::Pax {
            arguments.extend(["--xattrs", "--xattrs-include=*"]);
        }
        let archive = pack(directory.path(), &arguments);
        let (summary, image) = plain(&archive, LIMITS).unwrap();
        assert_eq!(
            (summary.archive, summary.implicit),
            (archive.len() as u64, 0)
        );
        let count = compare(directory.path(), &Reader::open(image).unwrap(), room);
        assert!(count > 20, "{count}");
    }
}

#[test]
fn every_form_of_sparse_files_has_its_holes_back() {
    let directory = tempfile::tempdir().unwrap();
    // Four fragments fit into a header of the old form, 21 into a block behind it.
    for (name, fragments, size) in [
        ("few", 3, 5_000_000_u64),
        ("many", 60, 20_000_000),
        ("none", 0, 300_000),
    ] {
        let mut file = File::create(directory.path().join(name)).unwrap();
        for fragment in 0..fragments {
            file.seek(SeekFrom::Start(70_000 + fragment * 300_000))
                .unwrap();
            file.write_all(&[b'x'; 5000]).unwrap();
        }
        file.set_len(size).unwrap();
    }
    let forms: [&[&str]; 5] = [
        &["--format=gnu", "-S"],
        &["--format=oldgnu", "-S"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ];
    for form in forms {
        let archive = pack(directory.path(), form);
        assert!(
            archive.len() < 2_000_000,
            "{form:?}: the host does not tell holes"
        );
        let (summary, image) = plain(&archive, LIMITS).unwrap();
        assert_eq!(summary.contents, 25_300_000);
        let reader = Reader::open(image).unwrap();
        for name in ["few", "many", "none"] {
            let inode = find(&reader, name).unwrap();
            let expected = fs::read(directory.path().join(name)).unwrap();
            assert!(contents(&reader, &inode) == expected, "{form:?} {name}");
        }
    }
}

#[test]
fn compressed_layers_are_those_that_gzip_and_zstd_make() {
    let directory = tempfile::tempdir().unwrap();
    furnish(directory.path(), Room::Gnu);
    let archive = pack(directory.path(), &["--format=gnu", "--numeric-owner"]);
    let file = directory.path().join("archive");
    fs::write(&file, &archive).unwrap();
    let file = file.to_str().unwrap();
    let expected = plain(&archive, LIMITS).unwrap();
    for (program, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        if let Err(error) = Command::new(program).arg("--version").output() {
            left_out(program, error);
            continue;
        }
        for level in ["-1", "-9"] {
            let layer = run(program, &["-q", "-c", level, file]);
            let config = Config {
                compression,
                diff_id: digest(&archive),
                limits: LIMITS,
            };
            let found = packed(&config, &layer).unwrap();
            assert!(found == expected, "{program} {level}");
        }
    }
}
