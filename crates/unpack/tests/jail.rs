//! What the process has left once its jail is closed, and that it is enough for its work.

use std::fs::{self, File};
use std::io::{PipeReader, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use erofs::{Follow, Reader, View};
use handoff::Channel;
use jailer::Exit;
use sha2::{Digest, Sha256};
use wire::unpack::{Compression, Config, Limits, Outcome};

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

struct Process {
    process: jailer::Process,
    control: Channel,
    log: PipeReader,
    image: File,
}

/// Starts the process, and says whether it was ready.
fn launch(config: &Config, layer: OwnedFd) -> (Process, handoff::Result<()>) {
    let image = tempfile::tempfile().unwrap();
    let resources = [("layer", layer.as_fd()), ("image", image.as_fd())];
    let (process, control, log, ready) = launch_with(config, &resources);
    let process = Process {
        process,
        control,
        log,
        image,
    };
    (process, ready)
}

fn launch_with(
    config: &Config,
    resources: &[(&str, BorrowedFd<'_>)],
) -> (jailer::Process, Channel, PipeReader, handoff::Result<()>) {
    let (control, theirs) = Channel::pair().unwrap();
    let (log, stderr) = std::io::pipe().unwrap();
    let program = File::open(Path::new(env!("CARGO_BIN_EXE_crumble-unpack"))).unwrap();
    let process = jailer::spawn(jailer::Launch {
        policy: policy::component("unpack").unwrap(),
        program: program.as_fd(),
        title: "crumble-unpack: test",
        stderr: stderr.as_fd(),
        channel: theirs,
    })
    .unwrap();
    let named = resources.iter().map(|(name, fd)| ((*name).to_owned(), *fd));
    handoff::start(&control, config, &named.collect::<Vec<_>>()).unwrap();
    let ready = handoff::await_ready(&control, PATIENCE);
    (process, control, log, ready)
}

impl Process {
    /// A line of `/proc/PID/status`.
    fn status(&self, key: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }

    /// What it says, how it ends, and the log.
    fn end(mut self) -> (Option<Outcome>, Exit, String, File) {
        self.control.set_timeout(Some(PATIENCE)).unwrap();
        let outcome = self.control.receive::<Outcome>().unwrap();
        let exit = self.process.wait(Some(PATIENCE)).unwrap();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        let exit = exit.expect("the process does not end");
        (outcome.map(|(outcome, _)| outcome), exit, log, self.image)
    }
}

fn config(compression: Compression, archive: &[u8]) -> Config {
    Config {
        compression,
        diff_id: Sha256::digest(archive).into(),
        limits: Limits {
            bytes: 1 << 30,
            entries: 1_000_000,
        },
    }
}

/// An archive with many names and a large file.
fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, contents: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, contents).unwrap();
    };
    for number in 0..3_000 {
        add(&format!("d/{}/{number}", number % 100), b"contents");
    }
    let large: Vec<u8> = (0..2_000_000)
        .map(|at| (at % 253).try_into().unwrap())
        .collect();
    add("large", &large);
    builder.into_inner().unwrap()
}

fn in_a_file(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file.into()
}

/// A process that waits for more of its layer, which never comes.
fn waiting() -> (Process, std::io::PipeWriter) {
    let (layer, writer) = std::io::pipe().unwrap();
    let (process, ready) = launch(&config(Compression::None, b""), layer.into());
    ready.unwrap();
    (process, writer)
}

#[test]
fn it_filters_system_calls_and_has_no_capability_and_gains_none() {
    let (process, _writer) = waiting();
    // SECCOMP_MODE_FILTER.
    assert_eq!(process.status("Seccomp"), "2");
    assert_eq!(process.status("NoNewPrivs"), "1");
    assert_eq!(process.status("Threads"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = u64::from_str_radix(&process.status(set), 16);
        assert_eq!(bits, Ok(0), "{set}");
    }
}

#[test]
fn it_shares_nothing_with_the_host_and_sees_no_file() {
    let (process, _writer) = waiting();
    let pid = process.process.pid().to_string();
    let of = |pid: &str, name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
        assert_ne!(of(&pid, name), of("self", name), "{name}");
    }
    let root = format!("/proc/{pid}/root");
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn layers_of_every_compression_are_unpacked_in_the_jail() {
    let archive = archive();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(
        &archive[..],
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    for (compression, layer) in [
        (Compression::None, archive.clone()),
        (Compression::Gzip, gzip.finish().unwrap()),
        (Compression::Zstd, zstd),
    ] {
        let (process, ready) = launch(&config(compression, &archive), in_a_file(&layer));
        ready.unwrap();
        let (outcome, exit, log, image) = process.end();
        let Some(Outcome::Done(summary)) = outcome else {
            panic!("{outcome:?} {exit} {log}");
        };
        assert_eq!((exit, log.as_str()), (Exit::Code(0), ""));
        assert_eq!(summary.archive, archive.len() as u64);
        assert_eq!(summary.image, image.metadata().unwrap().len());
        let view = View::new(vec![Reader::open(image).unwrap()]);
        let large = view.resolve(b"/large", Follow::No).unwrap();
        assert_eq!(large.inode().size(), 2_000_000);
        let names = view.names(&view.resolve(b"d/42", Follow::No).unwrap());
        assert_eq!(names.unwrap().len(), 30);
    }
}

#[test]
fn what_is_wrong_with_a_layer_is_told_and_ends_it_with_1() {
    let cut = &archive()[..2_000_100];
    let (process, ready) = launch(&config(Compression::None, cut), in_a_file(cut));
    ready.unwrap();
    let (outcome, exit, log, _) = process.end();
    let Some(Outcome::Failed(why)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(why.contains("cut off after 2000100 bytes"), "{why}");
    assert_eq!(exit, Exit::Code(1));
    assert_eq!(log, format!("unpack: {why}\n"));
}

#[test]
fn killed_in_the_middle_it_says_nothing_and_leaves_no_zombie() {
    let (process, mut writer) = waiting();
    writer.write_all(&archive()[..10_000]).unwrap();
    let pid = process.process.pid();
    process.process.kill().unwrap();
    let (outcome, exit, ..) = process.end();
    assert_eq!((outcome, exit), (None, Exit::Signal(9)));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn without_its_files_it_refuses_to_start() {
    let layer = in_a_file(b"");
    let config = config(Compression::None, b"");
    let (mut process, _, _, ready) = launch_with(&config, &[("layer", layer.as_fd())]);
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("no resource named `image`"), "{text}");
    assert_eq!(process.wait(Some(PATIENCE)).unwrap(), Some(Exit::Code(2)));
}

#[test]
fn a_program_started_by_hand_says_how_it_is_started() {
    let output = Command::new(env!("CARGO_BIN_EXE_crumble-unpack"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stderr.is_empty());
}

#[test]
fn the_readme_lists_what_the_policy_allows_and_nothing_else() {
    let policy = policy::component("unpack").unwrap();
    let calls = policy.calls.iter();
    let mut allowed: Vec<_> = calls
        .filter(|call| call.value.error.is_none())
        .map(|call| call.value.name)
        .collect();
    allowed.sort_unstable();
    let readme = include_str!("../README.md");
    let block = readme.split("```text\n").nth(1).unwrap();
    let listed = block.split("```").next().unwrap().split_whitespace();
    let all = allowed.join(" ");
    assert!(listed.eq(allowed), "README.md should list:\n{all}");
    assert!(readme.contains("no capabilities") && policy.capabilities.is_empty());
    assert_eq!(policy.proc, None);
    assert!(policy.shared.is_empty());
}
