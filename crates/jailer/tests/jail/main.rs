//! A hostile component tries to get out of its jail.
//!
//! This binary is both sides: started by hand or by cargo it is the host, started by the jailer it
//! is the component, confines itself as a real one does, and then does what it is told. Everything
//! runs as the user who started it; root also repeats everything as an ordinary user.

mod attempts;
mod component;
mod duties;
mod host;
mod layers;
mod raw;
mod refusals;
mod report;
mod state;
mod targets;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// The user and group that stand for ordinary ones.
const ORDINARY: u32 = 1000;

fn main() -> ExitCode {
    if std::env::args().next().as_deref() == Some(host::TITLE) {
        return component::main();
    }
    if std::env::args().nth(1).as_deref() == Some(refusals::PLACE) {
        return refusals::main();
    }
    let mut arguments = Arguments::from_args();
    // Two of these on one core are slow enough; more are no faster.
    arguments.test_threads.get_or_insert(2);
    let mut trials = attempts::trials();
    trials.extend(duties::trials());
    trials.extend(state::trials());
    trials.extend(report::trials());
    trials.extend(refusals::trials());
    if nix::unistd::Uid::effective().is_root() {
        trials.push(Trial::test(
            "everything_here_holds_for_an_ordinary_user",
            as_ordinary_user,
        ));
    }
    let targets = match targets::stand() {
        Ok(targets) => targets,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:?}");
            return ExitCode::FAILURE;
        }
    };
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    drop(targets);
    code
}

/// Runs this binary again as an ordinary user.
fn as_ordinary_user() -> Result<(), Failed> {
    let output = Command::new(std::env::current_exe()?)
        .uid(ORDINARY)
        .gid(ORDINARY)
        .env_clear()
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Err(format!("{}: {text}", output.status).into())
}
