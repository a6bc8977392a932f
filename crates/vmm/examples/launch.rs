//! Runs a machine of a kernel and an initramfs, without devices, under the smallest supervisor
//! there can be, and tells how it ended and when.
//!
//! ```text
//! launch VMM KERNEL INITRAMFS... [--cpus N] [--memory MIB] [--command-line TEXT] [--console] [--press SECONDS]
//! ```
//!
//! `--press` presses the power button that long after the machine was started.
//! VMM is the program `crumble-vmm`, KERNEL an ELF `vmlinux`.

#![expect(clippy::print_stdout, reason = "this is a program's output")]

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use handoff::Channel;
use wire::vmm::{Config, Event, Request};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Options {
    vmm: String,
    kernel: String,
    initramfs: Vec<String>,
    cpus: u8,
    memory: u64,
    command_line: String,
    console: bool,
    press: Option<u64>,
}

fn main() -> Result<()> {
    let options = options()?;
    let started = Instant::now();
    let (ours, theirs) = Channel::pair()?;
    let program = File::open(&options.vmm)?;
    let (mut console, console_end) = io::pipe()?;
    let _vmm = jailer::spawn(jailer::Launch {
        policy: policy::component("vmm").ok_or("no policy of this name")?,
        program: program.as_fd(),
        title: "crumble-vmm: launch",
        stderr: io::stderr().as_fd(),
        channel: theirs,
    })?;
    start(&options, &ours, console_end.into())?;
    handoff::await_ready(&ours, Duration::from_secs(30))?;
    let ready = started.elapsed();
    let show = options.console;
    let reader = thread::spawn(move || copy(&mut console, show));
    if let Some(seconds) = options.press {
        let presser = ours.try_clone()?;
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(seconds));
            presser.send(&Request::PowerButton, &[])
        });
    }
    let mut times = (0, 0);
    while let Some((event, _)) = ours.receive::<Event>()? {
        match event {
            Event::Started {
                loaded_at,
                entered_at,
            } => times = (loaded_at, entered_at),
            Event::Ended(end) => {
                let total = started.elapsed();
                println!(
                    "{end}: ready {ready:.1?}, loaded {} us, entered {} us, ended {total:.1?}",
                    times.0, times.1
                );
                break;
            }
            Event::Stats(_) | Event::DeviceLost { .. } | Event::DeviceFailed { .. } => {
                println!("{event:?}")
            }
        }
    }
    drop(ours);
    let _ = reader.join();
    Ok(())
}

fn start(options: &Options, channel: &Channel, console: OwnedFd) -> Result<()> {
    let initramfs = 0..options.initramfs.len();
    let config = Config {
        cpus: options.cpus,
        memory: options.memory << 20,
        command_line: options.command_line.clone(),
        initramfs: initramfs
            .map(|index| format!("initramfs-{index}"))
            .collect(),
        console: true,
        devices: Vec::new(),
    };
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    let kernel = File::open(&options.kernel)?;
    let archives: io::Result<Vec<File>> = options.initramfs.iter().map(File::open).collect();
    let archives = archives?;
    let mut resources = vec![
        ("kvm".to_owned(), kvm.as_fd()),
        ("kernel".to_owned(), kernel.as_fd()),
        ("console".to_owned(), console.as_fd()),
    ];
    let named = config.initramfs.iter().zip(&archives);
    resources.extend(named.map(|(name, file)| (name.clone(), file.as_fd())));
    Ok(handoff::start(channel, &config, &resources)?)
}

/// Takes what the guest writes, so that the pipe never fills.
fn copy(console: &mut impl Read, show: bool) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = console.read(&mut buffer) {
        if show {
            let _ = io::stdout().write_all(&buffer[..length]);
        }
    }
}

fn options() -> Result<Options> {
    let mut files = Vec::new();
    let mut options = Options {
        vmm: String::new(),
        kernel: String::new(),
        initramfs: Vec::new(),
        cpus: 1,
        memory: 256,
        command_line: "console=ttyS0 quiet panic=-1 reboot=acpi".to_owned(),
        console: false,
        press: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or("a value is missing");
        match argument.as_str() {
            "--cpus" => options.cpus = value()?.parse()?,
            "--memory" => options.memory = value()?.parse()?,
            "--command-line" => options.command_line = value()?,
            "--press" => options.press = Some(value()?.parse()?),
            "--console" => options.console = true,
            _ => files.push(argument),
        }
    }
    let mut files = files.into_iter();
    options.vmm = files.next().ok_or("no VMM given")?;
    options.kernel = files.next().ok_or("no kernel given")?;
    options.initramfs = files.collect();
    Ok(options)
}
