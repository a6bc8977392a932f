//! The machine of a micro-guest: 1 MiB of memory, filled from outside.
//!
//! | address | what |
//! |---|---|
//! | 0x1000 | the guest's code |
//! | 0x1800 | its interrupt handler |
//! | 0x2000 | its data |
//! | 0x7000 | the top of its stack |
//! | 0x8000 | where a second vCPU begins |
//! | 0x9000 | descriptor tables |
//! | 0xa000 | page tables |

use std::sync::Arc;

use hv::{Hypervisor, RamOptions, Vm, x86_64::Entry};
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MemoryRegionAddress};

use crate::{
    BackEnd, VmOf,
    cpu::Cpu,
    failure::{Failure, Result},
};

/// Where the code is, and is entered.
pub(crate) const CODE: u64 = 0x1000;
/// Where guests have their data.
pub(crate) const DATA: u64 = 0x2000;
/// The end of the memory that all guests have.
pub(crate) const END: u64 = 0x10_0000;
/// Where there never is memory; a page table maps it.
pub(crate) const NOWHERE: u64 = 0x2000_0000;
/// The port where guests say that they are done with something.
pub(crate) const DONE: u16 = 0xf4;

const STACK: u64 = 0x7000;
const PAGE_TABLES: u64 = 0xa000;

/// A machine with a guest in its memory.
pub(crate) struct Machine<V: Vm> {
    pub(crate) vm: V,
    ram: Arc<GuestRegionMmap>,
}

impl<V: Vm> Machine<V> {
    /// A machine with this code, and no vCPU yet.
    pub(crate) fn new<B: BackEnd<Hypervisor: Hypervisor<Vm = V>>>(
        back_end: &B,
        code: &[u8],
    ) -> Result<Self> {
        let vm = back_end.hypervisor().create_vm()?;
        let ram = region(0, END)?;
        vm.add_ram(Arc::clone(&ram), RamOptions::default())?;
        let machine = Self { vm, ram };
        machine.write(CODE, code)?;
        Ok(machine)
    }

    /// A machine whose memory is a copy of this one's, and is otherwise empty.
    pub(crate) fn with_same_memory<B: BackEnd<Hypervisor: Hypervisor<Vm = V>>>(
        &self,
        back_end: &B,
    ) -> Result<Self> {
        let mut all = vec![0; usize::try_from(END).unwrap_or_default()];
        self.read(0, &mut all)?;
        let copy = Self::new(back_end, &[])?;
        copy.write(0, &all)?;
        Ok(copy)
    }

    /// Writes into the guest's memory.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        write(&self.ram, address, bytes)
    }

    /// Reads the guest's memory.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let read = self.ram.read_slice(bytes, MemoryRegionAddress(address));
        read.map_err(memory)
    }

    /// A number in the guest's memory.
    pub(crate) fn number(&self, address: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The only vCPU, about to execute the code in 32-bit mode, without paging.
    pub(crate) fn protected(&self) -> Result<Cpu<V::Vcpu>> {
        self.protected_of(1)
    }

    /// The first of `count` vCPUs.
    pub(crate) fn protected_of(&self, count: u8) -> Result<Cpu<V::Vcpu>> {
        let mut cpu = self.waiting(0, count)?;
        let entry = Entry::Protected {
            rip: 0x1000,
            rbx: 0,
        };
        hv::Vcpu::set_entry(&mut cpu.vcpu, &entry)?;
        Ok(cpu)
    }

    /// The only vCPU, about to execute the code in 64-bit mode.
    pub(crate) fn long(&self) -> Result<Cpu<V::Vcpu>> {
        self.write(PAGE_TABLES, &page_tables())?;
        let mut cpu = self.waiting(0, 1)?;
        let entry = Entry::Long {
            rip: CODE,
            rsi: 0,
            rsp: STACK,
            cr3: PAGE_TABLES,
            gdt: (0, 0),
        };
        hv::Vcpu::set_entry(&mut cpu.vcpu, &entry)?;
        Ok(cpu)
    }

    /// A vCPU as the back end makes it.
    pub(crate) fn waiting(&self, index: u8, count: u8) -> Result<Cpu<V::Vcpu>> {
        Ok(Cpu::new(self.vm.create_vcpu(index, count)?))
    }
}

/// A machine of this back end, with this code.
pub(crate) fn machine<B: BackEnd>(back_end: &B, code: &[u8]) -> Result<Machine<VmOf<B>>> {
    Machine::new(back_end, code)
}

/// A piece of memory at a guest address.
pub(crate) fn region(start: u64, size: u64) -> Result<Arc<GuestRegionMmap>> {
    let size = usize::try_from(size).map_err(memory)?;
    let region = GuestRegionMmap::from_range(GuestAddress(start), size, None);
    region.map(Arc::new).map_err(memory)
}

/// Writes into a piece of memory, at an offset.
pub(crate) fn write(region: &GuestRegionMmap, offset: u64, bytes: &[u8]) -> Result<()> {
    let written = region.write_slice(bytes, MemoryRegionAddress(offset));
    written.map_err(memory)
}

fn memory(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Memory(Box::new(error))
}

/// The first GiB, mapped to itself in pages of 2 MiB (SDM volume 3, 4.5): three tables.
fn page_tables() -> Vec<u8> {
    /// Present and writable; and a large page.
    const TABLE: u64 = 3;
    const LARGE: u64 = 0x83;
    let one = |entry| std::iter::once(entry).chain(std::iter::repeat_n(0, 511));
    let level4 = one((PAGE_TABLES + 0x1000) | TABLE);
    let level3 = one((PAGE_TABLES + 0x2000) | TABLE);
    let level2 = (0..512).map(|page: u64| (page << 21) | LARGE);
    let entries = level4.chain(level3).chain(level2);
    entries.flat_map(u64::to_le_bytes).collect()
}
