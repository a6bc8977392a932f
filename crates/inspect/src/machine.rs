//! The processes of a machine.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Error, Expected, Field, Finding, Proc, Process, Verdict, compare, text::Stat};

/// A machine that runs, or several in one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The process that holds it: `crumble run`, or a program with the library.
    pub pid: u32,
    /// Its user.
    pub uid: Field<u32>,
    /// Its title.
    pub title: String,
    /// How long it has been running.
    pub age_seconds: Field<u64>,
}

/// What a process is to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It holds the machine, and has no policy.
    Supervisor,
    /// It is a component.
    Component,
    /// The supervisor or a component started it for another purpose.
    Other,
}

/// A process of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// What it is to the machine.
    pub role: Role,
    /// What the kernel says of it.
    pub process: Process,
    /// What its policy asks for.
    pub expected: Option<Expected>,
    /// How the two compare.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A machine's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The kernel's version of Landlock.
    pub landlock: Option<u32>,
    /// The supervisor first.
    pub processes: Vec<Examined>,
}

impl Examined {
    fn is_component(&self) -> bool {
        self.role == Role::Component
    }
}

impl Inspection {
    /// Everything that falls short, with the process that it is of.
    pub fn findings(&self) -> impl Iterator<Item = (&Process, &Finding)> {
        self.processes.iter().flat_map(|one| {
            let findings = one.verdict.findings.iter();
            findings.map(|finding| (&one.process, finding))
        })
    }
}

/// The machines of `user`, or everybody's if there is none.
///
/// # Errors
/// [`Error::List`] if there is no `/proc`.
pub fn machines(proc: &Proc, user: Option<u32>) -> Result<Vec<Machine>, Error> {
    let living = proc.living()?;
    let mut holders: Vec<u32> = living
        .iter()
        .filter(|stat| proc.component(stat.pid) == Some("vmm"))
        .map(|stat| stat.parent)
        .collect();
    holders.sort_unstable();
    holders.dedup();
    let machine = |pid| {
        let process = proc.process(pid)?;
        let uid = process
            .rights
            .parse(|rights| Some(rights.uid.read()?.effective));
        Some(Machine {
            pid,
            uid,
            title: process.title,
            age_seconds: process.age_seconds,
        })
    };
    let machines = holders.into_iter().filter_map(machine);
    let wanted = |machine: &Machine| user.is_none_or(|user| machine.uid == Field::Read(user));
    Ok(machines.filter(wanted).collect())
}

/// Reads and judges the processes of the machine that process `pid` holds or belongs to.
///
/// # Errors
/// [`Error::Gone`] if there is no such process, [`Error::NoMachine`] if it has no machine,
/// [`Error::List`] if there is no `/proc`.
pub fn inspect(proc: &Proc, pid: u32) -> Result<Inspection, Error> {
    let living = proc.living()?;
    let holder = holder(proc, &living, pid)?;
    let supervisor = proc.process(holder).ok_or(Error::Gone(pid))?;
    let landlock = jailer::landlock_abi();
    let below = below(&living, holder).into_iter();
    let below: Vec<_> = below.filter_map(|pid| proc.process(pid)).collect();
    let mut examined: Vec<_> = below
        .into_iter()
        .map(|process| examine(process, &supervisor, landlock))
        .collect();
    if !examined.iter().any(Examined::is_component) {
        return Err(Error::NoMachine(pid));
    }
    find_children(&mut examined);
    find_shared_namespaces(&mut examined);
    let mut processes = vec![Examined {
        role: Role::Supervisor,
        process: supervisor,
        expected: None,
        verdict: Verdict::default(),
    }];
    processes.append(&mut examined);
    Ok(Inspection {
        landlock,
        processes,
    })
}

/// The process that holds the machine of `pid`: itself, or if it is a component its parent.
fn holder(proc: &Proc, living: &[Stat], pid: u32) -> Result<u32, Error> {
    let stat = living.iter().find(|stat| stat.pid == pid);
    let stat = stat.ok_or(Error::Gone(pid))?;
    let process = proc.process(pid).ok_or(Error::Gone(pid))?;
    Ok(match process.component() {
        Some(_) => stat.parent,
        None => pid,
    })
}

/// The descendants of `holder`, parents before children.
fn below(living: &[Stat], holder: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for stat in living.iter().filter(|stat| stat.pid != holder) {
        children.entry(stat.parent).or_default().push(stat.pid);
    }
    // Each entry is taken once, so that this ends even if the processes change meanwhile.
    let mut all = children.remove(&holder).unwrap_or_default();
    let mut index = 0_usize;
    while let Some(pid) = all.get(index).copied() {
        all.extend(children.remove(&pid).unwrap_or_default());
        index = index.saturating_add(1);
    }
    all
}

fn examine(process: Process, supervisor: &Process, landlock: Option<u32>) -> Examined {
    let policy = process.component().and_then(policy::component);
    let mut verdict = policy.map_or_else(Verdict::default, |policy| {
        compare(&process, policy, supervisor, landlock)
    });
    match (process.program.read(), policy) {
        (Some(program), Some(policy)) if process.titled != Some(policy.component) => {
            verdict.find("title", format!("it runs {program} and says otherwise"));
        }
        (None, Some(_)) => verdict.not_judged.push("program"),
        (None, None) => verdict.find(
            "title",
            "it names no component, and its program is not visible".to_owned(),
        ),
        _ => {}
    }
    Examined {
        role: policy.map_or(Role::Other, |_| Role::Component),
        expected: policy.map(Expected::of),
        process,
        verdict,
    }
}

/// Components start threads and no processes.
fn find_children(examined: &mut [Examined]) {
    let components = examined.iter().filter(|one| one.is_component());
    let components: Vec<u32> = components.map(|one| one.process.pid).collect();
    for one in examined {
        let parent = one.process.parent;
        if components.contains(&parent) {
            let detail = format!("process {parent}, a component, has started it");
            one.verdict.find("process", detail);
        }
    }
}

/// Components have nothing in common with each other either.
fn find_shared_namespaces(examined: &mut [Examined]) {
    let mut members: BTreeMap<(&'static str, u64), Vec<u32>> = BTreeMap::new();
    for one in examined.iter() {
        let expected = one
            .expected
            .iter()
            .flat_map(|expected| &expected.namespaces);
        for name in expected {
            let namespace = one.process.namespaces.get(name);
            if let Some(inode) = namespace.and_then(|namespace| namespace.inode.read()) {
                let key = (*name, *inode);
                members.entry(key).or_default().push(one.process.pid);
            }
        }
    }
    members.retain(|_, pids| pids.len() > 1);
    for one in examined {
        for ((name, _), pids) in &members {
            let others = pids.iter().filter(|pid| **pid != one.process.pid);
            let others: Vec<_> = others.map(ToString::to_string).collect();
            if pids.contains(&one.process.pid) {
                let others = others.join(" and ");
                one.verdict
                    .find("namespace", format!("{name} is also that of {others}"));
            }
        }
    }
}
