//! `crumble volume`.

use std::process::ExitCode;

use crate::{arguments::Volumes, report::Failure};

/// Lists or removes volumes.
pub(crate) fn volumes(verb: &Volumes) -> Result<ExitCode, Failure> {
    match verb {
        Volumes::Ls => crumble::Volumes::names()?
            .iter()
            .for_each(|name| println!("{name}")),
        Volumes::Rm { names } => names.iter().try_for_each(crumble::Volumes::remove)?,
    }
    Ok(ExitCode::SUCCESS)
}
