//! The component's side: confined as a real one, then hostile by order.

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use handoff::Launched;
use jailer::{Access, Grant};
use policy::{Identity, Instruction, Policy};

use crate::host::{Deed, Order};
use crate::{attempts, duties};

/// What the hostile code has in its hands.
pub(crate) struct Hands {
    /// The host's process id, in the host's namespace.
    pub(crate) host: i32,
    /// A directory of the host's. Only dev-fs is granted what is below it.
    pub(crate) root: OwnedFd,
    /// `/proc/self/fd`, where the policy has it.
    pub(crate) proc_self_fd: Option<OwnedFd>,
    /// `/dev/kvm`, which only the VMM gets, where there is one.
    pub(crate) kvm: Option<OwnedFd>,
    /// Whether it may be other users.
    pub(crate) many_users: bool,
}

/// A filter that allows everything: `BPF_RET | BPF_K` with `SECCOMP_RET_ALLOW`.
const ALLOW_ALL: [Instruction; 1] = [Instruction {
    code: 0x06,
    jt: 0,
    jf: 0,
    k: 0x7fff_0000,
}];

/// Serves orders until the host is gone.
pub(crate) fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    let Launched {
        config,
        mut resources,
        answer,
    } = handoff::launched::<Order>()?;
    let root = resources.take("root")?;
    let policy = choose(&config).ok_or("no such policy")?;
    // Before the jail: whether user 1 exists in this namespace.
    let many_users = policy.identity.value == Identity::All
        && std::fs::read_to_string("/proc/self/uid_map")?
            .split_whitespace()
            .nth(2)
            .is_some_and(|count| count != "1");
    let grants = [Grant {
        fd: root.as_fd(),
        access: Access::ReadWrite,
    }];
    let grants = if config.component == "dev-fs" {
        &grants[..]
    } else {
        &[]
    };
    let confined = match jailer::confine(policy, grants) {
        Ok(confined) => confined,
        Err(error) => {
            answer.refuse(&error);
            return Ok(());
        }
    };
    let control = answer.ready()?;
    let hands = Hands {
        host: config.host,
        root,
        kvm: resources.take("kvm").ok(),
        proc_self_fd: confined.proc_self_fd,
        many_users,
    };
    while let Some((deed, _)) = control.receive::<Deed>()? {
        let result = match deed {
            Deed::Attempt(name) => attempts::perform(&name, &hands),
            Deed::Duty(name) => duties::perform(&name, &hands),
            Deed::Nothing => Ok(()),
        };
        control.send(&number(&result), &[])?;
    }
    Ok(())
}

/// The policy, or the policy with the filter of system calls left open.
fn choose(order: &Order) -> Option<&'static Policy> {
    let policy = policy::component(&order.component)?;
    if !order.unfiltered {
        return Some(policy);
    }
    Some(Box::leak(Box::new(Policy {
        refuse: &ALLOW_ALL,
        allow: &ALLOW_ALL,
        ..*policy
    })))
}

/// 0, or the error's number.
fn number(result: &io::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}
