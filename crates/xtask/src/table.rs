//! The house as data: which crate may depend on which, and why some rule has an exception.

/// A crate and what it may depend on.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// A crate depends on lower levels and, as listed, on its own.
    pub(crate) level: u8,
    /// Ours, at run time or to build it.
    pub(crate) uses: &'static [&'static str],
    /// Ours, for its tests alone.
    pub(crate) tests: &'static [&'static str],
}

const fn row(
    name: &'static str,
    level: u8,
    uses: &'static [&'static str],
    tests: &'static [&'static str],
) -> Row {
    Row {
        name,
        level,
        uses,
        tests,
    }
}

/// The crates of the house, the lowest first.
pub(crate) const HOUSE: &[Row] = &[
    // Words.
    row("spec", 0, &[], &[]),
    row("wire", 0, &[], &[]),
    row("machine-file", 0, &["spec"], &[]),
    row("policy-table", 0, &[], &[]),
    row("policy", 0, &["policy-table"], &[]),
    row("handoff", 0, &["wire"], &[]),
    // The machine.
    row("hv", 0, &[], &[]),
    row("hv-kvm", 0, &["hv"], &["quest"]),
    row("quest", 0, &["hv", "hv-kvm"], &[]),
    row("boot", 0, &[], &[]),
    row("pci", 0, &[], &[]),
    row("erofs", 0, &[], &[]),
    // Stands in for a crate that links C.
    row("capng", 0, &[], &[]),
    // Processes.
    row("jailer", 1, &["policy", "handoff"], &[]),
    row(
        "foreign",
        1,
        &["handoff", "jailer", "policy", "policy-table"],
        &[],
    ),
    row(
        "vmm",
        1,
        &[
            "hv", "hv-kvm", "boot", "pci", "wire", "handoff", "jailer", "policy",
        ],
        &["vq-driver"],
    ),
    row(
        "device",
        1,
        &["handoff", "jailer", "policy", "wire"],
        &["vq-driver"],
    ),
    row(
        "dev-fs",
        1,
        &["device", "handoff", "jailer", "wire"],
        &["policy", "vq-driver"],
    ),
    row(
        "dev-vsock",
        1,
        &["device", "handoff", "wire"],
        &["jailer", "policy", "vq-driver"],
    ),
    row(
        "dev-net",
        1,
        &["device", "handoff", "wire"],
        &["jailer", "policy", "vq-driver"],
    ),
    row(
        "dev-block",
        1,
        &["device", "handoff", "wire"],
        &["jailer", "policy", "vq-driver"],
    ),
    row(
        "dev-console",
        1,
        &["device", "handoff", "wire"],
        &["vq-driver"],
    ),
    row("dev-balloon", 1, &["device", "handoff"], &["vq-driver"]),
    row(
        "dialer",
        1,
        &["device", "handoff", "wire"],
        &["jailer", "policy"],
    ),
    row(
        "unpack",
        1,
        &["device", "erofs", "handoff", "wire"],
        &["jailer", "policy"],
    ),
    row("agent", 1, &["wire"], &[]),
    row("vq-driver", 1, &[], &[]),
    // Work on the host.
    row(
        "supervisor",
        2,
        &["foreign", "spec", "wire", "handoff", "jailer", "policy"],
        &[],
    ),
    row("inspect", 2, &["jailer", "policy"], &[]),
    row("image", 2, &["spec"], &[]),
    row("kernel", 2, &["wire"], &[]),
    row("build", 2, &[], &[]),
    row("agent-client", 2, &["wire"], &["agent"]),
    // The library.
    row(
        "crumble",
        3,
        &[
            "agent-client",
            "build",
            "erofs",
            "foreign",
            "hv-kvm",
            "image",
            "jailer",
            "kernel",
            "spec",
            "supervisor",
            "wire",
        ],
        &[],
    ),
    row("detached", 3, &["crumble"], &[]),
    // People.
    row(
        "cli",
        4,
        &["crumble", "detached", "inspect", "machine-file"],
        &["policy"],
    ),
    row(
        "crumble-jailer",
        4,
        &["foreign", "handoff", "jailer", "wire"],
        &[],
    ),
    row(
        "testbed",
        4,
        &[
            "agent-client",
            "handoff",
            "hv-kvm",
            "jailer",
            "kernel",
            "policy",
            "wire",
        ],
        &[],
    ),
    row(
        "xtask",
        4,
        &[
            "crumble",
            "kernel",
            "policy",
            "policy-table",
            "supervisor",
            "testbed",
            "tests",
            "wire",
        ],
        &[],
    ),
    row(
        "tests",
        4,
        &[
            "agent-client",
            "crumble",
            "kernel",
            "spec",
            "supervisor",
            "testbed",
            "vq-driver",
            "wire",
        ],
        &[
            "agent-client",
            "crumble",
            "kernel",
            "spec",
            "supervisor",
            "testbed",
            "vq-driver",
            "wire",
        ],
    ),
];

