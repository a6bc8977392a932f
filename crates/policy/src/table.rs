//! A policy as a table for people.

use std::fmt::{Display, Formatter, Result};

use crate::{Call, Identity, Policy, Proc};

/// The width of the first two columns, in characters.
const KIND: usize = 12;
const NAME: usize = 34;

impl Display for Policy {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "crumble-{}: {}", self.component, self.summary)?;
        let identity = match self.identity.value {
            Identity::Single => "one user of its own",
            Identity::All => "every user as on the host",
        };
        row(f, "identity", identity, self.identity.why)?;
        for namespace in self.namespaces {
            row(f, "namespace", namespace.value.name(), namespace.why)?;
        }
        for namespace in self.shared {
            let text = format!("{} of the host", namespace.value.name());
            row(f, "namespace", &text, namespace.why)?;
        }
        row(
            f,
            "root",
            "empty, read-only",
            "resources arrive as open descriptors",
        )?;
        if let Some(proc) = self.proc {
            let Proc::SelfFd = proc.value;
            row(f, "proc", "/proc/self/fd", proc.why)?;
        }
        let floor = self.landlock_floor;
        row(
            f,
            "landlock",
            &format!("version {} or newer", floor.value),
            floor.why,
        )?;
        if self.capabilities.is_empty() {
            row(f, "capability", "none", "no line asks for one")?;
        }
        for capability in self.capabilities {
            row(f, "capability", capability.value.name(), capability.why)?;
        }
        for limit in self.limits {
            let text = format!("{} <= {}", limit.value.resource.name(), limit.value.most);
            row(f, "limit", &text, limit.why)?;
        }
        for call in self.calls {
            show_call(f, &call.value, call.why)?;
        }
        row(f, "call", "any other", "ends the process")
    }
}

/// A row for a call, and one for each alternative of its conditions.
fn show_call(f: &mut Formatter<'_>, call: &Call, why: &str) -> Result {
    match call.error {
        Some(error) => row(f, "call", &format!("{} -> {error}", call.name), why)?,
        None => row(f, "call", call.name, why)?,
    }
    for (index, alternative) in call.when.iter().enumerate() {
        let word = if index == 0 { "if" } else { "or" };
        row(f, "", &format!("  {word} {alternative}"), "")?;
    }
    Ok(())
}

/// One row, without blanks at its end.
fn row(f: &mut Formatter<'_>, kind: &str, name: &str, why: &str) -> Result {
    let line = format!("  {kind:KIND$}{name:NAME$}  {why}");
    writeln!(f, "{}", line.trim_end())
}
