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
//!
//! # Networks
//!
//! What `--network` says to the command a [`Network`] says to [`Builder::network`], in the same words
//! or by its fields:
//!
//! ```
//! use crumble::{Link, Network, Rate, Rule, Tap, User};
//!
//! # fn main() -> Result<(), crumble::Error> {
//! let own = Rule {
//!     network: [10, 0, 0, 0].into(),
//!     prefix: 8,
//!     ports: (0, u16::MAX),
//!     allow: false,
//! };
//! // The rules of the default keep the host's own addresses from the guest.
//! let fields = Network::User(User {
//!     rules: [vec![own], User::default().rules].concat(),
//!     otherwise: true,
//!     link: Link {
//!         mtu: Some(1500),
//!         rate: Some(Rate { bits: Some(100_000_000), ..Rate::default() }),
//!     },
//! });
//! assert_eq!(fields, "user,deny=10.0.0.0/8,mtu=1500,rate=100M".parse()?);
//!
//! let fields = Network::Tap(Tap {
//!     name: "tap0".to_owned(),
//!     addresses: vec![([192, 0, 2, 9].into(), 24)],
//!     gateways: vec![[192, 0, 2, 1].into()],
//!     nameservers: vec![[192, 0, 2, 53].into()],
//!     link: Link::default(),
//! });
//! let words = "tap=tap0,address=192.0.2.9/24,gateway=192.0.2.1,dns=192.0.2.53";
//! assert_eq!(fields, words.parse()?);
//! # Ok(())
//! # }
//! ```
//!
//! `-p` is [`Builder::publish`], `--pcap` [`Builder::pcap`], `crumble network` the module [`tap`].
//! [`Guest::connect`] and [`Guest::listen`] reach ports of a machine that has no network at all.

#![deny(unsafe_code)]

mod assemble;
mod busybox;
mod command;
mod disks;
mod dockerfile;
mod error;
mod export;
mod external;
mod guest;
pub mod host;
mod images;
mod kept;
mod lock;
mod machine;
mod net;
mod network;
#[doc(hidden)]
pub mod partitions;
mod serve;
mod stdio;
pub mod tap;
mod terminal;
mod volumes;

pub use agent_client::{Error as AgentError, FailureKind, Remote, Size};
/// Dockerfiles.
pub use build;
pub use command::{Child, Command, ExitStatus, Output};
pub use dockerfile::BuildOptions;
pub use error::Error;
pub use guest::Guest;
/// Images, and the store that they are kept in.
pub use image;
pub use image::Pull;
pub use images::Images;
pub use machine::{Builder, Machine};
pub use net::Listener;
pub use network::Published;
/// The network of a machine that does not run: for tests that are the guest themselves.
#[doc(hidden)]
pub use network::{Connected, connect, tap::open as open_tap};
pub use serve::{Served, Server};
pub use spec::{
    BackEnd, Cpus, Disk, External, Hostname, Image, Init, Interface, InterfaceAddress, Link,
    MachineSpec, Memory, Name, Network, Opened, Program, Publish, Rate, Reference, Rule, Shape,
    Share, Tap, User, Volume,
};
pub use stdio::Stdio;
pub use supervisor::{ProcessInfo, Timings};
pub use terminal::Terminal;
pub use volumes::Volumes;
pub use wire::vmm::{End, Stats};
