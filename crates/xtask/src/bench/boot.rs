//! From start to power-off.
//!
//! Three ways with the same kernel, in turn, so that what disturbs one disturbs the others: QEMU's
//! microvm and our VMM with one initramfs that powers off at init, no devices, and a command in a
//! machine with a root, an agent and all.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use kernel::cpio::Archive;
use supervisor::{Machine, Plan, Programs};

use super::{
    Guest,
    series::{Series, timed},
};
use crate::error::{Error, Result, file};

/// The machines' memory.
const MEMORY: u64 = 256 << 20;

/// The same for all: quiet, and with nothing to probe for.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 reboot=acpi tsc=reliable no_timer_check random.trust_cpu=on";

/// No boot takes that long.
const LIMIT: Duration = Duration::from_secs(60);

/// Prints the table.
pub(crate) fn print(guests: &[Guest], runs: u32, bin_dir: &Path) -> Result<()> {
    let initramfs = Temporary::new(&power_off_at_init()?)?;
    println!("Boot to power-off, 1 vCPU, 256 MiB, wall time, median of {runs} (range)\n");
    for guest in guests {
        let mut rival = Series::default();
        let mut bare = Series::default();
        let mut whole = Series::default();
        // The first round warms the caches.
        for round in 0..=runs {
            let times = (
                timed(&mut microvm(&guest.kernel.vmlinux, &initramfs.0))?,
                vmm(&guest.kernel.vmlinux, &initramfs.0, bin_dir)?,
                timed(&mut run_true(guest, bin_dir))?,
            );
            if round > 0 {
                rival.add(times.0);
                bare.add(times.1);
                whole.add(times.2);
            }
        }
        println!("{} kernel ({})", guest.name, guest.kernel.release);
        println!("| | wall time | of QEMU's | aim |\n|---|---|---|---|");
        println!("| QEMU microvm | {} | 1 | |", rival.show());
        let of = |series: &Series| format!("{} | {:.2}", series.show(), series.times(&rival));
        println!("| crumble-vmm, no devices | {} | 0.7 |", of(&bare));
        println!("| `crumble run busybox -- true` | {} | 1.2 |\n", of(&whole));
    }
    Ok(())
}

fn microvm(vmlinux: &Path, initramfs: &Path) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "microvm", "-accel", "kvm", "-cpu", "host"])
        .args(["-smp", "1", "-m", &format!("{}M", MEMORY >> 20)])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-kernel"])
        .arg(vmlinux)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", COMMAND_LINE]);
    qemu
}

/// Our VMM in its jail, without a device.
fn vmm(vmlinux: &Path, initramfs: &Path, bin_dir: &Path) -> Result<Duration> {
    let failed = |why: String| Error::Measure {
        what: "crumble-vmm".to_owned(),
        why,
    };
    let begin = Instant::now();
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    let plan = Plan {
        programs: Programs::in_directory(bin_dir),
        kvm: kvm.map_err(file("open", "/dev/kvm"))?.into(),
        kernel: open(vmlinux)?,
        initramfs: vec![open(initramfs)?],
        cpus: 1,
        memory: MEMORY,
        command_line: COMMAND_LINE.to_owned(),
        devices: Vec::new(),
        external: Vec::new(),
        vsock: None,
        console: None,
    };
    let machine = Machine::start(plan).map_err(|error| failed(error.to_string()))?;
    match machine.wait_timeout(LIMIT) {
        Some(Ok(wire::vmm::End::PowerOff)) => Ok(begin.elapsed()),
        Some(Ok(end)) => Err(failed(end.to_string())),
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed("it did not power off".to_owned())),
    }
}

fn run_true(guest: &Guest, bin_dir: &Path) -> Command {
    let mut crumble = Command::new(bin_dir.join("crumble"));
    crumble.args(["run", "--memory", "256M"]);
    if let Some(path) = &guest.path {
        crumble.arg("--kernel").arg(path);
    }
    crumble.args(["busybox", "--", "true"]);
    crumble
}

/// An initramfs whose init powers off.
fn power_off_at_init() -> Result<Vec<u8>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| fs::read(path).ok())
        .ok_or_else(|| Error::Other("there is no /bin/busybox".into()))?;
    let archive = || -> kernel::Result<Vec<u8>> {
        let mut archive = Archive::new();
        archive.directory("dev", 0o755)?;
        archive.character_device("dev/console", 0o600, (5, 1))?;
        archive.file("busybox", 0o755, &busybox)?;
        archive.file("init", 0o755, b"#!/busybox sh\nexec /busybox poweroff -f\n")?;
        archive.finish()
    };
    archive().map_err(|error| testbed::Error::from(error).into())
}

fn open(path: &Path) -> Result<OwnedFd> {
    Ok(File::open(path).map_err(file("open", path))?.into())
}

/// A file that is removed with this value.
struct Temporary(PathBuf);

impl Temporary {
    fn new(bytes: &[u8]) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("crumble-bench-{}", std::process::id()));
        fs::write(&path, bytes).map_err(file("write", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
