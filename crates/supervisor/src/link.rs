//! The one connection between the VMM and a device.
//!
//! A back end accepts, so it is given a *listener* with exactly one connection in its queue: ours.
//! The listener's name lives in a directory that only this user may enter and is removed before
//! anyone else is told about it, so no second connection can be made.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
};

/// Both ends of a vhost-user connection.
pub(crate) struct Link {
    /// For the device.
    pub(crate) listener: OwnedFd,
    /// For the VMM.
    pub(crate) stream: OwnedFd,
}

/// Makes `count` links.
///
/// # Errors
/// If the temporary directory cannot be written.
pub(crate) fn links(count: usize) -> io::Result<Vec<Link>> {
    let directory = tempfile::Builder::new().prefix("crumble-link-").tempdir()?;
    let path = directory.path().join("link");
    (0..count)
        .map(|_| {
            let listener = UnixListener::bind(&path)?;
            let stream = UnixStream::connect(&path)?;
            fs::remove_file(&path)?;
            Ok(Link {
                listener: listener.into(),
                stream: stream.into(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn each_link_joins_its_own_two_ends_and_leaves_no_name() {
        let made = links(3).unwrap();
        for (number, link) in made.into_iter().enumerate() {
            let listener = UnixListener::from(link.listener);
            let mut stream = UnixStream::from(link.stream);
            let message = [u8::try_from(number).unwrap(); 3];
            stream.write_all(&message).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            let mut received = [0; 3];
            accepted.read_exact(&mut received).unwrap();
            assert_eq!(received, message);
            let name = listener.local_addr().unwrap();
            assert!(!name.as_pathname().unwrap().exists());
        }
    }
}
