//! What a front end needs of the hypervisor: events that guests cause, and events that become
//! interrupts.

use vmm_sys_util::eventfd::EventFd;

/// A virtual machine as far as devices are concerned.
pub trait Host: Send + Sync + 'static {
    /// A doorbell that rings until it is dropped.
    type Doorbell: Send;
    /// An interrupt.
    type Interrupt: Interrupt;
    /// What the hypervisor's refusal looks like.
    type Error: std::error::Error + Send + Sync + 'static;

    /// From now on a guest's write of any width to exactly `address` signals `event`.
    ///
    /// # Errors
    /// If the hypervisor refuses.
    fn doorbell(&self, address: u64, event: &EventFd) -> Result<Self::Doorbell, Self::Error>;

    /// An interrupt that `event` raises; it has no message yet.
    ///
    /// # Errors
    /// If the hypervisor refuses.
    fn interrupt(&self, event: &EventFd) -> Result<Self::Interrupt, Self::Error>;
}

/// An interrupt that an event raises by itself.
pub trait Interrupt: Send {
    /// Why it could not be done.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What a signal of the event does from now on: send `data` to `address`; or, with `None`,
    /// nothing: signals stay in the event until there is a message again, and are then one.
    ///
    /// # Errors
    /// If the hypervisor refuses.
    fn set(&mut self, message: Option<pci::Message>) -> Result<(), Self::Error>;
}
