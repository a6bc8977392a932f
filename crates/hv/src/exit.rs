//! Why a vCPU stopped running.

/// Why a vCPU stopped running.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<'a> {
    /// The guest reads a port. A string instruction may read several times: the data is then a
    /// multiple of the access' width, 1, 2 or 4 bytes.
    PioRead {
        /// The port.
        port: u16,
        /// To be filled in.
        data: &'a mut [u8],
    },
    /// The guest writes a port, see [`Exit::PioRead`].
    PioWrite {
        /// The port.
        port: u16,
        /// What it writes.
        data: &'a [u8],
    },
    /// The guest reads memory that is none, 1 to 8 bytes.
    MmioRead {
        /// The physical address.
        address: u64,
        /// To be filled in.
        data: &'a mut [u8],
    },
    /// The guest writes memory that is none or read-only, 1 to 8 bytes.
    MmioWrite {
        /// The physical address.
        address: u64,
        /// What it writes.
        data: &'a [u8],
    },
    /// The guest halted; only where the host does not wait for interrupts by itself.
    Halted,
    /// The vCPU shut down: a triple fault.
    TripleFault,
    /// A [`crate::Kicker`] ended the run, or a signal.
    Interrupted,
    /// The host could not emulate an instruction; [`crate::Vcpu::emulation_failure`] has it.
    EmulationFailure,
    /// The host's CPU refused the guest's state; the number is the host API's reason.
    EntryFailure(u64),
    /// Something that is not asked for; the number is the host API's.
    Unknown(u32),
}

impl Exit<'_> {
    /// A name for statistics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::PioRead { .. } => "pio-read",
            Self::PioWrite { .. } => "pio-write",
            Self::MmioRead { .. } => "mmio-read",
            Self::MmioWrite { .. } => "mmio-write",
            Self::Halted => "halt",
            Self::TripleFault => "triple-fault",
            Self::Interrupted => "interrupted",
            Self::EmulationFailure => "emulation-failure",
            Self::EntryFailure(_) => "entry-failure",
            Self::Unknown(_) => "unknown",
        }
    }
}
