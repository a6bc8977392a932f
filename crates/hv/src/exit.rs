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
    /// A [`crate::Kicker`] ended the run; or a signal did, or the host, which want nothing: who
    /// did not ask for it runs the vCPU again.
    Interrupted,
    /// The host could not emulate an instruction; [`crate::Vcpu::emulation_failure`] has it.
    EmulationFailure,
    /// The host's CPU refused the guest's state; the number is the host API's reason.
    EntryFailure(u64),
    /// Something that is not asked for; the number is the host API's.
    Unknown(u32),
}

/// The kinds of [`Exit`], for statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitKind {
    /// [`Exit::PioRead`].
    PioRead,
    /// [`Exit::PioWrite`].
    PioWrite,
    /// [`Exit::MmioRead`].
    MmioRead,
    /// [`Exit::MmioWrite`].
    MmioWrite,
    /// [`Exit::Interrupted`].
    Interrupted,
    /// All others: there is no more than one of them in a vCPU's life, or the host halts in user
    /// space.
    Other,
}

impl ExitKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 6] = [
        Self::PioRead,
        Self::PioWrite,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Interrupted,
        Self::Other,
    ];

    /// A name for people and machines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PioRead => "pio-read",
            Self::PioWrite => "pio-write",
            Self::MmioRead => "mmio-read",
            Self::MmioWrite => "mmio-write",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        }
    }
}

impl Exit<'_> {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> ExitKind {
        match self {
            Self::PioRead { .. } => ExitKind::PioRead,
            Self::PioWrite { .. } => ExitKind::PioWrite,
            Self::MmioRead { .. } => ExitKind::MmioRead,
            Self::MmioWrite { .. } => ExitKind::MmioWrite,
            Self::Interrupted => ExitKind::Interrupted,
            _ => ExitKind::Other,
        }
    }
}
