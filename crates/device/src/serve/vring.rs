//! A queue's state, shared between the thread of vhost-user messages and the device's.
//!
//! It is [`VringMutex`] but for two things.
//!
//! A kick that is gone when it is read is no error. The driver may stop and restart a queue between
//! the moment a kick is seen and the moment it is read, and the loop would end, and with it the
//! device.
//!
//! A queue that is enabled is kicked. An event of its earlier life may make the loop take the first
//! kick of the new one while the queue is being set up, when nothing is done for it; what the driver
//! made available before would wait for the next.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

type Memory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

#[derive(Clone)]
pub(super) struct Vring {
    inner: VringMutex<Memory>,
    kick: Arc<Mutex<Option<File>>>,
}

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
            self.inner.$name($($argument),*)
        })*
    };
}

impl VringT<Memory> for Vring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, Error> {
        Ok(Self {
            inner: VringMutex::new(memory, max_queue_size)?,
            kick: Arc::default(),
        })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.inner.get_mut()
    }

    fn read_kick(&self) -> io::Result<bool> {
        match self.inner.read_kick() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(self.get_ref().is_enabled()),
            result => result,
        }
    }

    fn set_kick(&self, file: Option<File>) {
        let ours = file.as_ref().and_then(|file| file.try_clone().ok());
        *self.kick.lock().unwrap_or_else(PoisonError::into_inner) = ours;
        self.inner.set_kick(file);
    }

    fn set_enabled(&self, enabled: bool) {
        self.inner.set_enabled(enabled);
        let kick = self.kick.lock().unwrap_or_else(PoisonError::into_inner);
        if enabled && let Some(kick) = &*kick {
            // It fails if the driver's kicks have filled it: then there is one to be seen.
            let _ = (&mut &*kick).write(&1_u64.to_ne_bytes());
        }
    }

    inner! {
        fn add_used(&self, head: u16, written: u32) -> Result<(), Error>;
        fn signal_used_queue(&self) -> io::Result<()>;
        fn enable_notification(&self) -> Result<bool, Error>;
        fn disable_notification(&self) -> Result<(), Error>;
        fn needs_notification(&self) -> Result<bool, Error>;
        fn set_queue_info(&self, descriptors: u64, available: u64, used: u64) -> Result<(), Error>;
        fn queue_next_avail(&self) -> u16;
        fn set_queue_next_avail(&self, base: u16);
        fn set_queue_next_used(&self, index: u16);
        fn queue_used_idx(&self) -> Result<u16, Error>;
        fn set_queue_size(&self, size: u16);
        fn set_queue_event_idx(&self, enabled: bool);
        fn set_queue_ready(&self, ready: bool);
        fn set_call(&self, file: Option<File>);
        fn set_err(&self, file: Option<File>);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::errno::Errno;
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
        assert!(vring.read_kick().unwrap());
    }

    #[test]
    fn a_kick_that_came_before_the_queue_was_enabled_is_repeated() {
        let vring = Vring::new(GuestMemoryAtomic::new(GuestMemoryMmap::new()), 8).unwrap();
        let kick = EventFd::from_value_and_flags(1, EfdFlags::EFD_NONBLOCK).unwrap();
        let theirs = kick.as_fd().try_clone_to_owned().unwrap();
        vring.set_kick(Some(File::from(theirs)));
        assert!(!vring.read_kick().unwrap());
        assert_eq!(kick.read(), Err(Errno::EAGAIN));
        vring.set_enabled(true);
        assert_eq!(kick.read(), Ok(1));
    }
}
