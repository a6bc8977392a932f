//! Others read what we write: `fsck.erofs` and `dump.erofs` of erofs-utils, and the kernel.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::trees::{self, Thing, Things, What, write};
use erofs::{Attributes, Follow, Kind, Layer, Reader, Special, Time, View, Xattrs};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

/// Runs a program; its output if it ended well. Says so loudly if there is no such program.
fn judge(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success(),
                "{program} {arguments:?}: {text}{errors}"
            );
            Some(text)
        }
        Err(error) => {
            let hint = "NOT JUDGED: install erofs-utils (apt-get install erofs-utils)";
            let _ = writeln!(std::io::stderr(), "{hint}: {program}: {error}");
            None
        }
    }
}

/// Trees, always the same ones.
fn made_up(count: usize) -> Vec<Things> {
    let mut runner = TestRunner::deterministic();
    let trees = trees::tree();
    let mut made: Vec<_> = (0..count)
        .map(|_| trees.new_tree(&mut runner).unwrap().current())
        .collect();
    // dump.erofs fails for times that have no date.
    for thing in made.iter_mut().flat_map(Things::values_mut) {
        thing.attributes.mtime.seconds %= 1 << 40;
    }
    made
}

fn in_a_file(image: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(image).unwrap();
    file
}

#[test]
fn fsck_finds_nothing_to_complain_of_in_any_tree() {
    for things in made_up(40) {
        let file = in_a_file(&write(&things));
        let path = file.path().to_str().unwrap();
        if judge("fsck.erofs", &[path]).is_none() {
            return;
        }
        judge("dump.erofs", &["-s", path]).unwrap();
        for name in things.keys().filter(|name| !name.is_empty()).take(5) {
            judge("dump.erofs", &[&format!("--path=/{name}"), path]);
        }
    }
}