/// Crates that run against a guest or a component, or in a guest.
pub(crate) const EXPOSED: &[&str] = &[
    "vmm",
    "device",
    "dev-fs",
    "dev-vsock",
    "dev-net",
    "dev-block",
    "dev-console",
    "dev-balloon",
    "dialer",
    "erofs",
    "unpack",
    "foreign",
    "jailer",
    "agent",
    "policy",
    "handoff",
    "wire",
];

/// Kinds of crates that the exposed ones must not contain: asynchronous run-times, TLS, HTTP,
/// regular expressions.
pub(crate) const BANNED: &[&str] = &[
    "async-executor",
    "async-std",
    "embassy-executor",
    "smol",
    "tokio", //
    "native-tls",
    "openssl",
    "rustls", //
    "h2",
    "hyper",
    "reqwest",
    "ureq", //
    "regex",
    "regex-automata",
    "regex-lite",
];

/// Banned crates that one of ours contains all the same: the crate, the banned one, the reason.
pub(crate) const TOLERATED: &[(&str, &str, &str)] = &[
    (
        "dev-fs",
        "regex",
        "virtiofsd depends on env_logger, which its library never calls",
    ),
    ("dev-fs", "regex-automata", "as regex"),
];

/// An exception, and its reason.
pub(crate) type Exception = (&'static str, &'static str);

/// Licences that need no thought.
pub(crate) const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Crates of which more than one version is built.
pub(crate) const DUPLICATES: &[Exception] = &[
    ("base64", "ureq moved on, docker_credential has not"),
    ("bitflags", "virtiofsd is at 1, all others at 2"),
    (
        "embedded-io",
        "postcard offers two versions of it and uses neither",
    ),
    (
        "getrandom",
        "ring stays with an older one; the newer is in tests and the command only",
    ),
    ("hash32", "as heapless, of which it is a part"),
    (
        "heapless",
        "smoltcp moved on, which is in tests only; postcard has not",
    ),
    (
        "syn",
        "thiserror and clap moved to 3, others have not; it is not in the product",
    ),
    (
        "vhost",
        "virtiofsd pins the older set of rust-vmm crates, in its own process",
    ),
    ("vhost-user-backend", "as vhost"),
    ("virtio-queue", "as vhost"),
    ("vm-memory", "as vhost"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_design_forbids_is_not_in_the_table() {
        for row in HOUSE {
            let device = row.name.starts_with("dev-");
            for used in row.uses {
                assert!(!(row.name == "vmm" && used.starts_with("dev-")));
                assert!(
                    !(device
                        && (*used == "vmm" || used.starts_with("hv") || used.starts_with("dev-")))
                );
                assert!(row.name != "agent" || *used == "wire");
                assert!(row.name != "vq-driver");
            }
        }
    }

    #[test]
    fn every_crate_is_listed_once() {
        for row in HOUSE {
            assert_eq!(
                HOUSE.iter().filter(|other| other.name == row.name).count(),
                1
            );
        }
    }
}
