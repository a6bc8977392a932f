//! `crumble build`.

use std::{os::unix::ffi::OsStrExt, path::Path, process::ExitCode};

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
    };
    let bars = Bars::new();
    let digest = images.build(&context, &how, &options.tag, &mut tell, &bars)?;
    println!("{digest}");
    Ok(ExitCode::SUCCESS)
}

fn open(directory: &Path, file: Option<&Path>) -> Result<Context, Failure> {
    Context::open(directory, file).map_err(|error| crumble::Error::from(error).into())
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
