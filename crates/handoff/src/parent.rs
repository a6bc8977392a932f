//! The half of the launch protocol in the host's process.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde::Serialize;

use crate::{Channel, Error, MAX_NAME, Reply, Result, Start, VERSION};

/// The longest reason that is repeated to the user, in bytes.
const MAX_REASON: usize = 4096;

/// Hands a component its configuration and its named resources.
///
/// # Errors
/// [`Error::Name`] if a name is empty, over 64 bytes long or used twice, [`Error::TooManyFds`], or
/// as [`Channel::send`]. A broken pipe means that the component already ended.
pub fn start<C: Serialize>(
    channel: &Channel,
    config: &C,
    resources: &[(String, BorrowedFd<'_>)],
) -> Result<()> {
    start_encoded(channel, wire::encode(config)?, resources)
}

/// As [`start`], for a configuration that is [`wire::encode`]d already.
///
/// # Errors
/// As [`start`].
pub fn start_encoded(
    channel: &Channel,
    config: Vec<u8>,
    resources: &[(String, BorrowedFd<'_>)],
) -> Result<()> {
    let names: Vec<String> = resources.iter().map(|(name, _)| name.clone()).collect();
    check_names(&names)?;
    let fds: Vec<BorrowedFd<'_>> = resources.iter().map(|(_, fd)| *fd).collect();
    let start = Start {
        version: VERSION,
        config,
        names,
    };
    channel.send(&start, &fds)
}

/// Waits until the component says that it is confined and about to serve.
///
/// # Errors
/// [`Error::Refused`] with the component's reason, [`Error::Died`] if it ended without one,
/// [`Error::TimedOut`], or as [`Channel::receive`].
pub fn await_ready(channel: &Channel, timeout: Duration) -> Result<()> {
    channel.set_timeout(Some(timeout))?;
    let answer = channel.receive::<Reply>();
    channel.set_timeout(None)?;
    match answer? {
        None => Err(Error::Died),
        Some((_, fds)) if !fds.is_empty() => {
            Err(Error::Protocol("descriptors with the answer to a launch"))
        }
        Some((Reply::Ready, _)) => Ok(()),
        Some((Reply::Failed(reason), _)) => Err(Error::Refused {
            reason: printable(&reason),
        }),
    }
}

/// Every name is usable and used once.
pub(crate) fn check_names(names: &[String]) -> Result<()> {
    for (index, name) in names.iter().enumerate() {
        let earlier = names.get(..index).unwrap_or_default();
        if name.is_empty() || name.len() > MAX_NAME || earlier.contains(name) {
            return Err(Error::Name(printable(name)));
        }
    }
    Ok(())
}

/// What an untrusted process said, fit for a terminal.
fn printable(text: &str) -> String {
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let text = text.get(..end).unwrap_or_default();
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}
