//! The loop of a vCPU's thread.

use std::panic::{self, AssertUnwindSafe};

use hv::{Exit, Vcpu};
use wire::vmm::End;

use crate::{bus::Bus, counters::Exits};

/// Runs a vCPU until it ends the machine. A panic ends it too, where panics unwind.
pub(crate) fn run_to_end(vcpu: &mut impl Vcpu, bus: &Bus, exits: &Exits) -> End {
    or_panicked(|| run(vcpu, bus, exits))
}

/// The machine is about to end, so nobody sees what a panic left half done.
fn or_panicked(run: impl FnOnce() -> End) -> End {
    panic::catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| End::Failed("a vCPU's thread panicked".to_owned()))
}

fn run(vcpu: &mut impl Vcpu, bus: &Bus, exits: &Exits) -> End {
    loop {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) => return End::Failed(wire::chain(&error)),
        };
        exits.count(exit.kind());
        match exit {
            Exit::PioRead { port, data } => bus.read_port(port, data),
            Exit::PioWrite { port, data } => {
                if let Some(end) = bus.write_port(port, data) {
                    return end;
                }
            }
            Exit::MmioRead { address, data } => bus.read_memory(address, data),
            Exit::MmioWrite { address, data } => bus.write_memory(address, data),
            Exit::Interrupted | Exit::Halted => {}
            Exit::TripleFault => return End::TripleFault,
            Exit::EmulationFailure => return End::Failed(emulation_failure(vcpu)),
            Exit::EntryFailure(reason) => {
                return End::Failed(format!("the CPU refused the guest's state ({reason:#x})"));
            }
            Exit::Unknown(reason) => {
                return End::Failed(format!("KVM ended a vCPU for the unknown reason {reason}"));
            }
        }
    }
}

fn emulation_failure(vcpu: &mut impl Vcpu) -> String {
    match vcpu.emulation_failure() {
        Ok(failure) => format!(
            "KVM could not emulate {failure}; if the guest is an ordinary Linux, this host's KVM \
             cannot run it"
        ),
        Err(error) => format!("KVM could not emulate an instruction, nor tell which: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_end() {
        let end = or_panicked(|| panic!("a defect"));
        assert_eq!(end, End::Failed("a vCPU's thread panicked".to_owned()));
        assert_eq!(or_panicked(|| End::Reset), End::Reset);
    }
}
