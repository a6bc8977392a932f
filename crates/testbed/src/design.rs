//! What the box is made of.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use wire::agent::Network;

use crate::{
    error::Result,
    machine::{Design, Machine},
    place::Place,
};

/// What the box's kernel needs beyond what every machine's needs.
const MODULES: &[&str] = &[
    // The reason for the box.
    "kvm_amd",
    // The way out: see `way_out`.
    "virtio_net",
    // Network devices for the machines in it.
    "tun",
    // A disk's file system in a file, for tests that want one which is not in memory.
    "loop",
    // The kernel's own, beside which ours are measured.
    "vhost_net",
];

/// The box's memory in MiB: for the files of a few machines and their guests.
const MEMORY: u64 = 4096;

/// An emulated processor with virtualization. With two, guest translations of one address get mixed
/// up with the box's own now and then.
const QEMU: [&str; 8] = [
    "-accel",
    "tcg",
    "-cpu",
    "EPYC-v1,+svm,+npt",
    "-netdev",
    "user,id=out,ipv6=off",
    "-device",
    "virtio-net-pci,netdev=out,mac=52:54:00:00:00:01,romfile=",
];

/// For images that are fetched and packages that are installed in machines in the box: the addresses of
/// QEMU's user-mode network, unless it is told others.
fn way_out() -> Network {
    Network {
        mac: [0x52, 0x54, 0, 0, 0, 1],
        mtu: 1500,
        addresses: vec![(Ipv4Addr::new(10, 0, 2, 15).into(), 24)],
        gateways: vec![Ipv4Addr::new(10, 0, 2, 2).into()],
        nameservers: vec![Ipv4Addr::new(10, 0, 2, 3).into()],
        search: Vec::new(),
        hosts: Vec::new(),
    }
}

/// Mitigations are not needed under emulation, the emulated time stamp counter is the host's. A CPU
/// that is stuck ends the box: see [`crate::Pool`].
const COMMAND_LINE: &str = "mitigations=off softlockup_panic=1";

/// What is done once in the box: tests run as ordinary users too, and there is no udev; root may
/// limit what its machines take.
const FINISH: [&str; 3] = [
    "/bin/sh",
    "-c",
    "chmod 666 /dev/kvm /dev/net/tun && \
     echo +memory +pids +cpu >/sys/fs/cgroup/cgroup.subtree_control",
];

/// Boots the box: the host's root, read-only below, and these directories, written through.
pub(crate) fn boot(place: &Place, bin_dir: &Path, shares: &[PathBuf]) -> Result<Machine> {
    let machine = Machine::boot(&Design {
        directory: place.directory(),
        bin_dir,
        name: "testbed",
        memory: MEMORY.min(host_memory() / 4),
        modules: MODULES,
        shares,
        network: Some(&way_out()),
        command_line: &command_line(),
        qemu: &QEMU,
    })?;
    machine.finish(&FINISH)?;
    Ok(machine)
}

/// On a busy host the kernel mismeasures the counter, by up to ten times, and with it the time of
/// every machine in the box; so it is told.
fn command_line() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match tsc_khz(&info) {
        Some(khz) => format!("{COMMAND_LINE} tsc_early_khz={khz}"),
        None => COMMAND_LINE.to_owned(),
    }
}

/// The rate of the host's time stamp counter. "bogomips" is twice that in MHz, for a delay loop
/// waits by the counter and takes it to count twice per loop.
fn tsc_khz(cpuinfo: &str) -> Option<u64> {
    let line = cpuinfo.lines().find(|line| line.starts_with("bogomips"))?;
    let (whole, hundredths) = line.split_once(':')?.1.trim().split_once('.')?;
    let (whole, hundredths): (u64, u64) = (whole.parse().ok()?, hundredths.parse().ok()?);
    Some(
        whole
            .checked_mul(1000)?
            .checked_add(hundredths.checked_mul(10)?)?
            / 2,
    )
}

/// The host's memory in MiB.
fn host_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    total.map_or(u64::MAX, |kib: u64| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_s_rate_is_half_the_bogomips() {
        let info = "processor\t: 0\nbogomips\t: 5192.25\n";
        assert_eq!(tsc_khz(info), Some(2_596_125));
        assert_eq!(tsc_khz("processor\t: 0\n"), None);
        assert_eq!(tsc_khz("bogomips\t: much\n"), None);
    }
}
