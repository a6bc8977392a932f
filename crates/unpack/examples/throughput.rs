//! How fast a layer is unpacked, beside `tar`.
//!
//! `cargo run --release -p unpack --example throughput -- [DIRECTORY]` packs a directory of the host
//! (`/usr/bin` if none is named), and unpacks it from memory to files in `TMPDIR`. `tar` does the
//! same with the same bytes, and makes files of its own there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wire::unpack::{Compression, Config, Limits};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The best of so many counts.
const ROUNDS: usize = 3;

fn run(program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).output()?;
    Ok(output.stdout)
}

/// The shortest time that `what` takes.
fn best(mut what: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        what()?;
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

fn ours(config: &Config, layer: &[u8]) -> Result<Duration> {
    best(|| {
        let image = tempfile::tempfile()?;
        unpack::unpack(config, layer, &image)?;
        Ok(())
    })
}

fn theirs(flag: &str, layer: &Path) -> Result<Duration> {
    // Removing what was unpacked is not part of it.
    let mut places = Vec::new();
    best(|| {
        let place = tempfile::tempdir()?;
        let status = Command::new("tar")
            .arg(flag)
            .arg("-xf")
            .arg(layer)
            .arg("-C")
            .arg(place.path())
            .stderr(Stdio::null())
            .status()?;
        if !status.success() {
            return Err("tar failed".into());
        }
        places.push(place);
        Ok(())
    })
}

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1);
    let directory = directory.unwrap_or_else(|| OsString::from("/usr/bin"));
    let directory = directory.to_str().ok_or("a strange name")?;
    let archive = run("tar", &["-C", directory, "-cf", "-", "."])?;
    let place = tempfile::tempdir()?;
    let file = |name: &str| place.path().join(name);
    fs::write(file("plain"), &archive)?;
    let plain = file("plain");
    let plain = plain.to_str().ok_or("a strange name")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{directory}: {} MB", archive.len() / 1_000_000)?;
    for (name, flag, compression, layer) in [
        (
            "plain",
            "--no-auto-compress",
            Compression::None,
            archive.clone(),
        ),
        (
            "gzip",
            "-z",
            Compression::Gzip,
            run("gzip", &["-c", plain])?,
        ),
        (
            "zstd",
            "--zstd",
            Compression::Zstd,
            run("zstd", &["-q", "-c", plain])?,
        ),
    ] {
        let config = Config {
            compression,
            diff_id: Sha256::digest(&archive).into(),
            limits: Limits {
                bytes: u64::MAX,
                entries: u64::MAX,
            },
        };
        File::create(file(name))?.write_all(&layer)?;
        let (ours, theirs) = (ours(&config, &layer)?, theirs(flag, &file(name))?);
        let speed = |time: Duration| archive.len() as f64 / 1e6 / time.as_secs_f64();
        let (ours, theirs) = (speed(ours), speed(theirs));
        let ratio = ours / theirs;
        writeln!(
            out,
            "{name}: {ours:.0} MB/s, tar {theirs:.0} MB/s: {ratio:.2} times as fast"
        )?;
    }
    Ok(())
}
