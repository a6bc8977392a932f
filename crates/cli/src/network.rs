//! `crumble network`.

use std::{env, process::ExitCode};

use crumble::{
    InterfaceAddress,
    tap::{self, Existing, Joined, NewTap, State},
};
use nix::unistd::{User, geteuid};

use crate::{
    arguments::{Create, Tap},
    report::Failure,
};

/// Makes, removes or lists TAP devices.
pub(crate) fn network(verb: &Tap) -> Result<ExitCode, Failure> {
    let done = match verb {
        Tap::Create(options) => create(options)?,
        Tap::Rm { name } => tap::remove(name),
        Tap::Ls => tap::list().map(|taps| print!("{}", table(&taps))),
    };
    done.map_err(with_rights)?;
    Ok(ExitCode::SUCCESS)
}

/// The outer failure is of the options.
fn create(options: &Create) -> Result<Result<(), crumble::Error>, Failure> {
    let joined = match &options.bridge {
        Some(bridge) => Joined::Bridge(bridge.clone()),
        None => Joined::Host(options.addresses.clone()),
    };
    Ok(tap::create(&NewTap {
        name: options.name.clone(),
        owner: owner(options.user.as_deref())?,
        joined,
    }))
}

/// The number of the user that was named, or of who asks for this.
fn owner(named: Option<&str>) -> Result<u32, Failure> {
    let Some(name) = named else {
        // sudo(8) says so of who called it.
        let caller = env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
        let own = geteuid();
        return Ok(caller
            .filter(|_| own.is_root())
            .unwrap_or_else(|| own.as_raw()));
    };
    if let Ok(uid) = name.parse() {
        return Ok(uid);
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(Failure::NoUser(name.to_owned())),
        Err(errno) => Err(Failure::System {
            what: "look the user up",
            source: errno.into(),
        }),
    }
}

/// The same command with the rights that it takes.
fn with_rights(error: crumble::Error) -> Failure {
    if !matches!(error, crumble::Error::NetAdmin { .. }) {
        return error.into();
    }
    // Not by its name alone: root's PATH is another one.
    let program = env::current_exe().unwrap_or_else(|_| "crumble".into());
    let arguments: Vec<_> = env::args().skip(1).collect();
    Failure::Rights {
        command: format!("sudo {} {}", program.display(), arguments.join(" ")),
        source: error,
    }
}

/// The devices, a line each.
fn table(taps: &[Existing]) -> String {
    if taps.is_empty() {
        return "This host has no TAP device.\n".to_owned();
    }
    let line = |name: &str, owner: &str, state: &str, joined: &str| {
        format!("{name:<15} {owner:<12} {state:<6} {joined}\n")
    };
    let rows = taps.iter().map(|tap| {
        let owner = tap.owner.as_deref().unwrap_or("anybody");
        let state = match tap.state {
            State::Down => "down",
            State::Free => "free",
            State::Used => "used",
        };
        line(&tap.name, owner, state, &joined(tap))
    });
    line("NAME", "USER", "STATE", "BRIDGE OR ADDRESSES") + &rows.collect::<String>()
}

fn joined(tap: &Existing) -> String {
    match &tap.bridge {
        Some(bridge) => bridge.clone(),
        None => {
            let addresses = tap.addresses.iter().map(InterfaceAddress::to_string);
            addresses.collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_listed_with_what_is_at_this_host_s_end() {
        let tap = |owner: Option<&str>, state, bridge: Option<&str>, addresses: &[&str]| Existing {
            name: "tap0".to_owned(),
            owner: owner.map(str::to_owned),
            state,
            bridge: bridge.map(str::to_owned),
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        };
        let text = table(&[
            tap(Some("ann"), State::Used, Some("br0"), &["2001:db8::1/64"]),
            tap(None, State::Free, None, &["10.9.0.1/24", "fd09::1/64"]),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "tap0            ann          used   br0");
        let two = "tap0            anybody      free   10.9.0.1/24 fd09::1/64";
        assert_eq!(lines[2], two);
        assert!(table(&[]).contains("no TAP device"));
    }

    #[test]
    fn users_have_names_and_numbers() {
        assert_eq!(owner(Some("root")).unwrap(), 0);
        assert_eq!(owner(Some("1234")).unwrap(), 1234);
        let error = owner(Some("nobody-of-this-name")).unwrap_err();
        assert!(error.to_string().contains("nobody-of-this-name"));
    }
}
