//! `crumble inspect`.

use std::{
    fmt::{Display, Write as _},
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use detached::Handle;
use inspect::{
    Capabilities, CapabilitySet, ControlGroup, Dumpable, Examined, Expected, Field, HIDDEN, Ids,
    Inspection, Limit, Machine, Namespace, Proc, Process, Rights, Role,
};
use nix::unistd::Uid;

use crate::{
    arguments::Inspect,
    report::{Failure, RED, json, paint_if, print, wants_colour},
};

/// Prints what the kernel says of a machine's processes, or the machines that there are. Fails if
/// a process falls short of its policy.
pub(crate) fn inspect(options: &Inspect) -> Result<ExitCode, Failure> {
    let proc = Proc::host();
    let Some(machine) = &options.machine else {
        let user = Uid::effective();
        let user = (!user.is_root()).then_some(user.as_raw());
        let machines = inspect::machines(&proc, user)?;
        let text = match options.json {
            true => json(&machines)?,
            false => list(&machines),
        };
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    let inspection = inspect::inspect(&proc, process(machine)?)?;
    let text = match options.json {
        true => json(&inspection)?,
        false => describe(&inspection, wants_colour(io::stdout().is_terminal())),
    };
    print(&text)?;
    Ok(match inspection.findings().next() {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

/// The process that is meant, by its id or its machine's name.
fn process(machine: &str) -> Result<u32, Failure> {
    match machine.parse() {
        Ok(pid) => Ok(pid),
        Err(_) => {
            let name = machine.parse().map_err(crumble::Error::from)?;
            Ok(Handle::open(&name)?.state()?.keeper)
        }
    }
}

/// The machines, a line each.
fn list(machines: &[Machine]) -> String {
    if machines.is_empty() {
        return "No machine of yours is running.\n".to_owned();
    }
    let mut text = format!("{:>8} {:>8} {:>12}  TITLE\n", "PID", "USER", "AGE");
    for machine in machines {
        let age = show(&machine.age_seconds, |seconds| {
            humantime::format_duration(Duration::from_secs(*seconds)).to_string()
        });
        let user = show(&machine.uid, ToString::to_string);
        let (pid, title) = (machine.pid, &machine.title);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{pid:>8} {user:>8} {age:>12}  {title}");
    }
    text
}

/// The whole report.
fn describe(inspection: &Inspection, colour: bool) -> String {
    let mut page = Page {
        text: String::new(),
        colour,
    };
    for one in &inspection.processes {
        page.process(one, inspection.landlock);
    }
    let hidden = |one: &Examined| !one.verdict.not_judged.is_empty();
    if inspection.processes.iter().any(hidden) {
        page.text += "What could not be read was not judged; root may see more.\n";
    }
    match inspection.findings().count() {
        0 => page.text += "Nothing that was judged falls short of its policy.\n",
        1 => page.red("1 thing FALLS SHORT of its policy."),
        count => page.red(&format!("{count} things FALL SHORT of their policies.")),
    }
    page.text
}

/// A report that is being written.
struct Page {
    text: String,
    colour: bool,
}

impl Page {
    /// A property of the process above.
    fn row(&mut self, name: &str, value: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "  {name:14} {value}");
    }

    fn red(&mut self, line: &str) {
        self.text += &paint_if(line, RED, self.colour);
        self.text.push('\n');
    }

    fn process(&mut self, one: &Examined, landlock: Option<u32>) {
        let process = &one.process;
        let role = match (one.role, &one.expected) {
            (Role::Supervisor, _) => "supervisor",
            (_, Some(expected)) => expected.component,
            _ => "other",
        };
        let _ = writeln!(self.text, "{role}, pid {}: {}", process.pid, process.title);
        self.row("program", show(&process.program, Clone::clone));
        match process.rights.read() {
            Some(rights) => self.rights(rights, process.threads, one.expected.as_ref()),
            None => self.row("rights", show(&process.rights, |_| String::new())),
        }
        self.row("namespaces", namespaces(process, one.expected.as_ref()));
        self.row("landlock", landlock_text(landlock, one.expected.as_ref()));
        self.row("limits", show(&process.limits, limits));
        self.row("cgroup", show(&process.cgroup, cgroup));
        self.row("open files", files(process));
        let memory = |bytes: &u64| format!("{} KiB private", bytes >> 10);
        self.row("memory", show(&process.private_bytes, memory));
        self.row("dumpable", dumpable(process.dumpable));
        if let Some(label) = process.label.read() {
            self.row("label", label);
        }
        if one.role == Role::Supervisor {
            self.row("policy", "none: it is the caller's own program");
        }
        if !one.verdict.not_judged.is_empty() {
            self.row("not judged", one.verdict.not_judged.join(", "));
        }
        for finding in &one.verdict.findings {
            self.red(&format!(
                "  FALLS SHORT    {}: {}",
                finding.what, finding.detail
            ));
        }
        self.text.push('\n');
    }

    fn rights(&mut self, rights: &Rights, threads: usize, expected: Option<&Expected>) {
        let (uid, gid) = (show(&rights.uid, ids), show(&rights.gid, ids));
        self.row("user", format!("{uid}, group {gid}"));
        self.row("threads", threads);
        let mode = show(&rights.seccomp, |mode| match mode {
            0 => "mode 0 (none)".to_owned(),
            1 => "mode 1 (strict)".to_owned(),
            2 => "mode 2 (filter)".to_owned(),
            other => format!("mode {other}"),
        });
        let filters = show(&rights.seccomp_filters, ToString::to_string);
        let policy = expected.map_or_else(String::new, |expected| {
            let (allowed, refused) = (expected.calls_allowed, expected.calls_refused);
            format!("; the policy allows {allowed} calls and answers {refused} with an error")
        });
        self.row("seccomp", format!("{mode}, filters: {filters}{policy}"));
        let gain = show(&rights.no_new_privs, |set| match set {
            true => "1: an exec can give none".to_owned(),
            false => "0: an exec can give some".to_owned(),
        });
        self.row("no_new_privs", gain);
        let capabilities = show(&rights.capabilities, capabilities);
        self.row("capabilities", capabilities);
    }
}

/// Sets that are the same are named together.
fn capabilities(sets: &Capabilities) -> String {
    let mut groups: Vec<(String, CapabilitySet)> = Vec::new();
    for (name, set) in sets.sets() {
        match groups.iter_mut().find(|group| group.1 == set) {
            Some((names, _)) => *names = format!("{names}, {name}"),
            None => groups.push((name.to_owned(), set)),
        }
    }
    let groups = groups.iter().map(|(names, set)| format!("{names}: {set}"));
    groups.collect::<Vec<_>>().join("; ")
}

/// The field as `text` has it, or why there is nothing.
fn show<T>(field: &Field<T>, text: impl FnOnce(&T) -> String) -> String {
    match field {
        Field::Read(value) => text(value),
        Field::Hidden => HIDDEN.to_owned(),
        Field::Absent => "not told by this kernel".to_owned(),
    }
}

/// One number if all four are the same.
fn ids(ids: &Ids) -> String {
    let all = ids.all();
    if all.iter().all(|id| *id == ids.effective) {
        return ids.effective.to_string();
    }
    let Ids {
        real,
        effective,
        saved,
        fs,
    } = ids;
    format!("{effective} (real {real}, saved {saved}, files {fs})")
}

/// What its policy lets a process share is told from what nobody asked about.
fn namespaces(process: &Process, expected: Option<&Expected>) -> String {
    let shared = |name: &str| expected.is_some_and(|expected| expected.shared.contains(&name));
    let groups = [
        ("other than yours", Field::Read(true), false),
        ("yours, as the policy says", Field::Read(false), true),
        ("yours", Field::Read(false), false),
        (HIDDEN, Field::Hidden, false),
    ];
    let group = |(text, own, allowed): (&str, Field<bool>, bool)| {
        let in_it = |(name, namespace): (&&'static str, &Namespace)| {
            let allows = own == Field::Read(false) && shared(name);
            (namespace.own == own && allowed == allows).then_some(*name)
        };
        let names: Vec<_> = process.namespaces.iter().filter_map(in_it).collect();
        (!names.is_empty()).then(|| format!("{text}: {}", names.join(" ")))
    };
    let groups: Vec<_> = groups.into_iter().filter_map(group).collect();
    groups.join("; ")
}

fn landlock_text(kernel: Option<u32>, expected: Option<&Expected>) -> String {
    let kernel = kernel.map_or_else(
        || "the kernel has none".to_owned(),
        |abi| format!("the kernel has ABI {abi}"),
    );
    let wants = expected.map_or_else(
        || "no policy asks for it".to_owned(),
        |expected| format!("the policy wants {} or newer", expected.landlock_floor),
    );
    format!("{kernel}, {wants}; what a process has of it the kernel does not tell")
}

/// All that are limited at all.
fn limits(limits: &std::collections::BTreeMap<&'static str, Limit>) -> String {
    let limited = limits.iter().filter_map(|(name, limit)| {
        let soft = limit.soft?;
        Some(match limit.hard {
            Some(hard) if hard == soft => format!("{name} {soft}"),
            Some(hard) => format!("{name} {soft} (of {hard})"),
            None => format!("{name} {soft} (of unlimited)"),
        })
    });
    limited.collect::<Vec<_>>().join(", ")
}

fn cgroup(group: &ControlGroup) -> String {
    let limits = group.limits.iter();
    let limits: Vec<_> = limits
        .map(|(name, value)| format!(", {name} {value}"))
        .collect();
    format!("{}{}", group.directory, limits.concat())
}

fn files(process: &Process) -> String {
    show(&process.files, |kinds| {
        let count: usize = kinds.values().sum();
        let kinds = kinds
            .iter()
            .map(|(kind, count)| format!("{count} {}", kind.name()));
        let kinds: Vec<_> = kinds.collect();
        format!("{count}: {}", kinds.join(", "))
    })
}

fn dumpable(dumpable: Dumpable) -> &'static str {
    match dumpable {
        Dumpable::Yes => "yes",
        Dumpable::No => "no",
        Dumpable::CannotBeTold => "cannot be told from outside",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This process, as if it were a component that it is not.
    fn pretended() -> Inspection {
        let own = Proc::host().process(std::process::id()).unwrap();
        let policy = policy::component("vmm").unwrap();
        let verdict = inspect::compare(&own, policy, &own, None);
        let one = Examined {
            role: Role::Component,
            process: own,
            expected: Some(Expected::of(policy)),
            verdict,
        };
        Inspection {
            landlock: None,
            processes: vec![one],
        }
    }

    #[test]
    fn what_falls_short_is_said_in_words_and_on_a_terminal_in_red() {
        let inspection = pretended();
        let plain = describe(&inspection, false);
        assert!(plain.contains("  FALLS SHORT    namespace: mnt is its supervisor's\n"));
        assert!(plain.contains("FALL SHORT of their policies.\n"), "{plain}");
        assert!(!plain.contains('\x1b'));
        let red = describe(&inspection, true);
        assert!(red.contains("\x1b[31m  FALLS SHORT"), "{red}");
    }

    #[test]
    fn what_a_policy_shares_is_said_to_be_its_policy_s() {
        let own = Proc::host().process(std::process::id()).unwrap();
        let dialer = Expected::of(policy::component("dialer").unwrap());
        let text = namespaces(&own, Some(&dialer));
        assert!(
            text.contains("yours, as the policy says: net; yours: "),
            "{text}"
        );
        assert!(!namespaces(&own, None).contains("policy"));
    }

    #[test]
    fn what_is_hidden_is_said_to_be() {
        let mut inspection = pretended();
        let one = inspection.processes.first_mut().unwrap();
        one.process.rights = Field::Hidden;
        one.process.files = Field::Hidden;
        one.verdict.findings.clear();
        one.verdict.not_judged.push("rights");
        let text = describe(&inspection, false);
        assert!(
            text.contains("  rights         not visible to you\n"),
            "{text}"
        );
        assert!(
            text.contains("  open files     not visible to you\n"),
            "{text}"
        );
        assert!(text.contains("root may see more"), "{text}");
        assert!(text.ends_with("Nothing that was judged falls short of its policy.\n"));
    }

    #[test]
    fn capabilities_are_named_once() {
        let chown = CapabilitySet(1);
        let sets = Capabilities {
            effective: chown,
            permitted: chown,
            inheritable: CapabilitySet(0),
            bounding: chown,
            ambient: CapabilitySet(0),
        };
        assert_eq!(
            capabilities(&sets),
            "effective, permitted, bounding: chown; inheritable, ambient: none"
        );
    }

    #[test]
    fn machines_are_listed_with_their_age() {
        let machine = Machine {
            pid: 42,
            uid: Field::Read(1000),
            title: "crumble run host".to_owned(),
            age_seconds: Field::Read(125),
        };
        let text = list(&[machine]);
        assert!(
            text.contains("      42     1000        2m 5s  crumble run host\n"),
            "{text}"
        );
        assert_eq!(list(&[]), "No machine of yours is running.\n");
    }
}
