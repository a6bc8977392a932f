//! Gets an image into a store, and prints what is in it. Layers are not unpacked but copied.
//!
//! `pull STORE IMAGE [ATTEMPTS]`, with the user's settings of registries.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]

use std::{env, error::Error, fs::File, io, process::ExitCode, time::Duration};

use image::{Blob, Item, Progress, Pull, Registries, Store, Unpack};

struct Copy;

impl Unpack for Copy {
    fn unpack(
        &self,
        mut layer: Blob<'_>,
        mut output: File,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        io::copy(&mut layer.file, &mut output)?;
        Ok(())
    }
}

struct Lines;

impl Progress for Lines {
    fn begin(&self, item: &Item) {
        println!(
            "{:?} {} of {}: {}",
            item.step, item.index, item.count, item.digest
        );
    }

    fn waiting(&self, item: &Item) {
        println!("waiting for {}", item.digest);
    }

    fn retry(&self, reason: &str, wait: Duration) {
        println!("again in {wait:?}: {reason}");
    }
}

fn pull() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [root, name, rest @ ..] = arguments.as_slice() else {
        return Err("usage: pull STORE IMAGE [ATTEMPTS]".into());
    };
    let mut registries = Registries::of_user()?;
    if let [attempts] = rest {
        registries.patience.attempts = attempts.parse()?;
    }
    let store = Store::open(root)?.with_registries(registries);
    let image = store.get(&name.parse()?, &Pull::default(), &Copy, &Lines)?;
    println!("{} {}", image.name(), image.digest());
    println!("{:#?}", image.config());
    for layer in image.layers() {
        println!("{}", layer.display());
    }
    Ok(())
}

fn main() -> ExitCode {
    let Err(error) = pull() else {
        return ExitCode::SUCCESS;
    };
    let mut cause: Option<&dyn Error> = Some(&*error);
    while let Some(one) = cause {
        eprintln!("{one}");
        cause = one.source();
    }
    ExitCode::FAILURE
}
