//! Prints the kernel that a machine would boot, and the initramfs for it:
//! `cargo run --release -p kernel --example resolve -- AGENT [KERNEL [MODULES]]`.

#![expect(clippy::print_stdout, reason = "an example for people")]

use std::{env, error::Error, path::PathBuf, time::Instant};

use kernel::{Cache, MACHINE_MODULES, Source, initramfs, resolve};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let agent = arguments.next().ok_or("give the path of crumble-agent")?;
    let source = match arguments.next() {
        Some(kernel) => Source::Path {
            kernel,
            modules: arguments.next(),
        },
        None => Source::Distribution,
    };
    let cache = Cache::of_user()?;
    let start = Instant::now();
    let kernel = resolve(&source, &cache, &mut |step| println!("{step}"))?;
    let resolved = start.elapsed();
    let archive = initramfs(&kernel, &agent, MACHINE_MODULES, &cache)?;
    println!(
        "kernel    {} ({})",
        kernel.vmlinux.display(),
        kernel.release
    );
    println!("initramfs {}", archive.display());
    println!(
        "in        {resolved:?} and {:?}",
        start.elapsed() - resolved
    );
    Ok(())
}
