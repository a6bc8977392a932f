//! `crumble build`.

use std::{
    env,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crumble::{
    BuildOptions, Images,
    build::{Context, Options, Step},
    image::Platform,
};

use crate::{
    arguments::Build,
    bars::Bars,
    report::{BLUE, Failure, YELLOW, paint},
    run::variable_of,
};

const SOURCE_DATE: &str = "SOURCE_DATE_EPOCH";

/// The year 10000, which has no date of four digits.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_800);

/// Builds an image and prints its digest.
pub(crate) fn build(options: &Build) -> Result<ExitCode, Failure> {
    let context = open(&options.context, options.file.as_deref())?;
    let images = Images::of_user()?;
    let pull = options.pull.pull();
    let what = Options {
        target: options.target.clone(),
        arguments: options
            .arguments
            .iter()
            .filter_map(|argument| variable_of(argument))
            .map(|(name, value)| (text(name.as_bytes()), text(value.as_bytes())))
            .collect(),
        platform: pull.platform.to_string(),
        build_platform: Platform::of_host().to_string(),
        no_cache: options.no_cache,
    };
    let how = BuildOptions {
        what,
        cpus: options.cpus,
        memory: options.memory,
        policy: pull.policy,
        secrets: options.secrets.iter().cloned().collect(),
        created: source_date()?,
    };
    let bars = Bars::new();
    let digest = images.build(&context, &how, &options.tag, &mut tell, &bars)?;
    println!("{digest}");
    Ok(ExitCode::SUCCESS)
}

fn open(directory: &Path, file: Option<&Path>) -> Result<Context, Failure> {
    Context::open(directory, file).map_err(|error| crumble::Error::from(error).into())
}

/// The time that whoever wants equal builds gives (reproducible-builds.org/specs/source-date-epoch).
fn source_date() -> Result<Option<SystemTime>, Failure> {
    let Some(given) = env::var_os(SOURCE_DATE) else {
        return Ok(None);
    };
    let seconds = given.to_str().and_then(|given| given.parse().ok());
    let since = seconds.map(Duration::from_secs);
    let date = since.filter(|since| *since < LAST_DATE);
    date.and_then(|since| UNIX_EPOCH.checked_add(since))
        .map(Some)
        .ok_or_else(|| Failure::Date(given.display().to_string()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Says what is being done.
fn tell(step: Step<'_>) {
    match step {
        Step::Begun {
            stage,
            number,
            total,
            text,
        } => {
            let place = format!("[{stage} {number}/{total}]");
            eprintln!("{} {text}", paint(&place, BLUE));
        }
        Step::Cached => eprintln!("      as before"),
        Step::Warning(text) => eprintln!("{} {text}", paint("crumble:", YELLOW)),
    }
}
