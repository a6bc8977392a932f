//! The network with real programs and without a machine: the kernel of this host is the guest.
//!
//! Each test makes three network namespaces. In `guest` there is a TAP device, whose packets a pump
//! carries through virtqueues to the real network device in its real jail; in `host` there is the
//! real dialer; `internet` is joined to `host` by a cable. All of it is in namespaces of this
//! program's own, which has no other network, and ends with it. It takes root.

#![deny(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bulk;
mod datagrams;
mod egress;
mod http;
mod lab;
mod link;
mod names;
mod namespace;
mod peer;
mod programs;
mod published;
mod pump;
mod ssh;
mod tap;

use std::{
    env,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    thread,
};

use libtest_mimic::{Arguments, Failed, Trial};
use testbed::{BIN_DIR, PRODUCTS};

/// A test's name and its body.
type Test = (&'static str, fn());

/// Lists functions as tests of their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*];
    };
}
use tests;

/// Is set in the namespaces of this program's own.
const INSIDE: &str = "CRUMBLE_NET_TESTS_INSIDE";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if let Some(("peer", rest)) = words.split_first().map(|(first, rest)| (&**first, rest)) {
        return peer::act(rest);
    }
    let arguments = Arguments::from_args();
    if arguments.list || env::var_os(INSIDE).is_some() {
        return libtest_mimic::run(&arguments, trials()).exit_code();
    }
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(io::stderr(), "skipped: network namespaces take root");
        return ExitCode::SUCCESS;
    }
    programs::check();
    let error = inside(&words);
    panic!("unshare (util-linux) cannot be executed: {error}");
}

/// Becomes this program once more, with no network, no processes and no mounts but its own.
fn inside(words: &[String]) -> io::Error {
    let bin_dir = env::var_os(BIN_DIR).unwrap_or_else(|| {
        let network = ["dev-net", "dialer"];
        let products = PRODUCTS.iter().copied();
        let products = products.filter(|product| network.contains(&product.package));
        testbed::build(products).unwrap().into()
    });
    // sshd wants its directory; where the host keeps its resolv.conf in /run there is one to cover.
    const SCRIPT: &str = "mount -t tmpfs none /run && mkdir /run/sshd && \
        conf=$(readlink -m /etc/resolv.conf) && mkdir -p \"$(dirname \"$conf\")\" && \
        { [ -e \"$conf\" ] || : > \"$conf\"; } && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--ipc", "--pid", "--fork"]);
    command.args(["--kill-child", "--mount-proc", "sh", "-c", SCRIPT]);
    command.arg(env::current_exe().unwrap()).args(words);
    command.env(BIN_DIR, bin_dir).env(INSIDE, "1").exec()
}

fn trials() -> Vec<Trial> {
    let groups = [
        ("bulk", bulk::TESTS),
        ("datagrams", datagrams::TESTS),
        ("egress", egress::TESTS),
        ("http", http::TESTS),
        ("link", link::TESTS),
        ("names", names::TESTS),
        ("published", published::TESTS),
        ("ssh", ssh::TESTS),
    ];
    let group = |(group, tests): (&'static str, &'static [Test])| {
        tests
            .iter()
            .map(move |(name, test)| Trial::test(format!("{group}::{name}"), move || run(*test)))
    };
    groups.into_iter().flat_map(group).collect()
}

/// Runs a test on a thread of its own: it changes the namespaces that its thread is in.
fn run(test: fn()) -> Result<(), Failed> {
    let ended = thread::spawn(test).join();
    ended.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let literal = || panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(literal).unwrap_or_default().into()
    })
}
