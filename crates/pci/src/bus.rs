//! The bus: which function an access belongs to.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use crate::{BarRange, EcamAddress, Error, HostBridge, PciFunction};

/// How many devices the bus takes, the host bridge included.
pub const DEVICES: usize = 32;

/// A locked function.
type Function<'a> = MutexGuard<'a, Box<dyn PciFunction>>;

/// One PCI bus: a host bridge at 00:00.0 and single-function devices behind it.
///
/// Every function has a lock of its own, so that a vCPU which waits for one device does not hold
/// up accesses to another.
pub struct Bus {
    functions: Vec<Mutex<Box<dyn PciFunction>>>,
    /// What each function decodes, kept beside the functions so that finding the one behind an
    /// address takes none of their locks.
    decoded: RwLock<Vec<(usize, BarRange)>>,
}

impl Bus {
    /// A bus with only its host bridge.
    #[must_use]
    pub fn new() -> Self {
        Self {
            functions: vec![Mutex::new(Box::new(HostBridge::new()))],
            decoded: RwLock::default(),
        }
    }

    /// Adds a function as the next device; returns its device number.
    ///
    /// # Errors
    /// [`Error::BusFull`] when all [`DEVICES`] are taken.
    pub fn add(&mut self, function: Box<dyn PciFunction>) -> Result<u8, Error> {
        let device = self.functions.len();
        if device >= DEVICES {
            return Err(Error::BusFull);
        }
        self.functions.push(Mutex::new(function));
        self.refresh(device);
        u8::try_from(device).map_err(|_| Error::BusFull)
    }

    /// Gives every BAR an address in `window`, in place of firmware. Call it once, after the last
    /// [`Bus::add`] and before the guest starts; the guest may move BARs later.
    ///
    /// # Errors
    /// [`Error::Window`] if the window is too small.
    pub fn assign_bars(&self, window: Range<u64>) -> Result<(), Error> {
        let mut next = window.start;
        for device in 0..self.functions.len() {
            let Some(mut function) = self.function(device) else {
                continue;
            };
            for bar in function.bars() {
                let full = Error::Window {
                    end: window.end,
                    size: bar.size,
                };
                let base = next.checked_next_multiple_of(bar.size);
                let placed = base.and_then(|base| Some((base, base.checked_add(bar.size)?)));
                let Some((base, end)) = placed.filter(|(_, end)| *end <= window.end) else {
                    return Err(full);
                };
                function.assign_bar(bar.index, base);
                next = end;
            }
            drop(function);
            self.refresh(device);
        }
        Ok(())
    }

    /// Reads config space through the ECAM window. A function that is not there reads as all
    /// ones, as on hardware.
    pub fn read_ecam(&self, offset: u64, data: &mut [u8]) {
        match self.target(offset) {
            Some((mut function, _, register)) => function.read_config(register, data),
            None => data.fill(0xff),
        }
    }

    /// Writes config space through the ECAM window.
    pub fn write_ecam(&self, offset: u64, data: &[u8]) {
        if let Some((mut function, device, register)) = self.target(offset) {
            function.write_config(register, data);
            drop(function);
            self.refresh(device);
        }
    }

    /// Reads guest-physical memory behind a BAR. `false` if no BAR is there.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((device, bar, offset)) = self.find(address) else {
            return false;
        };
        if let Some(mut function) = self.function(device) {
            function.read_bar(bar, offset, data);
        }
        true
    }

    /// Writes guest-physical memory behind a BAR. `false` if no BAR is there.
    pub fn write_memory(&self, address: u64, data: &[u8]) -> bool {
        let Some((device, bar, offset)) = self.find(address) else {
            return false;
        };
        if let Some(mut function) = self.function(device) {
            function.write_bar(bar, offset, data);
        }
        true
    }

    /// Resets every function.
    pub fn reset(&self) {
        for device in 0..self.functions.len() {
            if let Some(mut function) = self.function(device) {
                function.reset();
            }
            self.refresh(device);
        }
    }

    fn function(&self, device: usize) -> Option<Function<'_>> {
        let lock = self.functions.get(device)?;
        Some(lock.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn target(&self, offset: u64) -> Option<(Function<'_>, usize, u16)> {
        let address = EcamAddress::decode(offset).filter(|address| address.function == 0)?;
        let device = usize::from(address.device);
        Some((self.function(device)?, device, address.register))
    }

    fn find(&self, address: u64) -> Option<(usize, u8, u64)> {
        let decoded = self.decoded.read().unwrap_or_else(PoisonError::into_inner);
        decoded
            .iter()
            .find_map(|(device, range)| Some((*device, range.index, range.offset(address)?)))
    }

    /// Notes what a function decodes now. Its lock is held meanwhile, so that of two writers the
    /// later one's answer stays.
    fn refresh(&self, device: usize) {
        let Some(function) = self.function(device) else {
            return;
        };
        let ranges = function.decoded();
        let mut decoded = self.decoded.write().unwrap_or_else(PoisonError::into_inner);
        decoded.retain(|(owner, _)| *owner != device);
        decoded.extend(ranges.into_iter().map(|range| (device, range)));
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}
