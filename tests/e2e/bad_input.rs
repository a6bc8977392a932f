//! What cannot be, and what is said about it.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::{
    support::{fails, fails_of, programs, stdout_of, tests, unshared},
    users::{ORDINARY, ordinary_home, run_as_ordinary},
};

tests![
    memory_and_cpus_out_of_range_are_usage_errors,
    more_memory_than_the_host_has_is_refused,
    a_share_that_does_not_exist_is_named,
    a_directory_that_does_not_exist_is_no_image,
    an_image_that_is_not_here_and_not_to_be_fetched_is_named,
    a_file_that_is_no_kernel_is_refused,
    a_truncated_kernel_is_refused,
    a_missing_device_program_is_named,
    a_device_program_that_dies_at_once_is_named,
    a_guest_without_an_init_shows_its_last_words,
    a_working_directory_that_does_not_exist_is_named,
    a_user_that_does_not_exist_is_named,
    a_terminal_is_needed_for_one,
    a_network_that_makes_no_sense_is_a_usage_error,
    a_port_in_use_is_named_before_anything_starts,
    a_port_of_root_s_is_not_an_ordinary_user_s,
    an_address_that_is_not_the_host_s_is_named,
    more_ports_than_can_be_handed_over_are_counted,
    a_record_that_cannot_be_made_is_named,
    a_tap_device_of_another_user_is_refused,
    without_a_device_file_there_are_no_tap_devices,
    a_host_without_name_servers_runs_machines_and_says_so,
    a_tap_device_that_does_not_exist_comes_with_the_command_that_makes_it,
    ports_and_records_need_a_network,
];

/// What clap says for arguments that make no sense.
const USAGE: i32 = 2;

fn memory_and_cpus_out_of_range_are_usage_errors() {
    for memory in ["0", "1", "63M", "lots"] {
        fails(&["--memory", memory, "host"], USAGE, &["memory"]);
    }
    for cpus in ["0", "255", "x"] {
        fails(&["--cpus", cpus, "host"], USAGE, &["CPUs"]);
    }
}

fn more_memory_than_the_host_has_is_refused() {
    fails(
        &["--memory", "512G", "host", "--", "true"],
        125,
        &["512 GiB", "this host has"],
    );
}

fn a_share_that_does_not_exist_is_named() {
    fails(
        &["-v", "/no/such:/x", "host", "--", "true"],
        125,
        &["/no/such", "No such file"],
    );
    fails(
        &["-v", "/etc/passwd:/x", "host", "--", "true"],
        125,
        &["/etc/passwd", "directory"],
    );
    fails(
        &["-v", "/tmp", "host", "--", "true"],
        USAGE,
        &["no guest directory"],
    );
}

fn a_directory_that_does_not_exist_is_no_image() {
    fails(
        &["/no/such", "--", "true"],
        125,
        &["/no/such", "No such file"],
    );
}

fn an_image_that_is_not_here_and_not_to_be_fetched_is_named() {
    fails(
        &["--pull", "never", "no-such-image", "--", "true"],
        125,
        &["docker.io/library/no-such-image:latest", "pull it"],
    );
}

fn a_file_that_is_no_kernel_is_refused() {
    fails(
        &["--kernel", "/etc/passwd", "host", "--", "true"],
        125,
        &["/etc/passwd"],
    );
    fails(
        &["--kernel", "/no/such", "host", "--", "true"],
        125,
        &["/no/such", "No such file"],
    );
}

/// The kernel that machines run by default.
fn kernel() -> Vec<u8> {
    let cache = crumble::host::kernel_path().expect("a machine was run before");
    fs::read(cache).unwrap()
}

fn a_truncated_kernel_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinux");
    let whole = kernel();
    for length in [40, 64, 300, whole.len() / 2] {
        fs::write(&path, &whole[..length]).unwrap();
        let path = path.to_str().unwrap();
        fails(
            &["--kernel", path, "host", "--", "true"],
            125,
            &["kernel", "truncated"],
        );
    }
}

