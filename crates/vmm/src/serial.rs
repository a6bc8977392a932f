//! The 16550 at COM1.

use std::{
    fs::File,
    io::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Error;

/// An interrupt that an event raises.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Where the guest's output goes. A console that is full, or gone, loses output; it never stops a
/// vCPU.
struct Console(Option<File>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.0 {
            // Lost, as said above.
            let _ = file.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// COM1, for all vCPUs.
pub(crate) struct Serial {
    uart: Mutex<Uart<Line, vm_superio::serial::NoEvents, Console>>,
    line: EventFd,
}

impl Serial {
    /// A port whose output goes to `console`, which must be this process's own end of a pipe: it
    /// becomes non-blocking for everyone who shares the open file.
    pub(crate) fn new(console: Option<File>) -> Result<Self, Error> {
        if let Some(file) = &console {
            set_nonblocking(file).map_err(Error::system("prepare the console"))?;
        }
        let line = EventFd::new(EFD_NONBLOCK).map_err(Error::system("make an event"))?;
        let trigger = line.try_clone().map_err(Error::system("make an event"))?;
        Ok(Self {
            uart: Mutex::new(Uart::new(Line(trigger), Console(console))),
            line,
        })
    }

    /// The event of its interrupt.
    pub(crate) const fn line(&self) -> &EventFd {
        &self.line
    }

    pub(crate) fn read(&self, register: u8) -> u8 {
        self.lock().read(register)
    }

    pub(crate) fn write(&self, register: u8, value: u8) {
        // It fails if the interrupt cannot be raised, which is when one is pending already.
        let _ = self.lock().write(register, value);
    }

    fn lock(&self) -> MutexGuard<'_, Uart<Line, vm_superio::serial::NoEvents, Console>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other flags, append mode for one, stay as they are.
fn set_nonblocking(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn what_the_guest_writes_arrives() {
        let mut file = tempfile::tempfile().unwrap();
        let serial = Serial::new(Some(file.try_clone().unwrap())).unwrap();
        b"hello".iter().for_each(|byte| serial.write(0, *byte));
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn append_mode_survives() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let file = File::options().append(true).open(named.path()).unwrap();
        set_nonblocking(&file).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_APPEND | OFlag::O_NONBLOCK));
    }

    #[test]
    fn a_full_console_loses_output_and_does_not_wait() {
        let (_reader, writer) = io::pipe().unwrap();
        let serial = Serial::new(Some(File::from(std::os::fd::OwnedFd::from(writer)))).unwrap();
        for _ in 0..200_000 {
            serial.write(0, b'x');
        }
    }
}
