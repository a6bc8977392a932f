//! A policy from its file to what the jail enforces.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::Path;

use jailer::Access;
use policy::{
    Call, Capability, Identity, Instruction, Limit, Namespace, Policy, Proc, Reasoned, Resource,
};
use policy_table::{Entry, Table};

use crate::{Error, Result, file};

/// The texts of a policy's file and of those that it includes, by name.
pub(crate) type Sources = BTreeMap<String, String>;

/// The name of the policy's own file among its sources.
const OWN: &str = "the policy";

/// What a policy may include without having a file of that name beside it.
const BUILT_IN: [(&str, &str); 3] = [
    (
        "common.toml",
        include_str!("../../policy/policies/common.toml"),
    ),
    (
        "process.toml",
        include_str!("../../policy/policies/process.toml"),
    ),
    (
        "program.toml",
        include_str!("../../policy/policies/program.toml"),
    ),
];

/// Reads a policy's file and what it includes, and checks them.
pub(crate) fn sources(path: &Path) -> Result<Sources> {
    let own = fs::read_to_string(path).map_err(file("read the policy", path))?;
    let taken = RefCell::new(Sources::from([(OWN.to_owned(), own)]));
    let load = |name: &str| {
        if let Some(text) = taken.borrow().get(name) {
            return Ok(text.clone());
        }
        let text = included(path, name)?;
        taken.borrow_mut().insert(name.to_owned(), text.clone());
        Ok(text)
    };
    policy_table::read(OWN, &load).map_err(Error::Policy)?;
    Ok(taken.into_inner())
}

/// The text of a file beside the policy's, or of a built-in one.
fn included(policy: &Path, name: &str) -> std::result::Result<String, policy_table::Error> {
    let built_in = BUILT_IN.iter().find(|(built_in, _)| *built_in == name);
    match built_in {
        Some((_, text)) if !policy.with_file_name(name).exists() => Ok((*text).to_owned()),
        _ => policy_table::directory(policy.parent().unwrap_or(Path::new(".")))(name),
    }
}

/// The table of these sources.
pub(crate) fn table(sources: &Sources) -> Result<Table> {
    let load = |name: &str| {
        sources
            .get(name)
            .cloned()
            .ok_or_else(|| format!("{name}: missing"))
    };
    policy_table::read(OWN, &load).map_err(Error::Policy)
}

/// What the jail enforces. It lives as long as the process, which has one policy.
pub(crate) fn policy(table: &Table, name: &str, trace: bool) -> Result<&'static Policy> {
    let filters = policy_table::filters(table, ARCH, trace).map_err(Error::Policy)?;
    let identity = required(&table.identity, "identity")?;
    let floor = required(&table.floor, "landlock")?;
    Ok(Box::leak(Box::new(Policy {
        component: text(name),
        summary: text(&table.summary),
        identity: Reasoned {
            value: match identity.value.kind.as_str() {
                "single" => Identity::Single,
                "all" => Identity::All,
                other => return Err(unknown(&identity.place, "identity", other)),
            },
            why: text(&identity.value.why),
        },
        proc: table.proc.as_ref().map(proc).transpose()?,
        landlock_floor: Reasoned {
            value: u32::try_from(floor.value.value).unwrap_or(u32::MAX),
            why: text(&floor.value.why),
        },
        namespaces: words(&table.namespaces, "namespace", Namespace::from_name)?,
        shared: words(&table.shared, "namespace", Namespace::from_name)?,
        capabilities: words(&table.capabilities, "capability", Capability::from_name)?,
        limits: limits(table)?,
        calls: calls(table)?,
        refuse: program(filters.refuse),
        allow: program(filters.allow),
    })))
}

/// What a program sees of the host's file tree.
pub(crate) fn paths(table: &Table) -> Vec<(String, Access)> {
    let access = |text: &str| match text {
        "write" => Access::ReadWrite,
        "execute" => Access::Execute,
        _ => Access::Read,
    };
    let paths = table.paths.iter();
    paths
        .map(|(path, entry)| (path.clone(), access(&entry.value.access)))
        .collect()
}

fn required<'a, T>(entry: &'a Option<Entry<T>>, section: &str) -> Result<&'a Entry<T>> {
    entry
        .as_ref()
        .ok_or_else(|| Error::Policy(format!("[{section}] is missing")))
}

fn unknown(place: &str, kind: &str, name: &str) -> Error {
    Error::Policy(format!("{place}: unknown {kind} `{name}`"))
}

fn proc(entry: &Entry<policy_table::Kind>) -> Result<Reasoned<Proc>> {
    let kind = entry.value.kind.as_str();
    let known = kind == "self-fd";
    known
        .then_some(())
        .ok_or_else(|| unknown(&entry.place, "piece of /proc", kind))?;
    Ok(Reasoned {
        value: Proc::SelfFd,
        why: text(&entry.value.why),
    })
}

fn words<T: 'static>(
    entries: &BTreeMap<String, Entry<String>>,
    kind: &str,
    find: impl Fn(&str) -> Option<T>,
) -> Result<&'static [Reasoned<T>]> {
    let word = |(name, entry): (&String, &Entry<String>)| {
        Ok(Reasoned {
            value: find(name).ok_or_else(|| unknown(&entry.place, kind, name))?,
            why: text(&entry.value),
        })
    };
    Ok(entries.iter().map(word).collect::<Result<Vec<_>>>()?.leak())
}

fn limits(table: &Table) -> Result<&'static [Reasoned<Limit>]> {
    let limit = |(name, entry): (&String, &Entry<policy_table::Number>)| {
        let resource = Resource::from_name(name);
        Ok(Reasoned {
            value: Limit {
                resource: resource.ok_or_else(|| unknown(&entry.place, "limit", name))?,
                most: entry.value.value,
            },
            why: text(&entry.value.why),
        })
    };
    Ok(table
        .limits
        .iter()
        .map(limit)
        .collect::<Result<Vec<_>>>()?
        .leak())
}

/// The calls that exist here.
fn calls(table: &Table) -> Result<&'static [Reasoned<Call>]> {
    let here = table.calls.iter().filter(|(_, entry)| {
        let only = entry.value.only.as_deref();
        only.is_none_or(|only| only == ARCH)
    });
    let call = |(name, entry): (&String, &Entry<policy_table::Call>)| {
        let when = entry.value.when.iter().map(|when| text(when));
        Ok(Reasoned {
            value: Call {
                name: text(name),
                number: policy_table::number(name, ARCH).map_err(Error::Policy)?,
                when: when.collect::<Vec<_>>().leak(),
                error: entry.value.error.as_deref().map(text),
            },
            why: text(&entry.value.why),
        })
    };
    Ok(here.map(call).collect::<Result<Vec<_>>>()?.leak())
}

fn program(instructions: Vec<policy_table::Instruction>) -> &'static [Instruction] {
    let copied = instructions.iter().map(|one| Instruction {
        code: one.code,
        jt: one.jt,
        jf: one.jf,
        k: one.k,
    });
    copied.collect::<Vec<_>>().leak()
}

fn text(text: &str) -> &'static str {
    text.to_owned().leak()
}
