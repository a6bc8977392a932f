//! The 256 bytes of a type 0 configuration header and its capabilities (PCI Local Bus 3.0,
//! chapter 6), as bytes beside a mask of the bits that a guest may write.
//!
//! The mask is the whole BAR sizing protocol: the address bits below a BAR's size cannot be
//! written, so all-ones reads back as the size mask.

use std::fmt;

use crate::access::copy;
use crate::{BarRange, BarSize, Error};

const SIZE: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CACHE_LINE_SIZE: usize = 0x0c;
const BAR0: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

/// Command: memory space (1), bus master (2) in the low byte, INTx disable (10) in the high one.
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_WRITABLE: [u8; 2] = [COMMAND_MEMORY | 1 << 2, 1 << 2];
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// A memory BAR's low bits: 64-bit (10 in bits 2:1), prefetchable (bit 3).
const BAR_FLAGS: u64 = 0b1100;

/// The registers that say what a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Base class, sub-class and programming interface, in the low 24 bits.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// A function's configuration space.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    bars: Vec<BarSize>,
    /// Where the next capability goes, and the byte that will point to it.
    next: usize,
    link: usize,
}

impl ConfigSpace {
    /// A header without BARs and capabilities; memory decoding is off.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bars: Vec::new(),
            next: FIRST_CAPABILITY,
            link: CAPABILITY_POINTER,
        };
        let class = identity.class << 8 | u32::from(identity.revision);
        space.place(0x00, &identity.vendor.to_le_bytes());
        space.place(0x02, &identity.device.to_le_bytes());
        space.place(0x08, &class.to_le_bytes());
        space.place(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.place(0x2e, &identity.subsystem.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE);
        space.allow(CACHE_LINE_SIZE, &[0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds a 64-bit prefetchable BAR.
    ///
    /// # Errors
    /// [`Error::Bar`] unless the pair is free and the size a power of two of at least 16.
    pub fn add_bar(&mut self, bar: BarSize) -> Result<(), Error> {
        let BarSize { index, size } = bar;
        let taken = self
            .bars
            .iter()
            .any(|other| other.index.abs_diff(index) < 2);
        if index > 4 || taken || size < 16 || !size.is_power_of_two() {
            return Err(Error::Bar { index, size });
        }
        let at = bar_register(index);
        self.place(at, &BAR_FLAGS.to_le_bytes());
        self.allow(at, &size.wrapping_neg().to_le_bytes());
        self.bars.push(bar);
        Ok(())
    }

    /// Appends a capability: `body` follows its id and link bytes, `writable` is the mask of the
    /// body's bits that a guest may write. Returns where the capability begins.
    ///
    /// # Errors
    /// [`Error::Capability`] if there is no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, Error> {
        let at = self.next;
        let full = Error::Capability(body.len());
        let payload = at.saturating_add(2);
        let end = payload.saturating_add(body.len());
        let Ok(pointer) = u8::try_from(at) else {
            return Err(full);
        };
        if end > SIZE {
            return Err(full);
        }
        self.place(STATUS, &[STATUS_CAPABILITIES]);
        self.place(self.link, &[pointer]);
        self.place(at, &[id, 0]);
        self.place(payload, body);
        self.allow(payload, writable);
        self.link = at.saturating_add(1);
        self.next = end.next_multiple_of(4);
        Ok(pointer)
    }

    /// Fills `data` from the registers at `offset`; zeros from 256 on.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        copy(self.bytes.get(offset.into()..), Some(data));
    }

    /// Writes the bits that are writable.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let at = usize::from(offset);
        let masks = self.writable.get(at..).unwrap_or_default();
        let bytes = self.bytes.get_mut(at..).unwrap_or_default();
        for ((byte, mask), new) in bytes.iter_mut().zip(masks).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Sets bytes whether a guest may write them or not; what lies past the end is dropped.
    pub(crate) fn place(&mut self, at: usize, data: &[u8]) {
        copy(Some(data), self.bytes.get_mut(at..));
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        copy(Some(mask), self.writable.get_mut(at..));
    }

    /// The BARs that were added.
    #[must_use]
    pub fn bars(&self) -> &[BarSize] {
        &self.bars
    }

    /// Sets a BAR's address, rounded down to a multiple of its size.
    pub fn assign_bar(&mut self, index: u8, address: u64) {
        if self.bars.iter().any(|bar| bar.index == index)
            && let Ok(register) = u16::try_from(bar_register(index))
        {
            self.write(register, &address.to_le_bytes());
        }
    }

    /// The ranges that the function answers to: none while memory decoding is off.
    #[must_use]
    pub fn decoded(&self) -> Vec<BarRange> {
        let [low, ..] = self.array::<2>(COMMAND);
        if low & COMMAND_MEMORY == 0 {
            return Vec::new();
        }
        let range = |bar: &BarSize| BarRange {
            index: bar.index,
            base: u64::from_le_bytes(self.array(bar_register(bar.index))) & !0xf,
            size: bar.size,
        };
        self.bars.iter().map(range).collect()
    }

    /// The bytes at `at`; zeros past the end.
    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        copy(self.bytes.get(at..), Some(&mut out));
        out
    }

    /// All bits that a guest has set, for a saved state.
    pub(crate) fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Takes the writable bits of a saved state; the rest is what this function was built with.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() != SIZE {
            return Err(Error::StateMismatch("the config space has another size"));
        }
        let mut restored = self.clone();
        restored.write(0, bytes);
        if restored.bytes != bytes {
            return Err(Error::StateMismatch("a read-only register differs"));
        }
        *self = restored;
        Ok(())
    }

    /// Clears what a guest wrote, but for the BARs' addresses.
    pub(crate) fn reset(&mut self) {
        let bars = self.array::<24>(BAR0);
        self.write(0, &[0; SIZE]);
        self.place(BAR0, &bars);
    }
}

