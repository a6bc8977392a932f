//! A connection of the host and one of a program in the guest, joined.

use std::{net::TcpStream, os::fd::OwnedFd};

use nix::{
    errno::Errno,
    poll::{PollFd, PollTimeout, poll},
};

use crate::{
    error::{Result, cannot, errno},
    pump::{self, Pump},
    serve::Connection,
};

/// Passes bytes and ends on in both directions, each by itself, until both have ended.
pub(crate) fn splice(host: Connection, program: TcpStream) -> Result<()> {
    // Small answers would wait for the acknowledgement of others; without, they are only late.
    let _ = program.set_nodelay(true);
    let mut pumps = pumps(host.into(), program.into())
        .map_err(|error| cannot("join two connections")(errno(&error)))?;
    while !pumps.is_empty() {
        wait(&mut pumps).map_err(cannot("wait for two connections"))?;
        pumps.iter_mut().for_each(Pump::run);
        pumps.retain(|pump| !pump.is_done());
    }
    Ok(())
}

fn pumps(host: OwnedFd, program: OwnedFd) -> std::io::Result<Vec<Pump>> {
    let inward = Pump::new(host.try_clone()?, program.try_clone()?)?;
    Ok(vec![inward, Pump::new(program, host)?])
}

/// Waits until a pump has something to do.
fn wait(pumps: &mut [Pump]) -> nix::Result<()> {
    let sinks = pumps.iter().map(|pump| pump.interest().1);
    let sources = pumps.iter().filter_map(|pump| pump.interest().0);
    let mut fds: Vec<PollFd<'_>> = sinks.chain(sources).collect();
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    // The sinks come first.
    let hung_up: Vec<bool> = fds.iter().map(pump::hung_up).collect();
    for (pump, _) in pumps
        .iter_mut()
        .zip(hung_up)
        .filter(|(_, hung_up)| *hung_up)
    {
        pump.sink_hung_up();
    }
    Ok(())
}
