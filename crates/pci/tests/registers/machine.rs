//! A guest's view of a bus, and a device that writes down what it is told.

use std::sync::{Arc, Mutex};

use pci::virtio::{
    Activation, BackendError, Description, Interrupts, NOTIFY_OFFSET, VirtioBackend, VirtioPci,
};
use pci::{Bus, Message, MsiSink, PciFunction};

pub(crate) const OFFERED: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 0b11;
pub(crate) const RAM: u64 = 0x10_0000;
pub(crate) const WINDOW: u64 = 0x40_0000_0000;

/// What device and sink were told, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub(crate) struct Device {
    pub(crate) log: Log,
    pub(crate) config: [u8; 8],
    pub(crate) broken: bool,
}

impl VirtioBackend for Device {
    fn features(&mut self) -> u64 {
        if self.broken { 0 } else { OFFERED }
    }
    fn accept(&mut self, features: u64) -> bool {
        assert_eq!(
            features & !OFFERED,
            0,
            "only what was offered reaches the device"
        );
        self.log.note(format!("accept {features:#x}"));
        true
    }
    fn activate(&mut self, activation: &Activation) -> Result<(), BackendError> {
        for queue in &activation.queues {
            let end = queue.used + 6 + 8 * u64::from(queue.size);
            assert!(queue.size.is_power_of_two() && end <= RAM, "{queue:?}");
        }
        let queues: Vec<_> = activation
            .queues
            .iter()
            .map(|q| (q.index, q.size, q.vector))
            .collect();
        self.log
            .note(format!("activate {queues:?} at {:x?}", activation.notify));
        if self.broken {
            Err(BackendError)
        } else {
            Ok(())
        }
    }
    fn move_notify(&mut self, address: Option<u64>) {
        self.log.note(format!("notify at {address:x?}"));
    }
    fn set_vector(&mut self, queue: u16, vector: Option<u16>) {
        self.log.note(format!("queue {queue} on {vector:?}"));
    }
    fn notify(&mut self, queue: u16) {
        self.log.note(format!("notify {queue}"));
    }
    fn read_config(&mut self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap().min(8);
        for (to, from) in data.iter_mut().zip(&self.config[at..]) {
            *to = *from;
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.log.note(format!("config[{offset}] = {data:?}"));
    }
    fn reset(&mut self) {
        self.log.note("reset");
    }
    fn is_ram(&self, address: u64, len: u64) -> bool {
        address.checked_add(len).is_some_and(|end| end <= RAM)
    }
}

struct Sink(Log);

impl MsiSink for Sink {
    fn route(&mut self, vector: u16, message: Option<Message>) {
        self.0
            .note(format!("vector {vector} is {:x?}", message.map(|m| m.data)));
    }
    fn signal(&mut self, vector: u16) {
        self.0.note(format!("vector {vector} fires"));
    }
    fn pending(&mut self, _vector: u16) -> bool {
        false
    }
}

/// A file system device with two queues, and its interrupts.
pub(crate) fn function(log: &Log, broken: bool) -> (VirtioPci<Device>, Arc<Interrupts>) {
    let interrupts = Interrupts::new(3, Box::new(Sink(log.clone()))).unwrap();
    let device = Device {
        log: log.clone(),
        config: *b"rootroot",
        broken,
    };
    let description = Description {
        virtio_id: 26,
        queues: vec![256, 128],
    };
    let function = VirtioPci::new(&description, Arc::clone(&interrupts), device).unwrap();
    (function, interrupts)
}

/// A bus with that device at 00:01.0.
pub(crate) struct Machine {
    pub(crate) bus: Bus,
    pub(crate) log: Log,
    pub(crate) interrupts: Arc<Interrupts>,
}

impl Machine {
    pub(crate) fn new(broken: bool) -> Self {
        let log = Log::default();
        let (function, interrupts) = function(&log, broken);
        Self::with(Box::new(function), log, interrupts)
    }

    pub(crate) fn with(
        function: Box<dyn PciFunction>,
        log: Log,
        interrupts: Arc<Interrupts>,
    ) -> Self {
        let mut bus = Bus::new();
        assert_eq!(bus.add(function).unwrap(), 1);
        bus.assign_bars(WINDOW..WINDOW + 0x10_0000).unwrap();
        Self {
            bus,
            log,
            interrupts,
        }
    }

    pub(crate) fn config(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.bus.read_ecam(1 << 15 | register, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn set_config(&self, register: u64, data: &[u8]) {
        self.bus.write_ecam(1 << 15 | register, data);
    }

    pub(crate) fn read<const N: usize>(&self, offset: u64) -> u64 {
        let mut data = [0; N];
        assert!(
            self.bus.read_memory(WINDOW + offset, &mut data),
            "the BAR is decoded"
        );
        let mut value = [0; 8];
        value[..N].copy_from_slice(&data);
        u64::from_le_bytes(value)
    }

    pub(crate) fn write<const N: usize>(&self, offset: u64, value: u64) {
        assert!(
            self.bus
                .write_memory(WINDOW + offset, &value.to_le_bytes()[..N])
        );
    }

    /// Memory decoding on, MSI-X on, all vectors programmed and unmasked.
    pub(crate) fn enable(&self) {
        self.set_config(4, &[0x06, 0]);
        for vector in 0..3 {
            self.write::<8>(0x4000 + vector * 16, 0xfee0_0000);
            self.write::<8>(0x4008 + vector * 16, 0x40 + vector);
        }
        self.set_config(0x42, &[2, 0x80]);
        self.log.take();
    }

    /// Everything a driver does up to FEATURES_OK.
    pub(crate) fn negotiate(&self, features: u64) -> u64 {
        for status in [0, 1, 3] {
            self.write::<1>(0x14, status);
        }
        for (half, bits) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write::<4>(0x08, half);
            self.write::<4>(0x0c, bits);
        }
        self.write::<1>(0x14, 0xb);
        self.read::<1>(0x14)
    }

    /// Sets up and enables a queue.
    pub(crate) fn queue(&self, index: u64, size: u64, base: u64) {
        self.write::<2>(0x16, index);
        self.write::<2>(0x18, size);
        self.write::<2>(0x1a, index + 1);
        for (register, offset) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
            self.write::<4>(register, (base + offset) & 0xffff_ffff);
            self.write::<4>(register + 4, (base + offset) >> 32);
        }
        self.write::<2>(0x1c, 1);
    }

    pub(crate) fn status(&self) -> u64 {
        self.read::<1>(0x14)
    }
}

pub(crate) const NOTIFY: u64 = NOTIFY_OFFSET;
