//! A machine that runs by itself, and the people at its terminal.

use std::{fs::File, io, os::fd::AsFd, sync::Arc, thread};

use crumble::{Machine, Size, Terminal};

use crate::{
    arguments::How,
    attend::{Control, Teller},
    report::{Failure, system},
    signals,
};

/// Joins our standard streams with the machine's terminal, and waits until it has ended.
pub(crate) fn work<T>(
    machine: &Arc<Machine>,
    how: &How,
    size: Option<Size>,
    tell: &Teller<T>,
) -> Result<u8, Failure> {
    let open = || machine.terminal().map_err(system("copy a socket"));
    if let (Some(mut from), Some(mut to), Some(control)) = (open()?, open()?, open()?) {
        if let Some(size) = size {
            // It fails if the machine has just ended.
            let _ = control.resize(size);
        }
        tell.running(Console {
            machine: Arc::clone(machine),
            terminal: control,
        });
        if how.interactive {
            spawn("input", move || drop(io::copy(&mut io::stdin(), &mut to)))?;
        }
        // A prompt is no line, and is to be seen.
        let shown = io::stdout().as_fd().try_clone_to_owned();
        let mut shown = File::from(shown.map_err(system("copy standard output"))?);
        // It ends with the machine, when everything has been shown, or nobody looks any more.
        let _ = io::copy(&mut from, &mut shown);
    }
    machine.wait()?;
    Ok(0)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread
        .spawn(body)
        .map(drop)
        .map_err(system("start a thread"))
}

/// Signals are for the machine: one that asks to end asks its init.
struct Console {
    machine: Arc<Machine>,
    terminal: Terminal,
}

impl Control for Console {
    fn resize(&self, size: Size) {
        let _ = self.terminal.resize(size);
    }

    fn signal(&self, signal: i32) {
        if signals::ends(signal) {
            let machine = Arc::clone(&self.machine);
            // Its end is seen by who waits for it.
            let _ = spawn("shutdown", move || drop(machine.shutdown()));
        }
    }
}
