//! The interrupts of a virtio function: shared between the transport and whoever watches the
//! device, since a device may fail while no vCPU is looking.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, MsiSink, Msix};

use super::queue::NO_VECTOR;

/// The configuration bit of the ISR status (virtio 1.2, section 4.1.4.5). The queue bit is never
/// set: with MSI-X, queue interrupts do not pass here.
const ISR_CONFIG: u8 = 1 << 1;

/// The MSI-X state of a function with what interrupts the driver about the device as a whole.
pub struct Interrupts(Mutex<Inner>);

pub(super) struct Inner {
    pub(super) msix: Msix,
    pub(super) config_vector: u16,
    pub(super) generation: u8,
    pub(super) isr: u8,
    pub(super) needs_reset: bool,
    pub(super) driver_ok: bool,
}

impl Interrupts {
    /// Interrupts by `vectors` MSI-X vectors, usually one a queue and one for config changes.
    ///
    /// # Errors
    /// [`Error::Vectors`].
    pub fn new(vectors: u16, sink: Box<dyn MsiSink>) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(Mutex::new(Inner {
            msix: Msix::new(vectors, sink)?,
            config_vector: NO_VECTOR,
            generation: 0,
            isr: 0,
            needs_reset: false,
            driver_ok: false,
        }))))
    }

    /// The device's config space has changed: the driver is interrupted.
    pub fn config_changed(&self) {
        let mut inner = self.lock();
        inner.generation = inner.generation.wrapping_add(1);
        inner.notify_config();
    }

    /// The device cannot go on until it is reset: `DEVICE_NEEDS_RESET`, and an interrupt if the
    /// driver is up (virtio 1.2, section 2.1.2). Idempotent.
    pub fn needs_reset(&self) {
        let mut inner = self.lock();
        if !inner.needs_reset {
            inner.needs_reset = true;
            if inner.driver_ok {
                inner.notify_config();
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn notify_config(&mut self) {
        self.isr |= ISR_CONFIG;
        if self.config_vector != NO_VECTOR {
            self.msix.signal(self.config_vector);
        }
    }

    /// The driver is up; if the device failed before that, now is the time to say so.
    pub(super) fn set_driver_ok(&mut self) {
        self.driver_ok = true;
        if self.needs_reset {
            self.notify_config();
        }
    }

    /// The vector as a driver gets it: one that does not exist is refused as `NO_VECTOR`.
    pub(super) fn usable(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// A reset of the virtio device: MSI-X belongs to the function and stays.
    pub(super) fn reset_device(&mut self) {
        self.config_vector = NO_VECTOR;
        self.isr = 0;
        self.needs_reset = false;
        self.driver_ok = false;
    }
}
