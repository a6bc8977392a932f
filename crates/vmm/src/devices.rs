//! The devices' way to the hypervisor.

use std::sync::Arc;

use hv::{Address, Match, Msi, MsiEvent, Vm};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::{Host, Interrupt};

/// A virtual machine, as front ends see it.
pub(crate) struct DeviceHost<V>(pub(crate) Arc<V>);

impl<V: Vm<Event = EventFd>> Host for DeviceHost<V> {
    type Doorbell = V::Doorbell;
    type Interrupt = DeviceInterrupt<V::MsiEvent>;
    type Error = hv::Error;

    fn doorbell(&self, address: u64, event: &EventFd) -> hv::Result<V::Doorbell> {
        self.0.doorbell(Address::Mmio(address), Match::Any, event)
    }

    fn interrupt(&self, event: &EventFd) -> hv::Result<Self::Interrupt> {
        self.0.msi_event(event).map(DeviceInterrupt)
    }
}

/// An MSI, as front ends see it.
pub(crate) struct DeviceInterrupt<M>(M);

impl<M: MsiEvent> Interrupt for DeviceInterrupt<M> {
    type Error = hv::Error;

    fn set(&mut self, message: Option<pci::Message>) -> hv::Result<()> {
        self.0.set(message.map(|message| Msi {
            address: message.address,
            data: message.data,
        }))
    }
}
