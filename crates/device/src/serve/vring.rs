//! A queue's state, shared between the thread of vhost-user messages and the device's.
//!
//! It is [`VringMutex`] but for one thing: a kick that is gone when it is read is no error. The
//! driver may stop and restart a queue between the moment a kick is seen and the moment it is
//! read, and the loop would end, and with it the device.

use std::fs::File;
use std::io::{self, ErrorKind};

use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

type Memory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

#[derive(Clone)]
pub(super) struct Vring(VringMutex<Memory>);

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = <VringMutex<Memory> as VringStateGuard<'a, Memory>>::G;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = <VringMutex<Memory> as VringStateMutGuard<'a, Memory>>::G;
}

/// Methods that are the inner one's.
macro_rules! inner {
    ($(fn $name:ident(&self $(, $argument:ident: $kind:ty)*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self $(, $argument: $kind)*) $(-> $result)? {
            self.0.$name($($argument),*)
        })*
    };
}

impl VringT<Memory> for Vring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, Error> {
        VringMutex::new(memory, max_queue_size).map(Self)
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.0.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.0.get_mut()
    }

    fn read_kick(&self) -> io::Result<bool> {
        match self.0.read_kick() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(self.get_ref().is_enabled()),
            result => result,
        }
    }

    inner! {
        fn add_used(&self, head: u16, written: u32) -> Result<(), Error>;
        fn signal_used_queue(&self) -> io::Result<()>;
        fn enable_notification(&self) -> Result<bool, Error>;
        fn disable_notification(&self) -> Result<(), Error>;
        fn needs_notification(&self) -> Result<bool, Error>;
        fn set_enabled(&self, enabled: bool);
        fn set_queue_info(&self, descriptors: u64, available: u64, used: u64) -> Result<(), Error>;
        fn queue_next_avail(&self) -> u16;
        fn set_queue_next_avail(&self, base: u16);
        fn set_queue_next_used(&self, index: u16);
        fn queue_used_idx(&self) -> Result<u16, Error>;
        fn set_queue_size(&self, size: u16);
        fn set_queue_event_idx(&self, enabled: bool);
        fn set_queue_ready(&self, ready: bool);
        fn set_kick(&self, file: Option<File>);
        fn set_call(&self, file: Option<File>);
        fn set_err(&self, file: Option<File>);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::{EfdFlags, EventFd};

    use super::*;

    #[test]
    fn a_kick_that_is_gone_when_it_is_read_is_no_error() {
        let vring = Vring::new(GuestMemoryAtomic::new(GuestMemoryMmap::new()), 8).unwrap();
        let kick = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
        vring.set_kick(Some(File::from(std::os::fd::OwnedFd::from(kick))));
        assert!(!vring.read_kick().unwrap());
        vring.set_enabled(true);
        assert!(vring.read_kick().unwrap());
    }
}
