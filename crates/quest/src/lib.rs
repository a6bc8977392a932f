//! Bare-metal micro-guests, and the conformance suite that every back end of [`hv`] passes: one
//! file a behaviour.
//!
//! The guests are integers only, of the first x86-64 CPU's instructions, and short, so that they
//! also run where a guest's kernel mode is emulated slowly and in part. Each ends within
//! [`cpu::LIMIT`] or is stopped, so nothing can hang.

#![forbid(unsafe_code)]

mod behaviour;
mod cpu;
mod failure;
mod machine;

use std::io;

use hv::{Hypervisor, Vm};

pub use behaviour::suite;
pub use cpu::{LIMIT, Stop};
pub use failure::{Failure, Result};

/// A back end under test: a hypervisor, and the events that it signals with.
pub trait BackEnd: Sync + 'static {
    /// What makes the machines.
    type Hypervisor: Hypervisor<Vm: Vm<Event: Send + Sync>>;

    /// The host API, open.
    fn hypervisor(&self) -> &Self::Hypervisor;

    /// A new event, not signalled.
    ///
    /// # Errors
    /// If the system has no more.
    fn event(&self) -> io::Result<EventOf<Self>>;

    /// Signals `event`.
    ///
    /// # Errors
    /// The system's.
    fn signal(&self, event: &EventOf<Self>) -> io::Result<()>;

    /// Whether `event` has been signalled since the last call. It does not wait.
    ///
    /// # Errors
    /// The system's.
    fn take(&self, event: &EventOf<Self>) -> io::Result<bool>;
}

/// The machines of a back end.
pub type VmOf<B> = <<B as BackEnd>::Hypervisor as Hypervisor>::Vm;
/// The events of a back end.
pub type EventOf<B> = <VmOf<B> as Vm>::Event;

/// One behaviour, as a guest and what is to be seen from outside.
pub struct Behaviour<B> {
    /// Its file.
    pub name: &'static str,
    /// What it promises, as a sentence.
    pub promise: &'static str,
    run: Run<B>,
}

enum Run<B> {
    Silent(fn(&B) -> Result<()>),
    Printing(fn(&B) -> Result<String>),
}

impl<B: BackEnd> Behaviour<B> {
    /// Runs the guest. What it printed is returned, if it is one that prints.
    ///
    /// # Errors
    /// What the back end did otherwise than promised.
    pub fn run(&self, back_end: &B) -> Result<Option<String>> {
        match self.run {
            Run::Silent(run) => run(back_end).map(|()| None),
            Run::Printing(run) => run(back_end).map(Some),
        }
    }
}
