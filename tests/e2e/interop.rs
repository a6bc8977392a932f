//! Devices of other projects under our VMM: Debian's, from the package qemu-system-common.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::files;
use crate::support::{eventually, fails, family, programs, run, send, stdout, tests, up, waiting};

tests![
    qemu_s_virtiofsd_serves_a_directory,
    qemu_s_storage_daemon_serves_a_disk,
    a_program_in_a_jail_serves_a_disk_and_another_goes_on,
    a_program_that_ends_ends_its_machine_if_none_may_go_on,
    a_back_end_that_dies_ends_its_machine_by_name,
    a_back_end_that_is_not_there_is_named,
    what_we_serve_we_take,
];

const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";
const STORAGE_DAEMON: &str = "/usr/bin/qemu-storage-daemon";

/// A back end that listens on a socket in a directory of its own. Dropping it ends it.
struct BackEnd {
    process: Child,
    directory: TempDir,
}

impl BackEnd {
    /// Starts what `command` says for the directory and the socket in it.
    fn start(directory: TempDir, command: impl FnOnce(&Path, &str) -> Command) -> Self {
        let socket = directory.path().join("socket");
        let mut command = command(directory.path(), socket.to_str().unwrap());
        let process = command.stdin(Stdio::null()).spawn().unwrap();
        eventually("it does not listen", || socket.exists());
        Self { process, directory }
    }

    /// What `--device` takes.
    fn device(&self, kind: &str, more: &str) -> String {
        let socket = self.path("socket");
        format!("{kind},socket={}{more}", socket.display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// `crumble serve`, which listens on `name` in the directory.
fn serve(directory: &Path, name: &str, arguments: &[&str]) -> (Child, String) {
    let socket = directory.join(name);
    let mut command = Command::new(programs().join("crumble"));
    command
        .args(["serve", "--socket"])
        .arg(&socket)
        .args(arguments);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let process = command.spawn().unwrap();
    eventually("it does not listen", || socket.exists());
    (process, format!("{name},socket={}", socket.display()))
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn virtiofsd() -> BackEnd {
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "of the host\n").unwrap();
    BackEnd::start(directory, |_, socket| {
        let mut command = Command::new(VIRTIOFSD);
        command.arg(format!("--socket-path={socket}"));
        command.args(["-o", &format!("source={}", shared.display())]);
        command
    })
}

fn storage_daemon() -> BackEnd {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk");
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    BackEnd::start(directory, |_, socket| {
        let mut command = Command::new(STORAGE_DAEMON);
        let node = format!("driver=file,node-name=disk,filename={}", file.display());
        let export = format!(
            "type=vhost-user-blk,id=disk,node-name=disk,writable=on,addr.type=unix,addr.path={socket}"
        );
        command.args(["--blockdev", &node, "--export", &export]);
        command
    })
}

fn qemu_s_virtiofsd_serves_a_directory() {
    let back_end = virtiofsd();
    let device = back_end.device("fs", ",tag=theirs");
    let script = "mkdir /tmp/t && mount -t virtiofs theirs /tmp/t && cat /tmp/t/file && \
        seq 100000 > /tmp/t/new && umount /tmp/t";
    let text = stdout(&["--device", &device, "busybox", "--", "sh", "-c", script]);
    assert_eq!(text, "of the host\n");
    let new = fs::read_to_string(back_end.path("shared/new")).unwrap();
    assert_eq!(new.lines().count(), 100_000);
}

fn qemu_s_storage_daemon_serves_a_disk() {
    let back_end = storage_daemon();
    let device = back_end.device("block", "");
    let script = "cat /sys/block/vda/size; yes | head -c 500000 > /dev/vda; sync";
    let text = stdout(&["--device", &device, "busybox", "--", "sh", "-c", script]);
    assert_eq!(text, "2048\n");
    let bytes = fs::read(back_end.path("disk")).unwrap();
    assert!(bytes.starts_with(&b"y\n".repeat(250_000)));
    assert!(bytes[500_000..].iter().all(|byte| *byte == 0));
}

/// A machine of which a disk is served by QEMU's storage daemon, in a jail that has only the disk's file.
fn machine_with_a_program(directory: &Path, in_order: bool, script: &str) -> Command {
    let disk = directory.join("disk");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    // In its jail it is nobody in particular.
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o666)).unwrap();
    let mut policy = include_str!("storage-daemon.toml").to_owned();
    policy += &format!("{disk:?} = {{ access = \"write\", why = \"the disk\" }}\n");
    fs::write(directory.join("policy.toml"), policy).unwrap();
    let node = format!("driver=file,node-name=disk,filename={}", disk.display());
    let export =
        "type=vhost-user-blk,id=disk,node-name=disk,writable=on,addr.type=fd,addr.str={fd}";
    let machine = format!(
        "image = \"busybox\"\n[[device]]\nkind = \"block\"\npolicy = \"policy.toml\"\n\
         in-order = {in_order}\n\
         command = [{STORAGE_DAEMON:?}, \"--blockdev\", {node:?}, \"--export\", {export:?}]\n"
    );
    let file = files::write(directory, &machine);
    let mut command = files::crumble(&["up", "-i"], &file, &["sh", "-c", script]);
    command.stdin(Stdio::piped());
    command
}

/// The storage daemon's process, of a machine that `parent` holds.
fn daemon_of(parent: u32) -> Option<u32> {
    let family = family(parent).into_iter();
    let mut daemons = family.filter(|(_, title)| title.contains("qemu-storage-daemon"));
    daemons.next().map(|(pid, _)| pid)
}

fn a_program_in_a_jail_serves_a_disk_and_another_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let script = "dd if=/dev/zero bs=64k count=2 of=/dev/vda conv=fsync 2> /dev/null; echo up; read line; \
        yes | head -c 500000 > /dev/vda; sync";
    let mut child = up(machine_with_a_program(directory.path(), true, script));
    let first = daemon_of(child.id()).unwrap();
    send(first, Signal::SIGKILL);
    eventually("no other has taken its place", || {
        daemon_of(child.id()).is_some_and(|pid| pid != first)
    });
    child.stdin.take();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let bytes = fs::read(directory.path().join("disk")).unwrap();
    assert!(bytes.starts_with(&b"y\n".repeat(250_000)));
}

