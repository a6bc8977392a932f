//! `crumble validate`.

use std::{path::Path, process::ExitCode};

use machine_file::MachineFile;

use crate::report::Failure;

/// Says nothing of a file that is right; prints the schema if that is asked for.
pub(crate) fn validate(schema: bool, file: Option<&Path>) -> Result<ExitCode, Failure> {
    if schema {
        println!("{}", MachineFile::schema());
    }
    file.map(MachineFile::read).transpose()?;
    Ok(ExitCode::SUCCESS)
}
