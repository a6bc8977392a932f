//! The component's side: confined as a real one, then hostile by order.

use std::error::Error;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use handoff::Launched;
use jailer::{Access, Grant};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::host::{Deed, Order};
use crate::layers::{self, Layer};
use crate::{attempts, duties};

/// What the hostile code has in its hands.
pub(crate) struct Hands {
    /// The host's process id, in the host's namespace.
    pub(crate) host: i32,
    /// Another component's process id, in the host's namespace.
    pub(crate) sibling: i32,
    /// The path, on the host, of a directory that anybody may use but for the jail. It holds
    /// `secret`, `beside/`, and what `root` is.
    pub(crate) outside: String,
    /// A directory of the host's. Only dev-fs is granted what is below it.
    pub(crate) root: OwnedFd,
    /// A TCP socket of the host's network that is not connected.
    pub(crate) stream: OwnedFd,
    /// TCP ports of the host's loopback on which somebody listens: one that the dialer is granted,
    /// and another.
    pub(crate) granted_port: u16,
    pub(crate) port: u16,
    /// `/proc/self/fd`, where the policy has it.
    pub(crate) proc_self_fd: Option<OwnedFd>,
    /// `/dev/kvm`, which only the VMM gets, where there is one.
    pub(crate) kvm: Option<OwnedFd>,
    /// Whether it may be other users.
    pub(crate) many_users: bool,
}

impl Hands {
    /// The path, on the host, of something in `outside`.
    pub(crate) fn path(&self, name: &str) -> io::Result<CString> {
        Ok(CString::new(format!("{}/{name}", self.outside))?)
    }
}

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
    let mut root = resources.take("root")?;
    let policy = layers::policy(&config.component, &config.without).ok_or("no such policy")?;
    // Before the jail: whether user 1 exists in this namespace.
    let many_users = layers::has_many_users(policy);
    let serves = config.component == "dev-fs";
    if serves && !config.without.contains(&Layer::Subtree) {
        // As the real one does.
        let tree = jailer::subtree(root.as_fd(), Access::ReadWrite)?;
        root = openat(&tree, ".", OFlag::O_DIRECTORY, Mode::empty())?;
    }
    let grant = Grant {
        fd: root.as_fd(),
        access: Access::ReadWrite,
    };
    let grants = if serves { &[grant][..] } else { &[] };
    layers::leave_out(&config.without);
    let granted = [config.granted_port];
    let ports = if config.component == "dialer" {
        &granted[..]
    } else {
        &[]
    };
    let confined = match jailer::confine_to(policy, grants, Some(ports)) {
        Ok(confined) => confined,
        Err(error) => {
            answer.refuse(&error);
            return Ok(());
        }
    };
    let control = answer.ready()?;
    let hands = Hands {
        host: config.host,
        sibling: config.sibling,
        outside: config.outside,
        root,
        stream: resources.take("stream")?,
        granted_port: config.granted_port,
        port: config.port,
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

/// 0, or the error's number.
fn number(result: &io::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}