fn a_program_that_ends_ends_its_machine_if_none_may_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let child = up(machine_with_a_program(
        directory.path(),
        false,
        &waiting(""),
    ));
    send(daemon_of(child.id()).unwrap(), Signal::SIGKILL);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("block0"), "{errors}");
}

fn a_back_end_that_dies_ends_its_machine_by_name() {
    let mut back_end = storage_daemon();
    let device = back_end.device("block", "");
    let script = waiting("");
    let child = up(run([
        "--device", &device, "busybox", "--", "sh", "-c", &script,
    ]));
    back_end.process.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("block0"), "{errors}");
}

fn a_back_end_that_is_not_there_is_named() {
    let words = ["rng at /nowhere/socket", "No such file"];
    fails(
        &["--device", "rng,socket=/nowhere/socket", "busybox", "true"],
        125,
        &words,
    );
    fails(
        &["--device", "rng", "busybox", "true"],
        2,
        &["socket is missing", "rng,socket="],
    );
}

fn what_we_serve_we_take() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let disk = directory.join("disk.img");
    fs::write(&disk, vec![b'x'; 1 << 20]).unwrap();
    let (mut share, fs_device) = serve(directory, "fs", &["fs", "/etc", "--read-only"]);
    let (mut block, block_device) = serve(directory, "block", &["block", disk.to_str().unwrap()]);
    let (mut net, net_device) = serve(directory, "net", &["net"]);
    let script = "mount -t virtiofs theirs /mnt && cmp /mnt/hostname /mnt/hostname && ! touch /mnt/x \
        && head -c 3 /dev/vda && ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 \
        && ping -c 1 10.0.2.2 | grep -o '0% packet loss'";
    // A second machine finds all of it as the first did.
    for _ in 0..2 {
        let text = stdout(&[
            "--network=none",
            "--device",
            &format!("{fs_device},tag=theirs"),
            "--device",
            &block_device,
            "--device",
            &format!("{net_device},queues=3"),
            "busybox",
            "--",
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(text, "xxx0% packet loss\n");
    }
    for process in [&share, &block, &net] {
        send(process.id(), Signal::SIGTERM);
    }
    for process in [&mut share, &mut block, &mut net] {
        assert_eq!(process.wait().unwrap().code(), Some(128 + 15));
    }
    let left = fs::read_dir(directory).unwrap().count();
    assert_eq!(left, 1, "a socket is left");
}
