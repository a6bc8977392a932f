//! The testbed, for people.

use std::ffi::OsString;

use clap::Subcommand;
use testbed::{PRODUCTS, Testbed};

use crate::{error::Result, setup};

/// What to do with the testbed.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Boot it, and say what it is. It ends by itself a minute after its last use.
    Up,
    /// End it.
    Down,
    /// A shell in it.
    Shell,
    /// A command in it.
    Exec {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Where its log is: what its processes say, and its console.
    Log,
}

/// Does it.
pub(crate) fn act(action: Action) -> Result {
    match action {
        Action::Up => up(),
        Action::Down => down(),
        Action::Shell => exec(vec!["/bin/bash".into()]),
        Action::Exec { command } => exec(command),
        Action::Log => {
            let directory = testbed::directory_for(&testbed::workspace(), 0);
            println!("{}", directory.join("log").display());
            Ok(0)
        }
    }
}

fn open() -> Result<Testbed> {
    setup::for_building()?;
    setup::for_machines(true)?;
    let parts = ["testbed", "dev-vsock", "agent"];
    let parts = PRODUCTS
        .iter()
        .copied()
        .filter(|product| parts.contains(&product.package));
    Ok(Testbed::open(&testbed::build(parts)?)?)
}

fn up() -> Result {
    let testbed = open()?;
    let status = testbed.status();
    match testbed.booted() {
        Some(time) => println!("up in {:.2} s", time.as_secs_f32()),
        None => println!("it was up"),
    }
    println!(
        "kernel {}, keeper {}, QEMU {}",
        status.kernel, status.keeper, status.qemu
    );
    for (phase, time) in &status.phases {
        println!("  {phase:<10} {time:>5} ms");
    }
    Ok(0)
}

fn down() -> Result {
    match testbed::down()? {
        true => println!("ended"),
        false => println!("there was none"),
    }
    Ok(0)
}

fn exec(command: Vec<OsString>) -> Result {
    Ok(testbed::Command::new(command).run(&open()?)?)
}