#[test]
fn dump_sees_the_inodes_that_were_written() {
    let attributes = Attributes {
        mode: 0o4751,
        uid: 70_000,
        gid: 80_000,
        ..Attributes::default()
    };
    let what = What::File(b"hello".to_vec());
    let things = Things::from([("a".to_owned(), Thing { attributes, what })]);
    let file = in_a_file(&write(&things));
    let path = file.path().to_str().unwrap();
    let Some(text) = judge("dump.erofs", &["--path=/a", path]) else {
        return;
    };
    for part in ["Uid: 70000", "Gid: 80000", "Size: 5", "Access: 0751"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

/// A mount, until it is dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    /// None if this host does not mount such files for this user.
    fn new(image: &Path) -> Option<Self> {
        Self::of("erofs", "loop,ro", image)
    }

    fn of(kind: &str, options: &str, source: &Path) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", kind, "-o", options])
            .args([source, place.path()])
            .output();
        let text = match mount {
            Ok(output) if output.status.success() => return Some(Self(place)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        let _ = writeln!(
            std::io::stderr(),
            "NOT JUDGED by the kernel: mount: {}",
            text.trim()
        );
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

/// The extended attributes of a path itself.
fn xattrs(path: &Path) -> Xattrs {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0);
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        (name.to_vec(), value[..length].to_vec())
    };
    names.filter(|name| !name.is_empty()).map(value).collect()
}

/// What the kernel says is at a path.
fn seen(path: &Path) -> Thing {
    let data = fs::symlink_metadata(path).unwrap();
    let kind = data.file_type();
    let (major, minor) = (
        u32::try_from(data.rdev() >> 8 & 0xfff).unwrap(),
        u32::try_from(data.rdev() & 0xff | data.rdev() >> 12 & 0xfff00).unwrap(),
    );
    let what = match () {
        () if kind.is_dir() => What::Directory,
        () if kind.is_file() => What::File(fs::read(path).unwrap()),
        () if kind.is_symlink() => {
            let target = fs::read_link(path).unwrap().into_os_string();
            What::Symlink(std::os::unix::ffi::OsStringExt::into_vec(target))
        }
        () if kind.is_char_device() => What::Special(Special::Character { major, minor }),
        () if kind.is_block_device() => What::Special(Special::Block { major, minor }),
        () if kind.is_fifo() => What::Special(Special::Fifo),
        () => What::Special(Special::Socket),
    };
    let attributes = Attributes {
        xattrs: xattrs(path),
        mode: u16::try_from(data.mode() & 0o7777).unwrap(),
        uid: data.uid(),
        gid: data.gid(),
        mtime: Time {
            seconds: data.mtime(),
            nanos: u32::try_from(data.mtime_nsec()).unwrap(),
        },
    };
    Thing { attributes, what }
}

#[test]
fn the_kernel_sees_what_was_written() {
    for mut things in made_up(20) {
        for thing in things.values_mut() {
            // A number that means "nobody" to it.
            thing.attributes.uid &= 0x7fff_ffff;
            thing.attributes.gid &= 0x7fff_ffff;
            // Only files and directories have any there.
            if !matches!(thing.what, What::File(_) | What::Directory) {
                thing
                    .attributes
                    .xattrs
                    .retain(|name, _| !name.starts_with(b"user."));
            }
        }
        let file = in_a_file(&write(&things));
        let Some(mount) = Mount::new(file.path()) else {
            return;
        };
        for (path, thing) in &things {
            let seen = seen(&mount.0.path().join(path));
            assert!(seen == *thing, "{path}: {seen:?}, not {thing:?}");
        }
        let arguments = [mount.0.path().as_os_str(), "-print0".as_ref()];
        let listed = Command::new("find")
            .args(arguments)
            .output()
            .unwrap()
            .stdout;
        assert_eq!(listed.split(|byte| *byte == 0).count(), things.len() + 1);
    }
}

#[test]
fn hard_links_whiteouts_and_opaque_directories_are_what_overlayfs_takes_for_them() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut layer = Layer::new(file.as_file());
    let nobody = Attributes::default;
    layer
        .file(b"a/file", nobody(), 9000, &mut std::io::repeat(7))
        .unwrap();
    layer.hard_link(b"b/link", b"a/file").unwrap();
    layer.whiteout(b"a/gone").unwrap();
    layer.opaque(b"b").unwrap();
    layer.finish().unwrap();
    judge("fsck.erofs", &[file.path().to_str().unwrap()]);
    let Some(mount) = Mount::new(file.path()) else {
        return;
    };
    let path = |name: &str| mount.0.path().join(name);
    let (one, other) = (
        path("a/file").metadata().unwrap(),
        path("b/link").metadata().unwrap(),
    );
    assert_eq!((one.ino(), one.nlink(), other.nlink()), (other.ino(), 2, 2));
    assert_eq!(path("").metadata().unwrap().nlink(), 4);
    let gone = Special::Character { major: 0, minor: 0 };
    assert_eq!(seen(&path("a/gone")).what, What::Special(gone));
    let marks = Xattrs::from([(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())]);
    assert_eq!(xattrs(&path("b")), marks);
    assert_eq!(xattrs(&path("a")), Xattrs::new());
}

/// Two layers that hide and replace things of each other.
fn layers() -> [tempfile::NamedTempFile; 2] {
    let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    let file = |layer: &mut Layer<&fs::File>, path: &str| {
        let contents = &mut path.as_bytes();
        let size = path.len() as u64;
        layer
            .file(path.as_bytes(), Attributes::default(), size, contents)
            .unwrap();
    };
    let mut lower = Layer::new(files[1].as_file());
    for path in ["a/1", "a/2", "b/1", "c/d/1", "e/1", "f", "g/h/1", "i/1"] {
        file(&mut lower, path);
    }
    lower.finish().unwrap();
    let mut upper = Layer::new(files[0].as_file());
    file(&mut upper, "a/2");
    file(&mut upper, "a/3");
    upper.whiteout(b"a/1").unwrap();
    upper.opaque(b"b").unwrap();
    file(&mut upper, "b/2");
    upper.whiteout(b"c/d").unwrap();
    file(&mut upper, "c/d/2");
    file(&mut upper, "e");
    upper.directory(b"f", Attributes::default()).unwrap();
    upper.whiteout(b"g").unwrap();
    file(&mut upper, "i/2");
    upper.finish().unwrap();
    files
}

/// All paths below one, in order.
fn below(root: &Path) -> Vec<String> {
    let mut find = Command::new("find");
    find.arg(root).args(["-mindepth", "1", "-printf", "%P\\n"]);
    let listed = String::from_utf8(find.output().unwrap().stdout).unwrap();
    let mut paths: Vec<_> = listed.lines().map(str::to_owned).collect();
    paths.sort();
    paths
}

#[test]
fn overlayfs_and_the_view_see_the_same() {
    let files = layers();
    let mut pending = vec![String::new()];
    let mut expected = Vec::new();
    let view = View::new(
        files
            .each_ref()
            .map(|file| Reader::open(file.as_file()).unwrap())
            .into(),
    );
    while let Some(path) = pending.pop() {
        let node = view.resolve(path.as_bytes(), Follow::No).unwrap();
        if node.inode().kind() == Kind::Directory {
            let slash = if path.is_empty() { "" } else { "/" };
            let names = view.names(&node).unwrap().into_iter();
            pending.extend(
                names.map(|name| format!("{path}{slash}{}", String::from_utf8(name).unwrap())),
            );
        }
        expected.extend((!path.is_empty()).then_some(path));
    }
    expected.sort();
    assert_eq!(
        expected,
        [
            "a", "a/2", "a/3", "b", "b/2", "c", "c/d", "c/d/2", "e", "f", "i", "i/1", "i/2"
        ]
    );
    let mounts: Option<Vec<_>> = files.iter().map(|file| Mount::new(file.path())).collect();
    let Some(mounts) = mounts else {
        return;
    };
    let [upper, lower] = &mounts[..] else {
        panic!("two layers");
    };
    let lower = format!(
        "lowerdir={}:{}",
        upper.0.path().display(),
        lower.0.path().display()
    );
    let Some(overlay) = Mount::of("overlay", &lower, Path::new("overlay")) else {
        return;
    };
    assert_eq!(below(overlay.0.path()), expected);
    drop(overlay);
}
