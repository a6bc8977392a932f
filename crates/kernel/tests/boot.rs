//! A real boot: the distribution's kernel, this crate's initramfs and the agent, under QEMU's
//! emulation, so that any host will do. Without a vsock device the agent cannot be reached, and has
//! to say so on the console and end the machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kernel::{
    Cache, Kernel, MACHINE_MODULES, NETWORK_MODULES, Source, initramfs, resolve, setup_archive,
};
use wire::agent::{Network, Root, Setup, VERSION};

const TARGET: &str = "x86_64-unknown-linux-musl";

fn agent() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "agent",
            "--target",
            TARGET,
        ])
        .current_dir(&workspace)
        .status()
        .unwrap();
    assert!(status.success());
    let target = env::var_os("CARGO_TARGET_DIR").map_or(workspace.join("target"), PathBuf::from);
    target.join(TARGET).join("release/crumble-agent")
}

fn kernel(cache: &Cache) -> Kernel {
    resolve(&Source::Distribution, cache, &mut |_| {}).unwrap()
}

/// Boots with these devices of QEMU's to the end and returns what the console said.
fn console(setup: &Setup, devices: &[&str]) -> String {
    let cache = Cache::of_user().unwrap();
    let kernel = kernel(&cache);
    let modules = [MACHINE_MODULES, NETWORK_MODULES].concat();
    let base = initramfs(&kernel, &agent(), &modules, &cache).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("initramfs");
    fs::write(
        &archive,
        [fs::read(base).unwrap(), setup_archive(setup).unwrap()].concat(),
    )
    .unwrap();
    let output = fs::File::create(directory.path().join("console")).unwrap();
    let mut machine = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg",
            "-M",
            "q35",
            "-m",
            "512M",
            "-nodefaults",
            "-no-user-config",
        ])
        .args([
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
            "-kernel",
        ])
        .arg(&kernel.vmlinux)
        .arg("-initrd")
        .arg(&archive)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .args(devices)
        .stdin(Stdio::null())
        .stdout(output)
        .spawn()
        .expect("QEMU is needed: apt-get install qemu-system-x86");
    let start = Instant::now();
    let ended = loop {
        match machine.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if start.elapsed() > Duration::from_secs(120) => break None,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let text = fs::read(directory.path().join("console")).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    if ended.is_none() {
        machine.kill().unwrap();
        machine.wait().unwrap();
        panic!("the machine did not end: {text}");
    }
    text
}

fn setup(root: Root) -> Setup {
    Setup {
        version: VERSION,
        hostname: "guest".into(),
        root,
        directories: Vec::new(),
        shares: Vec::new(),
        mounts: Vec::new(),
        network: None,
        init: None,
        terminal: false,
    }
}

#[test]
fn a_machine_without_a_vsock_device_says_so_and_powers_off() {
    let text = console(&setup(Root::Initramfs), &[]);
    assert!(
        text.contains("vsock port 1025 of the host: ENODEV"),
        "{text}"
    );
    assert!(text.contains("Power down"), "{text}");
}

#[test]
fn a_root_that_is_not_there_is_named_on_the_console() {
    let text = console(&setup(Root::discarding("missing")), &[]);
    assert!(text.contains("mount virtiofs missing"), "{text}");
    assert!(text.contains("Power down"), "{text}");
}

fn network() -> Setup {
    let network = Network {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        addresses: vec![
            ([10, 0, 2, 15].into(), 24),
            ("fec0::f".parse().unwrap(), 64),
        ],
        gateways: vec![[10, 0, 2, 2].into(), "fe80::2".parse().unwrap()],
        nameservers: vec![[10, 0, 2, 3].into()],
        search: Vec::new(),
        hosts: Vec::new(),
    };
    Setup {
        network: Some(network),
        ..setup(Root::Initramfs)
    }
}

#[test]
fn a_network_without_its_interface_is_named_on_the_console() {
    let text = console(&network(), &[]);
    assert!(text.contains("interface 02:00:00:00:00:01"), "{text}");
}

#[test]
fn a_network_is_set_up_on_the_stock_kernel() {
    set_up_on("console=ttyS0 quiet panic=-1");
}

#[test]
fn a_network_is_set_up_without_ipv6() {
    set_up_on("console=ttyS0 quiet panic=-1 ipv6.disable=1");
}

fn set_up_on(command_line: &str) {
    let nic = "user,model=virtio-net-pci,mac=02:00:00:00:00:01,restrict=on";
    let text = console(&network(), &["-nic", nic, "-append", command_line]);
    let said: Vec<_> = text
        .lines()
        .filter(|l| l.contains("crumble-agent"))
        .collect();
    // Nothing but that there is nobody to tell.
    assert_eq!(said.len(), 1, "{text}");
    assert!(
        text.contains("vsock port 1025 of the host: ENODEV"),
        "{text}"
    );
}
