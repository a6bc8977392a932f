//! The guest of a machine: its commands and its ports.

use std::{
    ffi::OsStr,
    io,
    os::unix::net::UnixStream,
    sync::{Arc, Weak},
};

use agent_client::Client;
use image::Config;

use crate::{Command, Error, Listener, net};

/// What runs in a machine, as its agent presents it. That of a [`crate::Machine`] is what it derefs
/// to; over a connection to another program's machine it does the same. Clones reach the same guest,
/// and keep no machine running.
#[derive(Debug, Clone)]
pub struct Guest {
    agent: Client,
    config: Arc<Config>,
    /// None if the machine is another program's.
    machine: Weak<supervisor::Machine>,
}

impl Guest {
    /// The guest behind `connect`, which makes streams to its agent. `config` is the environment of
    /// commands.
    pub fn new(
        connect: impl Fn() -> io::Result<UnixStream> + Send + Sync + 'static,
        config: Config,
    ) -> Self {
        Self {
            agent: Client::new(move |_| connect()),
            config: Arc::new(config),
            machine: Weak::new(),
        }
    }

    pub(crate) fn of(machine: &Arc<supervisor::Machine>, config: Config) -> Self {
        let machine = Arc::downgrade(machine);
        let agent = Client::new({
            let machine = Weak::clone(&machine);
            move |port| {
                let machine = machine.upgrade().ok_or(io::ErrorKind::NotConnected)?;
                machine.connect(port).map_err(io::Error::other)
            }
        });
        Self {
            agent,
            config: Arc::new(config),
            machine,
        }
    }

    /// A command to be run in this machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command<'_> {
        Command::new(self, program.as_ref())
    }

    /// The image's own command: its entry point, then `arguments`, or the image's if there are none;
    /// a shell if that is nothing.
    pub fn main(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command<'_> {
        Command::of_image(self, arguments)
    }

    /// How the image says that it is to be run; empty for `host`, `busybox` and directories.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Connects to what listens on a TCP port of the guest's loopback addresses, as
    /// [`std::net::TcpStream::connect`]. It works without any network. Each direction of the stream
    /// ends by itself, with `shutdown`.
    ///
    /// ```no_run
    /// # use std::io::{Read, Write};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let machine = crumble::Machine::builder("host".parse()?).start()?;
    /// let mut server = machine.command("python3");
    /// let mut server = server.args(["-m", "http.server", "80"]).spawn()?;
    /// let mut stream = loop {
    ///     match machine.connect(80) {
    ///         Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
    ///         result => break result?,
    ///     }
    /// };
    /// stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    /// let mut page = String::new();
    /// stream.read_to_string(&mut page)?;
    /// # server.kill()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] if nothing listens there,
    /// [`io::ErrorKind::NotConnected`] if the machine has ended.
    pub fn connect(&self, port: u16) -> io::Result<UnixStream> {
        net::connect(self, port)
    }

    /// Listens on a TCP port of the guest's loopback addresses, as
    /// [`std::net::TcpListener::bind`]: what programs in the guest connect to it arrives here. With
    /// port 0 it is one that is free. It works without any network.
    ///
    /// ```no_run
    /// # use std::io::Write;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let machine = crumble::Machine::builder("host".parse()?).start()?;
    /// let listener = machine.listen(0)?;
    /// let port = listener.local_port().to_string();
    /// let mut client = machine.command("nc").args(["127.0.0.1", &port]).spawn()?;
    /// let (mut stream, _) = listener.accept()?;
    /// stream.write_all(b"hello, guest\n")?;
    /// drop(stream);
    /// client.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if the port is taken, [`io::ErrorKind::NotConnected`] if the
    /// machine has ended.
    pub fn listen(&self, port: u16) -> io::Result<Listener> {
        Listener::bind(self, port)
    }
    pub(crate) const fn agent(&self) -> &Client {
        &self.agent
    }

    /// What the agent's silence really means, if its machine has ended.
    pub(crate) fn explain(&self, error: agent_client::Error) -> Error {
        match self.machine.upgrade() {
            Some(machine) => Error::of_agent(error, &machine),
            None => error.into(),
        }
    }
}
