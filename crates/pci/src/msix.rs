//! MSI-X: the table, the pending bits and the two masks (PCI Local Bus 3.0, section 6.8.2).

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::access::{self, Registers};

/// The most vectors that a function may have here. MSI-X itself ends at 2048; 768 entries of 16
/// bytes fill the room that the virtio layout gives the table.
pub const MAX_VECTORS: u16 = 768;

/// The capability's id.
pub(crate) const CAPABILITY: u8 = 0x11;
/// Message control, high byte: MSI-X enable, function mask.
pub(crate) const CONTROL_ENABLE: u8 = 1 << 7;
pub(crate) const CONTROL_MASK: u8 = 1 << 6;
/// Vector control: the mask bit; the rest is reserved.
const VECTOR_MASKED: u32 = 1;
const ENTRY_SIZE: u64 = 16;

/// A message-signalled interrupt: a write of `data` to `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// Where interrupts go. Called under the function's lock; it must not call back.
pub trait MsiSink: Send {
    /// From now on the vector's events become `message`; `None`: they are held back, and are
    /// delivered (as one) by the next `Some`. Called only when the message changes.
    fn route(&mut self, vector: u16, message: Option<Message>);

    /// Delivers the vector's message once. Called only while it has a route.
    fn signal(&mut self, vector: u16);

    /// Whether an event is being held back.
    fn pending(&mut self, vector: u16) -> bool;
}

/// A table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    message: Message,
    masked: bool,
    pending: bool,
}

/// After reset every vector is masked (section 6.8.2.9).
const RESET: Entry = Entry {
    message: Message {
        address: 0,
        data: 0,
    },
    masked: true,
    pending: false,
};

/// What a guest has made of the MSI-X registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    entries: Vec<Entry>,
    enabled: bool,
    masked: bool,
}

/// A function's MSI-X registers, and the sink behind them.
pub struct Msix {
    state: MsixState,
    /// What the sink was told last, per vector.
    routes: Vec<Option<Message>>,
    sink: Box<dyn MsiSink>,
}

impl Msix {
    /// A table of `vectors` masked entries.
    ///
    /// # Errors
    /// [`Error::Vectors`] unless there are 1 to [`MAX_VECTORS`].
    pub fn new(vectors: u16, sink: Box<dyn MsiSink>) -> Result<Self, Error> {
        if vectors == 0 || vectors > MAX_VECTORS {
            return Err(Error::Vectors(vectors));
        }
        let entries = vec![RESET; vectors.into()];
        let state = MsixState {
            entries,
            enabled: false,
            masked: false,
        };
        Ok(Self {
            state,
            routes: vec![None; vectors.into()],
            sink,
        })
    }

