//! Serves the device to QEMU, without a jail, to try a change by hand:
//!
//! ```text
//! cargo run --release -p dev-vsock --example qemu -- /tmp/vhost /tmp/vsock 3 1025
//! qemu-system-x86_64 ... -object memory-backend-memfd,id=m,size=512M,share=on -machine memory-backend=m \
//!     -chardev socket,id=v,path=/tmp/vhost -device vhost-user-vsock-pci,chardev=v
//! socat - UNIX:/tmp/vsock,...        # its first line is the guest's port
//! ```
//!
//! Connections of the guest to port N (those listed) go to the Unix socket /tmp/vsock_N.

use std::error::Error;
use std::fs::File;
use std::io::{Read, copy};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::spawn;

use dev_vsock::{Accepted, Inbox, Legacy, Vsock};
use device::serve::Server;
use nix::sys::memfd::{MFdFlags, memfd_create};
use wire::vsock::{JOURNAL_SIZE, Stream};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = || {
        args.next()
            .ok_or("usage: qemu VHOST_SOCKET HOST_SOCKET CID PORT...")
    };
    let (vhost, host, guest_cid) = (next()?, next()?, next()?.parse()?);
    let accept_ports = args.map(|port| port.parse()).collect::<Result<_, _>>()?;
    let config = wire::vsock::Config {
        guest_cid,
        accept_ports,
    };
    let inbox = Arc::new(Inbox::new()?);
    let (sender, accepted) = sync_channel::<Accepted>(64);
    let journal = File::from(memfd_create("journal", MFdFlags::MFD_CLOEXEC)?);
    journal.set_len(JOURNAL_SIZE)?;
    let legacy = Legacy {
        journal: journal.into(),
        streams: Vec::new(),
    };
    let device = Vsock::new(config.try_into()?, Arc::clone(&inbox), sender, legacy)?;
    let vhost = UnixListener::bind(vhost)?;
    let listener = UnixListener::bind(&host)?;
    spawn(move || {
        for (id, stream) in (1..).zip(listener.incoming().map_while(Result::ok)) {
            let port = first_line(&stream).parse();
            if let Ok(port) = port {
                inbox.connect(Stream { id, port }, stream);
            }
        }
    });
    spawn(move || {
        for accepted in accepted {
            let port = accepted.stream.port;
            if let Ok(server) = UnixStream::connect(format!("{host}_{port}")) {
                join(accepted.theirs, server);
            }
        }
    });
    Server::new(device, OwnedFd::from(vhost))?.serve()?;
    Ok(())
}

/// Byte by byte: what follows the line belongs to the guest.
fn first_line(mut stream: &UnixStream) -> String {
    let mut line = String::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    line
}

fn join(one: UnixStream, other: UnixStream) {
    for (from, to) in [(&one, &other), (&other, &one)] {
        if let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) {
            spawn(move || {
                let _ = copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    }
}
