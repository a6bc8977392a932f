//! What a hypervisor is to the rest of CrumbleCracker: traits seen from the consumer's side, and
//! plain types. Back ends implement them, one crate a host API.
//!
//! What differs between hosts is behind the words of this crate: a *doorbell* is a guest's write
//! that signals an event (an ioeventfd on KVM), an *MSI event* is an event that becomes a
//! message-signalled interrupt (an irqfd on KVM).

#![forbid(unsafe_code)]

mod exit;
pub mod x86_64;

use std::{io, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use vm_memory::GuestRegionMmap;

pub use exit::{Exit, ExitKind};

/// What can go wrong with a hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host API refused a call.
    #[error("the hypervisor refused {call}")]
    Call {
        /// The call, as the host API names it.
        call: &'static str,
        /// Its reason.
        source: io::Error,
    },
    /// The host API lacks something that machines need.
    #[error("the hypervisor has no {0}")]
    Missing(&'static str),
    /// A saved state does not fit here.
    #[error("the saved state does not fit: {0}")]
    State(&'static str),
}

/// The result of a call to a hypervisor.
pub type Result<T> = std::result::Result<T, Error>;

/// A host API that makes virtual machines.
pub trait Hypervisor {
    /// Its virtual machines.
    type Vm: Vm;

    /// A machine without memory and vCPUs, with interrupt controllers.
    ///
    /// # Errors
    /// If the host cannot make one.
    fn create_vm(&self) -> Result<Self::Vm>;
}

/// What may be done with a piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RamOptions {
    /// The guest's writes exit as MMIO.
    pub read_only: bool,
    /// Writes are logged for [`Vm::dirty_pages`].
    pub log_writes: bool,
}

/// A piece of guest memory, as [`Vm::add_ram`] named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RamSlot(pub u32);

/// Where a guest's write rings a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// A port.
    Pio(u16),
    /// A physical address.
    Mmio(u64),
}

/// Which writes ring a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Any write, of any width.
    Any,
    /// A write of 1 byte with this value.
    U8(u8),
    /// A write of 2 bytes with this value.
    U16(u16),
    /// A write of 4 bytes with this value.
    U32(u32),
    /// A write of 8 bytes with this value.
    U64(u64),
}

/// A message-signalled interrupt (PCI 3.0, section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msi {
    /// Where the message is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// A virtual machine. Its methods may be called from any thread, at any time.
pub trait Vm: Send + Sync + 'static {
    /// Its vCPUs.
    type Vcpu: Vcpu;
    /// What the host signals with: an eventfd, an event handle.
    type Event;
    /// A doorbell that rings until it is dropped.
    type Doorbell: Send;
    /// An event that becomes an interrupt.
    type MsiEvent: MsiEvent;
    /// Interrupt controllers and clock.
    type State: Serialize + DeserializeOwned;

    /// How many bits a physical address of the guest has at most.
    fn address_bits(&self) -> u8;

    /// Gives the guest a piece of memory at the region's guest address. The mapping is kept alive
    /// until [`Vm::remove_ram`].
    ///
    /// # Errors
    /// If it overlaps another piece, or the host refuses.
    fn add_ram(&self, region: Arc<GuestRegionMmap>, options: RamOptions) -> Result<RamSlot>;

    /// Takes a piece of memory away.
    ///
    /// # Errors
    /// If there is no such piece.
    fn remove_ram(&self, slot: RamSlot) -> Result<()>;

    /// The pages of a piece that the guest has written since the last call: a bit a page of 4 KiB,
    /// the lowest first.
    ///
    /// # Errors
    /// If there is no such piece, or its writes are not logged.
    fn dirty_pages(&self, slot: RamSlot) -> Result<Vec<u64>>;

    /// The vCPU number `index` of `count`. Number 0 runs as soon as it is told to; on x86 the
    /// others wait for INIT and SIPI.
    ///
    /// # Errors
    /// If there is one already, or the host refuses.
    fn create_vcpu(&self, index: u8, count: u8) -> Result<Self::Vcpu>;

    /// From now on a guest's write at `address` signals `event`, without an exit.
    ///
    /// # Errors
    /// If there is such a doorbell already.
    fn doorbell(
        &self,
        address: Address,
        matching: Match,
        event: &Self::Event,
    ) -> Result<Self::Doorbell>;

    /// `event`, once it has a message, interrupts the guest whenever it is signalled.
    ///
    /// # Errors
    /// If the host has no more of them.
    fn msi_event(&self, event: &Self::Event) -> Result<Self::MsiEvent>;

    /// Sends an MSI now.
    ///
    /// # Errors
    /// If the host refuses the message.
    fn signal_msi(&self, message: Msi) -> Result<()>;

    /// From now on `event` pulses an input of the I/O APIC.
    ///
    /// # Errors
    /// If there is no such input.
    fn line_event(&self, input: u32, event: &Self::Event) -> Result<()>;

    /// The state of what belongs to no vCPU. No vCPU may be running.
    ///
    /// # Errors
    /// If the host refuses.
    fn save(&self) -> Result<Self::State>;

    /// Puts a machine without running vCPUs into a saved state.
    ///
    /// # Errors
    /// If the state is of another version, or the host refuses it.
    fn restore(&self, state: &Self::State) -> Result<()>;
}

