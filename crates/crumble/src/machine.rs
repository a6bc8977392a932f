//! A machine from its description to its end.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    ops::Deref,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_client::Shutdown;
use nix::fcntl::Flock;
use supervisor::Device;
use wire::agent::Upper;

use crate::{
    Cpus, Disk, End, Error, External, Guest, Hostname, Image, Init, MachineSpec, Memory, Name,
    Network, ProcessInfo, Publish, Published, Pull, Share, Stats, Terminal, Timings, Volume,
    assemble::{Beside, Extras, assemble},
};

/// How long a guest has to come up if nothing else is said. A stock kernel takes a second or two;
/// emulated hardware takes ten times that.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// How long a guest has to stop its processes and sync when it is asked to end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(15);

/// The same where the image's own init does it, as long as systemd waits for a service.
const INIT_SHUTDOWN_LIMIT: Duration = Duration::from_secs(90);

/// The description of a machine, being put together.
pub struct Builder {
    spec: MachineSpec,
    extras: Extras,
    boot_limit: Duration,
    progress: Box<dyn FnMut(&str)>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Builder");
        debug.field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Builder {
    /// Number of vCPUs; 1 if this is not called.
    #[must_use]
    pub fn cpus(mut self, cpus: Cpus) -> Self {
        self.spec.cpus = cpus;
        self
    }

    /// Guest memory; 512 MiB if this is not called.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.spec.memory = memory;
        self
    }

