//! From a table and its filters to Rust source.

use std::fmt::Write;

use policy_table::{Error, Filters, Table};

/// The constant of one component.
pub(crate) fn policy(
    component: &str,
    table: &Table,
    filters: &Filters,
    target: &str,
) -> Result<String, Error> {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!(
        "static {}: Policy = Policy {{",
        constant(component)
    ));
    line(format!(
        "component: {component:?}, summary: {:?},",
        table.summary
    ));
    if let Some(identity) = &table.identity {
        let kind = camel(&identity.value.kind);
        let why = &identity.value.why;
        line(format!(
            "identity: Reasoned {{ value: Identity::{kind}, why: {why:?} }},"
        ));
    }
    match &table.proc {
        Some(proc) => {
            let kind = camel(&proc.value.kind);
            let why = &proc.value.why;
            line(format!(
                "proc: Some(Reasoned {{ value: Proc::{kind}, why: {why:?} }}),"
            ));
        }
        None => line("proc: None,".to_owned()),
    }
    if let Some(floor) = &table.floor {
        let (value, why) = (floor.value.value, &floor.value.why);
        line(format!(
            "landlock_floor: Reasoned {{ value: {value}, why: {why:?} }},"
        ));
    }
    for (field, word, entries) in [
        ("namespaces", "Namespace", &table.namespaces),
        ("shared", "Namespace", &table.shared),
        ("capabilities", "Capability", &table.capabilities),
    ] {
        line(list(
            field,
            entries.iter().map(|(name, why)| {
                format!(
                    "Reasoned {{ value: {word}::{}, why: {:?} }}",
                    camel(name),
                    why.value
                )
            }),
        ));
    }
    line(list("limits", table.limits.iter().map(|(name, limit)| {
        let (value, why) = (limit.value.value, &limit.value.why);
        let resource = camel(name);
        format!(
            "Reasoned {{ value: Limit {{ resource: Resource::{resource}, most: {value} }}, why: {why:?} }}"
        )
    })));
    line(calls(table, target)?);
    line(program("refuse", &filters.refuse));
    line(program("allow", &filters.allow));
    line("};".to_owned());
    Ok(out)
}

/// The list of all components.
pub(crate) fn index(components: &[&str]) -> String {
    let names: Vec<String> = components
        .iter()
        .map(|name| format!("&{}", constant(name)))
        .collect();
    format!("static ALL: &[&Policy] = &[{}];\n", names.join(", "))
}

/// The calls that exist on `target`.
fn calls(table: &Table, target: &str) -> Result<String, Error> {
    let present = table
        .calls
        .iter()
        .filter(|(_, call)| call.value.only.as_deref().is_none_or(|only| only == target));
    let lines = present.map(|(name, call)| {
        let call = &call.value;
        let (when, why) = (&call.when, &call.why);
        let error = &call.error;
        let number = policy_table::number(name, target)?;
        Ok(format!(
            "Reasoned {{ value: Call {{ name: {name:?}, number: {number}, when: &{when:?}, error: {error:?} }}, why: {why:?} }}"
        ))
    });
    Ok(list(
        "calls",
        lines.collect::<Result<Vec<_>, Error>>()?.into_iter(),
    ))
}

/// A field that is a slice.
fn list(name: &str, values: impl Iterator<Item = String>) -> String {
    format!("{name}: &[{}],", values.collect::<Vec<_>>().join(",\n"))
}

/// A field that is a BPF program.
fn program(name: &str, program: &[seccompiler::sock_filter]) -> String {
    let mut out = format!("{name}: &[");
    for instruction in program {
        let (code, jt, jf, k) = (
            instruction.code,
            instruction.jt,
            instruction.jf,
            instruction.k,
        );
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "Instruction {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }}, "
        );
    }
    out + "],"
}

/// `dev-fs` to `DEV_FS`.
fn constant(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// `dac_override` and `self-fd` to `DacOverride` and `SelfFd`. A word that is not a variant does
/// not compile.
fn camel(name: &str) -> String {
    name.split(['_', '-'])
        .filter_map(|word| {
            let (first, rest) = word.split_at_checked(1)?;
            Some(first.to_uppercase() + rest)
        })
        .collect()
}
