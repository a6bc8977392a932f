//! A virtio device as a PCI function.

use std::sync::Arc;

use crate::access;
use crate::{BarRange, BarSize, ConfigSpace, Error, PciFunction};

use super::VirtioBackend;
use super::common::{self, Access, Common};
use super::interrupts::Interrupts;
use super::layout::{self, BAR, NOTIFY_MULTIPLIER, NOTIFY_OFFSET, Places, Region};
use super::queue::MAX_SIZE;

/// What a virtio device is, beside its back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The device id (virtio 1.2, section 5), 1 to 63.
    pub virtio_id: u16,
    /// The largest size of each queue, powers of two up to 32768; at most
    /// [`super::MAX_QUEUES`] queues.
    pub queues: Vec<u16>,
}

/// A virtio device behind its PCI registers.
pub struct VirtioPci<B> {
    pub(super) config: ConfigSpace,
    pub(super) places: Places,
    pub(super) common: Common,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) backend: B,
    /// Where the back end was last told that notifications are.
    notify: Option<u64>,
}

impl<B: VirtioBackend> VirtioPci<B> {
    /// The function as after power-on, its BAR without an address.
    ///
    /// # Errors
    /// [`Error::Device`] if the description is outside what is documented there.
    pub fn new(
        description: &Description,
        interrupts: Arc<Interrupts>,
        backend: B,
    ) -> Result<Self, Error> {
        check(description)?;
        let (config, places) = layout::config_space(description, &interrupts.lock().msix)?;
        let common = Common::new(&description.queues);
        Ok(Self {
            config,
            places,
            common,
            interrupts,
            backend,
            notify: None,
        })
    }

    /// The device behind the transport.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    pub(super) fn access(&mut self) -> Access<'_, B> {
        let notify = notify_address(&self.config);
        self.notify = notify;
        Access {
            common: &mut self.common,
            backend: &mut self.backend,
            interrupts: &self.interrupts,
            notify,
        }
    }

    /// Follows what a write to config space may have changed.
    pub(super) fn follow_config(&mut self) {
        let [_, control] = self.config.array(self.places.msix.saturating_add(2));
        self.interrupts.lock().msix.set_control(control);
        let notify = notify_address(&self.config);
        if self.common.running && notify != self.notify {
            self.notify = notify;
            self.backend.move_notify(notify);
        }
    }

    /// The access that the PCI configuration access capability describes (virtio 1.2, section
    /// 4.1.4.9): offset in BAR 0 and length, if they are valid and `at..at + len` touches its data.
    fn window(&self, at: u16, len: usize) -> Option<(u64, usize)> {
        let data = self.places.window.saturating_add(16);
        let (at, end) = (usize::from(at), usize::from(at).saturating_add(len));
        let [bar] = self.config.array(self.places.window.saturating_add(4));
        let offset = u32::from_le_bytes(self.config.array(self.places.window.saturating_add(8)));
        let length = u32::from_le_bytes(self.config.array(self.places.window.saturating_add(12)));
        let touched = at < data.saturating_add(4) && end > data;
        let valid = bar == BAR && matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length);
        (touched && valid).then_some((offset.into(), usize::try_from(length).ok()?))
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) {
        access::write(&mut self.access(), common::FIELDS.into_iter(), offset, data);
    }

    /// Reading the ISR clears it.
    fn read_isr(&mut self, offset: u64, data: &mut [u8]) {
        if offset == 0
            && let Some(first) = data.first_mut()
        {
            *first = std::mem::take(&mut self.interrupts.lock().isr);
        }
    }

    /// The place says which queue; what is written there does not matter, since
    /// `VIRTIO_F_NOTIFICATION_DATA` is not offered.
    fn write_notify(&mut self, offset: u64) {
        let queue = u16::try_from(offset.div_euclid(NOTIFY_MULTIPLIER.into())).unwrap_or(u16::MAX);
        let enabled = self
            .common
            .queues
            .get(usize::from(queue))
            .is_some_and(|it| it.enabled);
        if enabled && self.common.running {
            self.backend.notify(queue);
        }
    }
}

impl<B: VirtioBackend> PciFunction for VirtioPci<B> {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        if let Some((at, length)) = self.window(offset, data.len()) {
            let mut value = [0; 4];
            if let Some(value) = value.get_mut(..length) {
                self.read_bar(BAR, at, value);
            }
            self.config
                .place(self.places.window.saturating_add(16), &value);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        if let Some((at, length)) = self.window(offset, data.len()) {
            let value: [u8; 4] = self.config.array(self.places.window.saturating_add(16));
            self.write_bar(BAR, at, value.get(..length).unwrap_or_default());
        }
        self.follow_config();
    }

    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((region, offset)) = layout::region(offset).filter(|_| bar == BAR) else {
            return;
        };
        match region {
            Region::Common => {
                access::read(&mut self.access(), common::FIELDS.into_iter(), offset, data);
            }
            Region::Isr => self.read_isr(offset, data),
            Region::Device => self.backend.read_config(offset, data),
            Region::Notify => {}
            Region::Table => self.interrupts.lock().msix.read_table(offset, data),
            Region::Pending => self.interrupts.lock().msix.read_pending(offset, data),
        }
    }

    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let Some((region, offset)) = layout::region(offset).filter(|_| bar == BAR) else {
            return;
        };
        match region {
            Region::Common => self.write_common(offset, data),
            Region::Device => self.backend.write_config(offset, data),
            Region::Notify => self.write_notify(offset),
            Region::Table => self.interrupts.lock().msix.write_table(offset, data),
            Region::Isr | Region::Pending => {}
        }
    }

    fn bars(&self) -> Vec<BarSize> {
        self.config.bars().to_vec()
    }

    fn assign_bar(&mut self, bar: u8, address: u64) {
        self.config.assign_bar(bar, address);
        self.follow_config();
    }

    fn decoded(&self) -> Vec<BarRange> {
        self.config.decoded()
    }

    fn reset(&mut self) {
        self.access().reset();
        self.interrupts.lock().msix.reset();
        self.config.reset();
    }
}

/// Where the guest notifies queue 0, while it decodes memory.
fn notify_address(config: &ConfigSpace) -> Option<u64> {
    let range = config
        .decoded()
        .into_iter()
        .find(|range| range.index == BAR)?;
    range.base.checked_add(NOTIFY_OFFSET)
}

fn check(description: &Description) -> Result<(), Error> {
    let Description { virtio_id, queues } = description;
    let problem = if *virtio_id == 0 || *virtio_id > 63 {
        "the id must be 1 to 63"
    } else if queues.len() > super::MAX_QUEUES {
        "at most 512 queues fit"
    } else if queues
        .iter()
        .any(|size| !size.is_power_of_two() || *size > MAX_SIZE)
    {
        "queue sizes are powers of two up to 32768"
    } else {
        return Ok(());
    };
    Err(Error::Device {
        id: *virtio_id,
        queues: queues.len(),
        problem,
    })
}
