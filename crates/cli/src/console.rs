//! A machine that runs by itself, and the people at its terminal.

use std::{
    io::{self, Read, Write},
    sync::Arc,
    thread,
};

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
    if let (Some(from), Some(to), Some(control)) = (open()?, open()?, open()?) {
        if let Some(size) = size {
            // It fails if the machine has just ended.
            let _ = control.resize(size);
        }
        tell.running(Console {
            machine: Arc::clone(machine),
            terminal: control,
        });
        if how.interactive {
            spawn("input", move || copy(io::stdin(), to))?;
        }
        // It ends with the machine, when everything has been shown.
        copy(from, io::stdout());
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

/// Copies until either end is gone.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 4096];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(length @ 1..) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            _ => return,
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if to.write_all(bytes).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
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
