//! Interrupt routes: which of KVM's interrupt numbers (GSI) means what (api.rst, 4.52).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv::{Error, Msi, Result};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::call;

/// The I/O APIC's inputs are the first numbers.
const IOAPIC_INPUTS: u32 = 24;

/// Numbers for MSIs: as many as the routing table has room for (`KVM_MAX_IRQ_ROUTES`).
const MSI_NUMBERS: usize = 4096 - 24;

/// The routes of a machine.
#[derive(Debug, Default)]
pub(crate) struct Routes(Mutex<Vec<MsiNumber>>);

/// Who has an interrupt number, and what for.
#[derive(Debug, Clone, Copy)]
enum MsiNumber {
    Free,
    Taken(Option<Msi>),
}

impl Routes {
    /// Only the I/O APIC's inputs.
    pub(crate) fn install(&self, vm: &VmFd) -> Result<()> {
        commit(vm, &self.lock())
    }

    fn take(&self) -> Result<u32> {
        let mut numbers = self.lock();
        let free = |number: &MsiNumber| matches!(number, MsiNumber::Free);
        let index = numbers.iter().position(free).unwrap_or(numbers.len());
        if index >= MSI_NUMBERS {
            return Err(Error::Missing("interrupt number left"));
        }
        let taken = MsiNumber::Taken(None);
        match numbers.get_mut(index) {
            Some(number) => *number = taken,
            None => numbers.push(taken),
        }
        u32::try_from(index)
            .ok()
            .and_then(|index| index.checked_add(IOAPIC_INPUTS))
            .ok_or(Error::Missing("interrupt number left"))
    }

    fn set(&self, vm: &VmFd, gsi: u32, to: MsiNumber) -> Result<()> {
        let mut numbers = self.lock();
        let index = gsi
            .checked_sub(IOAPIC_INPUTS)
            .and_then(|i| usize::try_from(i).ok());
        if let Some(number) = index.and_then(|index| numbers.get_mut(index)) {
            *number = to;
        }
        commit(vm, &numbers)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<MsiNumber>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// KVM takes the whole table at once.
fn commit(vm: &VmFd, numbers: &[MsiNumber]) -> Result<()> {
    let inputs = (0..IOAPIC_INPUTS).map(ioapic_entry);
    let messages = (IOAPIC_INPUTS..)
        .zip(numbers)
        .filter_map(|(gsi, number)| match number {
            MsiNumber::Taken(Some(message)) => Some(msi_entry(gsi, *message)),
            _ => None,
        });
    let entries: Vec<_> = inputs.chain(messages).collect();
    let table = KvmIrqRouting::from_entries(&entries)
        .map_err(|_| Error::Missing("room for another interrupt route"))?;
    vm.set_gsi_routing(&table)
        .map_err(call("KVM_SET_GSI_ROUTING"))
}

fn ioapic_entry(input: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi: input,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip {
        irqchip: KVM_IRQCHIP_IOAPIC,
        pin: input,
    };
    entry
}

fn msi_entry(gsi: u32, message: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    let [low, high] = halves(message.address);
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: low,
        address_hi: high,
        data: message.data,
        ..Default::default()
    };
    entry
}

/// The low and the high half.
pub(crate) fn halves(address: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// An eventfd that becomes an MSI: a route, and an irqfd while there is a message.
#[derive(Debug)]
pub struct IrqfdMsi {
    vm: Arc<VmFd>,
    routes: Arc<Routes>,
    event: EventFd,
    gsi: u32,
    attached: bool,
}

impl IrqfdMsi {
    pub(crate) fn new(vm: Arc<VmFd>, routes: Arc<Routes>, event: &EventFd) -> Result<Self> {
        let event = event.try_clone().map_err(|source| Error::Call {
            call: "dup",
            source,
        })?;
        let gsi = routes.take()?;
        Ok(Self {
            vm,
            routes,
            event,
            gsi,
            attached: false,
        })
    }

    fn attach(&mut self) -> Result<()> {
        if !self.attached {
            let registered = self.vm.register_irqfd(&self.event, self.gsi);
            registered.map_err(call("KVM_IRQFD"))?;
            self.attached = true;
        }
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        if self.attached {
            let removed = self.vm.unregister_irqfd(&self.event, self.gsi);
            removed.map_err(call("KVM_IRQFD"))?;
            self.attached = false;
        }
        Ok(())
    }
}

impl hv::MsiEvent for IrqfdMsi {
    fn set(&mut self, message: Option<Msi>) -> Result<()> {
        if message.is_none() {
            // First, so that no signal meets a number without a route and is lost.
            self.detach()?;
        }
        self.routes
            .set(&self.vm, self.gsi, MsiNumber::Taken(message))?;
        if message.is_some() {
            self.attach()?;
        }
        Ok(())
    }
}

impl Drop for IrqfdMsi {
    fn drop(&mut self) {
        // If the machine refuses it is ending, and all goes with it.
        let _ = self.detach();
        let _ = self.routes.set(&self.vm, self.gsi, MsiNumber::Free);
    }
}
