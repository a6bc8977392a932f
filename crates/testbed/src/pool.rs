//! Boxes side by side, each for one caller at a time.

use std::{
    ffi::OsStr,
    io::{Write, stderr},
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{
    client::{Testbed, directory_for},
    error::{Error, Result},
    exec::{Command, Output},
    place::{BIN_DIR, workspace},
};

/// More than that would need too much memory.
const MOST: usize = 4;

/// So many boxes may be lost under one command. TCG's emulation of a CPU with virtualization is not
/// without faults: now and then the box's kernel, a stock one, finds its own stack overwritten.
const BOXES_LOST: u32 = 3;

/// How many boxes a workspace has at most: a box has one CPU.
pub(crate) fn boxes() -> usize {
    thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MOST))
}

/// As many boxes as the host has CPUs for. They stay up for as long as this lives.
#[derive(Debug)]
pub struct Pool {
    bin_dir: PathBuf,
    size: usize,
    free: Mutex<Vec<Place>>,
    freed: Condvar,
}

/// A box, up or not.
#[derive(Debug)]
struct Place {
    number: usize,
    testbed: Option<Testbed>,
}

impl Pool {
    /// Boots nothing yet. The product's binaries are in `bin_dir`.
    pub(crate) fn new(bin_dir: PathBuf) -> Self {
        let size = boxes();
        let place = |number| Place {
            number,
            testbed: None,
        };
        Self {
            bin_dir,
            size,
            // The first is taken first.
            free: Mutex::new((0..size).rev().map(place).collect()),
            freed: Condvar::new(),
        }
    }

    /// How many commands can run at a time.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Runs a command in a box that nobody else uses, as soon as there is one, with this process's
    /// environment and [`BIN_DIR`]. If the box dies, in another one, from the start: its kernel is
    /// not what is to be tested.
    ///
    /// # Errors
    /// If a box does not come up, or too many die.
    pub fn run<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Result<Output> {
        let mut command = Command::new(argv);
        command.env(BIN_DIR, &self.bin_dir);
        let mut place = self.take();
        let mut lost = 0;
        let output = loop {
            match place.run(&command, &self.bin_dir) {
                Err(Error::Agent(error)) if error.is_loss() && lost < BOXES_LOST => lost += 1,
                other => break other,
            }
            place.testbed = None;
            let log = directory_for(&workspace(), place.number).join("log");
            let _ = writeln!(
                stderr(),
                "testbed: the box died, see {}; starting over in a new one",
                log.display()
            );
        };
        self.free().push(place);
        self.freed.notify_one();
        output
    }

    fn free(&self) -> MutexGuard<'_, Vec<Place>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Place {
        let mut free = self.free();
        loop {
            match free.pop() {
                Some(place) => return place,
                None => {
                    free = self
                        .freed
                        .wait(free)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }
}

impl Place {
    fn run(&mut self, command: &Command, bin_dir: &std::path::Path) -> Result<Output> {
        let testbed = match self.testbed.take() {
            Some(testbed) => testbed,
            None => Testbed::open_for(&workspace(), self.number, bin_dir)?,
        };
        command.output(self.testbed.insert(testbed))
    }
}
