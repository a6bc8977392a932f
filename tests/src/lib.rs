//! End-to-end tests; see `e2e/` for machines, `net/` for the network without a machine, and
//! `qemu/` for our devices under QEMU.

#![forbid(unsafe_code)]

/// Programs that the tests of the network run, and the Debian package of each.
pub const NETWORK_PROGRAMS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx-light"),
    ("ping", "iputils-ping"),
    ("scp", "openssh-client"),
    ("sshd", "openssh-server"),
    ("tcpdump", "tcpdump"),
    ("unshare", "util-linux"),
];

/// As [`NETWORK_PROGRAMS`], for the tests of machines.
pub const MACHINE_PROGRAMS: &[(&str, &str)] = &[
    ("qemu-storage-daemon", "qemu-system-common"),
    ("skopeo", "skopeo"),
];

/// As [`NETWORK_PROGRAMS`], for the tests of our devices under QEMU.
pub const QEMU_PROGRAMS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// Programs that judge what crates write, and the Debian package of each.
pub const JUDGES: &[(&str, &str)] = &[
    ("fsck.erofs", "erofs-utils"),
    ("sfdisk", "fdisk"),
    ("sgdisk", "gdisk"),
];
