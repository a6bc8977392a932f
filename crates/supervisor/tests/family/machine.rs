//! The supervisor's side.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use supervisor::{Device, Dialer, Machine, Plan, Programs, Uplink};
use tempfile::TempDir;
use wire::net::{Addresses, Backend, Config, DialerConfig, Egress, Protocol, Publish, Verdict};

type Test = (&'static str, fn());

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[Test] = &[$((stringify!($name), $name)),*];
    };
}

tests![
    a_dialer_is_joined_to_its_device_and_holds_the_published_ports,
    a_network_device_that_is_killed_is_replaced_with_its_dialer,
    a_dialer_that_is_killed_is_replaced_with_its_device,
    a_network_device_that_dies_again_and_again_ends_the_machine,
    a_device_that_the_vmm_gave_up_is_killed_and_replaced,
    what_the_vmm_says_of_an_earlier_device_is_no_news,
    a_successor_that_cannot_start_is_one_more_death,
    a_change_of_name_servers_reaches_this_dialer_and_the_next,
    nothing_is_left_of_a_family,
];

/// Longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(20);

fn null() -> OwnedFd {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.unwrap().into()
}

/// A machine of stand-ins.
struct Family {
    machine: Machine,
    directory: TempDir,
    /// Set it to change the host's name servers.
    moved: Arc<AtomicBool>,
}

const SERVER: &str = "192.0.2.1:53";
const OTHER_SERVER: &str = "127.0.0.53:53";

