//! The host's side: TAP devices and servers.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{ECHO, HTTP, IPERF, failed, peer};
use crate::{
    command::{program, succeed, words},
    error::{Error, Result, file},
};

/// The TAP devices with the host's addresses, of networks for documentation (RFC 5737). The guest's
/// is the next one.
pub(super) const TAPS: [(&str, Ipv4Addr); 2] = [
    ("crumblebench0", Ipv4Addr::new(192, 0, 2, 1)),
    ("crumblebench1", Ipv4Addr::new(198, 51, 100, 1)),
];

/// The bits of their networks' prefixes.
pub(super) const PREFIX: u8 = 24;

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that is removed with this value.
#[derive(Debug)]
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("crumble-bench-{}", std::process::id()));
        make_private(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a directory that only this user may enter.
pub(super) fn make_private(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(file("make the directory", path))
}

/// A TAP device that is removed with this value.
#[derive(Debug)]
struct Tap(&'static str);

impl Tap {
    fn new(name: &'static str, address: Ipv4Addr) -> Result<Self> {
        let ip = |arguments: &[&str]| succeed(&mut program("ip", arguments));
        ip(&["tuntap", "add", name, "mode", "tap"])?;
        let tap = Self(name);
        let address = format!("{address}/{PREFIX}");
        ip(&["address", "add", &address, "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = succeed(&mut program("ip", &["link", "delete", self.0]));
    }
}

/// A server that ends with this value, and with the thread that started it.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = program("setpriv", &["--pdeathsig", "KILL", "--"]);
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // It complains of the connections that look whether it is there.
        command.stderr(Stdio::null());
        let child = command.spawn().map_err(|source| Error::Start {
            command: words(&command),
            source,
        })?;
        Ok(Self(child))
    }

    /// Waits until it listens on this port.
    fn wait(&mut self, port: u16) -> Result<()> {
        let begin = Instant::now();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        loop {
            if !matches!(self.0.try_wait(), Ok(None)) || begin.elapsed() > PATIENCE {
                let why = format!("it does not listen on port {port}; is another program there?");
                return Err(failed("the network", &why));
            }
            if TcpStream::connect_timeout(&address, PATIENCE).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The host's side of all measurements.
#[derive(Debug)]
pub(super) struct Host {
    _servers: [Server; 2],
    _taps: Vec<Tap>,
}

impl Host {
    pub(super) fn start(directory: &Directory) -> Result<Self> {
        let taps = TAPS.iter().map(|(name, address)| Tap::new(name, *address));
        let taps = taps.collect::<Result<_>>()?;
        let mut iperf = Server::start(&["iperf3", "--server", "--port", &IPERF.to_string()])?;
        let mut http = start_http(directory)?;
        peer::serve(ECHO).map_err(|error| failed("the network", &error.to_string()))?;
        iperf.wait(IPERF)?;
        http.wait(HTTP)?;
        Ok(Self {
            _servers: [iperf, http],
            _taps: taps,
        })
    }
}

/// nginx with one page of 1 KiB.
fn start_http(directory: &Directory) -> Result<Server> {
    let page = "0123456789abcdef".repeat(64);
    let place = directory.0.display();
    let text = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr crit;\n\
         events {{}}\n\
         http {{\n\
         access_log off; keepalive_requests 1000000000;\n\
         client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;\n\
         fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi;\n\
         scgi_temp_path {place}/scgi;\n\
         server {{ listen {HTTP}; location / {{ return 200 \"{page}\"; }} }}\n\
         }}\n"
    );
    let path = directory.0.join("nginx.conf");
    fs::write(&path, text).map_err(file("write", &path))?;
    Server::start(&["nginx", "-c", &path.to_string_lossy()])
}
