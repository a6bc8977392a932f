//! Runs the conformance suite on this host's KVM: a line a guest, and then what the guests
//! printed. The exit status is 1 if a behaviour failed, 2 if there is no KVM to try.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program for people"
)]

mod kvm;

use std::{process::ExitCode, time::Instant};

use kvm::KvmBackEnd;
use quest::{Behaviour, suite};

fn main() -> ExitCode {
    let back_end = match KvmBackEnd::open() {
        Ok(back_end) => back_end,
        Err(reason) => {
            eprintln!("quest: there is no KVM to try: {reason}");
            return ExitCode::from(2);
        }
    };
    let outcomes: Vec<_> = suite().iter().map(|guest| tell(guest, &back_end)).collect();
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    if failed > 0 {
        eprintln!("quest: {failed} of {} failed", outcomes.len());
    }
    for printed in outcomes.into_iter().flatten().flatten() {
        println!("{printed}");
    }
    ExitCode::from(u8::from(failed > 0))
}

/// Runs a guest and prints its line.
fn tell(guest: &Behaviour<KvmBackEnd>, back_end: &KvmBackEnd) -> Result<Option<String>, ()> {
    let begin = Instant::now();
    let outcome = guest.run(back_end);
    let time = begin.elapsed().as_secs_f64() * 1e3;
    let result = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!(
        "{:18} {:70} {result:6} {time:8.1} ms",
        guest.name, guest.promise
    );
    outcome.map_err(|failure| println!("    {}", failure.chain()))
}
