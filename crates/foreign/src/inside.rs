//! The half inside: closes the jail around itself and becomes the program.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use handoff::{Launched, Resources};
use jailer::{Access, Program};
use policy_table::{Call, Entry, Table};
use rustix::io::fcntl_dupfd_cloexec;

use crate::outside::{Config, FILE};
use crate::{Error, Result, rules};

/// Above the numbers that a program may ask for.
const PARKING: i32 = 64;

/// Takes what the half outside has prepared, closes the jail around this process, which must have one
/// thread, and executes the program. It returns only if that fails.
#[must_use]
pub fn become_program() -> Error {
    let launched = match handoff::launched::<Config>() {
        Ok(launched) => launched,
        Err(error) => return error.into(),
    };
    let Launched {
        config,
        mut resources,
        // Its socket is open until the execution: nobody waits for an answer.
        answer: _answer,
    } = launched;
    execute(&config, &mut resources).unwrap_or_else(|error| error)
}

fn execute(config: &Config, resources: &mut Resources) -> Result<Error> {
    let file = park(resources.take(FILE)?)?;
    let names: Vec<String> = resources.names().map(str::to_owned).collect();
    let mut descriptors = Vec::new();
    for name in names {
        let number = name.parse().map_err(|_| Error::Number(name.clone()))?;
        descriptors.push((park(resources.take(&name)?)?, number));
    }
    let mut table = rules::table(&config.sources)?;
    allow_execution(&mut table, file.as_raw_fd());
    let policy = rules::policy(&table, &config.name, config.trace)?;
    let paths = rules::paths(&table).into_iter().map(|(path, access)| {
        let path = c_string(path.into_bytes())?;
        Ok((path, access))
    });
    let paths = paths.collect::<Result<Vec<(CString, Access)>>>()?;
    let program = Program {
        file,
        argv: &c_strings(&config.argv)?,
        env: &c_strings(&config.env)?,
        paths: &paths,
        descriptors: &descriptors,
    };
    Ok(jailer::execute(policy, &program).into())
}

/// Moves a descriptor out of the way of those that the program gets.
fn park(fd: OwnedFd) -> Result<OwnedFd> {
    fcntl_dupfd_cloexec(fd, PARKING)
        .map_err(|error| Error::System("duplicate a descriptor", error.into()))
}

/// The one execution: of the descriptor that is closed by it.
fn allow_execution(table: &mut Table, file: i32) {
    let once = format!("arg0 == {file} and arg4 & AT_EMPTY_PATH == AT_EMPTY_PATH");
    let call = || Call {
        when: Vec::new(),
        error: None,
        only: None,
        why: "the program itself, once".to_owned(),
    };
    let listed = table.calls.contains_key("execveat");
    let entry = table.calls.entry("execveat".to_owned());
    let entry = entry.or_insert_with(|| Entry {
        value: call(),
        place: "crumble-jailer".to_owned(),
    });
    // A line without conditions allows it already.
    if !listed || !entry.value.when.is_empty() {
        entry.value.when.push(once);
    }
}

fn c_string(bytes: Vec<u8>) -> Result<CString> {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    CString::new(bytes).map_err(|_| Error::Null(text))
}

fn c_strings(all: &[Vec<u8>]) -> Result<Vec<CString>> {
    all.iter().map(|bytes| c_string(bytes.clone())).collect()
}
