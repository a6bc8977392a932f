//! Files of a share, beside QEMU with its virtiofsd: one kernel, one root, one ext4 on the host.

use std::path::{Path, PathBuf};

use testbed::Design;

use super::{
    rival::{MEMORY, Rival},
    series::Numbers,
    traffic,
};
use crate::{
    command::{program, succeed},
    error::{Error, Result, file},
};

/// What runs in the guests and on the host, and the Debian package of each.
pub(crate) const PROGRAMS: [(&str, &str); 2] = [("fio", "fio"), ("mkfs.ext4", "e2fsprogs")];

/// A tree of the host's root, which every guest has.
const TREE: &str = "/usr/share/perl";

/// What is measured: a shell's script that says a number, in the shared directory.
const MEASURES: [(&str, &str, &str); 8] = [
    (
        "unpack a tree of 20 MB",
        "s",
        "timed 'rm -rf t; mkdir t; tar x -C t </run/tree.tar; sync t'",
    ),
    (
        "list it, with all attributes",
        "s",
        "drop; timed 'find t -printf %s >/dev/null'",
    ),
    ("list it again", "s", "timed 'find t -printf %s >/dev/null'"),
    ("read it", "s", "drop; timed 'tar c t | cat >/dev/null'"),
    ("remove it", "s", "timed 'rm -r t'"),
    ("write in order, 64 KiB", "MB/s", "job write 64k"),
    ("read in order, 64 KiB", "MB/s", "drop; job read 64k"),
    ("read anywhere, 4 KiB", "MB/s", "drop; job randread 4k"),
];

/// What the scripts call.
const FUNCTIONS: &str = r#"
set -e
test -e /run/tree.tar || tar c -C / TREE >/run/tree.tar
timed() { begin=$(date +%s%N); sh -ec "$1"; end=$(date +%s%N); echo "$end $begin" | awk '{ print ($1 - $2) / 1e9 }'; }
drop() { sync; echo 3 >/proc/sys/vm/drop_caches; }
job() {
    fio --name=job --filename=file --size=32m --rw="$1" --bs="$2" --ioengine=psync --end_fsync=1 --runtime=10 \
        --minimal --terse-version=3 | awk -F ';' '{ print ($7 + $48) * 1024 / 1e6 }'
}
cd "$0"
"#;

/// An ext4 in a file, mounted. Dropping it removes both.
struct Disk(PathBuf);

impl Disk {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("crumble-files-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(file("make the directory", &path))?;
        let disk = Self(path);
        let image = disk.image();
        let make = |name: &str, arguments: &[&str]| {
            succeed(
                program(name, arguments)
                    .arg(&image)
                    .stdout(std::process::Stdio::null()),
            )
        };
        make("truncate", &["--size=1G"])?;
        make("mkfs.ext4", &["-q"])?;
        succeed(program("mount", &["-o", "loop"]).arg(&image).arg(&disk.0))?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.0.with_extension("ext4")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is left lies in a directory for such things.
        let _ = succeed(program("umount", &[]).arg(&self.0));
        let _ = std::fs::remove_dir(&self.0);
        let _ = std::fs::remove_file(self.image());
    }
}

/// A directory of the disk.
fn directory(disk: &Disk, name: &str) -> Result<PathBuf> {
    let path = disk.0.join(name);
    std::fs::create_dir(&path).map_err(file("make the directory", &path))?;
    Ok(path)
}

/// Prints the table.
pub(crate) fn print(runs: u32, bin_dir: &Path) -> Result<()> {
    let disk = Disk::new()?;
    let theirs = directory(&disk, "theirs")?;
    let ours = directory(&disk, "ours")?;
    let place = tempfile::tempdir().map_err(file("make a directory in", std::env::temp_dir()))?;
    eprintln!("starting QEMU");
    let qemu = Rival::qemu(&Design {
        directory: place.path(),
        bin_dir,
        name: "rival",
        memory: MEMORY,
        modules: &[],
        shares: std::slice::from_ref(&theirs),
        network: None,
        command_line: "",
        qemu: &["-accel", "kvm", "-cpu", "host"],
    })?;
    eprintln!("starting crumble");
    let own = Rival::ours(bin_dir, |builder| {
        let share = traffic::parse(&format!("{}:{}", ours.display(), ours.display()))?;
        let network = traffic::parse("none")?;
        Ok(builder.share(share).network(network))
    })?;
    let rivals = [(qemu, theirs), (own, ours)];
    let mut results = vec![[Numbers::default(), Numbers::default()]; MEASURES.len()];
    // The first round warms the host's caches.
    for round in 0..=runs {
        for ((name, unit, script), numbers) in MEASURES.iter().zip(&mut results) {
            for ((rival, directory), numbers) in rivals.iter().zip(numbers) {
                let number = measure(rival, directory, name, script)?;
                eprintln!("round {round}: {name}: {number:.2} {unit}");
                if round > 0 {
                    numbers.add(number);
                }
            }
        }
    }
    println!("Files of a share, 1 vCPU, median of {runs} (range)\n");
    println!("| | QEMU, virtiofsd | `--share` | ratio |\n|---|---|---|---|");
    for ((name, unit, _), [theirs, ours]) in MEASURES.iter().zip(&results) {
        let ratio = ours.median() / theirs.median();
        println!(
            "| {name}, {unit} | {} | {} | {ratio:.2} |",
            theirs.show(),
            ours.show()
        );
    }
    println!();
    Ok(())
}

fn measure(rival: &Rival, directory: &Path, name: &str, script: &str) -> Result<f64> {
    let script = format!("{}{script}", FUNCTIONS.replace("TREE", TREE));
    let said = rival.run(&["sh", "-c", &script, &directory.to_string_lossy()])?;
    said.trim().parse().map_err(|_| Error::Measure {
        what: name.to_owned(),
        why: format!("it said {said:?}"),
    })
}