    /// Adds a file of the host as a disk of the guest. The first is `/dev/vda`; the image's own disks come
    /// after all of these. While the machine runs nobody else writes to the file, and if it may be written,
    /// no other machine has it.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.spec.disks.push(disk);
        self
    }

    /// Adds a device whose vhost-user back end is somebody else's, which reads and writes the guest's memory.
    /// One that listens on a socket of the host is in no jail; a program is started in that of its policy.
    /// When it ends so does the machine, unless it is a program of which another may go on.
    #[must_use]
    pub fn device(mut self, device: External) -> Self {
        self.spec.external.push(device);
        self
    }

    /// Adds a directory of the host that the guest sees.
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.spec.shares.push(share);
        self
    }

    /// Adds a directory that is kept for guests under a name, after the shares. Several machines may have it
    /// at a time.
    #[must_use]
    pub fn volume(mut self, volume: Volume) -> Self {
        self.spec.volumes.push(volume);
        self
    }

    /// How the guest is connected; through sockets of the host if this is not called.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.spec.network = network;
        self
    }

    /// Adds ports of the host that lead to the guest. They are bound when the machine is started;
    /// [`Machine::published`] says which they are.
    ///
    /// ```
    /// use crumble::Publish;
    ///
    /// # fn main() -> Result<(), crumble::Error> {
    /// let ports = Publish {
    ///     address: Publish::ADDRESS,
    ///     host: 8000,
    ///     guest: 80,
    ///     count: 10,
    ///     udp: false,
    /// };
    /// assert_eq!(ports, "8000-8009:80-89".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn publish(mut self, ports: Publish) -> Self {
        self.spec.publish.push(ports);
        self
    }

    /// A file for what the guest sends and receives, which Wireshark reads. What it contained is
    /// gone.
    #[must_use]
    pub fn pcap(mut self, path: impl Into<PathBuf>) -> Self {
        self.extras.pcap = Some(path.into());
        self
    }

    /// A kernel file, ELF or bzImage, instead of the distribution's. Its drivers must be built in.
    #[must_use]
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.spec.kernel = Some(path.into());
        self
    }

    /// The guest's host name; `crumble` if this is not called.
    #[must_use]
    pub fn hostname(mut self, hostname: Hostname) -> Self {
        self.spec.hostname = hostname;
        self
    }

    /// Keeps what the guest writes under this name, for the next machine that has it. It takes an OCI
    /// image, the same each time: what a registry has for its name later makes no difference.
    #[must_use]
    pub fn name(mut self, name: Name) -> Self {
        self.spec.name = Some(name);
        self
    }

    /// Gives the guest a terminal that is not a command's, `/dev/hvc0`. systemd asks there who logs in;
    /// other inits are told to.
    #[must_use]
    pub const fn terminal(mut self) -> Self {
        self.spec.terminal = true;
        self
    }

    /// Gives memory that the guest's kernel has free back to the host, as the guest tells of it: in pieces of
    /// 2 MiB with Linux on x86-64, a few seconds after they became free. It is there again when the guest
    /// touches it. Linux has had it since 5.7 (`CONFIG_PAGE_REPORTING`).
    #[must_use]
    pub const fn free_page_reporting(mut self) -> Self {
        self.spec.free_page_reporting = true;
        self
    }

    /// Makes the image's own init process 1, as a whole system has it. Commands run beside what it
    /// starts, and do not wait for that. [`Machine::shutdown`] asks it to end the machine.
    #[must_use]
    pub fn init(mut self, init: Init) -> Self {
        self.spec.init = Some(init);
        self
    }

    /// Where the guest's serial console goes. Without [`Builder::verbose`] that is what its kernel says
    /// when something is wrong.
    #[must_use]
    pub fn console(mut self, sink: impl Write + Send + 'static) -> Self {
        self.extras.console = Some(Box::new(sink));
        self
    }

    /// Makes the guest's kernel say on its console what it does, which takes it longer.
    #[must_use]
    pub fn verbose(mut self) -> Self {
        self.extras.verbose = true;
        self
    }

    /// The directory with `crumble-vmm` and its like; without, that of the running program.
    #[must_use]
    pub fn programs(mut self, directory: impl Into<PathBuf>) -> Self {
        self.extras.programs = Some(directory.into());
        self
    }

    /// How long the guest has to come up; 60 seconds if this is not called.
    #[must_use]
    pub fn boot_limit(mut self, limit: Duration) -> Self {
        self.boot_limit = limit;
        self
    }

    /// Makes the root of unpacked layers, the lowest first, instead of an image.
    pub(crate) fn layers(mut self, layers: Vec<PathBuf>) -> Self {
        self.extras.layers = Some(layers);
        self
    }

    /// Something beside the root.
    pub(crate) fn beside(mut self, beside: Beside) -> Self {
        self.extras.beside.push(beside);
        self
    }

    /// A disk for what is written.
    pub(crate) fn upper(mut self, device: Device, upper: Upper) -> Self {
        self.extras.upper = Some((device, upper));
        self
    }

    /// Which image of a name, and when to ask the registry for it: for this host's CPU, and if it
    /// is not here yet, if this is not called.
    #[must_use]
    pub fn pull(mut self, pull: Pull) -> Self {
        self.extras.pull = pull;
        self
    }

    /// Is told how fetching and unpacking an image goes.
    #[must_use]
    pub fn fetching(mut self, progress: impl image::Progress + 'static) -> Self {
        self.extras.fetching = Box::new(progress);
        self
    }

    /// Is told of work that takes long: fetching and unpacking a kernel.
    #[must_use]
    pub fn progress(mut self, report: impl FnMut(&str) + 'static) -> Self {
        self.progress = Box::new(report);
        self
    }

    /// Starts the machine and waits until it can run commands.
    ///
    /// # Errors
    /// What is missing on this host, or why the guest did not come up.
    pub fn start(self) -> Result<Machine, Error> {
        let Self {
            spec,
            extras,
            boot_limit,
            mut progress,
        } = self;
        let began = Instant::now();
        let assembled = assemble(&spec, extras, &mut *progress)?;
        let prepared = began.elapsed();
        let inner = Arc::new(supervisor::Machine::start(assembled.plan)?);
        inner.wait_ready(boot_limit)?;
        Ok(Machine {
            guest: Guest::of(&inner, assembled.config),
            inner,
            prepared,
            patience: if spec.init.is_some() {
                INIT_SHUTDOWN_LIMIT
            } else {
                SHUTDOWN_LIMIT
            },
            locks: assembled.locks,
            terminal: assembled.terminal,
            published: assembled.published,
            warnings: assembled.warnings,
        })
    }
}

/// A running machine. Dropping it ends it at once, as if its power failed; see
/// [`Machine::shutdown`].
#[derive(Debug)]
pub struct Machine {
    guest: Guest,
    inner: Arc<supervisor::Machine>,
    prepared: Duration,
    /// How long it may take to end.
    patience: Duration,
    /// Others may use what it has written when it is gone.
    #[expect(dead_code, reason = "its life is the lock's")]
    locks: Vec<Flock<File>>,
    terminal: Option<Terminal>,
    published: Vec<Published>,
    warnings: Vec<String>,
}

impl Machine {
    /// Begins the description of a machine that runs `image`.
    #[must_use]
    pub fn builder(image: Image) -> Builder {
        Self::described(MachineSpec::new(image))
    }

    /// Goes on with a description.
    #[must_use]
    pub fn described(spec: MachineSpec) -> Builder {
        Builder {
            spec,
            extras: Extras {
                console: None,
                verbose: false,
                programs: None,
                pcap: None,
                layers: None,
                upper: None,
                beside: Vec::new(),
                pull: Pull::default(),
                fetching: Box::new(()),
            },
            boot_limit: BOOT_LIMIT,
            progress: Box::new(|_| {}),
        }
    }

