//! Initramfs archives, read back by another program.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use kernel::{Cache, Error, Kernel, Source, cpio::Archive, initramfs, resolve, setup_archive};
use proptest::prelude::*;
use wire::agent::{Root, SETUP_PATH, Setup, Share, VERSION};

/// What busybox extracts, or prints.
fn busybox(arguments: &[&str], directory: &Path, archive: &[u8]) -> String {
    let mut child = Command::new("busybox")
        .arg("cpio")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("busybox is needed: apt-get install busybox");
    child.stdin.take().unwrap().write_all(archive).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn kernel() -> Kernel {
    Kernel {
        vmlinux: "/vmlinux".into(),
        release: "test".into(),
        modules: None,
        keep_signatures: true,
    }
}

#[test]
fn an_initramfs_holds_the_agent_the_directories_and_the_console() {
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    fs::write(&agent, "the agent").unwrap();
    let cache = Cache::at(directory.path().join("cache"));
    let path = initramfs(&kernel(), &agent, &["virtiofs"], &cache).unwrap();
    let archive = fs::read(&path).unwrap();
    let list = busybox(&["-itv"], directory.path(), &archive);
    let has = |mode: &str, name: &str| {
        let found = list
            .lines()
            .any(|line| line.starts_with(mode) && line.ends_with(name));
        assert!(found, "{mode} {name} in\n{list}");
    };
    for name in ["dev", "run", "crumble"] {
        has("drwxr-xr-x", &format!(" {name}"));
    }
    has("drwxrwxrwt", " tmp");
    has("-rwxr-xr-x", " init");
    has("crw-------", " dev/console");
    has("crw-rw-rw-", " dev/null");
    has("-rw-r--r--", " crumble/modules");
}

#[test]
fn the_same_inputs_give_the_same_file_and_others_another() {
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    let cache = Cache::at(directory.path().join("cache"));
    let build = |content| {
        fs::write(&agent, content).unwrap();
        initramfs(&kernel(), &agent, &[], &cache).unwrap()
    };
    let first = build("one");
    let other = build("two");
    assert_ne!(first, other);
    assert_eq!(build("one"), first);
    fs::write(&first, "damaged").unwrap();
    assert_eq!(build("one"), first);
    assert!(fs::read(&first).unwrap().starts_with(b"070701"));
}

#[test]
fn the_setup_survives_its_archive_behind_another() {
    let setup = Setup {
        version: VERSION,
        hostname: "guest".into(),
        root: Root::discarding("root"),
        directories: vec!["/srv".into()],
        shares: vec![Share {
            tag: "one".into(),
            path: "/mnt".into(),
            read_only: true,
        }],
        mounts: Vec::new(),
        network: None,
        init: None,
        terminal: false,
    };
    let archive = setup_archive(&setup).unwrap();
    let directory = tempfile::tempdir().unwrap();
    busybox(&["-id"], directory.path(), &archive);
    let bytes = fs::read(directory.path().join(SETUP_PATH.trim_start_matches('/'))).unwrap();
    assert_eq!(wire::decode::<Setup>(&bytes).unwrap(), setup);
    assert_eq!(archive.len() % 4, 0);
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path().join("cache"));
    let path = directory.path().join("thing");
    let resolve = |kernel: &Path| {
        let source = Source::Path {
            kernel: kernel.to_owned(),
            modules: None,
        };
        resolve(&source, &cache, &mut |_| {})
    };
    for content in [&b""[..], b"text", b"\x7fEL"] {
        fs::write(&path, content).unwrap();
        let error = resolve(&path).unwrap_err();
        assert!(matches!(error, Error::NotAKernel { .. }));
        assert!(error.to_string().contains("thing"));
    }
    assert!(matches!(
        resolve(Path::new("/nowhere")),
        Err(Error::File { .. })
    ));
    fs::write(&path, "\x7fELF").unwrap();
    assert_eq!(resolve(&path).unwrap().vmlinux, path);
}

#[test]
fn a_tuned_kernel_is_used_once_it_is_built() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path().to_owned());
    let error = resolve(&Source::Tuned, &cache, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("cargo xtask kernel"));
    fs::create_dir_all(cache.tuned().parent().unwrap()).unwrap();
    fs::write(cache.tuned(), "\x7fELF").unwrap();
    let kernel = resolve(&Source::Tuned, &cache, &mut |_| {}).unwrap();
    assert_eq!(kernel.vmlinux, cache.tuned());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_is_put_in_comes_out(
        contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 1..8)
    ) {
        let mut archive = Archive::new();
        archive.directory("d", 0o755).unwrap();
        // Names of every length modulo four, for the padding.
        let name = |at: usize| format!("d/{}{at}", "n".repeat(at));
        for (at, content) in contents.iter().enumerate() {
            archive.file(&name(at), 0o644, content).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        busybox(&["-id"], directory.path(), &archive.finish().unwrap());
        for (at, content) in contents.iter().enumerate() {
            prop_assert_eq!(&fs::read(directory.path().join(name(at))).unwrap(), content);
        }
    }
}

#[test]
fn names_that_the_kernel_would_not_take_are_refused() {
    let mut archive = Archive::new();
    for name in ["", "/absolute", "zero\0byte", &"long".repeat(1024)] {
        assert!(matches!(
            archive.file(name, 0o644, b""),
            Err(Error::Archive(_))
        ));
    }
}

#[test]
fn a_kernel_without_the_merely_useful_modules_is_used_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    fs::write(&agent, "the agent").unwrap();
    let cache = Cache::at(directory.path().join("cache"));
    let modules = directory.path().join("modules");
    fs::create_dir(&modules).unwrap();
    let kernel = Kernel {
        modules: Some(modules.clone()),
        ..kernel()
    };
    fs::write(modules.join("modules.order"), "").unwrap();
    initramfs(&kernel, &agent, &[], &cache).unwrap();
    // Where the kernel says that it has one, it is taken.
    fs::write(modules.join("modules.order"), "kernel/button.ko\n").unwrap();
    let error = initramfs(&kernel, &agent, &[], &cache).unwrap_err();
    assert!(error.to_string().contains("button"), "{error}");
}
