//! Processes beside their policies.

use std::{collections::BTreeMap, path::Path};

use policy::{Identity, Namespace, Policy, Reasoned, Resource};
use serde::Serialize;

use crate::{CapabilitySet, Field, Process, Rights};

/// What a policy asks for, in the words of this crate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// The component.
    pub component: &'static str,
    /// Namespaces of its own.
    pub namespaces: Vec<&'static str>,
    /// Namespaces of the host that it stays in.
    pub shared: Vec<&'static str>,
    /// Capabilities that it keeps.
    pub capabilities: CapabilitySet,
    /// The most of each resource.
    pub limits: BTreeMap<&'static str, u64>,
    /// The version of Landlock below which it does not start.
    pub landlock_floor: u32,
    /// How many system calls are carried out.
    pub calls_allowed: usize,
    /// How many are answered with an error.
    pub calls_refused: usize,
    /// How many filters do that.
    pub filters: u32,
}

/// Something in which a process falls short of its policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which part of the jail.
    pub what: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

/// A comparison's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Verdict {
    /// Where the process falls short.
    pub findings: Vec<Finding>,
    /// What could not be judged, because it could not be read.
    pub not_judged: Vec<&'static str>,
}

impl Expected {
    /// What `policy` asks for.
    #[must_use]
    pub fn of(policy: &'static Policy) -> Self {
        let refused = policy
            .calls
            .iter()
            .filter(|call| call.value.error.is_some());
        let refused = refused.count();
        let filters = [policy.refuse, policy.allow];
        let filters = filters.into_iter().filter(|filter| !filter.is_empty());
        Self {
            component: policy.component,
            namespaces: files(policy.namespaces),
            shared: files(policy.shared),
            capabilities: CapabilitySet::of(policy),
            limits: policy
                .limits
                .iter()
                .map(|row| (row.value.resource.name(), row.value.most))
                .collect(),
            landlock_floor: policy.landlock_floor.value,
            calls_allowed: policy.calls.len().saturating_sub(refused),
            calls_refused: refused,
            filters: u32::try_from(filters.count()).unwrap_or(u32::MAX),
        }
    }
}

fn files(rows: &[Reasoned<Namespace>]) -> Vec<&'static str> {
    rows.iter().map(|row| file(row.value)).collect()
}

/// The name of a namespace in `/proc/PID/ns`.
fn file(namespace: Namespace) -> &'static str {
    match namespace {
        Namespace::Mount => "mnt",
        other => other.name(),
    }
}

impl Verdict {
    pub(crate) fn find(&mut self, what: &'static str, detail: String) {
        self.findings.push(Finding { what, detail });
    }

    /// The value, or a note that there is none to be judged.
    fn take<'a, T>(&mut self, what: &'static str, field: &'a Field<T>) -> Option<&'a T> {
        let value = field.read();
        if value.is_none() && !self.not_judged.contains(&what) {
            self.not_judged.push(what);
        }
        value
    }
}

/// Compares `process`, a component of a machine that `holder` holds, with `policy`. `landlock` is
/// the kernel's version.
#[must_use]
pub fn compare(
    process: &Process,
    policy: &'static Policy,
    holder: &Process,
    landlock: Option<u32>,
) -> Verdict {
    let mut verdict = Verdict::default();
    namespaces(&mut verdict, process, policy, holder);
    identity(&mut verdict, process, policy, holder);
    rights(&mut verdict, process, policy, holder);
    limits(&mut verdict, process, policy);
    group(&mut verdict, process, policy);
    let floor = policy.landlock_floor.value;
    if landlock.is_none_or(|version| version < floor) {
        let has = landlock.map_or("none".to_owned(), |version| format!("version {version}"));
        verdict.find(
            "landlock",
            format!("the kernel has {has}, the policy wants {floor} or newer"),
        );
    }
    verdict
}