    /// Writes what the guest has changed of its root to `to`, as a layer of an image that is not
    /// compressed.
    ///
    /// # Errors
    /// If the machine has ended, or `to` cannot be written.
    pub fn changes(&self, to: impl Write) -> Result<(), Error> {
        Ok(self.guest.agent().changes(to)?)
    }

    /// Asks the guest to end, and waits for it: it stops its processes, syncs its file systems
    /// and powers off. If it has not within 15 seconds, or 90 with an init of its own, it is
    /// [`End::Killed`].
    ///
    /// # Errors
    /// If the guest does not answer, or the machine ended otherwise.
    pub fn shutdown(&self) -> Result<End, Error> {
        // It fails if the machine has ended, which is reported otherwise.
        let _ = self.inner.resume();
        self.guest
            .agent()
            .shutdown(Shutdown::PowerOff, SHUTDOWN_LIMIT)?;
        match self.inner.wait_timeout(self.patience) {
            Some(end) => Ok(end?),
            None => {
                self.inner.kill();
                Ok(self.inner.wait()?)
            }
        }
    }

    /// Lets no vCPU run until [`Machine::resume`]. Devices end what they were asked to do; whoever waits for
    /// something of the guest's waits on. The guest's clock goes on: to the guest it leaps.
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn pause(&self) -> Result<(), Error> {
        Ok(self.inner.pause()?)
    }

    /// Lets the vCPUs run again.
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn resume(&self) -> Result<(), Error> {
        Ok(self.inner.resume()?)
    }

    /// Puts another process in the place of a device's, by the name that it has among
    /// [`Machine::processes`]. The guest does not notice. A program that was installed since the machine was
    /// started is the one that goes on. It counts as a death: of more than five within ten seconds the machine
    /// ends.
    ///
    /// # Errors
    /// If there is no such device, or none that may die, or the machine has ended.
    pub fn replace_device(&self, name: &str) -> Result<(), Error> {
        Ok(self.inner.replace_device(name)?)
    }

    /// A stream to the guest's agent, for a [`Guest`] in another program.
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn agent_stream(&self) -> io::Result<UnixStream> {
        let stream = self.inner.connect(wire::agent::PORT);
        stream.map_err(io::Error::other)
    }

    /// Ends the machine at once, as if its power failed. [`Machine::wait`] returns when its processes
    /// are gone.
    pub fn kill(&self) {
        self.inner.kill();
    }

    /// Presses the power button, for guests whose own init heeds it. The agent does not: use
    /// [`Machine::shutdown`].
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn power_button(&self) -> Result<(), Error> {
        Ok(self.inner.power_button()?)
    }

    /// Waits until the machine ends by itself.
    ///
    /// # Errors
    /// Why it ended, if not by its guest.
    pub fn wait(&self) -> Result<End, Error> {
        Ok(self.inner.wait()?)
    }

    /// Whether and how the machine has ended.
    ///
    /// # Errors
    /// Why it ended, if not by its guest.
    pub fn try_wait(&self) -> Result<Option<End>, Error> {
        let ended = self.inner.wait_timeout(Duration::ZERO);
        Ok(ended.transpose()?)
    }

    /// The VMM's counters.
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn stats(&self) -> Result<Stats, Error> {
        Ok(self.inner.stats()?)
    }

    /// The guest's terminal, if it was given one: [`Builder::terminal`].
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn terminal(&self) -> io::Result<Option<Terminal>> {
        let terminal = self.terminal.as_ref();
        terminal.map(Terminal::try_clone).transpose()
    }

    /// The machine's processes on this host, the VMM first.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessInfo> {
        self.inner.processes()
    }

    /// The ports of the host that lead to the guest, in the order in which they were asked for.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let machine = crumble::Machine::builder("host".parse()?)
    ///     .publish("0:80".parse()?)
    ///     .start()?;
    /// // Any port that was free.
    /// let stream = std::net::TcpStream::connect(machine.published()[0].host)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn published(&self) -> &[Published] {
        &self.published
    }

    /// What of this host the machine has to do without, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How long it took to find, fetch and open all that the machine is made from.
    #[must_use]
    pub const fn prepared(&self) -> Duration {
        self.prepared
    }

    /// When the machine reached which point, counted from when [`Machine::prepared`] was over.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.inner.timings()
    }
}

impl Deref for Machine {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}
