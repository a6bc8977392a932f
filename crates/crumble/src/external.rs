//! Devices whose back ends are somebody else's.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::Path,
};

use foreign::{Command, Foreign};
use spec::{BackEnd, External, Opened, Program};
use supervisor::{Description, Device};

use crate::Error;

/// A back end that was found, or is to be started.
pub(crate) enum Found {
    Connected(supervisor::External),
    Program(Box<Device>),
}

/// Finds the back end of the machine's device number `index`.
pub(crate) fn find(device: &External, index: usize) -> Result<Found, Error> {
    let description = Description {
        name: format!("{}{index}", device.kind()),
        virtio_id: device.virtio_id,
        queues: device.queues.clone(),
        config_space: device.config_space(),
        // A socket is not connected to once more.
        replaceable: device.in_order && matches!(device.back_end, BackEnd::Program(_)),
    };
    match &device.back_end {
        BackEnd::Socket(path) => {
            let stream = UnixStream::connect(path).map_err(|source| Error::External {
                device: device.to_string(),
                source,
            })?;
            let stream = stream.into();
            Ok(Found::Connected(supervisor::External {
                description,
                stream,
            }))
        }
        BackEnd::Program(program) => {
            let device = prepare(description, program)?;
            Ok(Found::Program(Box::new(device)))
        }
    }
}

/// Opens a program and its files.
fn prepare(description: Description, program: &Program) -> Result<Device, Error> {
    let argv: Vec<_> = program.command().into_iter().map(OsString::from).collect();
    let env = program.env.iter();
    let env: Vec<_> = env
        .map(|(name, value)| OsString::from(format!("{name}={value}")))
        .collect();
    let foreign = Foreign::open(Command {
        policy: &program.policy,
        argv: &argv,
        env: &env,
        trace: false,
    });
    let foreign = foreign.map_err(|source| Error::Program {
        device: description.name.clone(),
        source,
    })?;
    // The first is the socket, which is made for each that is started.
    let files = program
        .files
        .values()
        .zip(Program::FIRST_FD..)
        .map(|(file, before)| {
            let fd = open(file).map_err(|source| Error::Open {
                path: file.path.clone(),
                source,
            })?;
            Ok((before.saturating_add(1).to_string(), fd))
        });
    let files = files.collect::<Result<_, Error>>()?;
    let device = Device::foreign(description, foreign, files).map_err(supervisor::Error::from)?;
    Ok(device)
}

fn open(file: &Opened) -> io::Result<OwnedFd> {
    let Opened { path, writable } = file;
    // A directory is opened for reading, whatever may be done in it.
    let writable = *writable && !Path::is_dir(path);
    let opened = OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_NOCTTY)
        .open(path)?;
    Ok(opened.into())
}
