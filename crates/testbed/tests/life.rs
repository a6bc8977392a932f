//! A box's life, in a workspace of its own: up, used, killed, up again, down.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use agent_client::{Exec, Exit};
use testbed::{PRODUCTS, Testbed};

/// The box's processes: the keeper and its children.
fn family(testbed: &Testbed) -> Vec<u32> {
    let keeper = testbed.status().keeper;
    let children = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent: u32 = stat
                .rsplit_once(')')?
                .1
                .split_whitespace()
                .nth(1)?
                .parse()
                .ok()?;
            (parent == keeper).then_some(pid)
        });
    [keeper].into_iter().chain(children).collect()
}

/// Waits until none of these runs any more. One that nobody has reaped yet does not run.
fn await_end(family: &[u32]) {
    let begin = Instant::now();
    let runs = |pid: &&u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    while let Some(pid) = family.iter().find(runs) {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{pid} still runs"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

fn shell(testbed: &Testbed, script: &str) -> Exit {
    let mut exec = Exec::new(b"/bin/sh");
    exec.arg(b"-c").arg(script.as_bytes());
    testbed.agent().unwrap().exec(exec).unwrap().wait().unwrap()
}

fn open(workspace: &Path) -> Testbed {
    let parts = PRODUCTS
        .iter()
        .copied()
        .filter(|part| ["testbed", "dev-vsock", "agent"].contains(&part.package));
    let bin_dir = testbed::build(parts).unwrap();
    Testbed::open_for(workspace, 0, &bin_dir).unwrap()
}

#[test]
fn a_box_is_shared_survives_nobody_and_leaves_nothing() {
    let workspace = tempfile::tempdir().unwrap();
    let path = workspace.path();

    // The workspace is written through, the rest of the host is not.
    let first = open(path);
    let name = path.display();
    assert_eq!(
        shell(&first, &format!("echo seen > {name}/file")),
        Exit::Code(0)
    );
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "seen\n");
    assert_eq!(
        shell(&first, "echo x > /crumble-testbed-was-here"),
        Exit::Code(0)
    );
    assert!(!Path::new("/crumble-testbed-was-here").exists());
    // A KVM that ordinary users may use is what it is for.
    let kvm = "test -c /dev/kvm && test $(stat -c %a /dev/kvm) = 666";
    assert_eq!(shell(&first, kvm), Exit::Code(0));

    // A second client finds the same box.
    let second = open(path);
    assert!(second.booted().is_none());
    assert_eq!(second.status().keeper, first.status().keeper);
    assert_eq!(shell(&second, "exit 7"), Exit::Code(7));

    // A keeper that is killed takes everything with it, and the next client starts anew.
    let family_of_first = family(&first);
    assert!(family_of_first.len() >= 5, "{family_of_first:?}");
    let keeper = first.status().keeper.to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", &keeper])
            .status()
            .unwrap()
            .success()
    );
    await_end(&family_of_first);
    let third = open(path);
    assert!(third.booted().is_some());
    assert_eq!(shell(&third, "exit 8"), Exit::Code(8));

    // A QEMU that is killed ends the keeper, and the log says so.
    let family_of_third = family(&third);
    let qemu = third.status().qemu.to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", &qemu])
            .status()
            .unwrap()
            .success()
    );
    await_end(&family_of_third);

    // Told to end, it leaves nothing.
    let fourth = open(path);
    let family_of_fourth = family(&fourth);
    drop([first, second, third, fourth]);
    assert!(testbed::down_for(path, 0).unwrap());
    await_end(&family_of_fourth);
    assert!(!testbed::down_for(path, 0).unwrap());
    assert!(!testbed::directory_for(path, 0).exists());
}