/// Its namespaces are neither the caller's nor those of the process that started it.
fn namespaces(verdict: &mut Verdict, process: &Process, policy: &Policy, holder: &Process) {
    for name in policy.namespaces.iter().map(|row| file(row.value)) {
        let Some(namespace) = process.namespaces.get(name) else {
            continue;
        };
        let Some(inode) = verdict.take("namespaces", &namespace.inode).copied() else {
            continue;
        };
        let of_holder = holder.namespaces.get(name).map(|theirs| theirs.inode);
        if of_holder == Some(Field::Read(inode)) {
            verdict.find("namespace", format!("{name} is its supervisor's"));
        } else if namespace.own == Field::Read(false) {
            verdict.find("namespace", format!("{name} is the caller's"));
        }
    }
}

/// A component that is to be a user of its own is not root because root started it.
fn identity(verdict: &mut Verdict, process: &Process, policy: &Policy, holder: &Process) {
    let is_root = |process: &Process| {
        let rights = process.rights.read()?;
        Some(rights.uid.read()?.all().contains(&0))
    };
    match (is_root(process), is_root(holder)) {
        (Some(true), Some(true)) if policy.identity.value == Identity::Single => verdict.find(
            "identity",
            "it is the host's root, and should be a user of its own".to_owned(),
        ),
        (None, _) => verdict.not_judged.push("identity"),
        _ => {}
    }
}

/// What each thread may do. Threads that fall short alike are one finding.
fn rights(verdict: &mut Verdict, process: &Process, policy: &'static Policy, holder: &Process) {
    let mut expected = Expected::of(policy);
    // Filters are inherited, as from a container's runtime.
    let inherited = holder.rights.read();
    let inherited = inherited.and_then(|rights| rights.seccomp_filters.read());
    let inherited = inherited.copied().unwrap_or_default();
    expected.filters = expected.filters.saturating_add(inherited);
    let Some(rights) = verdict.take("rights", &process.rights) else {
        return;
    };
    thread(verdict, rights, &expected, "");
    for other in &process.different_threads {
        let mut own = Verdict::default();
        thread(&mut own, &other.rights, &expected, " in a further thread");
        for finding in own.findings {
            if !verdict.findings.contains(&finding) {
                verdict.findings.push(finding);
            }
        }
    }
}

fn thread(verdict: &mut Verdict, rights: &Rights, expected: &Expected, place: &str) {
    if verdict.take("no_new_privs", &rights.no_new_privs) == Some(&false) {
        verdict.find(
            "no_new_privs",
            format!("new privileges can be gained{place}"),
        );
    }
    if let Some(mode) = verdict.take("seccomp", &rights.seccomp)
        && *mode != 2
    {
        verdict.find("seccomp", format!("mode {mode} instead of 2{place}"));
    }
    if let Some(filters) = rights.seccomp_filters.read()
        && *filters < expected.filters
    {
        let wanted = expected.filters;
        verdict.find(
            "seccomp",
            format!("{filters} filters instead of {wanted}{place}"),
        );
    }
    let Some(capabilities) = verdict.take("capabilities", &rights.capabilities) else {
        return;
    };
    for (name, set) in capabilities.sets() {
        // The jailer empties these two whatever is kept.
        let may = match name {
            "ambient" | "inheritable" => CapabilitySet::default(),
            _ => expected.capabilities,
        };
        let more = set.without(may);
        if !more.is_empty() {
            verdict.find("capability", format!("{name} has more: {more}{place}"));
        }
    }
}

/// Both limits, since the process may raise one to the other.
fn limits(verdict: &mut Verdict, process: &Process, policy: &Policy) {
    let Some(limits) = verdict.take("limits", &process.limits) else {
        return;
    };
    for row in policy.limits {
        let (name, most) = (row.value.resource.name(), row.value.most);
        let Some(limit) = limits.get(name) else {
            continue;
        };
        let above = |value: Option<u64>| value.is_none_or(|value| value > most);
        if above(limit.soft) || above(limit.hard) {
            let hard = limit.hard.map_or("unlimited".to_owned(), |n| n.to_string());
            verdict.find(
                "limit",
                format!("{name} is {hard}, at most {most} should be"),
            );
        }
    }
}

