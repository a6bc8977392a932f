//! A virtual machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv::{Address, Error, Match, Msi, RamOptions, RamSlot, Result, Vm};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_msi,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::GuestRegionMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    IrqfdMsi, KvmVcpu, call,
    interrupts::{Routes, halves},
    memory::Ram,
    x86_64::{cpuid::Cpuid, msrs},
};

/// Where KVM puts three pages for real mode on Intel CPUs (api.rst, 4.13): below the reset vector,
/// in what would be firmware.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A KVM virtual machine.
#[derive(Debug)]
pub struct KvmVm {
    // Dropped before `ram`: the kernel must not know a mapping that is gone.
    vm: Arc<VmFd>,
    cpuid: Cpuid,
    msrs: Arc<[u32]>,
    routes: Arc<Routes>,
    ram: Arc<Mutex<Ram>>,
}

impl KvmVm {
    pub(crate) fn new(kvm: &Kvm) -> Result<Self> {
        let vm = Arc::new(kvm.create_vm().map_err(call("KVM_CREATE_VM"))?);
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(call("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
        let routes = Arc::new(Routes::default());
        routes.install(&vm)?;
        Ok(Self {
            cpuid: Cpuid::supported(kvm)?,
            msrs: msrs::saved(kvm)?.into(),
            vm,
            routes,
            ram: Arc::default(),
        })
    }

    fn ram(&self) -> MutexGuard<'_, Ram> {
        self.ram.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vm for KvmVm {
    type Vcpu = KvmVcpu;
    type Event = EventFd;
    type Doorbell = Ioeventfd;
    type MsiEvent = IrqfdMsi;
    type State = VmState;

    fn address_bits(&self) -> u8 {
        self.cpuid.address_bits()
    }

    fn add_ram(&self, region: Arc<GuestRegionMmap>, options: RamOptions) -> Result<RamSlot> {
        self.ram().add(&self.vm, region, options)
    }

    fn remove_ram(&self, slot: RamSlot) -> Result<()> {
        self.ram().remove(&self.vm, slot)
    }

    fn dirty_pages(&self, slot: RamSlot) -> Result<Vec<u64>> {
        self.ram().dirty_pages(&self.vm, slot)
    }

    fn create_vcpu(&self, index: u8, count: u8) -> Result<KvmVcpu> {
        let fd = self
            .vm
            .create_vcpu(index.into())
            .map_err(call("KVM_CREATE_VCPU"))?;
        let msrs = Arc::clone(&self.msrs);
        KvmVcpu::new(fd, &self.cpuid, msrs, (index, count), Arc::clone(&self.ram))
    }

    fn doorbell(&self, address: Address, matching: Match, event: &EventFd) -> Result<Ioeventfd> {
        let event = event.try_clone().map_err(|source| Error::Call {
            call: "dup",
            source,
        })?;
        let address = match address {
            Address::Pio(port) => IoEventAddress::Pio(port.into()),
            Address::Mmio(address) => IoEventAddress::Mmio(address),
        };
        let doorbell = Ioeventfd {
            vm: Arc::clone(&self.vm),
            event,
            address,
            matching,
            hung: false,
        };
        doorbell.hang()
    }

    fn msi_event(&self, event: &EventFd) -> Result<IrqfdMsi> {
        IrqfdMsi::new(Arc::clone(&self.vm), Arc::clone(&self.routes), event)
    }

    fn signal_msi(&self, message: Msi) -> Result<()> {
        let [address_lo, address_hi] = halves(message.address);
        let msi = kvm_msi {
            address_lo,
            address_hi,
            data: message.data,
            ..Default::default()
        };
        self.vm.signal_msi(msi).map_err(call("KVM_SIGNAL_MSI"))?;
        Ok(())
    }

    fn line_event(&self, input: u32, event: &EventFd) -> Result<()> {
        self.vm
            .register_irqfd(event, input)
            .map_err(call("KVM_IRQFD"))
    }

    fn save(&self) -> Result<VmState> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            self.vm
                .get_irqchip(&mut chip)
                .map_err(call("KVM_GET_IRQCHIP"))?;
            Ok(chip)
        };
        Ok(VmState {
            version: VmState::VERSION,
            pic: [chip(KVM_IRQCHIP_PIC_MASTER)?, chip(KVM_IRQCHIP_PIC_SLAVE)?],
            ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
            clock: self.vm.get_clock().map_err(call("KVM_GET_CLOCK"))?,
        })
    }

    fn restore(&self, state: &VmState) -> Result<()> {
        if state.version != VmState::VERSION {
            return Err(Error::State("it is of another version"));
        }
        let [master, slave] = &state.pic;
        for chip in [master, slave, &state.ioapic] {
            self.vm.set_irqchip(chip).map_err(call("KVM_SET_IRQCHIP"))?;
        }
        let clock = kvm_clock_data {
            clock: state.clock.clock,
            ..Default::default()
        };
        self.vm.set_clock(&clock).map_err(call("KVM_SET_CLOCK"))
    }
}

/// A machine's interrupt controllers and clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmState {
    version: u16,
    pic: [kvm_irqchip; 2],
    ioapic: kvm_irqchip,
    clock: kvm_clock_data,
}

impl VmState {
    const VERSION: u16 = 1;
}

/// A doorbell; it stops ringing when it is dropped.
#[derive(Debug)]
pub struct Ioeventfd {
    vm: Arc<VmFd>,
    event: EventFd,
    address: IoEventAddress,
    matching: Match,
    hung: bool,
}

impl Ioeventfd {
    fn hang(mut self) -> Result<Self> {
        let (vm, event, address) = (&self.vm, &self.event, &self.address);
        match self.matching {
            Match::Any => vm.register_ioevent(event, address, NoDatamatch),
            Match::U8(value) => vm.register_ioevent(event, address, value),
            Match::U16(value) => vm.register_ioevent(event, address, value),
            Match::U32(value) => vm.register_ioevent(event, address, value),
            Match::U64(value) => vm.register_ioevent(event, address, value),
        }
        .map_err(call("KVM_IOEVENTFD"))?;
        self.hung = true;
        Ok(self)
    }
}

impl Drop for Ioeventfd {
    fn drop(&mut self) {
        if !self.hung {
            return;
        }
        let (vm, event, address) = (&self.vm, &self.event, &self.address);
        // If the machine refuses it is ending, and all goes with it.
        let _ = match self.matching {
            Match::Any => vm.unregister_ioevent(event, address, NoDatamatch),
            Match::U8(value) => vm.unregister_ioevent(event, address, value),
            Match::U16(value) => vm.unregister_ioevent(event, address, value),
            Match::U32(value) => vm.unregister_ioevent(event, address, value),
            Match::U64(value) => vm.unregister_ioevent(event, address, value),
        };
    }
}