    /// How many vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.routes.len()).unwrap_or(MAX_VECTORS)
    }

    /// The body of the capability, and its mask of writable bits: message control, then offset
    /// and BAR of the table and of the pending bits.
    pub(crate) fn capability(&self, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 10]) {
        let mut body = [0; 10];
        let control = self.vectors().saturating_sub(1).to_le_bytes();
        let table = (table | u32::from(bar)).to_le_bytes();
        let pending = (pending | u32::from(bar)).to_le_bytes();
        access::copy(Some(&control), Some(&mut body));
        access::copy(Some(&table), body.get_mut(2..));
        access::copy(Some(&pending), body.get_mut(6..));
        (
            body,
            [0, CONTROL_ENABLE | CONTROL_MASK, 0, 0, 0, 0, 0, 0, 0, 0],
        )
    }

    /// Takes the high byte of message control after a guest's write.
    pub(crate) fn set_control(&mut self, high: u8) {
        let (enabled, masked) = (high & CONTROL_ENABLE != 0, high & CONTROL_MASK != 0);
        if (enabled, masked) != (self.state.enabled, self.state.masked) {
            (self.state.enabled, self.state.masked) = (enabled, masked);
            self.refresh_all();
        }
    }

    /// Reads the table.
    pub fn read_table(&mut self, offset: u64, data: &mut [u8]) {
        let fields = access::dwords(self.table_size(), offset, data.len());
        access::read(self, fields, offset, data);
    }

    /// Writes the table; an unmasked vector that is pending is delivered.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let fields = access::dwords(self.table_size(), offset, data.len());
        access::write(self, fields, offset, data);
    }

    /// Reads the pending bits, one a vector. They are read-only.
    pub fn read_pending(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (0u64..).zip(data) {
            let first = offset.saturating_add(at).saturating_mul(8);
            for bit in 0..8 {
                let vector = u16::try_from(first.saturating_add(bit));
                if vector.is_ok_and(|vector| self.is_pending(vector)) {
                    *byte |= 1 << bit;
                }
            }
        }
    }

    /// An event of this vector: a message if nothing masks it, else its pending bit.
    pub fn signal(&mut self, vector: u16) {
        let routed = self
            .routes
            .get(usize::from(vector))
            .copied()
            .flatten()
            .is_some();
        if routed {
            self.sink.signal(vector);
        } else if let Some(entry) = self.state.entries.get_mut(usize::from(vector)) {
            entry.pending |= self.state.enabled;
        }
    }

    /// Masks and forgets everything, as after power-on.
    pub(crate) fn reset(&mut self) {
        self.state.enabled = false;
        self.state.masked = false;
        self.state.entries.fill(RESET);
        self.refresh_all();
    }

    /// The registers, for a saved state. Events that the sink holds back are pending in it.
    pub(crate) fn save(&mut self) -> MsixState {
        let mut state = self.state.clone();
        for (vector, entry) in (0u16..).zip(&mut state.entries) {
            entry.pending = self.is_pending(vector);
        }
        state
    }

    /// Takes the registers of a saved state.
    pub(crate) fn restore(&mut self, state: MsixState) -> Result<(), Error> {
        if state.entries.len() != self.routes.len() {
            return Err(Error::StateMismatch("another number of interrupt vectors"));
        }
        self.state = state;
        self.refresh_all();
        Ok(())
    }

    fn is_pending(&mut self, vector: u16) -> bool {
        match self.state.entries.get(usize::from(vector)) {
            Some(entry) => entry.pending || self.sink.pending(vector),
            None => false,
        }
    }

    fn refresh_all(&mut self) {
        for vector in 0..self.vectors() {
            self.refresh(vector);
        }
    }

    /// Tells the sink where a vector goes now, and delivers what was pending.
    fn refresh(&mut self, vector: u16) {
        let deliverable = self.state.enabled && !self.state.masked;
        let at = usize::from(vector);
        let (Some(entry), Some(route)) = (self.state.entries.get_mut(at), self.routes.get_mut(at))
        else {
            return;
        };
        let message = (deliverable && !entry.masked).then_some(entry.message);
        if *route != message {
            *route = message;
            self.sink.route(vector, message);
        }
        if message.is_some() && entry.pending {
            entry.pending = false;
            self.sink.signal(vector);
        }
    }

    fn table_size(&self) -> u64 {
        u64::from(self.vectors()).saturating_mul(ENTRY_SIZE)
    }
}

/// The vector and the register within its entry.
fn locate(offset: u64) -> (u16, u64) {
    (u16::try_from(offset >> 4).unwrap_or(u16::MAX), offset & 0xc)
}

impl Registers for Msix {
    fn get(&mut self, offset: u64) -> u64 {
        let (vector, register) = locate(offset);
        let Some(entry) = self.state.entries.get(usize::from(vector)) else {
            return 0;
        };
        match register {
            0x0 => entry.message.address & 0xffff_ffff,
            0x4 => entry.message.address >> 32,
            0x8 => entry.message.data.into(),
            _ => entry.masked.into(),
        }
    }

