//! The machines that are compared.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use testbed::Design;
use wire::agent::Network;

use super::{
    failed,
    host::{Directory, Host, PREFIX, TAPS, make_private},
};
use crate::{
    bench::{
        rival::{self as bench, MEMORY},
        traffic,
    },
    error::{Result, file},
};

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
    pub(super) machine: bench::Rival,
}

/// All of them: QEMU's before ours that does the same.
pub(super) fn start(bin_dir: &Path, directory: &Directory, _host: &Host) -> Result<Vec<Rival>> {
    // The root of every guest is this host's, without what is mounted in it.
    let peer = directory.0.join("peer");
    let program = env::current_exe().map_err(file("find", "this program"))?;
    fs::copy(&program, &peer).map_err(file("write", &peer))?;
    let peer = peer.to_string_lossy().into_owned();
    let rival = |name, host, machine| Rival {
        name,
        host,
        peer: peer.clone(),
        machine,
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

fn start_ours(bin_dir: &Path, network: &str) -> Result<bench::Rival> {
    eprintln!("starting crumble, {network}");
    bench::Rival::ours(bin_dir, |builder| {
        Ok(builder.network(traffic::parse(network)?))
    })
}

fn start_qemu(
    bin_dir: &Path,
    place: &Path,
    netdev: &str,
    network: &Network,
) -> Result<bench::Rival> {
    let [a, b, c, d, e, f] = MAC;
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let device = format!("virtio-net-pci,netdev=n,mac={mac},romfile=");
    bench::Rival::qemu(&Design {
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
    })
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
    /// That what it said is no number.
    pub(super) fn failed(&self, said: &str) -> crate::error::Error {
        failed(self.name, said)
    }
}
