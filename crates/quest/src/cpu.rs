//! A vCPU that is watched: each exit is compared with what the behaviour expects next, and a
//! guest that does not end is stopped.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hv::{Address, EmulationFailure, Exit, Kicker, Vcpu, x86_64::Registers};

use crate::failure::{Failure, Result, same};

/// How long a vCPU of a micro-guest may live.
pub const LIMIT: Duration = Duration::from_secs(20);

/// An exit with its data, for comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A read of a port or of memory that is none.
    Read {
        /// From where.
        at: Address,
        /// The number of bytes.
        width: usize,
    },
    /// A write to a port or to memory that is none or read-only.
    Write {
        /// Where.
        at: Address,
        /// What.
        data: Vec<u8>,
    },
    /// A halt that the host does not wait in.
    Halted,
    /// A triple fault.
    TripleFault,
    /// A kick.
    Interrupted,
    /// An instruction that cannot be emulated.
    EmulationFailure(EmulationFailure),
    /// Anything else, in the back end's words.
    Other(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { at, width } => write!(f, "a read of {width} bytes at {at:x?}"),
            Self::Write { at, data } => write!(f, "a write of {data:02x?} at {at:x?}"),
            Self::Halted => f.write_str("a halt"),
            Self::TripleFault => f.write_str("a triple fault"),
            Self::Interrupted => f.write_str("a kick"),
            Self::EmulationFailure(failure) => write!(f, "want of emulation for {failure}"),
            Self::Other(exit) => f.write_str(exit),
        }
    }
}

/// A watched vCPU.
pub(crate) struct Cpu<V: Vcpu> {
    pub(crate) vcpu: V,
    deadline: Deadline,
    kicked: Arc<AtomicBool>,
}

/// Kicks a watched vCPU.
pub(crate) struct Kick<K> {
    kicker: K,
    kicked: Arc<AtomicBool>,
}

impl<K: Kicker> Kick<K> {
    pub(crate) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.kicker.kick();
    }
}

impl<V: Vcpu> Cpu<V> {
    pub(crate) fn new(vcpu: V) -> Self {
        let deadline = Deadline::new(vcpu.kicker());
        Self {
            vcpu,
            deadline,
            kicked: Arc::default(),
        }
    }

    pub(crate) fn kicker(&self) -> Kick<V::Kicker> {
        Kick {
            kicker: self.vcpu.kicker(),
            kicked: Arc::clone(&self.kicked),
        }
    }

    /// Runs to the next exit. Reads take their bytes from `source`, and zeros after its end.
    /// Interruptions that nobody asked for are none, see [`Exit::Interrupted`].
    pub(crate) fn step(&mut self, source: &mut dyn Iterator<Item = u8>) -> Result<Stop> {
        loop {
            let stop = self.run(source)?;
            if stop != Stop::Interrupted || self.kicked.swap(false, Ordering::SeqCst) {
                return Ok(stop);
            }
        }
    }

    fn run(&mut self, source: &mut dyn Iterator<Item = u8>) -> Result<Stop> {
        let mut fill = |data: &mut [u8]| {
            data.fill_with(|| source.next().unwrap_or(0));
            data.len()
        };
        let pio = Address::Pio;
        let stop = match self.vcpu.run()? {
            Exit::PioRead { port, data } => {
                let (at, width) = (pio(port), fill(data));
                Stop::Read { at, width }
            }
            Exit::MmioRead { address, data } => {
                let (at, width) = (Address::Mmio(address), fill(data));
                Stop::Read { at, width }
            }
            Exit::PioWrite { port, data } => {
                let (at, data) = (pio(port), data.to_vec());
                Stop::Write { at, data }
            }
            Exit::MmioWrite { address, data } => {
                let (at, data) = (Address::Mmio(address), data.to_vec());
                Stop::Write { at, data }
            }
            Exit::Halted => Stop::Halted,
            Exit::TripleFault => Stop::TripleFault,
            Exit::Interrupted if self.deadline.has_passed() => {
                let rip = self.vcpu.registers()?.rip;
                return Err(Failure::Overdue { rip });
            }
            Exit::Interrupted => Stop::Interrupted,
            Exit::EmulationFailure => Stop::EmulationFailure(self.vcpu.emulation_failure()?),
            other => Stop::Other(format!("{other:?}")),
        };
        Ok(stop)
    }

    /// The next exit is this read, which is answered.
    pub(crate) fn reads(&mut self, at: Address, answer: &[u8]) -> Result<()> {
        let found = self.step(&mut answer.iter().copied())?;
        let width = answer.len();
        expect(found, &Stop::Read { at, width })
    }

    /// The next exit is this write.
    pub(crate) fn writes(&mut self, at: Address, data: &[u8]) -> Result<()> {
        let data = data.to_vec();
        self.stops(&Stop::Write { at, data })
    }

    /// The next exit is a write of any one byte to this port: how guests say how far they are.
    pub(crate) fn reaches(&mut self, port: u16) -> Result<()> {
        match self.step(&mut std::iter::empty())? {
            Stop::Write { at, data } if at == Address::Pio(port) && data.len() == 1 => Ok(()),
            found => Err(Failure::Stop {
                found,
                wanted: format!("a write of a byte at {:x?}", Address::Pio(port)),
            }),
        }
    }

    /// The next exit is this one.
    pub(crate) fn stops(&mut self, wanted: &Stop) -> Result<()> {
        let found = self.step(&mut std::iter::empty())?;
        expect(found, wanted)
    }

    /// Completes the last exit and executes nothing more: the state of a guest may be saved only
    /// between instructions.
    pub(crate) fn completes(&mut self) -> Result<()> {
        self.kicker().kick();
        self.stops(&Stop::Interrupted)
    }

    /// Runs for so long, with no exit meanwhile.
    pub(crate) fn runs_for(&mut self, time: Duration) -> Result<()> {
        let kicker = self.kicker();
        thread::scope(|threads| {
            threads.spawn(move || {
                thread::sleep(time);
                kicker.kick();
            });
            self.stops(&Stop::Interrupted)
        })
    }

    /// Changes some of the registers.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut Registers)) -> Result<()> {
        let mut registers = self.vcpu.registers()?;
        change(&mut registers);
        Ok(self.vcpu.set_registers(&registers)?)
    }

    /// The next instruction is at this address.
    pub(crate) fn is_at(&self, rip: u64) -> Result<()> {
        same("rip", &self.vcpu.registers()?.rip, &rip)
    }
}

fn expect(found: Stop, wanted: &Stop) -> Result<()> {
    if found == *wanted {
        return Ok(());
    }
    let wanted = wanted.to_string();
    Err(Failure::Stop { found, wanted })
}

/// Kicks a vCPU that lives too long, again and again.
struct Deadline {
    cancel: Option<mpsc::Sender<()>>,
    passed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Deadline {
    fn new(kicker: impl Kicker) -> Self {
        let (cancel, cancelled) = mpsc::channel();
        let passed = Arc::new(AtomicBool::new(false));
        let pass = Arc::clone(&passed);
        let thread = thread::spawn(move || {
            let mut wait = LIMIT;
            while cancelled.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                pass.store(true, Ordering::SeqCst);
                kicker.kick();
                wait = Duration::from_millis(100);
            }
        });
        Self {
            cancel: Some(cancel),
            passed,
            thread: Some(thread),
        }
    }

    fn has_passed(&self) -> bool {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // The thread's wait ends with the sender.
        self.cancel.take();
        if let Some(thread) = self.thread.take() {
            // It has nothing to panic about.
            let _ = thread.join();
        }
    }
}