    fn set(&mut self, offset: u64, value: u64) {
        let (vector, register) = locate(offset);
        let Some(entry) = self.state.entries.get_mut(usize::from(vector)) else {
            return;
        };
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or_default();
        let address = entry.message.address;
        match register {
            // The two lowest bits of the address are reserved and zero.
            0x0 => entry.message.address = address & !0xffff_ffff | u64::from(low & !3),
            0x4 => entry.message.address = address & 0xffff_ffff | u64::from(low) << 32,
            0x8 => entry.message.data = low,
            _ => entry.masked = low & VECTOR_MASKED != 0,
        }
        self.refresh(vector);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Writes down what it is told; vectors in `held` have a held-back event.
    #[derive(Default, Clone)]
    struct Sink {
        log: Arc<Mutex<Vec<String>>>,
        held: Arc<Mutex<Vec<u16>>>,
    }

    impl MsiSink for Sink {
        fn route(&mut self, vector: u16, message: Option<Message>) {
            let text = match message {
                Some(Message { address, data }) => format!("{vector}: {data:#x} to {address:#x}"),
                None => format!("{vector}: off"),
            };
            self.log.lock().unwrap().push(text);
        }
        fn signal(&mut self, vector: u16) {
            self.log.lock().unwrap().push(format!("{vector}!"));
        }
        fn pending(&mut self, vector: u16) -> bool {
            self.held.lock().unwrap().contains(&vector)
        }
    }

    impl Sink {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.log.lock().unwrap())
        }
    }

    fn table(vectors: u16) -> (Msix, Sink) {
        let sink = Sink::default();
        (Msix::new(vectors, Box::new(sink.clone())).unwrap(), sink)
    }

    fn program(msix: &mut Msix, vector: u64, control: u8) {
        let entry = [
            0, 0, 0xe0, 0xfe, 1, 0, 0, 0, 0x31, 0x40, 0, 0, control, 0, 0, 0,
        ];
        msix.write_table(vector << 4, &entry);
    }

    fn pending(msix: &mut Msix) -> u64 {
        let mut bits = [0; 8];
        msix.read_pending(0, &mut bits);
        u64::from_le_bytes(bits)
    }

    #[test]
    fn a_vector_is_routed_only_when_nothing_masks_it() {
        let (mut msix, sink) = table(2);
        program(&mut msix, 1, 0);
        assert_eq!(sink.take(), [""; 0], "MSI-X is not enabled");
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
        assert_eq!(sink.take(), [""; 0], "the function is masked");
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(sink.take(), ["1: 0x4031 to 0x1fee00000"]);
        msix.write_table(16 + 12, &[1, 0, 0, 0]);
        assert_eq!(sink.take(), ["1: off"]);
        msix.write_table(16 + 12, &[0]);
        msix.set_control(0);
        assert_eq!(sink.take(), ["1: 0x4031 to 0x1fee00000", "1: off"]);
    }

    #[test]
    fn an_event_under_a_mask_pends_and_is_delivered_once_on_unmask() {
        let (mut msix, sink) = table(3);
        msix.set_control(CONTROL_ENABLE);
        program(&mut msix, 2, 1);
        msix.signal(2);
        msix.signal(2);
        assert_eq!(pending(&mut msix), 0b100);
        assert_eq!(sink.take(), [""; 0]);
        program(&mut msix, 2, 0);
        assert_eq!(sink.take(), ["2: 0x4031 to 0x1fee00000", "2!"]);
        assert_eq!(pending(&mut msix), 0);
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
        msix.signal(2);
        assert_eq!(pending(&mut msix), 0b100);
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(sink.take(), ["2: off", "2: 0x4031 to 0x1fee00000", "2!"]);
    }

    #[test]
    fn an_event_that_the_sink_holds_back_shows_in_the_pending_bits() {
        let (mut msix, sink) = table(70);
        sink.held.lock().unwrap().extend([1, 65]);
        assert_eq!(pending(&mut msix), 0b10);
        let mut byte = [0];
        msix.read_pending(8, &mut byte);
        assert_eq!(byte, [0b10]);
        msix.read_pending(u64::MAX, &mut byte);
        assert_eq!(byte, [0]);
    }

    #[test]
    fn the_table_reads_back_what_was_written_but_for_reserved_bits() {
        let (mut msix, _) = table(1);
        msix.write_table(0, &[0xff; 64]);
        let mut entry = [0; 32];
        msix.read_table(0, &mut entry);
        let expected = [
            0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ];
        assert_eq!(entry[..13], expected);
        assert_eq!(entry[13..], [0; 19], "reserved, then past the table");
    }

    #[test]
    fn a_saved_table_is_restored_with_its_routes_and_pending_bits() {
        let (mut msix, sink) = table(2);
        msix.set_control(CONTROL_ENABLE);
        program(&mut msix, 0, 0);
        program(&mut msix, 1, 1);
        sink.held.lock().unwrap().push(1);
        let state = msix.save();
        let (mut other, log) = table(2);
        other.restore(state.clone()).unwrap();
        assert_eq!(log.take(), ["0: 0x4031 to 0x1fee00000"]);
        assert_eq!(pending(&mut other), 0b10);
        assert!(table(3).0.restore(state).is_err());
    }
}
