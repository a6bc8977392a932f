//! `crumble attach`.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    iter,
    net::Shutdown,
    os::unix::net::UnixStream,
    process::ExitCode,
    thread,
};

use crumble::Name;
use detached::{Handle, Line};
use signal_hook::consts::SIGWINCH;

use crate::{
    logs::Printer,
    report::{Failure, system},
    signals,
    terminal::{self, Raw},
};

/// ^P ^Q, as docker and podman have it.
const LEAVE: [u8; 2] = [0x10, 0x11];

/// Shows what a machine's command writes, and passes on what is typed, until either ends.
pub(crate) fn attach(name: &Name) -> Result<ExitCode, Failure> {
    let handle = Handle::open(name)?;
    let has_terminal = handle.state()?.terminal && io::stdin().is_terminal();
    let stream = handle.attach()?;
    let raw = has_terminal.then(Raw::enter).transpose();
    let raw = raw.map_err(system("prepare the terminal"))?;
    if has_terminal {
        follow_size(&handle)?;
    }
    let to = stream.try_clone().map_err(system("copy a socket"))?;
    // Not waited for: it may sit in a read that nothing ends.
    thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || pass_on(&to, has_terminal))
        .map_err(system("start a thread"))?;
    let mut printer = Printer::new(false);
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .is_ok_and(|length| length > 0)
    {
        if let Some(line) = Line::parse(&line) {
            printer.print(&line)?;
        }
        line.clear();
    }
    drop(raw);
    Ok(ExitCode::SUCCESS)
}

/// Tells the command's terminal the size of ours, now and when it changes.
fn follow_size(handle: &Handle) -> Result<(), Failure> {
    let handle = handle.clone();
    let tell = move || {
        if let Some(size) = terminal::size() {
            // It fails if the machine has just ended, which is seen otherwise.
            let _ = handle.resize(size.rows, size.columns);
        }
    };
    tell();
    signals::catch(move |signal| {
        if signal == SIGWINCH {
            tell();
        }
    })
    .map_err(system("catch signals"))
}

/// Passes standard input on. Its end is not the command's, and leaving is the stream's.
fn pass_on(mut to: &UnixStream, has_terminal: bool) {
    let mut before = 0;
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = io::stdin().read(&mut bytes) {
        let bytes = bytes.get(..length).unwrap_or_default();
        let earlier = iter::once(before).chain(bytes.iter().copied());
        let leaves = earlier
            .zip(bytes)
            .any(|(one, other)| [one, *other] == LEAVE);
        if has_terminal && leaves {
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
        if to.write_all(bytes).is_err() {
            return;
        }
        before = bytes.last().copied().unwrap_or_default();
    }
}
