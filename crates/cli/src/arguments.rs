//! The command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::styling::Styles};
use crumble::{
    Cpus, Disk, External, Hostname, Image, Init, Interface, InterfaceAddress, MachineSpec, Memory,
    Name, Network, Publish, Pull, Reference, Share, Volume,
    image::{Platform, Policy},
};
use detached::Restart;
use machine_file::MachineFile;

/// Runs commands in microVMs whose devices are jailed processes.
#[derive(Debug, Parser)]
#[command(name = "crumble", version, styles = Styles::styled())]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a command in a new machine
    Run(Box<Run>),
    /// Run the machine that a file describes
    Up(Box<Up>),
    /// Say what is wrong with the file of a machine
    Validate {
        /// Print the JSON schema of such files, for editors
        #[arg(long)]
        schema: bool,
        /// The file
        #[arg(required_unless_present = "schema")]
        file: Option<PathBuf>,
    },
    /// Build an image from a Dockerfile
    Build(Build),
    /// Describe a machine, for `crumble start`
    Create(Box<Run>),
    /// Start machines that do not run
    Start {
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// Ask machines to end, and end them when the time is up
    Stop {
        /// How long their commands have, in seconds
        #[arg(short, long, value_name = "SECONDS", default_value = "10")]
        time: u64,
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// Stop machines that run, and start them
    Restart {
        /// How long their commands have, in seconds
        #[arg(short, long, value_name = "SECONDS", default_value = "10")]
        time: u64,
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// End machines at once, or send their commands a signal
    Kill {
        /// The signal, by name or number; SIGKILL is as if the power failed
        #[arg(short, long, default_value = "KILL", value_parser = signal)]
        signal: i32,
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// Let none of the vCPUs of machines run
    Pause {
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// Let them run again
    Unpause {
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// Devices of machines that run
    #[command(subcommand)]
    Device(Devices),
    /// Wait until machines have ended, and print their exit codes
    Wait {
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// Run another command in a machine
    Exec(Exec),
    /// Show what a machine's command writes from now on, and type to it
    #[command(after_help = ATTACH_HELP)]
    Attach {
        /// The machine
        name: Name,
    },
    /// Print what a machine's command wrote
    Logs(Logs),
    /// List machines that run by themselves
    Ps(Ps),
    /// Show what a machine costs
    Stats {
        /// Its name
        name: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make an image of a machine that is kept under a name
    Commit {
        /// The machine, which must not run
        name: Name,
        /// What to call the image
        image: Reference,
    },
    /// Remove machines, with all that is kept of them
    Rm {
        /// End those that run
        #[arg(short, long)]
        force: bool,
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// List and remove directories that are kept for guests
    #[command(subcommand)]
    Volume(Volumes),
    /// Fetch, list, send and remove images
    #[command(subcommand)]
    Image(Images),
    /// Say what this host can do, and what is missing
    Doctor,
    /// Show what the kernel says of a machine's processes, beside their policies
    Inspect(Inspect),
    /// Make, remove and list TAP devices, for `crumble run --network tap=NAME`
    #[command(subcommand)]
    Network(Tap),
    /// Serve a device of ours, in its jail, to another VMM
    Serve(Serve),
    /// Be the keeper of a machine
    #[command(hide = true)]
    Keep {
        /// The machine
        name: Name,
    },
}

fn signal(text: &str) -> Result<i32, String> {
    detached::signal_number(text).ok_or_else(|| format!("there is no signal {text}"))
}

const SERVE_HELP: &str = "\
Examples:
  crumble serve --socket /tmp/fs.sock fs . --tag src
  crumble serve --socket /tmp/disk.sock block disk.img
  crumble serve --socket /tmp/net.sock net

Any VMM with vhost-user takes fs and block; crumble run --device net,socket=/tmp/net.sock,queues=3
takes a network, and QEMU does not: it speaks of rings too early. QEMU needs guest memory that can be shared:
  qemu-system-x86_64 -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem
    -m 1G -chardev socket,id=fs,path=/tmp/fs.sock -device vhost-user-fs-pci,chardev=fs,tag=src
    -chardev socket,id=disk,path=/tmp/disk.sock -device vhost-user-blk-pci,chardev=disk

Each VMM that connects gets a process of its own, one after the other, until this is asked to end.";

/// What to serve, and where.
#[derive(Debug, Clone, Args)]
#[command(after_help = SERVE_HELP)]
pub(crate) struct Serve {
    /// Where to listen
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,

    /// End after the first VMM
    #[arg(long)]
    pub(crate) once: bool,

    #[command(subcommand)]
    pub(crate) service: Service,
}

/// What to serve.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Service {
    /// A directory as a file system
    Fs {
        /// The directory
        directory: PathBuf,
        /// What the guest calls it, where the VMM does not say so itself
        #[arg(long, default_value = "crumble")]
        tag: String,
        /// Forbid writing
        #[arg(long)]
        read_only: bool,
    },
    /// A file as a disk
    Block {
        /// The file, of a multiple of 512 bytes
        file: PathBuf,
        /// Forbid writing
        #[arg(long)]
        read_only: bool,
    },
    /// A network, with DHCP
    Net {
        /// user or tap=NAME, with settings after commas
        #[arg(long, value_name = "NETWORK", default_value = "user")]
        network: Network,
        /// Lead ports of the host to the guest
        #[arg(short, long, value_name = "[[ADDRESS:]HOST:]GUEST[/udp]")]
        publish: Vec<Publish>,
    },
}

/// What to do with volumes.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Volumes {
    /// List them
    Ls,
    /// Remove volumes, with all that is in them
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
}

const ATTACH_HELP: &str = "\
The command reads what is typed if the machine was started with -i or -t; with -t each key goes to it,
and ^P ^Q leaves. Without -t ^C leaves. The machine goes on in any case.";

const EXEC_HELP: &str = "\
Examples:
  crumble exec web ps aux
  crumble exec -it web sh
  tar c . | crumble exec -i web tar x -C /srv

The command has the environment, the user and the directory of the machine's own, unless it is told
others. Exit codes are those of `crumble run`.";

/// What to run in a machine that runs.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXEC_HELP)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) how: How,

    /// The machine
    pub(crate) name: Name,

    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// How a command is run.
#[derive(Debug, Clone, Args)]
pub(crate) struct How {
    /// Set a variable, or with K alone pass the caller's on
    #[arg(short, long, value_name = "K[=V]")]
    pub(crate) env: Vec<OsString>,

    /// Working directory in the guest
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,

    /// User and group in the guest, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,

    /// Pass standard input on to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
}

/// What to print of a log.
#[derive(Debug, Clone, Args)]
pub(crate) struct Logs {
    /// Go on until the machine ends
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Begin each line with its time
    #[arg(short, long)]
    pub(crate) timestamps: bool,

    /// Only so many of the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,

    /// The machine
    pub(crate) name: Name,
}

const RESTART_HELP: &str = "\
The guest does not notice: what it asked the device for and was not answered is done by the next process. A program
that was installed since is the one that goes on. `crumble inspect MACHINE` names the devices; a share's
cannot be restarted.

  crumble device restart web net";

/// What to do with devices.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Devices {
    /// Put another process in the place of a device's
    #[command(after_help = RESTART_HELP)]
    Restart {
        /// The machine
        name: Name,
        /// The device
        device: String,
    },
}

const PS_HELP: &str = "\
Listed are the machines of `crumble run --detach` and `crumble create`. `crumble inspect` lists all that
run, with those of `crumble run` and of programs with the library.";

/// What to list.
#[derive(Debug, Clone, Args)]
#[command(after_help = PS_HELP)]
pub(crate) struct Ps {
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Print names only
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const RUN_EXAMPLES: &str = "\
Examples:
  crumble run host -- uname -a                 the host's own programs, in a guest
  crumble run --share .:/src --workdir /src host -- make test
  crumble run -it busybox                      a shell
  crumble run --init systemd debian-systemd -- systemctl is-system-running --wait
  crumble run -it --init systemd debian-systemd   a login, until the guest powers off
  crumble run alpine -- cat /etc/os-release    an image of a registry, fetched if it is not here
  crumble run --cpus 4 --memory 2G ./rootfs -- /bin/app
  crumble run --disk data.img host -- mount /dev/vda /mnt
  crumble run -p 8080:80 host -- python3 -m http.server 80
  crumble run --network user,deny=10.0.0.0/8 host -- curl https://example.org
  crumble run -d --name web -p 8080:80 nginx   goes on by itself; `crumble ps`, `logs`, `exec`, `stop`

The root file system is read-only below: what a command writes to it is gone with the machine, unless
it has a --name, with which the next one finds it again. `crumble commit NAME IMAGE` makes an image of
that, `crumble rm NAME` removes it.
What it writes to a --share or a --disk without :ro is written to the host. A disk that may be written
is one machine's at a time.

Networks (--network):
  user                        through sockets of the host, as any program of yours: the default. The
                              guest is 10.0.2.15 and has IPv6, and needs no rights. It reaches
                              neither the host's loopback addresses nor link-local ones, where clouds
                              tell a host its secrets.
  user,allow=192.0.2.0/24:443 only that network, and only that port; [2001:db8::/32]:80-89 for IPv6,
                              * for both; several, of which the first that applies decides
  user,deny=10.0.0.0/8        everything else
  user,host=5432              port 5432 of the host's loopback as well, as host.internal
  tap=tap0                    a TAP device, as it is; address=192.0.2.9/24, gateway=192.0.2.1 and
                              dns=192.0.2.1 are what the guest sets up
  none                        no network device; shares, commands and their streams need none
  After any but none: mtu=1500, rate=100M (bits a second), burst=64k (bytes), packets=50k (a second)

Ports (-p): 8080:80 leads port 8080 of this host's loopback to the guest's port 80; 0.0.0.0:8080:80
is for everybody, [::1]:8080:80 for IPv6, 53:53/udp for UDP, 8000-8009:8000-8009 for ten of them. 80
alone, or 0:80, picks a port and prints it.

Exit codes:
  the command's own, or 128 + N if signal N ended it
  124  the command ran longer than --timeout
  125  the machine could not be started, or ended before the command
  126  the command cannot be executed
  127  the command does not exist";

/// What to run, and in what.
#[derive(Debug, Clone, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct Run {
    #[command(flatten)]
    machine: Machine,

    #[command(flatten)]
    life: Life,

    /// host, busybox, a directory (with a leading / or ./), a name as in debian:bookworm, oci:DIR,
    /// oci-archive:FILE or docker-archive:FILE
    image: Image,

    /// The command and its arguments; the image's, or a shell, if there is none
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What a machine is besides its image.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The machine")]
struct Machine {
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: Cpus,

    /// Memory of the guest, as in 512M or 2G
    #[arg(short, long, value_name = "SIZE", default_value = "512M")]
    memory: Memory,

    /// Give memory that the guest's kernel has free back to the host
    #[arg(long)]
    free_page_reporting: bool,

    /// Show a directory of the host to the guest; :ro forbids writing
    #[arg(short = 'v', long = "share", value_name = "HOST:GUEST[:ro]")]
    shares: Vec<Share>,

    /// A directory that is kept for guests under a name, and made if it is not there; :ro forbids writing
    #[arg(long = "volume", value_name = "NAME:GUEST[:ro]")]
    volumes: Vec<Volume>,

    /// A file of the host as a disk of the guest, the first as /dev/vda; :ro forbids writing
    #[arg(long = "disk", value_name = "FILE[:ro]")]
    disks: Vec<Disk>,

    /// A device whose vhost-user back end listens on a socket: net, block, rng, fs,tag=NAME and others
    #[arg(long = "device", value_name = "KIND,socket=PATH")]
    external: Vec<External>,

    /// How the guest is connected: none, user or tap=NAME, with settings after commas
    #[arg(long, value_name = "NETWORK", default_value = "user")]
    network: Network,

    /// Lead ports of the host to the guest
    #[arg(short, long, value_name = "[[ADDRESS:]HOST:]GUEST[/udp]")]
    publish: Vec<Publish>,

    /// Start the image's own init as process 1: systemd, or an absolute path
    #[arg(long, value_name = "INIT")]
    init: Option<Init>,

    /// Host name of the guest
    #[arg(long, value_name = "NAME")]
    hostname: Option<Hostname>,

    /// A kernel file, ELF or bzImage with its drivers built in, instead of the distribution's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Keep what the guest writes under this name, for the next run with it and the same image
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
}

/// How long a machine is there, and what is seen of it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "How it runs")]
pub(crate) struct Life {
    #[command(flatten)]
    pub(crate) how: How,

    /// Run this instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<OsString>,

    /// Return when the command runs, and print the machine's name
    #[arg(short, long)]
    pub(crate) detach: bool,

    /// Start a detached machine anew when it has ended: no, on-failure or always
    #[arg(long, value_name = "WHEN", default_value = "no")]
    pub(crate) restart: Restart,

    /// Keep nothing of the machine when it has ended
    #[arg(long)]
    pub(crate) rm: bool,

    /// End the machine after this long, as in 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,

    #[command(flatten)]
    pub(crate) pull: PullOptions,

    /// Write what the guest sends and receives to a file for Wireshark
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,

    /// Show the guest's serial console on standard error
    #[arg(long)]
    pub(crate) console: bool,

    /// Print on standard error how long each phase took
    #[arg(long)]
    pub(crate) timings: bool,

    /// Print on standard error what the machine's processes cost, and the VMM's exits by reason
    #[arg(long)]
    pub(crate) stats: bool,
}

const UP_HELP: &str = "\
A machine in a file has the words of `crumble run`:
  image = \"debian:bookworm\"
  command = [\"python3\", \"-m\", \"http.server\", \"80\"]
  cpus = 2
  memory = \"1G\"
  publish = [\"8080:80\"]
  env = { LANG = \"C.UTF-8\" }
  [[share]]
  host = \"src\"
  guest = \"/src\"
  read-only = true
  [[disk]]
  path = \"data.img\"
  [[device]]
  kind = \"rng\"
  socket = \"/run/rng.sock\"
and entrypoint, workdir, user, network, kernel, hostname, init, name. Paths are relative to the file.
`crumble validate` says what is wrong with one, `crumble validate --schema` is for editors.";

/// Which file's machine to run, and how.
#[derive(Debug, Clone, Args)]
#[command(after_help = UP_HELP)]
pub(crate) struct Up {
    #[command(flatten)]
    life: Life,

    /// The file
    file: PathBuf,

    /// The command and its arguments, instead of the file's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// A machine, what runs in it, and how.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) spec: MachineSpec,
    /// The machine's, also if nothing is kept under it.
    pub(crate) name: Option<Name>,
    pub(crate) life: Life,
    pub(crate) command: Vec<OsString>,
}

impl Task {
    /// Whether nothing of ours runs in the machine: its init does, until it powers off, and whoever runs
    /// the machine is at its terminal.
    pub(crate) const fn runs_by_itself(&self) -> bool {
        self.spec.terminal
    }

    fn new(mut spec: MachineSpec, life: Life, command: Vec<OsString>) -> Self {
        let name = spec.name.take();
        // A detached machine has a name in any case, and keeps what there is to be kept: what is
        // written over an image.
        let is_image = !matches!(
            spec.image,
            Image::Host | Image::Busybox | Image::Directory(_)
        );
        let keeps = !life.rm && (is_image || !life.detach);
        spec.name = name.clone().filter(|_| keeps);
        spec.terminal = spec.init.is_some() && command.is_empty() && life.entrypoint.is_none();
        Self {
            spec,
            name,
            life,
            command,
        }
    }
}

impl Run {
    /// As with `--detach`.
    pub(crate) fn detach(&mut self) {
        self.life.detach = true;
    }
}

impl Up {
    /// As with `--detach`.
    pub(crate) fn detach(&mut self) {
        self.life.detach = true;
    }
}

impl From<Run> for Task {
    fn from(run: Run) -> Self {
        let machine = run.machine;
        let spec = MachineSpec {
            cpus: machine.cpus,
            memory: machine.memory,
            shares: machine.shares,
            volumes: machine.volumes,
            disks: machine.disks,
            external: machine.external,
            network: machine.network,
            publish: machine.publish,
            kernel: machine.kernel,
            hostname: machine.hostname.unwrap_or_default(),
            init: machine.init,
            terminal: false,
            free_page_reporting: machine.free_page_reporting,
            name: machine.name,
            image: run.image,
        };
        Self::new(spec, run.life, run.command)
    }
}

impl TryFrom<Up> for Task {
    type Error = machine_file::Error;

    fn try_from(up: Up) -> Result<Self, machine_file::Error> {
        let file = MachineFile::read(&up.file)?;
        let mut life = up.life;
        let variables = file
            .env
            .iter()
            .map(|(key, value)| format!("{key}={value}").into());
        // The last one counts.
        life.how.env = variables.chain(life.how.env).collect();
        life.how.workdir = life.how.workdir.or(file.workdir);
        life.how.user = life.how.user.or(file.user);
        life.entrypoint = life.entrypoint.or(file.entrypoint.map(OsString::from));
        let command = match up.command.is_empty() {
            true => file.command.into_iter().map(OsString::from).collect(),
            false => up.command,
        };
        Ok(Self::new(file.spec, life, command))
    }
}

/// Which image of a name, and when to fetch it.
#[derive(Debug, Clone, Args)]
pub(crate) struct PullOptions {
    /// When to ask the registry for the image: missing, always or never
    #[arg(long = "pull", value_name = "WHEN", default_value = "missing")]
    pub(crate) policy: When,

    #[command(flatten)]
    pub(crate) machine: For,
}

/// The machine that an image is for.
#[derive(Debug, Clone, Args)]
pub(crate) struct For {
    /// The machine that the image is for, as in linux/arm64; this host's if it is not given
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

impl For {
    pub(crate) fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::of_host)
    }
}

impl PullOptions {
    pub(crate) fn pull(&self) -> Pull {
        Pull {
            platform: self.machine.platform(),
            policy: match self.policy {
                When::Missing => Policy::Missing,
                When::Always => Policy::Always,
                When::Never => Policy::Never,
            },
        }
    }
}

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// If the image is not here
    Missing,
    /// Each time
    Always,
    /// Not at all
    Never,
}

const BUILD_HELP: &str = "\
Examples:
  crumble build -t demo .                      Dockerfile in this directory
  crumble build -t demo -f other/Dockerfile --build-arg VERSION=3 src
  crumble run demo
  crumble image push demo registry.example.org/demo:1

Each RUN is a command in a machine of its own; COPY and ADD need none. What an instruction made is
used again as long as it, the files that it copies and all before it are the same. What commands print
goes to standard error, the digest of the image to standard output.

RUN --mount takes type=cache, and type=secret for files in /run/secrets and variables.";

/// What to build.
#[derive(Debug, Clone, Args)]
#[command(after_help = BUILD_HELP)]
pub(crate) struct Build {
    /// What to call the image
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: Reference,

    /// The Dockerfile; the one in CONTEXT if it is not given
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// A value for an ARG, or with K alone the caller's variable
    #[arg(long = "build-arg", value_name = "K[=V]")]
    pub(crate) arguments: Vec<OsString>,

    /// Build this stage instead of the last one
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    /// A file for RUN --mount=type=secret
    #[arg(long = "secret", value_name = "id=ID,src=FILE", value_parser = secret)]
    pub(crate) secrets: Vec<(String, PathBuf)>,

    /// Do everything again
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// Number of virtual CPUs of the machines that commands run in
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) cpus: Cpus,

    /// Memory of those machines, as in 512M or 2G
    #[arg(short, long, value_name = "SIZE", default_value = "512M")]
    pub(crate) memory: Memory,

    #[command(flatten)]
    pub(crate) pull: PullOptions,

    /// The directory that COPY and ADD take files from
    pub(crate) context: PathBuf,
}

/// `id=ID,src=FILE`, as docker has it.
fn secret(text: &str) -> Result<(String, PathBuf), String> {
    let field = |names: &[&str]| {
        let mut fields = text.split(',').filter_map(|field| field.split_once('='));
        fields
            .find(|(name, _)| names.contains(name))
            .map(|(_, value)| value)
    };
    match (field(&["id"]), field(&["src", "source"])) {
        (Some(id), Some(source)) => Ok((id.to_owned(), source.into())),
        _ => Err("write id=ID,src=FILE".to_owned()),
    }
}

const IMAGE_HELP: &str = "\
Examples:
  crumble image pull debian:bookworm           fetch, or fetch again
  crumble image ls
  crumble image save debian:bookworm -o debian.tar
  crumble image import docker-archive:image.tar mine:1
  crumble image push mine:1 localhost:5000/mine:1
  crumble image prune                          remove what no name leads to

Names are those of docker and podman: alpine is docker.io/library/alpine:latest. Who you are to a
registry is taken from ~/.docker/config.json, as `docker login` and `podman login` write it, and its
credential helpers. Mirrors, registries with certificates of your own, and those without TLS are named in
~/.config/crumble/registries.toml:
  [[registry]]
  name = \"docker.io\"
  mirrors = [\"mirror.example.org/hub\"]
  [[registry]]
  name = \"registry.internal\"
  ca = \"/etc/ssl/internal.pem\"
  [[registry]]
  name = \"registry.local:5000\"
  insecure = true";

/// What to do with images.
#[derive(Debug, Subcommand)]
#[command(after_help = IMAGE_HELP)]
pub(crate) enum Images {
    /// List the images that are here
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch an image from its registry
    Pull {
        /// Its name
        name: Reference,
        #[command(flatten)]
        machine: For,
    },
    /// Send an image to a registry
    Push {
        /// Its name here
        name: Reference,
        /// Where to; by its own name if it is not given
        target: Option<Reference>,
        #[command(flatten)]
        machine: For,
    },
    /// Take an image from oci:DIR, oci-archive:FILE or docker-archive:FILE
    Import {
        /// Where it is
        source: Image,
        /// What to call it; what it is called there if that is not given
        name: Option<Reference>,
        #[command(flatten)]
        machine: For,
    },
    /// Take images from an archive that docker, podman, skopeo or `crumble image save` has written
    Load {
        /// The file; standard input if it is not given
        #[arg(short, long, value_name = "FILE")]
        input: Option<PathBuf>,
        #[command(flatten)]
        machine: For,
    },
    /// Write the root of an image, all layers in one, as a tar archive
    Export {
        /// Its name
        name: Reference,
        /// The file; standard output if it is not given
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        machine: For,
    },
    /// Write an image to an archive
    Save {
        /// Its name
        name: String,
        /// The file; standard output if it is not given
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// What kind of archive
        #[arg(long, value_name = "FORMAT", default_value = "oci")]
        format: SaveFormat,
        #[command(flatten)]
        machine: For,
    },
    /// Give an image another name as well
    Tag {
        /// Its name
        name: String,
        /// The other one
        new: Reference,
    },
    /// Print the manifest and the configuration of an image, as JSON
    Inspect {
        /// Its name
        name: String,
        #[command(flatten)]
        machine: For,
    },
    /// Forget names of images; what they lead to stays until `crumble image prune`
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove what no name leads to, and what was fetched in part
    Prune,
}

/// Kinds of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    /// An OCI layout, as skopeo and podman read it
    Oci,
    /// What `docker load` reads
    Docker,
}

const INSPECT_HELP: &str = "\
MACHINE is the name of a machine that runs by itself, or the process id of a `crumble run`, of a
program with the library, or of any component of a machine (`ps` of the host shows them as crumble-vmm,
crumble-dev-fs and so on). If a program holds several machines, all of them are shown. Without MACHINE,
your running machines are listed; root's list has everybody's.

Everything is read back from /proc, and compared with the component's policy. What you have no right
to see is \"not visible to you\" and is not judged. A machine that is still being started has not
closed its jails yet, and falls short until it has.

Exit codes:
  0    nothing that was judged falls short of its policy
  1    something does
  2    the arguments make no sense
  125  there is no such process or no such machine, or nothing can be read";

/// Which machine to look at, and how to say it.
#[derive(Debug, Clone, Args)]
#[command(after_help = INSPECT_HELP)]
pub(crate) struct Inspect {
    /// Name or process id of the machine; without it, running machines are listed
    #[arg(value_name = "MACHINE")]
    pub(crate) machine: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const CREATE_HELP: &str = "\
Examples:
  sudo crumble network create tap0 --bridge br0         a port of a bridge that exists
  sudo crumble network create tap0 --address 10.9.0.1/24 --address fd09::1/64
                                                        this host's own end of it
  crumble run --network tap=tap0,address=10.9.0.2/24,gateway=10.9.0.1 host -- ping -c 1 10.9.0.1

The device is there until it is removed, or the host is started anew. Its user needs no rights to
run machines on it. It takes the program ip, of the package iproute2.";

/// TAP devices.
#[derive(Debug, Subcommand)]
pub(crate) enum Tap {
    /// Make a TAP device and bring it up; it takes root's rights
    Create(Create),
    /// Remove a TAP device, which its user may do too
    Rm {
        /// Its name
        name: Interface,
    },
    /// List the TAP devices of this host
    Ls,
}

/// What TAP device to make.
#[derive(Debug, Args)]
#[command(after_help = CREATE_HELP)]
pub(crate) struct Create {
    /// Its name, of at most 15 bytes
    pub(crate) name: Interface,

    /// Make it a port of a bridge
    #[arg(long, value_name = "BRIDGE", conflicts_with = "addresses")]
    pub(crate) bridge: Option<Interface>,

    /// Give this host an address on it; several are possible
    #[arg(long = "address", value_name = "ADDRESS/PREFIX")]
    pub(crate) addresses: Vec<InterfaceAddress>,

    /// Who may run machines on it, by name or number; without it you, or who called sudo
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
}
