//! The connections of a device, by slot and by address.

use std::collections::HashMap;

use device::serve::{Slots, Speaker};

use crate::backend::{Connection, Key};
use crate::journal::Change;

/// The most connections at a time.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// The first port handed out for connections that the host begins. Lower ones are left to those
/// that the guest connects to.
const FIRST_PORT: u32 = 1 << 30;

impl Speaker for Connection {
    fn has_something_to_say(&self) -> bool {
        self.is_due()
    }
}

/// Connections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Slots<Connection>,
    by_key: HashMap<Key, u16>,
    ports_used: u32,
}

impl Table {
    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Connection> {
        self.slots.get_mut(slot)
    }

    pub(crate) fn find(&self, key: Key) -> Option<u16> {
        self.by_key.get(&key).copied()
    }

    /// A port of the host's that no connection to `guest_port` uses.
    pub(crate) fn allocate_port(&mut self, guest_port: u32) -> u32 {
        loop {
            let host_port = FIRST_PORT | (self.ports_used & (FIRST_PORT - 1));
            self.ports_used = self.ports_used.wrapping_add(1);
            // There are 2^30 ports and 2^12 connections, so this ends.
            if !self.by_key.contains_key(&Key {
                host_port,
                guest_port,
            }) {
                return host_port;
            }
        }
    }

    /// Adds a connection whose key is not in use; `None` if there are too many.
    pub(crate) fn insert(&mut self, connection: Connection) -> Option<u16> {
        if self.slots.len() >= MAX_CONNECTIONS {
            return None;
        }
        let key = connection.key;
        let slot = self.slots.insert(connection)?;
        self.slots.get_mut(slot)?.settle_in(slot);
        self.by_key.insert(key, slot);
        Some(slot)
    }

    /// Adds one that had this slot before; `false` if another has it or its key.
    pub(crate) fn insert_at(&mut self, slot: u16, mut connection: Connection) -> bool {
        let (key, draining) = (connection.key, connection.is_draining());
        if !draining && self.by_key.contains_key(&key) {
            return false;
        }
        connection.settle_in(slot);
        let added = self.slots.insert_at(slot, connection);
        if added && !draining {
            self.by_key.insert(key, slot);
        }
        added
    }

    /// Ports that were handed out before, so that the next is another.
    pub(crate) fn note_ports(&mut self, used: u32) {
        self.ports_used = used;
    }

    /// What is kept of a slot.
    pub(crate) fn change(&mut self, slot: u16) -> Change {
        let record = self.get_mut(slot).map(|connection| connection.record());
        (slot, record.unwrap_or_default())
    }

    /// Frees the address of a connection, which keeps its slot.
    pub(crate) fn forget_key(&mut self, slot: u16) {
        let Some(key) = self.get_mut(slot).map(|connection| connection.key) else {
            return;
        };
        if self.find(key) == Some(slot) {
            self.by_key.remove(&key);
        }
    }

    pub(crate) fn remove(&mut self, slot: u16) -> Option<Connection> {
        self.forget_key(slot);
        self.slots.remove(slot)
    }

    /// Every slot in use.
    pub(crate) fn slots(&self) -> Vec<u16> {
        self.slots.iter().map(|(slot, _)| slot).collect()
    }

    /// Puts a connection in line if it has something to say.
    pub(crate) fn enlist(&mut self, slot: u16) {
        self.slots.enlist(slot);
    }

    /// Who speaks next; it stays first in line.
    pub(crate) fn speaker(&mut self) -> Option<u16> {
        self.slots.speaker()
    }

    /// The one who spoke goes to the end of the line, or out of it.
    pub(crate) fn spoke(&mut self, slot: u16) {
        self.slots.spoke(slot);
    }
}
