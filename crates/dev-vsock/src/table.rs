//! The connections of a device, by slot and by address, and the order in which they speak.

use std::collections::{HashMap, VecDeque};

use crate::backend::{Connection, Key};

/// The most connections at a time.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// The first port handed out for connections that the host begins. Lower ones are left to those
/// that the guest connects to.
const FIRST_PORT: u32 = 1 << 30;

/// Connections. A slot is a small number that stays with a connection for its life.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Option<Connection>>,
    free: Vec<u16>,
    by_key: HashMap<Key, u16>,
    /// Slots with something to say, each once, next first.
    speakers: VecDeque<u16>,
    ports_used: u32,
}

impl Table {
    /// Connections, drained ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Connection> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
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
        if self.len() >= MAX_CONNECTIONS {
            return None;
        }
        let key = connection.key;
        let slot = if let Some(slot) = self.free.pop() {
            *self.slots.get_mut(usize::from(slot))? = Some(connection);
            slot
        } else {
            let slot = u16::try_from(self.slots.len()).ok()?;
            self.slots.push(Some(connection));
            slot
        };
        self.by_key.insert(key, slot);
        Some(slot)
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
        let connection = self.slots.get_mut(usize::from(slot))?.take()?;
        self.free.push(slot);
        Some(connection)
    }

    /// Every slot in use.
    pub(crate) fn slots(&self) -> Vec<u16> {
        (0u16..)
            .zip(&self.slots)
            .filter_map(|(slot, connection)| connection.as_ref().map(|_| slot))
            .collect()
    }

    /// Puts a connection at the end of the line if it has something to say and is not in it.
    pub(crate) fn enlist(&mut self, slot: u16) {
        if let Some(connection) = self.get_mut(slot)
            && !connection.listed
            && connection.has_something_to_say()
        {
            connection.listed = true;
            self.speakers.push_back(slot);
        }
    }

    /// Who speaks next; it stays first in line.
    pub(crate) fn speaker(&mut self) -> Option<u16> {
        loop {
            let slot = *self.speakers.front()?;
            if self
                .get_mut(slot)
                .is_some_and(|connection| connection.listed && connection.has_something_to_say())
            {
                return Some(slot);
            }
            self.step_down(slot);
        }
    }

    /// The one who spoke goes to the end of the line, or out of it.
    pub(crate) fn spoke(&mut self, slot: u16) {
        self.step_down(slot);
        self.enlist(slot);
    }

    fn step_down(&mut self, slot: u16) {
        self.speakers.pop_front();
        if let Some(connection) = self.get_mut(slot) {
            connection.listed = false;
        }
    }
}
