//! TAP devices that outlive who makes them, for machines on networks of this host's.
//!
//! They are made by the program `ip` of iproute2. The kernel's own interfaces would be two more
//! ioctls and a netlink socket, all of them unsafe or a parser of their own; whoever makes such
//! devices has that program, and what it refuses is what people find in its manual.
//!
//! ```no_run
//! # fn main() -> Result<(), crumble::Error> {
//! use crumble::tap::{self, Joined, NewTap};
//!
//! let tap = NewTap {
//!     name: "tap0".parse()?,
//!     owner: 1000,
//!     joined: Joined::Bridge("br0".parse()?),
//! };
//! tap::create(&tap)?;
//! let machine = crumble::Machine::builder("host".parse()?)
//!     .network("tap=tap0,address=192.0.2.9/24,gateway=192.0.2.1".parse()?)
//!     .start()?;
//! # machine.shutdown()?;
//! tap::remove(&tap.name)?;
//! # Ok(())
//! # }
//! ```

use std::{io, net::IpAddr, process::Command};

use nix::net::if_::if_nametoindex;
use serde::Deserialize;

use crate::{Error, Interface, InterfaceAddress, network::random_mac};

/// A TAP device that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTap {
    /// Its name.
    pub name: Interface,
    /// The number of the user that may start machines on it.
    pub owner: u32,
    /// What is at this host's end of it.
    pub joined: Joined,
}

/// What is at this host's end of a TAP device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// A bridge, which exists.
    Bridge(Interface),
    /// This host itself, with these addresses; none at all for those who set it up otherwise.
    Host(Vec<InterfaceAddress>),
}

/// A TAP device of this host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its name.
    pub name: String,
    /// The user that may use it, by name if there is one; everybody who may open `/dev/net/tun`
    /// if nothing is said.
    pub owner: Option<String>,
    /// What it does.
    pub state: State,
    /// The bridge that it is part of.
    pub bridge: Option<String>,
    /// This host's addresses on it.
    pub addresses: Vec<InterfaceAddress>,
}

/// What a TAP device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was not brought up, and nothing passes.
    Down,
    /// A machine may be started on it.
    Free,
    /// A program has it.
    Used,
}

/// Makes a TAP device, and brings it up.
///
/// # Errors
/// [`Error::NetAdmin`] without the right to it, [`Error::TapSetup`] for all else. What was begun is
/// undone.
pub fn create(tap: &NewTap) -> Result<(), Error> {
    let name = tap.name.as_str();
    let what = || format!("make {name}");
    if exists(&tap.name) {
        let hint =
            "; there is an interface of that name already: `crumble network ls` or `ip link`";
        return Err(setup(what(), hint, io::ErrorKind::AlreadyExists.into()));
    }
    if let Joined::Bridge(bridge) = &tap.joined
        && !exists(bridge)
    {
        let hint = format!(
            "; there is no bridge {bridge}: `sudo ip link add {bridge} type bridge && \
             sudo ip link set {bridge} up`"
        );
        return Err(setup(what(), &hint, io::ErrorKind::NotFound.into()));
    }
    let owner = tap.owner.to_string();
    let add = ["tuntap", "add", "dev", name, "mode", "tap", "user", &owner];
    ip(&add).map_err(|error| refused(what(), error))?;
    join(tap).map_err(|error| {
        // Half a device is of no use. What is reported is why.
        let _ = ip(&["tuntap", "del", "dev", name, "mode", "tap"]);
        refused(what(), error)
    })
}

fn join(tap: &NewTap) -> io::Result<()> {
    let name = tap.name.as_str();
    match &tap.joined {
        Joined::Bridge(bridge) => {
            ip(&["link", "set", "dev", name, "address", &high_address()?])?;
            ip(&["link", "set", "dev", name, "master", bridge.as_str()])?;
        }
        Joined::Host(addresses) => {
            for address in addresses {
                ip(&["address", "add", &address.to_string(), "dev", name])?;
            }
        }
    }
    ip(&["link", "set", "dev", name, "up"])?;
    Ok(())
}