/// An event that interrupts the guest by itself.
pub trait MsiEvent: Send {
    /// What a signal of the event does from now on: interrupt with this message; or with `None`
    /// nothing. Signals then stay in the event, and become one interrupt when there is a message
    /// again.
    ///
    /// # Errors
    /// If the host refuses the message.
    fn set(&mut self, message: Option<Msi>) -> Result<()>;
}

/// A vCPU. It is created on one thread and may run on another.
pub trait Vcpu: Send {
    /// Makes it exit, from another thread.
    type Kicker: Kicker;
    /// Everything about it that a guest can see.
    type State: Serialize + DeserializeOwned;

    /// Runs the guest until there is something for us to do. After a read exit the next call
    /// completes the access with what was put into the exit's data.
    ///
    /// # Errors
    /// If the host cannot run it at all.
    fn run(&mut self) -> Result<Exit<'_>>;

    /// A handle that makes it exit.
    fn kicker(&self) -> Self::Kicker;

    /// What the host could not emulate, after [`Exit::EmulationFailure`].
    ///
    /// # Errors
    /// If the registers cannot be read.
    fn emulation_failure(&mut self) -> Result<EmulationFailure>;

    /// Where it begins.
    ///
    /// # Errors
    /// If the host refuses the registers.
    fn set_entry(&mut self, entry: &x86_64::Entry) -> Result<()>;

    /// The general registers.
    ///
    /// # Errors
    /// If the host refuses.
    fn registers(&self) -> Result<x86_64::Registers>;

    /// Sets the general registers.
    ///
    /// # Errors
    /// If the host refuses.
    fn set_registers(&mut self, registers: &x86_64::Registers) -> Result<()>;

    /// Its state, while it is not running.
    ///
    /// # Errors
    /// If the host refuses.
    fn save(&mut self) -> Result<Self::State>;

    /// Puts it into a saved state.
    ///
    /// # Errors
    /// If the state is of another version, or the host refuses it.
    fn restore(&mut self, state: &Self::State) -> Result<()>;
}

/// Makes a vCPU exit, from any thread.
pub trait Kicker: Send + Sync + Clone + 'static {
    /// Ends the current [`Vcpu::run`] or, if there is none, the next, with
    /// [`Exit::Interrupted`]. Kicks before that are one; a kick may end two runs. After the vCPU is
    /// gone this does nothing.
    fn kick(&self);
}

/// An instruction that the host could not emulate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulationFailure {
    /// Its address.
    pub rip: u64,
    /// Its bytes, as far as the host tells: at most 15.
    pub bytes: Vec<u8>,
}

impl std::fmt::Display for EmulationFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the instruction at {:#x}", self.rip)?;
        if !self.bytes.is_empty() {
            write!(f, " (bytes")?;
            self.bytes
                .iter()
                .try_for_each(|byte| write!(f, " {byte:02x}"))?;
            write!(f, ")")?;
        }
        Ok(())
    }
}
