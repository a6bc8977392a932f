//! From a table's system calls to BPF.

use seccompiler::{BpfProgram, TargetArch};
use serde_json::{Value, json};

use crate::parse::{Call, Entry, Table};
use crate::{Error, condition};

/// The programs of one component. The kernel runs both and takes the more severe verdict: the
/// first turns calls into errors, the second ends the process for whatever is not listed.
#[derive(Debug)]
pub struct Filters {
    /// Turns calls into errors.
    pub refuse: BpfProgram,
    /// Ends the process for what is not listed.
    pub allow: BpfProgram,
}

/// Compiles the calls of `table` for `architecture`. With `trace`, what is not listed is logged
/// instead of ending the process.
///
/// # Errors
/// A call, a condition or an error that does not exist there, with its place.
pub fn filters(table: &Table, architecture: &str, trace: bool) -> Result<Filters, Error> {
    let calls = || {
        table.calls.iter().filter(|(_, call)| {
            call.value
                .only
                .as_deref()
                .is_none_or(|only| only == architecture)
        })
    };
    let mut refused = Vec::new();
    let mut allowed = Vec::new();
    let mut errno = None;
    for (name, call) in calls() {
        let rules = rules(name, call, architecture)?;
        if let Some(error) = &call.value.error {
            let number = error_number(error)
                .ok_or_else(|| format!("{}: unknown error `{error}`", call.place))?;
            if *errno.get_or_insert(number) != number {
                return Err(format!(
                    "{}: one component answers with one error",
                    call.place
                ));
            }
            refused.extend(rules.clone());
            allowed.push(json!({ "syscall": name }));
        } else {
            allowed.extend(rules);
        }
    }
    let default = if trace {
        json!("log")
    } else {
        json!("kill_process")
    };
    let errno = json!({ "errno": errno.unwrap_or(libc::ENOSYS) });
    Ok(Filters {
        refuse: assemble(&json!("allow"), &errno, &refused, architecture)?,
        allow: assemble(&default, &json!("allow"), &allowed, architecture)?,
    })
}

/// The rules of one call, checked one by one so that a mistake has a place.
fn rules(name: &str, call: &Entry<Call>, architecture: &str) -> Result<Vec<Value>, Error> {
    let place = &call.place;
    let call = &call.value;
    if call.error.is_some() && !call.when.is_empty() {
        return Err(format!("{place}: `error` and `when` exclude each other"));
    }
    assemble(
        &json!("log"),
        &json!("allow"),
        &[json!({ "syscall": name })],
        architecture,
    )
    .map_err(|_| format!("{place}: unknown system call `{name}` on {architecture}"))?;
    if call.when.is_empty() {
        return Ok(vec![json!({ "syscall": name })]);
    }
    call.when
        .iter()
        .map(|text| {
            let conditions =
                condition::compile(text).map_err(|error| format!("{place}: {error}"))?;
            Ok(json!({ "syscall": name, "args": conditions }))
        })
        .collect()
}

/// The number of a system call.
///
/// # Errors
/// If there is none of that name.
pub fn number(name: &str, architecture: &str) -> Result<u32, Error> {
    let unknown = || format!("unknown system call `{name}` on {architecture}");
    let rules = [json!({ "syscall": name })];
    let program = assemble(&json!("log"), &json!("allow"), &rules, architecture);
    // The compiler has the table of numbers, and does not give it away. A filter compares the
    // architecture, then the number (`BPF_JMP | BPF_JEQ | BPF_K`).
    let program = program.map_err(|_| unknown())?;
    let mut compared = program
        .iter()
        .filter(|instruction| instruction.code == 0x15);
    compared
        .nth(1)
        .map(|instruction| instruction.k)
        .ok_or_else(unknown)
}

/// Runs seccompiler.
fn assemble(
    default: &Value,
    matched: &Value,
    rules: &[Value],
    architecture: &str,
) -> Result<BpfProgram, Error> {
    let filter = json!({ "main": {
        "mismatch_action": default,
        "match_action": matched,
        "filter": rules,
    }});
    let target = TargetArch::try_from(architecture).map_err(|error| error.to_string())?;
    seccompiler::compile_from_json(filter.to_string().as_bytes(), target)
        .map_err(|error| error.to_string())?
        .remove("main")
        .ok_or_else(|| "the compiler lost the filter".to_owned())
}

/// The number of an error that a policy may answer with.
fn error_number(name: &str) -> Option<i32> {
    match name {
        "ENOSYS" => Some(libc::ENOSYS),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel_s_headers() {
        for (name, x86_64, aarch64) in [("read", 0, 63), ("close", 3, 57), ("openat2", 437, 437)] {
            assert_eq!(number(name, "x86_64"), Ok(x86_64));
            assert_eq!(number(name, "aarch64"), Ok(aarch64));
        }
        assert!(number("open", "aarch64").is_err());
    }
}