/// Copies of the programs, to be tampered with.
fn copies(directory: &Path) {
    for entry in fs::read_dir(programs()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_file() && name.to_string_lossy().starts_with("crumble") {
            fs::copy(&path, directory.join(name)).unwrap();
        }
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs `true` with the programs in `directory` and returns what is said.
fn complaint(directory: &Path) -> String {
    let mut command = Command::new(directory.join("crumble"));
    let output = command
        .args(["run", "host", "--", "true"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{errors}");
    errors
}

fn a_missing_device_program_is_named() {
    for program in [
        "crumble-vmm",
        "crumble-dev-fs",
        "crumble-dev-vsock",
        "crumble-dev-net",
        "crumble-dialer",
        "crumble-agent",
    ] {
        let directory = tempfile::tempdir().unwrap();
        copies(directory.path());
        fs::remove_file(directory.path().join(program)).unwrap();
        let errors = complaint(directory.path());
        assert!(
            errors.contains(program) && errors.contains("No such file"),
            "{errors}"
        );
    }
}

fn a_device_program_that_dies_at_once_is_named() {
    for (program, name) in [
        ("crumble-dev-fs", "fs-root"),
        ("crumble-dev-net", "net"),
        ("crumble-dialer", "dialer"),
        ("crumble-vmm", "vmm"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        copies(directory.path());
        fs::copy("/bin/false", directory.path().join(program)).unwrap();
        let errors = complaint(directory.path());
        assert!(errors.contains(name), "{errors}");
    }
}

/// A kernel that comes up and finds nothing to run ends in a panic, whose words are shown.
fn a_guest_without_an_init_shows_its_last_words() {
    let directory = tempfile::tempdir().unwrap();
    copies(directory.path());
    fs::write(directory.path().join("crumble-agent"), "not a program").unwrap();
    let errors = complaint(directory.path());
    assert!(errors.contains("Kernel panic"), "{errors}");
}

fn a_working_directory_that_does_not_exist_is_named() {
    fails(
        &["-w", "/no/such", "host", "--", "true"],
        125,
        &["/no/such"],
    );
}

fn a_user_that_does_not_exist_is_named() {
    fails(
        &["-u", "nobody-of-this-name", "host", "--", "true"],
        125,
        &["nobody-of-this-name"],
    );
}

fn a_terminal_is_needed_for_one() {
    fails(&["-t", "host", "--", "true"], 125, &["terminal"]);
}

fn a_network_that_makes_no_sense_is_a_usage_error() {
    for (network, words) in [
        ("bridge", "no network"),
        ("user,allow=10.0.0.0/33", "0 to 32"),
        ("user,deny=10.0.0.1/8", "10.0.0.0/8 is the network"),
        ("tap=a/b", "not an interface"),
    ] {
        fails(&["--network", network, "host"], USAGE, &[words]);
    }
    fails(&["-p", "99999:80", "host"], USAGE, &["not a port"]);
}

fn a_port_in_use_is_named_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let publish = format!("{port}:80");
    let words = [port.as_str(), "ss -ltnp", "in use"];
    fails(&["-p", &publish, "host", "--", "true"], 125, &words);
}

fn a_port_of_root_s_is_not_an_ordinary_user_s() {
    let home = ordinary_home();
    let command = run_as_ordinary(&home, &["-p", "80:8080", "host", "--", "true"]);
    let words = [
        "127.0.0.1:80/tcp",
        "ip_unprivileged_port_start=80",
        "denied",
    ];
    fails_of(command, 125, &words);
}

fn an_address_that_is_not_the_host_s_is_named() {
    let words = ["192.0.2.77:8080/tcp", "`ip address` lists them"];
    let publish = "192.0.2.77:8080:80";
    fails(&["-p", publish, "host", "--", "true"], 125, &words);
}

fn more_ports_than_can_be_handed_over_are_counted() {
    let words = ["129 ports", "at most 128", "TAP device"];
    let publish = "8000-8128:8000-8128";
    fails(&["-p", publish, "host", "--", "true"], 125, &words);
}

fn a_record_that_cannot_be_made_is_named() {
    for (file, why) in [("/no/such", "No such file"), ("/tmp", "Is a directory")] {
        fails(&["--pcap", file, "host", "--", "true"], 125, &[file, why]);
    }
}

fn a_tap_device_of_another_user_is_refused() {
    let home = ordinary_home();
    let user = ORDINARY.to_string();
    let home = home.path().to_str().unwrap();
    let script = "ip tuntap add t0 mode tap user nobody &&
        exec setpriv --reuid \"$1\" --regid \"$1\" --clear-groups \
            env HOME=\"$2\" XDG_CACHE_HOME=\"$2\" \"$0\" run --network tap=t0 host -- true";
    let words = ["another user", "`sudo ip tuntap del t0 mode tap`"];
    fails_of(unshared("--net", script, &[&user, home]), 125, &words);
}

fn without_a_device_file_there_are_no_tap_devices() {
    let script = "mount -t tmpfs none /dev/net && exec \"$0\" run --network tap=lo host -- true";
    let words = ["no /dev/net/tun", "`sudo modprobe tun`"];
    fails_of(unshared("--mount", script, &[]), 125, &words);
}

fn a_host_without_name_servers_runs_machines_and_says_so() {
    let etc = tempfile::tempdir().unwrap();
    for file in ["passwd", "group"] {
        fs::copy(Path::new("/etc").join(file), etc.path().join(file)).unwrap();
    }
    let script = "mount --bind \"$1\" /etc &&
        exec \"$0\" run busybox -- cat /etc/resolv.conf 2>&1";
    let text = stdout_of(unshared("--mount", script, &[etc.path().to_str().unwrap()]));
    for word in ["/etc/resolv.conf cannot be read", "nameserver 10.0.2.2"] {
        assert!(text.contains(word), "\"{word}\" is missing in: {text}");
    }
}

fn a_tap_device_that_does_not_exist_comes_with_the_command_that_makes_it() {
    fails(
        &["--network", "tap=no-such-tap", "host", "--", "true"],
        125,
        &["ip tuntap add no-such-tap mode tap", "No such device"],
    );
}

fn ports_and_records_need_a_network() {
    for arguments in [["-p", "0:80"], ["--pcap", "/dev/null"]] {
        let [option, value] = arguments;
        fails(
            &["--network", "none", option, value, "host", "--", "true"],
            125,
            &[option.trim_start_matches("--")],
        );
    }
}
