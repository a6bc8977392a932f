//! Do the policies allow what the components need, and nothing else?

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use clap::Subcommand;
use policy::Policy;
use testbed::{BIN_DIR, PRODUCTS, TARGET};

use crate::{
    command::{cargo, exit_code, succeed},
    error::{Error, Result, file},
    setup,
};

/// What to do about the jail.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Print a component's policy, or all.
    Show {
        /// Such as `dev-fs`.
        component: Option<String>,
    },
    /// Run the end-to-end tests with components that write down every system call instead of
    /// filtering them, and compare with the policy.
    Trace {
        /// Such as `dev-fs`; all, if none is named.
        component: Option<String>,
        /// Only the tests whose names contain this.
        #[arg(long)]
        tests: Option<String>,
    },
}

/// Does it.
pub(crate) fn act(action: Action) -> Result {
    match action {
        Action::Show { component } => {
            for policy in chosen(component.as_deref())? {
                println!("{policy}");
            }
            Ok(0)
        }
        Action::Trace { component, tests } => {
            let policies = chosen(component.as_deref())?;
            let seen = testbed::workspace().join("target/trace/seen");
            record(&seen, tests.as_deref())?;
            let reports = policies.iter().map(|policy| compare(policy, &seen));
            let reports = reports.collect::<Result<Vec<_>>>()?;
            for (policy, report) in policies.iter().zip(&reports) {
                report.print(policy);
            }
            Ok(u8::from(
                reports.iter().any(|report| !report.denied.is_empty()),
            ))
        }
    }
}

fn chosen(component: Option<&str>) -> Result<Vec<&'static Policy>> {
    let Some(name) = component else {
        return Ok(policy::all().to_vec());
    };
    let found = policy::component(name);
    Ok(vec![
        found.ok_or_else(|| Error::Component(name.to_owned()))?,
    ])
}

/// Builds the product with tracing and runs the tests with it.
fn record(seen: &Path, tests: Option<&str>) -> Result<()> {
    setup::for_building()?;
    setup::for_machines(testbed::why_not_here().is_some())?;
    // Components that are users of their own make their records in it.
    // An error means that there are no records of an earlier run.
    let _ = fs::remove_dir_all(seen);
    fs::create_dir_all(seen)
        .and_then(|()| fs::set_permissions(seen, Permissions::from_mode(0o1777)))
        .map_err(file("make", seen))?;
    let target = testbed::workspace().join("target/trace");
    let mut build = cargo(&["build", "--quiet", "--release", "--target", TARGET]);
    build.arg("--target-dir").arg(&target);
    for product in PRODUCTS {
        build.args(["--package", product.package]);
    }
    build.args(["--features", "jailer/trace"]);
    println!("building the product with tracing");
    succeed(build.env("CRUMBLE_TRACE_DIR", seen))?;
    let mut test = cargo(&["test", "--package", "tests", "--"]);
    test.args(tests);
    let programs = target.join(TARGET).join("release");
    if exit_code(test.env(BIN_DIR, programs))? != 0 {
        println!("some tests failed; what they did counts all the same");
    }
    Ok(())
}

/// What was seen, and what the policy says.
#[derive(Debug, Default)]
struct Report {
    /// How many processes were traced.
    processes: usize,
    /// What the policy allows and nothing needed.
    unused: Vec<String>,
    /// What was needed and the policy does not allow.
    denied: Vec<String>,
}

/// A call as it was written down: its number, and those arguments that the policy asks about.
type Seen = (u32, [u64; 6]);

fn compare(policy: &Policy, seen: &Path) -> Result<Report> {
    let mut report = Report::default();
    let mut calls = BTreeSet::new();
    for entry in fs::read_dir(seen).map_err(file("read", seen))? {
        let path = entry.map_err(file("read", seen))?.path();
        if path
            .file_stem()
            .is_some_and(|stem| stem == policy.component)
        {
            let text = fs::read_to_string(&path).map_err(file("read", &path))?;
            calls.extend(text.lines().filter_map(parse));
            report.processes += 1;
        }
    }
    report.unused = unused(policy, &calls);
    report.denied = denied(policy, &calls);
    Ok(report)
}

/// `NUMBER INDEX=VALUE ...`.
fn parse(line: &str) -> Option<Seen> {
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for word in words {
        let (index, value) = word.split_once("=0x")?;
        let index: usize = index.parse().ok()?;
        *arguments.get_mut(index)? = u64::from_str_radix(value, 16).ok()?;
    }
    Some((number, arguments))
}

fn holds(when: &str, call: &Seen) -> bool {
    policy_table::holds(when, &call.1).unwrap_or(false)
}

fn unused(policy: &Policy, calls: &BTreeSet<Seen>) -> Vec<String> {
    let mut unused = Vec::new();
    for line in policy.calls {
        let seen: Vec<&Seen> = calls
            .iter()
            .filter(|call| call.0 == line.value.number)
            .collect();
        let name = line.value.name;
        if seen.is_empty() {
            unused.push(format!("{name:<24} {}", line.why));
            continue;
        }
        let alternatives = line.value.when.iter();
        let idle = alternatives.filter(|when| !seen.iter().any(|call| holds(when, call)));
        unused.extend(idle.map(|when| format!("{name:<24} if {when}")));
    }
    unused
}

fn denied(policy: &Policy, calls: &BTreeSet<Seen>) -> Vec<String> {
    let denied = calls.iter().filter_map(|call| {
        let line = policy.calls.iter().find(|line| line.value.number == call.0);
        let Some(line) = line else {
            return Some(format!("system call {}", call.0));
        };
        let when = line.value.when;
        let allowed = when.is_empty() || when.iter().any(|when| holds(when, call));
        let arguments = call.1.map(|value| format!("{value:#x}")).join(", ");
        (!allowed).then(|| format!("{} ({arguments})", line.value.name))
    });
    denied.collect()
}

impl Report {
    fn print(&self, policy: &Policy) {
        println!(
            "{}: {} processes, {} calls allowed",
            policy.component,
            self.processes,
            policy.calls.len()
        );
        for (title, lines) in [
            ("allowed but not seen to be needed", &self.unused),
            ("needed but not allowed", &self.denied),
        ] {
            println!(
                "  {title}: {}",
                if lines.is_empty() { "nothing" } else { "" }
            );
            for line in lines {
                println!("    {line}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_compared_with_what_is_allowed() {
        let policy = policy::component("dev-vsock").unwrap();
        let number = |name: &str| {
            let mut lines = policy.calls.iter();
            lines
                .find(|line| line.value.name == name)
                .unwrap()
                .value
                .number
        };
        let lines = [
            format!("{}", number("read")),
            format!("{} 0=0x1 1=0x1", number("socketpair")),
            format!("{} 0=0x2 1=0x1", number("socketpair")),
            "9999".to_owned(),
        ];
        let calls: BTreeSet<Seen> = lines.iter().map(|line| parse(line).unwrap()).collect();
        let unused = unused(policy, &calls);
        assert!(!unused.iter().any(|line| line.starts_with("read ")));
        assert!(!unused.iter().any(|line| line.starts_with("socketpair")));
        assert!(unused.iter().any(|line| line.starts_with("write ")));
        let denied = denied(policy, &calls);
        assert_eq!(
            denied,
            [
                "socketpair (0x2, 0x1, 0x0, 0x0, 0x0, 0x0)",
                "system call 9999"
            ]
        );
        assert_eq!(parse("1 9=0x1"), None);
    }
}
