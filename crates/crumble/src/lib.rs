//! Machines, embedded the way [`std::process`] embeds programs.
//!
//! ```no_run
//! # fn main() -> Result<(), crumble::Error> {
//! let machine = crumble::Machine::builder("host".parse()?).start()?;
//! let output = machine.command("uname").arg("-a").output()?;
//! println!("{}", String::from_utf8_lossy(&output.stdout));
//! machine.shutdown()?;
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod assemble;
mod busybox;
mod command;
mod error;
pub mod host;
mod machine;
mod net;
mod network;
mod stdio;
pub mod tap;

pub use agent_client::{Error as AgentError, FailureKind, Remote, Size};
pub use command::{Child, Command, ExitStatus, Output};
pub use error::Error;
pub use machine::{Builder, Machine};
pub use net::Listener;
pub use network::Published;
pub use spec::{
    Cpus, Hostname, Image, Interface, InterfaceAddress, Link, MachineSpec, Memory, Network,
    Publish, Rate, Rule, Share, Tap, User,
};
pub use stdio::Stdio;
pub use supervisor::{ProcessInfo, Timings};
pub use wire::vmm::{End, Stats};
