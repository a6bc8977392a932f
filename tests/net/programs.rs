//! Real programs, and how they are set up.

use std::{
    env,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use crate::{
    lab::Lab,
    namespace::{Namespace, Running, eventually, write},
};

/// What is not there ends this program, with the name of its package.
pub(crate) fn check() {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let missing = tests::NETWORK_PROGRAMS
        .iter()
        .filter(|(name, _)| !is_there(name));
    let (names, packages): (Vec<_>, Vec<_>) = missing.copied().unzip();
    assert!(
        names.is_empty(),
        "these are missing: {}; `apt-get install {}` installs them",
        names.join(" "),
        packages.join(" ")
    );
}

/// An HTTP server at these addresses. It serves the files of `NAME/www`; at `/who` it says its name
/// and who asks.
pub(crate) fn nginx(lab: &Lab, place: &Namespace, name: &str, addresses: &[&str]) -> Running {
    let directory = lab.new_directory(name);
    let listen: String = addresses.iter().map(|at| format!("listen {at};")).collect();
    let path = directory.display();
    let text = format!(
        "daemon off; master_process off; user root; pid {path}/pid; error_log {path}/errors;
        events {{ worker_connections 8192; }}
        http {{
          access_log off; client_body_temp_path {path}/body; keepalive_timeout 60;
          server {{ {listen} root {path}/www; location = /who {{ return 200 '{name} $remote_addr'; }} }}
        }}"
    );
    let file = write(&directory, "conf", &text);
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-c", &file]);
    let server = place.spawn(command);
    for address in addresses {
        place.await_listener(address.parse::<SocketAddr>().unwrap());
    }
    server
}

/// A name server in the Internet, at [`Lab::RESOLVER`] or elsewhere, that knows what `options` say.
pub(crate) fn dnsmasq(lab: &Lab, address: &str, options: &[&str]) -> Running {
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
    ]);
    command.args([
        "--user=root",
        "--pid-file=",
        "--bind-interfaces",
        "--log-facility=-",
    ]);
    command
        .arg(format!("--listen-address={address}"))
        .args(options);
    command.stderr(Stdio::null());
    let server = lab.internet.spawn(command);
    lab.internet
        .await_listener((address.parse::<std::net::IpAddr>().unwrap(), 53));
    server
}

/// A name server that fails at whatever it is asked (RFC 1035, section 4.1.1).
pub(crate) fn failing_name_server(place: &Namespace, address: &str) {
    let at = format!("{address}:53");
    let socket = place.run(move || UdpSocket::bind(at).unwrap());
    thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut message) {
            message[2] |= 0x80;
            message[3] = message[3] & 0xf0 | 2;
            let _ = socket.send_to(&message[..length], peer);
        }
    });
}

/// Answers datagrams with themselves.
pub(crate) fn echo(place: &Namespace, address: &str) -> JoinHandle<()> {
    let at = address.to_owned();
    let socket = place.run(move || UdpSocket::bind(at).unwrap());
    thread::spawn(move || {
        let mut datagram = vec![0; 65536];
        while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], peer);
        }
    })
}

/// An SSH server in the Internet, and a user's file of settings that lets them in.
pub(crate) fn sshd(lab: &Lab) -> (Running, String) {
    let directory = lab.new_directory("ssh");
    let path = directory.display();
    for key in ["host", "user"] {
        lab.host
            .sh(&format!("ssh-keygen -q -t ed25519 -N '' -f {path}/{key}"));
    }
    let text = format!(
        "ListenAddress {}:22\nListenAddress [{}]:22\nHostKey {path}/host\nUsePAM no\nStrictModes no\n\
         PermitRootLogin prohibit-password\nAuthorizedKeysFile {path}/user.pub\nPidFile none\n\
         Subsystem sftp internal-sftp\n",
        Lab::V4,
        Lab::V6
    );
    let file = write(&directory, "sshd_config", &text);
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-q", "-f", &file]);
    let server = lab.internet.spawn(command);
    lab.internet
        .await_listener((Lab::V4.parse::<std::net::IpAddr>().unwrap(), 22));
    let known = std::fs::read_to_string(directory.join("host.pub")).unwrap();
    write(&directory, "known", &format!("* {known}"));
    let text = format!(
        "IdentityFile {path}/user\nIdentitiesOnly yes\nUserKnownHostsFile {path}/known\n\
         StrictHostKeyChecking yes\nBatchMode yes\nUser root\n"
    );
    (server, write(&directory, "ssh_config", &text))
}

/// iperf3's server, in the Internet.
pub(crate) fn iperf3(lab: &Lab) -> Running {
    let mut command = Command::new("iperf3");
    command
        .args(["--server", "--bind", Lab::V4])
        .stdout(Stdio::null());
    let server = lab.internet.spawn(command);
    // A connection by way of trying would be a test for it.
    eventually("iperf3 does not listen", || {
        lab.internet
            .sh("ss --listening --tcp --numeric")
            .contains(":5201")
    });
    server
}

/// A file of so many MiB that nothing compresses; its SHA-256.
pub(crate) fn file(place: &Namespace, path: &Path, mib: u32) -> String {
    let path = path.display();
    place.sh(&format!(
        "head -c {mib}M /dev/urandom > {path} && sha256sum < {path}"
    ))
}
