//! Images through the whole crate: a registry that does as it is told, files, and other programs.

mod debian;
mod files;
mod hostile;
mod login;
mod registry;
mod rig;
mod sharing;
