//! The fuzz targets of `fuzz/`, with the stable compiler.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    command::{cargo, exit_code, output, program, succeed, words},
    error::{Error, Result, file},
    setup,
};

/// How long each target runs with `--smoke`, in seconds.
const SMOKE: u32 = 5;

/// What libFuzzer needs to see which way a program went (SanitizerCoverage of LLVM). cargo-fuzz sets the
/// same, but wants a nightly compiler for the sanitizers that safe code has little use for.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 \
    -Cdebug-assertions=on -Coverflow-checks=on --cfg fuzzing";

/// What to fuzz, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// The target; without one, they are listed.
    target: Option<String>,
    /// Stop after so many seconds; until a fault is found or Ctrl-C, if not said.
    #[arg(long, requires = "target")]
    seconds: Option<u32>,
    /// Run every target for a few seconds.
    #[arg(long, conflicts_with = "target")]
    smoke: bool,
    /// Run the target on this file once, to see a fault again.
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
}

/// Does it.
pub(crate) fn fuzz(plan: &Plan) -> Result {
    let here = testbed::workspace().join("fuzz");
    let known = targets(&here)?;
    let chosen = match &plan.target {
        Some(name) if !known.contains(name) => return Err(Error::Target(name.clone())),
        Some(name) => vec![name.clone()],
        None if plan.smoke => known,
        None => {
            println!("{}", known.join("\n"));
            return Ok(0);
        }
    };
    let programs = build(&here)?;
    let seconds = if plan.smoke {
        Some(SMOKE)
    } else {
        plan.seconds
    };
    let mut worst = 0;
    for name in &chosen {
        let code = match &plan.replay {
            Some(input) => exit_code(program(programs.join(name), &[]).arg(input))?,
            None => run(&here, &programs, name, seconds)?,
        };
        worst = worst.max(code);
    }
    Ok(worst)
}

/// The names of all targets.
fn targets(here: &Path) -> Result<Vec<String>> {
    let directory = here.join("targets");
    let entries = fs::read_dir(&directory).map_err(file("read", &directory))?;
    let names = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        Some(path.file_stem()?.to_str()?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

/// Builds all targets; where they are.
fn build(here: &Path) -> Result<PathBuf> {
    setup::for_fuzzing()?;
    let about = output(&mut program("rustc", &["--version", "--verbose"]))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.unwrap_or_default();
    let target = testbed::workspace().join("target/fuzz");
    let mut cargo = cargo(&["build", "--quiet", "--release", "--target", host]);
    cargo.arg("--manifest-path").arg(here.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&target);
    succeed(cargo.env("RUSTFLAGS", COVERAGE))?;
    Ok(target.join(host).join("release"))
}

/// Runs one target, beginning with its seeds and what was found to lead further before.
fn run(here: &Path, programs: &Path, name: &str, seconds: Option<u32>) -> Result {
    let found = testbed::workspace().join("target/fuzz/found").join(name);
    let faults = testbed::workspace().join("target/fuzz/faults");
    for directory in [&found, &faults] {
        fs::create_dir_all(directory).map_err(file("make", directory))?;
    }
    println!("== {name}");
    let mut command = program(programs.join(name), &["-verbosity=0", "-timeout=10"]);
    command.arg(format!("-artifact_prefix={}/{name}-", faults.display()));
    if let Some(seconds) = seconds {
        command.arg(format!("-max_total_time={seconds}"));
    }
    command
        .arg("-print_final_stats=1")
        .arg(&found)
        .arg(here.join("seeds").join(name));
    let code = listen(&mut command)?;
    if code != 0 {
        println!(
            "{name} found a fault; its input is the newest in {}\n\
             see it again: cargo xtask fuzz {name} --replay FILE",
            faults.display()
        );
    }
    Ok(code)
}

/// Runs libFuzzer and repeats what it says, but for the words that it found useful, which are many.
fn listen(command: &mut Command) -> Result {
    let line = words(command);
    let start = |source| Error::Start {
        command: line,
        source,
    };
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(start)?;
    let mut dictionary = false;
    for line in child
        .stderr
        .take()
        .into_iter()
        .flat_map(|stderr| BufReader::new(stderr).lines())
    {
        let line = line.map_err(file("read", "what libFuzzer says"))?;
        dictionary |= line.starts_with("###### Recommended dictionary");
        if !dictionary {
            println!("{line}");
        }
        dictionary &= !line.starts_with("###### End of recommended dictionary");
    }
    let status = child.wait().map_err(file("wait for", "libFuzzer"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(1))
}
