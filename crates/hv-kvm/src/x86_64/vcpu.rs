//! A vCPU.

use std::sync::{Arc, Mutex};

use hv::{
    EmulationFailure, Exit, Result, Vcpu,
    x86_64::{Entry, Registers},
};
use kvm_bindings::{KVM_MP_STATE_UNINITIALIZED, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_regs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{
    cpuid::Cpuid,
    msrs, segments,
    state::{self, VcpuState},
};
use crate::{KvmKicker, call, exit::instruction_bytes, memory::Ram};

/// A KVM vCPU.
pub struct KvmVcpu {
    fd: VcpuFd,
    kicker: KvmKicker,
    msrs: Arc<[u32]>,
    /// It has not had its INIT yet.
    uninitialized: bool,
    /// What the guest runs on must stay mapped while it may run.
    _ram: Arc<Mutex<Ram>>,
}

impl KvmVcpu {
    pub(crate) fn new(
        mut fd: VcpuFd,
        cpuid: &Cpuid,
        msrs: Arc<[u32]>,
        (index, count): (u8, u8),
        ram: Arc<Mutex<Ram>>,
    ) -> Result<Self> {
        let cpuid = cpuid.of(index, count)?;
        fd.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))?;
        msrs::set_boot(&fd)?;
        set_fpu(&fd)?;
        set_local_interrupts(&fd)?;
        if index > 0 {
            let state = kvm_mp_state {
                mp_state: KVM_MP_STATE_UNINITIALIZED,
            };
            fd.set_mp_state(state).map_err(call("KVM_SET_MP_STATE"))?;
        }
        let kicker = KvmKicker::new(&mut fd);
        Ok(Self {
            fd,
            kicker,
            msrs,
            uninitialized: index > 0,
            _ram: ram,
        })
    }

    /// Waits for INIT. When it comes `KVM_RUN` returns with `EAGAIN`, which is neither an exit nor
    /// an interruption, and must not take a kick's place.
    fn wait_for_init(&mut self) -> std::result::Result<(), kvm_ioctls::Error> {
        while self.uninitialized {
            if let Err(errno) = self.fd.run()
                && errno.errno() != libc::EAGAIN
            {
                return Err(errno);
            }
            self.uninitialized = is_uninitialized(self.fd.get_mp_state()?);
        }
        Ok(())
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.kicker.retire();
    }
}

/// As after reset (SDM volume 3, table 9-1), with all exceptions masked.
fn set_fpu(fd: &VcpuFd) -> Result<()> {
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    fd.set_fpu(&fpu).map_err(call("KVM_SET_FPU"))
}

/// LINT0 takes the 8259's interrupts and LINT1 NMIs, as firmware sets them for the boot CPU and
/// harmless for the others (MultiProcessor Specification, 3.6.2.2).
fn set_local_interrupts(fd: &VcpuFd) -> Result<()> {
    /// Offset in the APIC's page, and delivery mode (SDM volume 3, figure 10-12).
    const LINT0: (usize, u32) = (0x350, 7 << 8);
    const LINT1: (usize, u32) = (0x360, 4 << 8);
    let mut lapic: kvm_lapic_state = fd.get_lapic().map_err(call("KVM_GET_LAPIC"))?;
    for (offset, value) in [LINT0, LINT1] {
        let register = lapic.regs.iter_mut().skip(offset);
        for (byte, new) in register.zip(value.to_le_bytes()) {
            *byte = i8::from_le_bytes([new]);
        }
    }
    fd.set_lapic(&lapic).map_err(call("KVM_SET_LAPIC"))
}

impl Vcpu for KvmVcpu {
    type Kicker = KvmKicker;
    type State = VcpuState;

    fn run(&mut self) -> Result<Exit<'_>> {
        self.kicker.runs_here();
        let ran = match self.wait_for_init() {
            Ok(()) => self.fd.run(),
            Err(errno) => Err(errno),
        };
        match ran {
            Ok(exit) => Ok(translate(exit)),
            Err(errno) if errno.errno() == libc::EINTR => {
                self.kicker.answered();
                Ok(Exit::Interrupted)
            }
            Err(errno) => Err(call("KVM_RUN")(errno)),
        }
    }

    fn kicker(&self) -> KvmKicker {
        self.kicker.clone()
    }

    fn emulation_failure(&mut self) -> Result<EmulationFailure> {
        Ok(EmulationFailure {
            rip: self.registers()?.rip,
            bytes: instruction_bytes(&mut self.fd),
        })
    }

    fn set_entry(&mut self, entry: &Entry) -> Result<()> {
        let mut regs = kvm_regs::default();
        let mut sregs = self.fd.get_sregs().map_err(call("KVM_GET_SREGS"))?;
        segments::enter(entry, &mut regs, &mut sregs);
        self.fd.set_sregs(&sregs).map_err(call("KVM_SET_SREGS"))?;
        self.fd.set_regs(&regs).map_err(call("KVM_SET_REGS"))
    }

    fn registers(&self) -> Result<Registers> {
        let regs = self.fd.get_regs().map_err(call("KVM_GET_REGS"))?;
        Ok(from_kvm(&regs))
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<()> {
        self.fd
            .set_regs(&to_kvm(registers))
            .map_err(call("KVM_SET_REGS"))
    }

    fn save(&mut self) -> Result<VcpuState> {
        state::save(&self.fd, &self.msrs)
    }

    fn restore(&mut self, state: &VcpuState) -> Result<()> {
        state::restore(&self.fd, state)?;
        let mp_state = self.fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?;
        self.uninitialized = is_uninitialized(mp_state);
        Ok(())
    }
}

fn is_uninitialized(state: kvm_mp_state) -> bool {
    state.mp_state == KVM_MP_STATE_UNINITIALIZED
}

fn translate(exit: VcpuExit<'_>) -> Exit<'_> {
    match exit {
        VcpuExit::IoIn(port, data) => Exit::PioRead { port, data },
        VcpuExit::IoOut(port, data) => Exit::PioWrite { port, data },
        VcpuExit::MmioRead(address, data) => Exit::MmioRead { address, data },
        VcpuExit::MmioWrite(address, data) => Exit::MmioWrite { address, data },
        VcpuExit::Hlt => Exit::Halted,
        VcpuExit::Shutdown => Exit::TripleFault,
        VcpuExit::Intr => Exit::Interrupted,
        VcpuExit::InternalError => Exit::EmulationFailure,
        VcpuExit::FailEntry(reason, _) => Exit::EntryFailure(reason),
        VcpuExit::Unsupported(reason) => Exit::Unknown(reason),
        _ => Exit::Unknown(u32::MAX),
    }
}

/// Writes the two conversions between structs of the same fields.
macro_rules! same_fields {
    ($($field:ident),*) => {
        fn from_kvm(regs: &kvm_regs) -> Registers {
            Registers { $($field: regs.$field),* }
        }
        fn to_kvm(registers: &Registers) -> kvm_regs {
            kvm_regs { $($field: registers.$field),* }
        }
    };
}

same_fields!(
    rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags
);