impl Family {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let this = std::env::current_exe().unwrap();
        for component in ["vmm", "dev-net", "dialer", "dev-fs"] {
            let link = directory.path().join(format!("crumble-{component}"));
            std::os::unix::fs::symlink(&this, link).unwrap();
        }
        let moved = Arc::new(AtomicBool::new(false));
        let record = File::create(directory.path().join("record")).unwrap();
        let net = network(Arc::clone(&moved), record);
        let plan = Plan {
            programs: Programs::in_directory(directory.path()),
            kvm: null(),
            kernel: null(),
            initramfs: Vec::new(),
            cpus: 1,
            memory: 64 << 20,
            command_line: String::new(),
            devices: vec![share(), net],
            external: Vec::new(),
            vsock: None,
            console: None,
        };
        let family = Self {
            machine: Machine::start(plan).unwrap(),
            directory,
            moved,
        };
        family.eventually("the dialer said nothing", || family.record().len() == 1);
        family
    }

    /// What dialers have said to their devices.
    fn record(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("record")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pid(&self, name: &str) -> i32 {
        let processes = self.machine.processes();
        let found = processes.iter().find(|process| process.name == name);
        found.unwrap().pid
    }

    fn kill(&self, name: &str) {
        kill(Pid::from_raw(self.pid(name)), Signal::SIGKILL).unwrap();
    }

    /// How many network devices the VMM has been told of after the first.
    fn lives(&self) -> u64 {
        self.machine.stats().unwrap().exits["lives"]
    }

    #[track_caller]
    fn eventually(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done() {
            let end = self.machine.wait_timeout(Duration::ZERO);
            assert!(end.is_none(), "{what}: {end:?}");
            assert!(Instant::now() < deadline, "{what}: {:?}", self.record());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills a process of the network device and waits until both were replaced.
    #[track_caller]
    fn replaced_after(&self, end: impl FnOnce()) {
        let before = (self.pid("net"), self.pid("dialer"));
        let (said, lives) = (self.record().len(), self.lives());
        end();
        self.eventually("they were not replaced", || {
            self.record().len() > said && self.lives() == lives + 1
        });
        assert!(self.pid("net") != before.0 && self.pid("dialer") != before.1);
        for pid in [before.0, before.1] {
            assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "{pid}");
        }
    }

    /// Why the machine ended.
    #[track_caller]
    fn failure(&self) -> String {
        let end = self.machine.wait_timeout(LIMIT).expect("it goes on");
        end.unwrap_err().to_string()
    }
}

fn share() -> Device {
    let config = wire::fs::Config {
        tag: "root".to_owned(),
        read_only: true,
        cache: wire::fs::Cache::Never,
        writeback: false,
        xattr: false,
        submounts: false,
        acl: false,
        ids: wire::fs::Ids::Same,
    };
    Device::fs(&config, null()).unwrap()
}

fn network(moved: Arc<AtomicBool>, record: File) -> Device {
    let config = Config {
        mac: [2; 6],
        mtu: 1500,
        pairs: 1,
        backend: Backend::User(Addresses::default()),
        sending: None,
        receiving: None,
    };
    let server: SocketAddr = SERVER.parse().unwrap();
    let other: SocketAddr = OTHER_SERVER.parse().unwrap();
    let publish = Publish {
        protocol: Protocol::Tcp,
        port: 80,
    };
    let published = || TcpListener::bind("127.0.0.1:0").unwrap().into();
    let dialer = Dialer {
        config: DialerConfig {
            egress: Egress {
                rules: Vec::new(),
                otherwise: Verdict::Deny,
            },
            nameservers: vec![server],
            publish: vec![publish; 2],
        },
        published: vec![published(), published()],
        nameservers: Box::new(move || moved.swap(false, Ordering::SeqCst).then(|| vec![other])),
    };
    Device::net(&config, Uplink::User(dialer), Some(record.into())).unwrap()
}

fn a_dialer_is_joined_to_its_device_and_holds_the_published_ports() {
    let family = Family::start();
    let names: Vec<_> = family.machine.processes();
    let names: Vec<_> = names.iter().map(|process| process.name.as_str()).collect();
    assert_eq!(names, ["vmm", "fs-root", "net", "dialer"]);
    assert_eq!(family.record(), [format!("2 ports, [{SERVER}]")]);
}

fn a_network_device_that_is_killed_is_replaced_with_its_dialer() {
    let family = Family::start();
    for _ in 0..3 {
        family.replaced_after(|| family.kill("net"));
    }
    assert_eq!(family.record(), vec![format!("2 ports, [{SERVER}]"); 4]);
}

fn a_dialer_that_is_killed_is_replaced_with_its_device() {
    let family = Family::start();
    family.replaced_after(|| family.kill("dialer"));
    family.replaced_after(|| {
        let both = [family.pid("net"), family.pid("dialer")];
        // The second may have been ended for the first's sake already.
        let _ = both.map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
    });
}

fn a_network_device_that_dies_again_and_again_ends_the_machine() {
    let family = Family::start();
    for _ in 0..5 {
        family.replaced_after(|| family.kill("net"));
    }
    family.kill("net");
    let failure = family.failure();
    assert!(failure.contains("net was killed by SIGKILL"), "{failure}");
}

/// The VMM does not close its connection here, so the device would live on.
fn a_device_that_the_vmm_gave_up_is_killed_and_replaced() {
    let family = Family::start();
    family.replaced_after(|| family.machine.power_button().unwrap());
}

fn what_the_vmm_says_of_an_earlier_device_is_no_news() {
    let family = Family::start();
    family.replaced_after(|| family.kill("net"));
    let pid = family.pid("net");
    family.machine.power_button().unwrap();
    thread::sleep(Duration::from_millis(600));
    assert_eq!((family.pid("net"), family.lives()), (pid, 1));
}

fn a_successor_that_cannot_start_is_one_more_death() {
    let family = Family::start();
    let program = family.path("crumble-dialer");
    fs::remove_file(&program).unwrap();
    fs::copy("/bin/false", &program).unwrap();
    family.kill("dialer");
    let failure = family.failure();
    // It may end before or after it was told what to do.
    assert!(failure.contains("dialer"), "{failure}");
}

fn a_change_of_name_servers_reaches_this_dialer_and_the_next() {
    let family = Family::start();
    family.moved.store(true, Ordering::SeqCst);
    let told = format!("changed, [{OTHER_SERVER}]");
    family.eventually("nobody told it", || family.record().contains(&told));
    family.replaced_after(|| family.kill("dialer"));
    let last = family.record().pop().unwrap();
    assert_eq!(last, format!("2 ports, [{OTHER_SERVER}]"));
}

fn nothing_is_left_of_a_family() {
    let family = Family::start();
    family.replaced_after(|| family.kill("net"));
    let processes = family.machine.processes();
    let pids: Vec<_> = processes.iter().map(|process| process.pid).collect();
    drop(family);
    for pid in pids {
        assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "{pid}");
    }
}
