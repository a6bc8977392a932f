//! The product, here or in the testbed.

use std::{ffi::OsString, path::PathBuf, process::Command};

use testbed::{BIN_DIR, PRODUCTS, Testbed};

use crate::{command::exit_code, error::Result, setup};

/// Where machines run.
#[derive(Debug)]
pub(crate) struct Place {
    /// The product's binaries.
    pub(crate) bin_dir: PathBuf,
    /// Where to run them, if not here.
    pub(crate) testbed: Option<Testbed>,
}

impl Place {
    /// Installs what is missing, builds the product, and boots the testbed if this host needs it.
    pub(crate) fn ready() -> Result<Self> {
        setup::for_building()?;
        let why = testbed::why_not_here();
        setup::for_machines(why.is_some())?;
        let bin_dir = testbed::build(PRODUCTS.iter().copied())?;
        let testbed = why
            .map(|why| testbed::announce(&why, &bin_dir))
            .transpose()?;
        Ok(Self { bin_dir, testbed })
    }

    /// Runs a program with this process's input and output; its exit code.
    pub(crate) fn run(&self, argv: impl IntoIterator<Item = OsString>) -> Result {
        let argv: Vec<OsString> = argv.into_iter().collect();
        let Some(testbed) = &self.testbed else {
            let (program, arguments) = argv.split_first().unwrap_or((&EMPTY, &[]));
            return exit_code(
                Command::new(program)
                    .args(arguments)
                    .env(BIN_DIR, &self.bin_dir),
            );
        };
        let mut command = testbed::Command::new(argv);
        command.env(BIN_DIR, &self.bin_dir);
        Ok(command.run(testbed)?)
    }
}

static EMPTY: OsString = OsString::new();

/// `crumble` with these arguments.
pub(crate) fn crumble(arguments: impl IntoIterator<Item = OsString>) -> Result {
    let place = Place::ready()?;
    let program = place.bin_dir.join("crumble").into_os_string();
    place.run([program].into_iter().chain(arguments))
}

/// Builds the product and says what it is.
pub(crate) fn build() -> Result {
    setup::for_building()?;
    let bin_dir = testbed::build(PRODUCTS.iter().copied())?;
    println!("{}:", bin_dir.display());
    for product in PRODUCTS.iter().filter(|product| product.shipped) {
        let size = std::fs::metadata(bin_dir.join(product.binary)).map_or(0, |found| found.len());
        println!("  {:<20} {:>5} KiB", product.binary, size / 1024);
    }
    Ok(0)
}

/// The micro-guests, on this host's KVM or in the testbed.
pub(crate) fn quest(in_testbed: bool) -> Result {
    if in_testbed {
        let place = Place::ready()?;
        return place.run([place.bin_dir.join("quest").into_os_string()]);
    }
    setup::for_building()?;
    let quest = PRODUCTS.iter().copied().filter(|p| p.package == "quest");
    let bin_dir = testbed::build(quest)?;
    exit_code(&mut Command::new(bin_dir.join("quest")))
}
