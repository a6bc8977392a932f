//! The behaviours.

mod interrupts;

use crate::{BackEnd, Behaviour, Run};

/// Declares the files, and lists them.
macro_rules! behaviours {
    ($($kind:ident $name:ident: $promise:literal),* $(,)?) => {
        $(mod $name;)*

        /// All behaviours; the one whose guest prints is the last.
        #[must_use]
        pub fn suite<B: BackEnd>() -> Vec<Behaviour<B>> {
            vec![$(Behaviour {
                name: stringify!($name),
                promise: $promise,
                run: Run::$kind($name::run::<B>),
            }),*]
        }
    };
}

behaviours! {
    Silent halt: "a halted guest executes nothing more",
    Silent arithmetic: "sums, products, quotients, shifts and flags are right",
    Silent memory: "memory holds what the guest and the host write",
    Silent read_only: "a write to read-only memory exits and changes nothing",
    Silent removed_memory: "memory that was taken away is no memory any more",
    Silent port_io: "ports are read and written 1, 2 and 4 bytes at a time",
    Silent string_io: "string instructions move every byte, in order",
    Silent mmio: "MMIO is read and written 1, 2, 4 and 8 bytes at a time",
    Silent deadline: "a spinning guest is stopped, each time it is kicked",
    Silent immediate_exit: "a kick before the run ends it before the first instruction",
    Silent doorbell: "a doorbell rings for any write, without an exit",
    Silent doorbell_match: "a doorbell with a value rings for that value only",
    Silent msi_running: "an event's MSI interrupts a running guest",
    Silent msi_halted: "an event's MSI wakes a halted guest",
    Silent msi_masked: "what is signalled while masked arrives once unmasked",
    Silent msi_direct: "an MSI can be sent without an event",
    Silent line: "an event pulses an input of the I/O APIC",
    Silent second_vcpu: "a second vCPU waits for INIT and SIPI, and has its own APIC id",
    Silent dirty_log: "the log names the pages that the guest wrote, once",
    Silent save_restore: "a guest goes on in a new machine and gets the exact result",
    Silent save_pending: "an interrupt that was pending when saved arrives after",
    Silent triple_fault: "a triple fault is a shutdown",
    Silent emulation_failure: "an instruction that cannot be emulated is named",
    Printing serial: "a guest prints through a 16550",
}
