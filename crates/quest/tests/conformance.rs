//! Each behaviour is a test, on this host's KVM. Without one every test fails and says why: that
//! is not the place to find out about a back end.

#![forbid(unsafe_code)]

#[path = "../src/kvm.rs"]
mod kvm;

use std::process::ExitCode;

use kvm::KvmBackEnd;
use libtest_mimic::{Arguments, Failed, Trial};
use quest::{Behaviour, suite};

fn main() -> ExitCode {
    let trials = suite().into_iter().map(|guest| {
        let name = format!("{}: {}", guest.name, guest.promise);
        Trial::test(name, move || trial(&guest))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn trial(guest: &Behaviour<KvmBackEnd>) -> Result<(), Failed> {
    let back_end = KvmBackEnd::open()?;
    let outcome = guest.run(&back_end);
    outcome.map(drop).map_err(|failure| failure.chain().into())
}
