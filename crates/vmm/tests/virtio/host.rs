//! A host without a hypervisor: doorbells and interrupts are noted, the test plays both.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pci::Message;
use vmm::virtio::{Host, Interrupt};
use vmm_sys_util::eventfd::EventFd;

#[derive(Default)]
pub(crate) struct FakeHost {
    doorbells: Arc<Mutex<BTreeMap<u64, EventFd>>>,
    lines: Mutex<Vec<Line>>,
}

type Line = (EventFd, Arc<Mutex<Option<Message>>>);

pub(crate) struct Doorbell(u64, Arc<Mutex<BTreeMap<u64, EventFd>>>);

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.1.lock().unwrap().remove(&self.0);
    }
}

pub(crate) struct Route(Arc<Mutex<Option<Message>>>);

impl Interrupt for Route {
    type Error = Infallible;

    fn set(&mut self, message: Option<Message>) -> Result<(), Infallible> {
        *self.0.lock().unwrap() = message;
        Ok(())
    }
}

impl Host for FakeHost {
    type Doorbell = Doorbell;
    type Interrupt = Route;
    type Error = Infallible;

    fn doorbell(&self, address: u64, event: &EventFd) -> Result<Doorbell, Infallible> {
        let old = self
            .doorbells
            .lock()
            .unwrap()
            .insert(address, event.try_clone().unwrap());
        assert!(old.is_none(), "two doorbells at {address:#x}");
        Ok(Doorbell(address, Arc::clone(&self.doorbells)))
    }

    fn interrupt(&self, event: &EventFd) -> Result<Route, Infallible> {
        let message = Arc::default();
        self.lines
            .lock()
            .unwrap()
            .push((event.try_clone().unwrap(), Arc::clone(&message)));
        Ok(Route(message))
    }
}

impl FakeHost {
    /// The guest writes to `address`. `false` if no doorbell hangs there.
    pub(crate) fn ring(&self, address: u64) -> bool {
        let doorbells = self.doorbells.lock().unwrap();
        doorbells
            .get(&address)
            .map(|event| event.write(1).unwrap())
            .is_some()
    }

    pub(crate) fn doorbells(&self) -> Vec<u64> {
        self.doorbells.lock().unwrap().keys().copied().collect()
    }

    /// The message that arrives by this vector within the time, if it has a route.
    pub(crate) fn interrupt_within(&self, vector: usize, limit: Duration) -> Option<Message> {
        let end = Instant::now() + limit;
        loop {
            {
                let lines = self.lines.lock().unwrap();
                let (event, message) = &lines[vector];
                let message = *message.lock().unwrap();
                if message.is_some() && event.read().is_ok() {
                    return message;
                }
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