/// A bridge has the lowest hardware address of its ports: this one is not to change it.
fn high_address() -> io::Result<String> {
    let [_, rest @ ..] = random_mac().map_err(io::Error::other)?;
    let rest = rest.map(|byte| format!(":{byte:02x}"));
    Ok(format!("fe{}", rest.concat()))
}

/// Removes a TAP device. Its owner may do that too.
///
/// # Errors
/// [`Error::NetAdmin`] without the right to it, [`Error::TapSetup`] for all else.
pub fn remove(name: &Interface) -> Result<(), Error> {
    let what = || format!("remove {name}");
    if !exists(name) {
        let hint = "; there is no such interface: `crumble network ls` has those that there are";
        return Err(setup(what(), hint, io::ErrorKind::NotFound.into()));
    }
    let delete = ["tuntap", "del", "dev", name.as_str(), "mode", "tap"];
    ip(&delete).map_err(|error| refused(what(), error))?;
    Ok(())
}

/// The TAP devices of this host, in the order in which they were made.
///
/// # Errors
/// [`Error::TapSetup`].
pub fn list() -> Result<Vec<Existing>, Error> {
    let what = || "list TAP devices".to_owned();
    let text = ip(&["-details", "-json", "address", "show", "type", "tun"])
        .map_err(|error| refused(what(), error))?;
    parse(&text).map_err(|error| setup(what(), "", error.into()))
}

fn exists(name: &Interface) -> bool {
    if_nametoindex(name.as_str()).is_ok()
}

/// Runs `ip` and returns what it prints.
fn ip(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .env("LC_ALL", "C")
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let command = arguments.join(" ");
    Err(io::Error::other(format!("`ip {command}` said: {words}")))
}

/// What the caller can do about it.
fn refused(what: String, error: io::Error) -> Error {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["Operation not permitted", "Permission denied"]) {
        return Error::NetAdmin {
            what,
            source: error,
        };
    }
    let hint = if error.kind() == io::ErrorKind::NotFound {
        "; it takes the program `ip`, of the package iproute2"
    } else if says(&["No such file or directory", "No such device"]) {
        "; this host has no /dev/net/tun: `sudo modprobe tun`"
    } else if says(&["resource busy"]) {
        "; a program, perhaps a machine, has it"
    } else if says(&["Invalid argument"]) {
        "; it is no TAP device, or one with several queues: `ip -details link show type tun`"
    } else {
        ""
    };
    setup(what, hint, error)
}

fn setup(what: String, hint: &str, source: io::Error) -> Error {
    Error::TapSetup {
        what,
        hint: hint.to_owned(),
        source,
    }
}

/// What `ip` prints of an interface (ip-address(8), -json). Of those that it filters out some
/// versions print an empty object.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Link {
    ifname: String,
    flags: Vec<String>,
    master: Option<String>,
    linkinfo: LinkInfo,
    addr_info: Vec<Address>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LinkInfo {
    info_data: Tun,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tun {
    r#type: String,
    user: Option<Owner>,
}

/// A number if the user has no name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Owner {
    Name(String),
    Number(u32),
}

#[derive(Deserialize)]
struct Address {
    local: IpAddr,
    prefixlen: u8,
}