impl fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [v0, v1, d0, d1] = self.array(0);
        write!(
            f,
            "ConfigSpace({v1:02x}{v0:02x}:{d1:02x}{d0:02x}, {:?})",
            self.bars
        )
    }
}

/// Where a BAR's register is in the header.
fn bar_register(index: u8) -> usize {
    BAR0.saturating_add(usize::from(index).saturating_mul(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x105a,
            revision: 1,
            class: 0x01_80_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let mut space = ConfigSpace::new(&identity);
        space
            .add_bar(BarSize {
                index: 0,
                size: 0x8000,
            })
            .unwrap();
        space
    }

    fn dword(space: &ConfigSpace, at: usize) -> u32 {
        u32::from_le_bytes(space.array(at))
    }

    #[test]
    fn the_header_says_what_the_function_is_and_cannot_be_written() {
        let mut space = space();
        space.write(0, &[0xff; 4]);
        space.write(8, &[0xff; 4]);
        assert_eq!(dword(&space, 0), 0x105a_1af4);
        assert_eq!(dword(&space, 8), 0x0180_0001);
        assert_eq!(dword(&space, 0x2c), 0x1100_1af4);
    }

    #[test]
    fn all_ones_in_a_bar_read_back_as_its_size() {
        let mut space = space();
        space.write(0x10, &[0xff; 4]);
        space.write(0x14, &[0xff; 4]);
        assert_eq!(dword(&space, 0x10), 0xffff_800c);
        assert_eq!(dword(&space, 0x14), 0xffff_ffff);
        space.write(0x18, &[0xff; 8]);
        assert_eq!(dword(&space, 0x18), 0, "a BAR that is not there");
    }

    #[test]
    fn a_bar_is_decoded_only_while_memory_space_is_on() {
        let mut space = space();
        space.assign_bar(0, 0x41_0000_8000);
        assert_eq!(space.decoded(), []);
        space.write(4, &[0xff, 0xff]);
        assert_eq!(
            dword(&space, 4) & 0xffff,
            0x406,
            "only memory, bus master, INTx disable"
        );
        let range = BarRange {
            index: 0,
            base: 0x41_0000_8000,
            size: 0x8000,
        };
        assert_eq!(space.decoded(), [range]);
        assert_eq!(range.offset(0x41_0000_ffff), Some(0x7fff));
        assert_eq!(range.offset(0x41_0001_0000), None);
        assert_eq!(range.offset(0x41_0000_7fff), None);
    }

    #[test]
    fn capabilities_form_a_list_in_the_order_of_addition() {
        let mut space = space();
        assert_eq!(dword(&space, 4) >> 16, 0, "no list yet");
        assert_eq!(
            space.add_capability(0x09, &[16, 1, 2], &[0, 0, 0xff]),
            Ok(0x40)
        );
        assert_eq!(space.add_capability(0x11, &[7; 10], &[]), Ok(0x48));
        assert_eq!(dword(&space, 4) >> 16, 0x10);
        assert_eq!(space.array::<1>(0x34), [0x40]);
        assert_eq!(space.array::<5>(0x40), [0x09, 0x48, 16, 1, 2]);
        assert_eq!(space.array::<3>(0x48), [0x11, 0x00, 7]);
        space.write(0x40, &[0xee; 16]);
        assert_eq!(space.array::<5>(0x40), [0x09, 0x48, 16, 1, 0xee]);
        assert_eq!(
            space.add_capability(9, &[0; 200], &[]),
            Err(Error::Capability(200))
        );
    }

    #[test]
    fn overlapping_odd_or_small_bars_are_refused() {
        let mut space = space();
        for (index, size) in [(0, 16), (1, 16), (5, 16), (2, 8), (2, 48)] {
            assert_eq!(
                space.add_bar(BarSize { index, size }),
                Err(Error::Bar { index, size })
            );
        }
        assert_eq!(space.add_bar(BarSize { index: 2, size: 16 }), Ok(()));
    }

    #[test]
    fn what_lies_past_the_header_reads_zero_and_is_not_written() {
        let mut space = space();
        let before = space.clone();
        space.write(256, &[0xff; 8]);
        space.write(u16::MAX, &[0xff; 8]);
        assert_eq!(space, before);
        let mut data = [0xff; 4];
        space.read(254, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
