//! `crumble serve`.

use std::process::ExitCode;

use crumble::{Disk, Served, Server};

use crate::{
    arguments::{Serve, Service},
    attend::{Attended, attend},
    report::{Failure, signal_code},
};

/// Serves a device to one VMM after the other, until it is asked to end.
pub(crate) fn serve(options: Serve) -> Result<ExitCode, Failure> {
    let served = match options.service {
        Service::Fs {
            directory,
            tag,
            read_only,
        } => Served::Directory {
            path: directory,
            tag,
            read_only,
        },
        Service::Block { file, read_only } => Served::Disk(Disk {
            path: file,
            read_only,
        }),
        Service::Net { network, publish } => Served::Network(network, publish),
    };
    let mut server = Server::bind(served, &options.socket)?;
    eprintln!("crumble: {} listens", options.socket.display());
    let once = options.once;
    let work = move |_: &_| {
        loop {
            match server.serve_one() {
                Ok(()) if once => return Ok(()),
                Ok(()) => {}
                Err(error @ crumble::Error::Machine(_)) if !once => {
                    Failure::from(error).report();
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    match attend(None, false, work)? {
        Attended::Signalled(signal) => {
            // The thread that would have is ended with this process.
            let _ = std::fs::remove_file(&options.socket);
            Ok(ExitCode::from(signal_code(signal)))
        }
        Attended::Done(()) | Attended::TimedOut => Ok(ExitCode::SUCCESS),
    }
}
