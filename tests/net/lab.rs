//! A guest, its host, and an Internet.

use std::{
    fs::{self, File},
    path::Path,
    thread,
};

use crumble::{Connected, Image, MachineSpec};
use supervisor::{Lone, Programs};
use tempfile::TempDir;

use crate::{
    namespace::{Namespace, write},
    pump::Pump,
    tap,
};

/// What differs between labs.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// As users write it; the default without.
    pub(crate) network: &'a str,
    /// As users write them.
    pub(crate) publish: &'a [&'a str],
    /// The host's /etc/resolv.conf, if it is not to name [`Lab::RESOLVER`].
    pub(crate) resolver: Option<&'a str>,
    /// The guest has no IPv4.
    pub(crate) only_v6: bool,
    /// Where packets are recorded.
    pub(crate) record: Option<File>,
}

/// All of it, while it lasts. The thread that made it is in the host's network.
pub(crate) struct Lab {
    pub(crate) guest: Namespace,
    pub(crate) host: Namespace,
    pub(crate) internet: Namespace,
    _pump: Pump,
    device: Lone,
    directory: TempDir,
}

impl Lab {
    /// Somebody in the Internet.
    pub(crate) const V4: &str = "203.0.113.7";
    pub(crate) const V6: &str = "2001:db8::7";
    /// Where the host expects a name server, in the Internet.
    pub(crate) const RESOLVER: &str = "203.0.113.53";

    /// A guest with the default network.
    pub(crate) fn new() -> Self {
        Self::start(Setup::default())
    }

    /// A guest with this network.
    pub(crate) fn of(network: &str) -> Self {
        Self::start(Setup {
            network,
            ..Setup::default()
        })
    }

    pub(crate) fn start(setup: Setup<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let network = |name: &str, resolver: &str| {
            let file = write(directory.path(), &format!("resolv.conf-{name}"), resolver);
            Namespace::new(Path::new(&file))
        };
        let default = format!("nameserver {}\n", Self::RESOLVER);
        let host = network("host", setup.resolver.unwrap_or(&default));
        let internet = network("internet", "");
        join(&host, &internet);
        host.enter();
        let mut connected = connect(&setup);
        if setup.only_v6 {
            remove_v4(&mut connected);
        }
        let programs = Programs::in_directory(testbed::bin_dir());
        let (device, socket) = Lone::start(connected.device.unwrap(), &programs).unwrap();
        let wanted = connected.guest.unwrap();
        let servers = wanted.nameservers.iter();
        let resolver: String = servers.map(|ip| format!("nameserver {ip}\n")).collect();
        let guest = network("guest", &resolver);
        guest.sh("ip tuntap add tap0 mode tap");
        let tap = guest.run(|| crumble::open_tap("tap0").unwrap());
        tap::offload(&tap);
        guest.sh(&set_up(&wanted));
        Self {
            guest,
            host,
            internet,
            _pump: Pump::start(socket, tap),
            device,
            directory,
        }
    }

    /// For files of this lab.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A directory for files of this lab.
    pub(crate) fn new_directory(&self, name: &str) -> std::path::PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let words = self.device.last_words();
        // What a process that ends well says is a line without words.
        if thread::panicking() || words.contains('|') {
            use std::io::Write;
            let _ = write!(std::io::stderr(), "{words}");
        }
    }
}

/// A cable between the host and the Internet, and on the host's loopback the address where clouds
/// tell a host its secrets.
fn join(host: &Namespace, internet: &Namespace) {
    host.sh(&format!(
        "set -e
        ip link add host0 type veth peer name internet0 netns {}
        ip link set host0 up
        ip address add 203.0.113.1/24 dev host0
        ip address add 203.0.113.2/24 dev host0
        ip address add 2001:db8::1/64 dev host0 nodad
        ip address add 169.254.169.254/32 dev lo
        echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range",
        internet.path(),
    ));
    internet.sh(&format!(
        "set -e
        ip link set internet0 up
        ip address add {}/24 dev internet0
        ip address add {}/24 dev internet0
        ip address add {}/64 dev internet0 nodad",
        Lab::V4,
        Lab::RESOLVER,
        Lab::V6,
    ));
}

/// What the library makes of what a user writes.
fn connect(setup: &Setup<'_>) -> Connected {
    let network = match setup.network {
        "" => "user",
        network => network,
    };
    let spec = MachineSpec {
        network: network.parse().unwrap(),
        publish: setup
            .publish
            .iter()
            .map(|port| port.parse().unwrap())
            .collect(),
        ..MachineSpec::new(Image::Host)
    };
    let record = setup.record.as_ref();
    let record = record.map(|file| file.try_clone().unwrap().into());
    crumble::connect(&spec, record).unwrap()
}

fn remove_v4(connected: &mut Connected) {
    let device = connected.device.as_mut().unwrap();
    let mut config: wire::net::Config = wire::decode(&device.config).unwrap();
    if let wire::net::Backend::User(addresses) = &mut config.backend {
        addresses.v4 = None;
    }
    device.config = wire::encode(&config).unwrap();
    let guest = connected.guest.as_mut().unwrap();
    guest.addresses.retain(|(address, _)| address.is_ipv6());
    guest.gateways.retain(|address| address.is_ipv6());
    guest.nameservers.retain(|address| address.is_ipv6());
}

/// What the agent does in a guest.
fn set_up(network: &wire::agent::Network) -> String {
    let mac = network.mac.map(|byte| format!("{byte:02x}")).join(":");
    let link = format!("ip link set tap0 address {mac} mtu {} up", network.mtu);
    let addresses = network.addresses.iter().map(|(address, prefix)| {
        let now = if address.is_ipv6() { "nodad" } else { "" };
        format!("ip address add {address}/{prefix} dev tap0 {now}")
    });
    let routes = network.gateways.iter().map(|gateway| {
        let family = if gateway.is_ipv6() { "-6" } else { "-4" };
        format!("ip {family} route add default via {gateway}")
    });
    let lines: Vec<_> = ["set -e".into(), link]
        .into_iter()
        .chain(addresses)
        .chain(routes)
        .collect();
    lines.join("\n")
}
