//! The MSI-X vectors of a device: an event each, which the hypervisor turns into an interrupt
//! without us, whoever signals it.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use pci::{Message, MsiSink};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::Error;
use super::doorbells::event;
use super::host::{Host, Interrupt};
use super::watch::Breaker;

/// The hypervisor's half of each vector.
pub(super) struct Vectors<H: Host> {
    interrupts: Vec<H::Interrupt>,
    events: Vec<EventFd>,
    /// Tells which events hold a signal that no interrupt has taken.
    pending: Epoll,
    breaker: Arc<Breaker>,
}

/// The back end's half: what it is to signal.
pub(super) struct Calls {
    events: Vec<EventFd>,
    /// For queues whose driver polls: nobody listens.
    unheard: EventFd,
}

impl<H: Host> Vectors<H> {
    /// Makes both halves of `count` vectors. `breaker` is for a hypervisor that refuses a route.
    pub(super) fn new(host: &H, count: u16, breaker: Arc<Breaker>) -> Result<(Self, Calls), Error> {
        let pending = Epoll::new().map_err(Error::Event)?;
        let mut vectors = Self {
            interrupts: Vec::new(),
            events: Vec::new(),
            pending,
            breaker,
        };
        let mut calls = Calls {
            events: Vec::new(),
            unheard: event()?,
        };
        for vector in 0..count {
            let event = event()?;
            let interrupt = host.interrupt(&event);
            let interrupt = interrupt.map_err(|e| Error::Hypervisor("interrupt", Box::new(e)))?;
            let readable = EpollEvent::new(EventSet::IN, vector.into());
            let added = vectors
                .pending
                .ctl(ControlOperation::Add, event.as_raw_fd(), readable);
            added.map_err(Error::Event)?;
            vectors.interrupts.push(interrupt);
            calls.events.push(event.try_clone().map_err(Error::Event)?);
            vectors.events.push(event);
        }
        Ok((vectors, calls))
    }
}

impl<H: Host> MsiSink for Vectors<H> {
    fn route(&mut self, vector: u16, message: Option<Message>) {
        if let Some(interrupt) = self.interrupts.get_mut(usize::from(vector))
            && let Err(error) = interrupt.set(message)
        {
            self.breaker
                .trip(Error::Hypervisor("route for an interrupt", Box::new(error)));
        }
    }

    fn signal(&mut self, vector: u16) {
        if let Some(event) = self.events.get(usize::from(vector)) {
            // It only fails when the counter is full, and then it is signalled.
            let _ = event.write(1);
        }
    }

    fn pending(&mut self, vector: u16) -> bool {
        let mut ready = vec![EpollEvent::default(); self.events.len()];
        let count = self.pending.wait(0, &mut ready).unwrap_or(0);
        ready
            .iter()
            .take(count)
            .any(|event| event.data() == u64::from(vector))
    }
}

impl Calls {
    /// What a queue with this vector is to signal.
    pub(super) fn event(&self, vector: Option<u16>) -> &EventFd {
        let event = vector.and_then(|vector| self.events.get(usize::from(vector)));
        event.unwrap_or(&self.unheard)
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.events.len()).unwrap_or(u16::MAX)
    }
}