fn parse(text: &str) -> serde_json::Result<Vec<Existing>> {
    let links: Vec<Link> = serde_json::from_str(text)?;
    let taps = links
        .into_iter()
        .filter(|link| link.linkinfo.info_data.r#type == "tap");
    Ok(taps.map(Existing::from).collect())
}

impl From<Link> for Existing {
    fn from(link: Link) -> Self {
        let has = |flag: &str| link.flags.iter().any(|one| one == flag);
        Self {
            state: match (has("UP"), has("LOWER_UP")) {
                (_, true) => State::Used,
                (true, false) => State::Free,
                (false, false) => State::Down,
            },
            name: link.ifname,
            owner: link.linkinfo.info_data.user.map(|owner| match owner {
                Owner::Name(name) => name,
                Owner::Number(number) => number.to_string(),
            }),
            bridge: link.master,
            addresses: link.addr_info.iter().map(InterfaceAddress::from).collect(),
        }
    }
}

impl From<&Address> for InterfaceAddress {
    fn from(address: &Address) -> Self {
        Self {
            address: address.local,
            prefix: address.prefixlen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{namespace::in_a_namespace, tap::open};

    fn tap(name: &str, joined: Joined) -> NewTap {
        NewTap {
            name: name.parse().unwrap(),
            owner: 0,
            joined,
        }
    }

    fn host(addresses: &[&str]) -> Joined {
        Joined::Host(addresses.iter().map(|one| one.parse().unwrap()).collect())
    }

    #[track_caller]
    fn says(result: Result<(), Error>, words: &[&str]) {
        let message = wire::chain(&result.unwrap_err());
        for word in words {
            assert!(message.contains(word), "\"{word}\" is missing: {message}");
        }
    }

    #[test]
    fn devices_are_made_listed_and_removed() {
        let bridge = "ip link add crumble-br type bridge && ip link set lo up";
        in_a_namespace("tap::tests::in_a_namespace_devices_come_and_go", bridge);
    }

    #[test]
    #[ignore = "it is run by the one above"]
    fn in_a_namespace_devices_come_and_go() {
        assert_eq!(list().unwrap(), []);
        create(&tap("t0", Joined::Bridge("crumble-br".parse().unwrap()))).unwrap();
        create(&tap("t1", host(&["192.0.2.1/24", "2001:db8::1/64"]))).unwrap();
        let found = list().unwrap();
        assert_eq!(
            (found[0].name.as_str(), found[0].state),
            ("t0", State::Free)
        );
        assert_eq!(found[0].bridge.as_deref(), Some("crumble-br"));
        assert_eq!(found[0].owner.as_deref(), Some("root"));
        let addresses: Vec<_> = found[1].addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses[..2], ["192.0.2.1/24", "2001:db8::1/64"]);

        let used = open("t1").unwrap();
        assert_eq!(list().unwrap()[1].state, State::Used);
        says(remove(&"t1".parse().unwrap()), &["remove t1", "has it"]);
        drop(used);
        says(create(&tap("t1", host(&[]))), &["make t1", "already"]);
        let bridge = Joined::Bridge("nobridge".parse().unwrap());
        says(
            create(&tap("t2", bridge)),
            &["ip link add nobridge type bridge"],
        );
        // What cannot be joined is not left behind.
        let no_bridge = Joined::Bridge("lo".parse().unwrap());
        says(create(&tap("t2", no_bridge)), &["make t2", "master lo"]);
        assert_eq!(list().unwrap().len(), 2);

        says(remove(&"lo".parse().unwrap()), &["no TAP device"]);
        says(remove(&"t2".parse().unwrap()), &["no such interface"]);
        for name in ["t0", "t1"] {
            remove(&name.parse().unwrap()).unwrap();
        }
        assert_eq!(list().unwrap(), []);
    }

    #[test]
    fn who_may_not_is_told_apart() {
        for words in [
            "ioctl(TUNSETIFF): Operation not permitted",
            "open: Permission denied",
        ] {
            let error = refused("make t".to_owned(), io::Error::other(words));
            assert!(matches!(error, Error::NetAdmin { .. }), "{error}");
        }
        let error = refused("make t".to_owned(), io::ErrorKind::NotFound.into());
        assert!(error.to_string().contains("iproute2"), "{error}");
    }

    #[test]
    fn what_is_filtered_out_or_has_no_name_is_understood() {
        let text = r#"[{},{"ifname":"u","linkinfo":{"info_data":{"type":"tun"}}},
            {"ifname":"t","flags":["UP"],"linkinfo":{"info_data":{"type":"tap","user":1234}}}]"#;
        let found = parse(text).unwrap();
        assert_eq!((found.len(), found[0].name.as_str()), (1, "t"));
        assert_eq!(found[0].owner.as_deref(), Some("1234"));
        assert!(parse("{").is_err());
    }
}