/// The limits of a component's group, where the host let it have one. How much memory the guest has
/// is not the policy's to say, so what is wrong with memory is that there is no limit.
fn group(verdict: &mut Verdict, process: &Process, policy: &Policy) {
    let Some(group) = process.cgroup.read() else {
        return;
    };
    if !jailer::is_component_group(Path::new(&group.directory)) {
        return;
    }
    let threads = policy.limits.iter().map(|row| row.value);
    let threads = threads.filter(|limit| limit.resource == Resource::Nproc);
    let threads = threads.map(|limit| limit.most).next();
    for (file, most) in [("memory.max", None), ("pids.max", threads)] {
        let value = group.limits.get(file).map_or("not there", String::as_str);
        let fine = |limit: u64| most.is_none_or(|most| limit <= most);
        if !value.parse().is_ok_and(fine) {
            let most = most.map(|most| format!(", at most {most} should be"));
            let most = most.unwrap_or_else(|| ", and should limit".to_owned());
            verdict.find("cgroup", format!("{file} is {value}{most}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ControlGroup, Proc};

    /// What of the jail `verdict` misses, each part once.
    fn parts(verdict: &Verdict) -> Vec<&'static str> {
        let mut parts: Vec<_> = verdict
            .findings
            .iter()
            .map(|finding| finding.what)
            .collect();
        parts.dedup();
        parts
    }

    #[test]
    fn a_process_in_no_jail_falls_short_of_every_policy() {
        let own = Proc::host().process(std::process::id()).unwrap();
        for policy in policy::all() {
            let verdict = compare(&own, policy, &own, None);
            let parts = parts(&verdict);
            for part in ["namespace", "limit", "landlock"] {
                assert!(parts.contains(&part), "{part}: {verdict:?}");
            }
            let details: Vec<_> = verdict.findings.iter().map(|f| &f.detail).collect();
            assert!(
                details.iter().any(|text| text.contains("mnt is")),
                "{details:?}"
            );
        }
    }

    #[test]
    fn a_group_that_does_not_limit_is_a_finding_where_there_is_one() {
        let mut own = Proc::host().process(std::process::id()).unwrap();
        let policy = policy::component("dev-vsock").unwrap();
        let threads = Expected::of(policy).limits["nproc"];
        let mut findings = |directory: &str, memory: &str, pids: &str| {
            let limits = [("memory.max", memory), ("pids.max", pids)];
            let limits = limits.map(|(file, value)| (file, value.to_owned()));
            own.cgroup = Field::Read(ControlGroup {
                directory: directory.to_owned(),
                limits: limits.into(),
            });
            let mut verdict = Verdict::default();
            group(&mut verdict, &own, policy);
            verdict.findings.len()
        };
        let leaf = "/sys/fs/cgroup/user.slice/crumble-17-0/vsock";
        let fine = threads.to_string();
        assert_eq!(findings(leaf, "1000", &fine), 0);
        assert_eq!(findings(leaf, "max", &fine), 1);
        assert_eq!(findings(leaf, "1000", &(threads + 1).to_string()), 1);
        assert_eq!(findings(leaf, "max", "max"), 2);
        // Another's, which limits what it likes.
        assert_eq!(findings("/sys/fs/cgroup/user.slice", "max", "max"), 0);
    }

    #[test]
    fn what_is_hidden_is_not_judged_and_no_finding() {
        let mut own = Proc::host().process(std::process::id()).unwrap();
        own.rights = Field::Hidden;
        own.different_threads.clear();
        own.limits = Field::Hidden;
        for namespace in own.namespaces.values_mut() {
            namespace.inode = Field::Hidden;
            namespace.own = Field::Hidden;
        }
        let policy = policy::component("vmm").unwrap();
        let verdict = compare(&own, policy, &own, Some(policy.landlock_floor.value));
        assert_eq!(verdict.findings, []);
        assert_eq!(
            verdict.not_judged,
            ["namespaces", "identity", "rights", "limits"]
        );
    }
}
