//! The guest's own terminal, where its init asks who logs in.

use std::{
    io::{Read, Write},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crumble::{End, Machine, Network, Size};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    layout::{Layer, Layout},
    support::{all_gone, family, lives, programs, run, send, tests},
};

tests![
    somebody_logs_in_and_does_not_notice_that_the_device_dies,
    a_machine_without_a_command_is_its_console,
];

const PATIENCE: Duration = Duration::from_secs(60);

/// busybox's init, a login on the console, and the password `secret`.
pub(crate) fn layout() -> Layout {
    let inittab = "::sysinit:/bin/hostname -F /etc/hostname\n\
                   hvc0::respawn:/bin/getty 0 hvc0 vt100\n";
    let mut layer = Layer::busybox()
        .file("etc/inittab", 0o644, inittab)
        .file("etc/hostname", 0o644, "console\n")
        .file("etc/group", 0o644, "root:x:0:\n")
        .file(
            "etc/shadow",
            0o600,
            "root:$1$crumble$OPlXGWYklKorTvXiX3vX0.:1::::::\n",
        );
    for applet in ["init", "getty", "login", "hostname", "stty", "poweroff"] {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    Layout::new([layer], &json!({ "Env": ["PATH=/bin"] }))
}

/// What is read from somewhere, as it arrives.
struct Heard {
    pieces: Receiver<Vec<u8>>,
    text: String,
}

impl Heard {
    fn from(mut source: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let text = String::new();
        Self { pieces, text }
    }

    /// Waits for something to be said, and forgets what was before it.
    fn wait(&mut self, words: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.text.contains(words) {
            let left = until.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.text.push_str(&String::from_utf8_lossy(&piece)),
                Err(error) => panic!("{words:?}: {error}; heard {:?}", self.text),
            }
        }
        let end = self.text.find(words).unwrap() + words.len();
        self.text.drain(..end);
    }
}

/// Logs in.
fn log_in(heard: &mut Heard, to: &mut impl Write) {
    heard.wait("console login: ");
    to.write_all(b"root\n").unwrap();
    heard.wait("Password: ");
    to.write_all(b"secret\n").unwrap();
    heard.wait("# ");
}

fn somebody_logs_in_and_does_not_notice_that_the_device_dies() {
    let layout = layout();
    let machine = Machine::builder(layout.name().parse().unwrap())
        .network(Network::None)
        .init("/bin/init".parse().unwrap())
        .terminal()
        .programs(programs())
        .start()
        .unwrap();
    let mut terminal = machine.terminal().unwrap().unwrap();
    let mut heard = Heard::from(terminal.try_clone().unwrap());
    log_in(&mut heard, &mut terminal);
    for (rows, columns) in [(24, 80), (50, 132)] {
        terminal.resize(Size { rows, columns }).unwrap();
        // The driver takes sizes and input by different ways.
        thread::sleep(Duration::from_millis(300));
        terminal.write_all(b"stty size\n").unwrap();
        heard.wait(&format!("\n{rows} {columns}\r"));
    }
    for life in 0..3 {
        let device = machine
            .processes()
            .into_iter()
            .find(|process| process.name == "terminal")
            .unwrap();
        let pid = device.pid.unsigned_abs();
        send(pid, Signal::SIGKILL);
        while lives(pid, "crumble-dev-console") {
            thread::sleep(Duration::from_millis(5));
        }
        let question = format!("echo life $(({life} + 1))\n");
        terminal.write_all(question.as_bytes()).unwrap();
        heard.wait(&format!("\nlife {}\r", life + 1));
    }
    // More than is read at once, and none of it missing.
    let line = "for i in 1 2 3 4 5 6 7 8; do echo $i $i $i $i $i $i $i $i; done; echo all of it\n";
    terminal.write_all(line.as_bytes()).unwrap();
    heard.wait("\n8 8 8 8 8 8 8 8\r\nall of it\r");
    terminal.write_all(b"poweroff\n").unwrap();
    assert_eq!(machine.wait().unwrap(), End::PowerOff);
}

/// A machine of the command's, without a command.
fn console(layout: &Layout) -> (Child, Heard) {
    let name = layout.name();
    let mut command = run(["--network", "none", "-i", "--init", "/bin/init", &name]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let heard = Heard::from(child.stdout.take().unwrap());
    (child, heard)
}

fn a_machine_without_a_command_is_its_console() {
    let layout = layout();
    let (mut child, mut heard) = console(&layout);
    let mut stdin = child.stdin.take().unwrap();
    log_in(&mut heard, &mut stdin);
    stdin.write_all(b"poweroff\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));

    // Whoever asks us to end asks the guest's init.
    let (mut child, mut heard) = console(&layout);
    heard.wait("console login: ");
    let processes = family(child.id());
    send(child.id(), Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    all_gone(&processes);
}
