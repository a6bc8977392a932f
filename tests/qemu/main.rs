//! Devices of ours under QEMU: a stock Linux guest does real work with a file system and a disk. QEMU
//! emulates the CPU, so this runs on any host.
//!
//! There is no network: QEMU enables the rings of a network device before it has accepted
//! VHOST_USER_F_PROTOCOL_FEATURES, which the crate `vhost` takes for an error.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kernel::{Cache, Source, cpio::Archive};

/// An emulated machine boots and works in ten seconds or so.
const LIMIT: Duration = Duration::from_secs(180);

const KERNEL_MODULES: &[&str] = &["virtio_pci", "virtiofs", "virtio_blk"];

/// The guest's whole init: `ok WHAT` for each thing that works.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /mnt /etc
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
for module in $(cat /crumble/modules); do insmod $module; done

mount -t virtiofs shared /mnt && cat /mnt/file && seq 100000 > /mnt/new && umount /mnt && echo ok fs
mount -t virtiofs shared /mnt && [ $(wc -l < /mnt/new) = 100000 ] && echo ok fs again
[ $(cat /sys/block/vda/size) = 2048 ] && yes | head -c 500000 > /dev/vda && sync && echo ok block
poweroff -f
"#;

/// `crumble serve`. Dropping it ends it.
struct Server(Child);

impl Server {
    fn start(directory: &Path, name: &str, arguments: &[&str]) -> Self {
        let programs = env::var_os(testbed::BIN_DIR).expect("cargo xtask test says where they are");
        let socket = directory.join(name);
        let mut command = Command::new(PathBuf::from(programs).join("crumble"));
        command
            .args(["serve", "--socket"])
            .arg(&socket)
            .args(arguments);
        let server = Self(command.stdin(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + LIMIT;
        while !socket.exists() {
            assert!(Instant::now() < deadline, "{name} does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kernel, and the initramfs.
fn guest(directory: &Path) -> (PathBuf, PathBuf) {
    let cache = Cache::of_user().unwrap();
    let kernel = kernel::resolve(&Source::Distribution, &cache, &mut |_| {});
    let kernel = kernel.unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(fs::read);
    let busybox = busybox
        .into_iter()
        .find_map(Result::ok)
        .expect("busybox-static is installed");
    let script = directory.join("script");
    fs::write(&script, INIT).unwrap();
    let modules = kernel::initramfs(&kernel, &script, KERNEL_MODULES, &cache).unwrap();
    let mut more = Archive::new();
    more.directory("bin", 0o755).unwrap();
    more.file("bin/busybox", 0o755, &busybox).unwrap();
    let initramfs = directory.join("initramfs");
    fs::write(
        &initramfs,
        [fs::read(modules).unwrap(), more.finish().unwrap()].concat(),
    )
    .unwrap();
    (kernel.vmlinux, initramfs)
}

/// Runs QEMU to its end, and returns what its guest said.
fn run(directory: &Path, kernel: &Path, initramfs: &Path) -> String {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    qemu.args([
        "-accel", "tcg", "-cpu", "max", "-m", "256M", "-serial", "stdio",
    ]);
    qemu.args([
        "-object",
        "memory-backend-memfd,id=memory,size=256M,share=on",
    ]);
    qemu.args(["-machine", "q35,memory-backend=memory"]);
    qemu.arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs);
    qemu.args([
        "-append",
        "console=ttyS0 quiet panic=-1 random.trust_cpu=on",
    ]);
    for (name, device) in [
        ("fs", "vhost-user-fs-pci,chardev=fs,tag=shared"),
        ("block", "vhost-user-blk-pci,chardev=block"),
    ] {
        let socket = directory.join(name);
        let chardev = format!("socket,id={name},path={}", socket.display());
        qemu.args(["-chardev", &chardev]);
        qemu.args(["-device", device]);
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut qemu = Server(qemu.spawn().unwrap());
    let mut stdout = qemu.0.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let deadline = Instant::now() + LIMIT;
    while !reader.is_finished() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    drop(qemu);
    reader.join().unwrap()
}

#[test]
fn a_guest_of_qemu_s_works_with_our_devices() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let shared = directory.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "of the host\n").unwrap();
    let disk = directory.join("disk");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let servers = [
        Server::start(directory, "fs", &["fs", shared.to_str().unwrap()]),
        Server::start(directory, "block", &["block", disk.to_str().unwrap()]),
    ];
    let (kernel, initramfs) = guest(directory);
    // Each VMM has processes of its own, so a second one finds them as the first did.
    for _ in 0..2 {
        let said = run(directory, &kernel, &initramfs);
        for what in ["fs", "fs again", "block"] {
            let line = format!("ok {what}");
            assert!(
                said.lines().any(|found| found.trim_end() == line),
                "{line}: {said}"
            );
        }
    }
    let new = fs::read_to_string(shared.join("new")).unwrap();
    assert_eq!(new.lines().count(), 100_000);
    let bytes = fs::read(&disk).unwrap();
    assert!(bytes.starts_with(&b"y\n".repeat(250_000)));
    drop(servers);
}
