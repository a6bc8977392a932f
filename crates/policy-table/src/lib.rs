//! Policies as people write them: a TOML file a program, every line with its reason.
//!
//! [`read`] lays a file over those that it includes and checks it; [`filters`] compiles its system
//! calls to BPF. The components' own policies go through here when they are built, those of other
//! programs when `crumble-jailer` starts one.

#![forbid(unsafe_code)]

mod compile;
mod condition;
mod parse;

pub use compile::{Filters, filters, number};
pub use condition::holds;
pub use parse::{Call, Entry, Kind, Number, Path, Table, directory, read};
pub use seccompiler::sock_filter as Instruction;

/// What is wrong with a policy, and where: `FILE:LINE: what`.
pub type Error = String;
