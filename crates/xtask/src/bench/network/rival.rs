//! The machines that are compared.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use crumble::{Machine, Stats};
use testbed::{Command, Design};
use wire::agent::Network;

use super::{
    failed,
    host::{Directory, Host, PREFIX, TAPS, make_private},
};
use crate::{
    bench::traffic,
    error::{Result, file},
};

/// Memory of each, in MiB.
const MEMORY: u64 = 512;

/// More than anything takes that is run in them, in seconds.
const LIMIT: &str = "60";

/// What a guest of QEMU knows its interface by.
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// A machine with a network.
#[derive(Debug)]
pub(super) struct Rival {
    pub(super) name: &'static str,
    /// The host's address, as the guest sees it.
    pub(super) host: Ipv4Addr,
    /// This program, as the guest sees it.
    pub(super) peer: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Ours(Machine),
    Qemu(testbed::Machine),
}

/// All of them: QEMU's before ours that does the same.
pub(super) fn start(bin_dir: &Path, directory: &Directory, _host: &Host) -> Result<Vec<Rival>> {
    // The root of every guest is this host's, without what is mounted in it.
    let peer = directory.0.join("peer");
    let program = env::current_exe().map_err(file("find", "this program"))?;
    fs::copy(&program, &peer).map_err(file("write", &peer))?;
    let peer = peer.to_string_lossy().into_owned();
    let rival = |name, host, kind| Rival {
        name,
        host,
        peer: peer.clone(),
        kind,
    };
    let qemu = |name: &str, netdev: &str, network: &Network| {
        eprintln!("starting QEMU, {name}");
        let place = directory.0.join(name);
        make_private(&place)?;
        start_qemu(bin_dir, &place, netdev, network)
    };
    let [(tap, host), (rival_s_tap, rival_s_host)] = TAPS;
    let guest = next(host);
    let netdev = format!("tap,id=n,ifname={rival_s_tap},script=no,downscript=no,vhost=on");
    let slirp = qemu("slirp", "user,id=n", &of_slirp())?;
    let user = start_ours(bin_dir, "user")?;
    let vhost = qemu("vhost", &netdev, &of_tap(rival_s_host))?;
    let on_tap = start_ours(bin_dir, &format!("tap={tap},address={guest}/{PREFIX}"))?;
    Ok(vec![
        rival("QEMU, slirp", host, slirp),
        rival("`--network user`", host, user),
        rival("QEMU, tap and vhost-net", rival_s_host, vhost),
        rival("`--network tap`", host, on_tap),
    ])
}

fn start_ours(bin_dir: &Path, network: &str) -> Result<Kind> {
    eprintln!("starting crumble, {network}");
    let builder = Machine::builder(traffic::parse("host")?)
        .memory(traffic::parse(&format!("{MEMORY}M"))?)
        .network(traffic::parse(network)?)
        .programs(bin_dir);
    Ok(Kind::Ours(builder.start().map_err(traffic::failed)?))
}

fn start_qemu(bin_dir: &Path, place: &Path, netdev: &str, network: &Network) -> Result<Kind> {
    let [a, b, c, d, e, f] = MAC;
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let device = format!("virtio-net-pci,netdev=n,mac={mac},romfile=");
    let machine = testbed::Machine::boot(&Design {
        directory: place,
        bin_dir,
        name: "rival",
        memory: MEMORY,
        modules: kernel::NETWORK_MODULES,
        shares: &[],
        network: Some(network),
        command_line: "",
        qemu: &[
            "-accel", "kvm", "-cpu", "host", "-netdev", netdev, "-device", &device,
        ],
    });
    Ok(Kind::Qemu(machine?))
}

/// The addresses that slirp has unless it is told others.
fn of_slirp() -> Network {
    let gateway = Ipv4Addr::new(10, 0, 2, 2);
    network(Ipv4Addr::new(10, 0, 2, 15), vec![gateway.into()])
}

fn of_tap(host: Ipv4Addr) -> Network {
    network(next(host), Vec::new())
}

fn network(guest: Ipv4Addr, gateways: Vec<IpAddr>) -> Network {
    Network {
        mac: MAC,
        mtu: 1500,
        addresses: vec![(guest.into(), PREFIX)],
        gateways,
        nameservers: Vec::new(),
        search: Vec::new(),
        hosts: Vec::new(),
    }
}

fn next(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits().saturating_add(1))
}

impl Rival {
    pub(super) const fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours(_))
    }

    /// Our VMM's counters.
    pub(super) fn stats(&self) -> Result<Option<Stats>> {
        match &self.kind {
            Kind::Ours(machine) => Ok(Some(machine.stats().map_err(traffic::failed)?)),
            Kind::Qemu(_) => Ok(None),
        }
    }

    /// Runs a command in it that must succeed, and returns what it says.
    pub(super) fn run(&self, command: &[&str]) -> Result<String> {
        let command = [&["timeout", LIMIT], command].concat();
        let (code, stdout, stderr) = match &self.kind {
            Kind::Ours(machine) => {
                let (program, arguments) = command.split_first().unwrap_or((&"", &[]));
                let mut command = machine.command(program);
                let output = command.args(arguments).output().map_err(traffic::failed)?;
                let code = output.status.code().unwrap_or(1);
                (code, output.stdout, output.stderr)
            }
            Kind::Qemu(machine) => {
                let mut command = Command::new(&command);
                let output = command.current_dir("/").output_from(&machine.agent()?)?;
                (output.code, output.stdout, output.stderr)
            }
        };
        let said = String::from_utf8_lossy(&stdout).into_owned();
        if code == 0 {
            return Ok(said);
        }
        let said = format!("{code}: {said}{}", String::from_utf8_lossy(&stderr));
        Err(failed(
            &format!("`{}` in {}", command.join(" "), self.name),
            &said,
        ))
    }

    /// That what it said is no number.
    pub(super) fn failed(&self, said: &str) -> crate::error::Error {
        failed(self.name, said)
    }
}
