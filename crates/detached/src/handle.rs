//! A machine of another process.

use std::{
    io::{self, ErrorKind},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crumble::{Guest, Name};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Directory, Ended, Error, Reader, State, Stats,
    api::{AGENT, ATTACH, Complaint, Kill, Replace, Resize, Stop},
    http::{self, Response},
};

/// A machine of another process.
#[derive(Debug, Clone)]
pub struct Handle {
    directory: Directory,
}

impl Handle {
    /// The machine of this name.
    ///
    /// # Errors
    /// [`Error::NoMachine`].
    pub fn open(name: &Name) -> Result<Self, Error> {
        Directory::open(name).map(Self::from)
    }

    /// Its directory.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// How it is.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or if its keeper does not answer.
    pub fn state(&self) -> Result<State, Error> {
        self.get("/v1/machine")
    }

    /// What it costs.
    ///
    /// # Errors
    /// As [`Handle::state`].
    pub fn stats(&self) -> Result<Stats, Error> {
        self.get("/v1/stats")
    }

    /// Asks its command to end with the image's stop signal, or its init to power off; ends it if it has
    /// not after `limit`. It is not started anew.
    ///
    /// # Errors
    /// As [`Handle::state`].
    pub fn stop(&self, limit: Duration) -> Result<(), Error> {
        let seconds = limit.as_secs();
        self.post("/v1/stop", &Stop { seconds })?;
        self.gone()
    }

    /// Sends its command a Linux signal. SIGKILL ends the machine, as if its power failed.
    ///
    /// # Errors
    /// As [`Handle::state`], or if it has no command.
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        self.post("/v1/kill", &Kill { signal })
    }

    /// Lets none of its vCPUs run, or lets them run again.
    ///
    /// # Errors
    /// As [`Handle::state`].
    pub fn pause(&self, pause: bool) -> Result<(), Error> {
        let path = if pause { "/v1/pause" } else { "/v1/unpause" };
        self.ask("POST", path, &[]).map(drop)
    }

    /// Puts another process in the place of one of its devices'.
    ///
    /// # Errors
    /// As [`Handle::state`], or if it has no such device, or none that may die.
    pub fn replace_device(&self, name: &str) -> Result<(), Error> {
        let device = name.to_owned();
        self.post("/v1/replace", &Replace { device })
    }

    /// Waits until it does not run: how it ended; none if it has never run, or its keeper was killed.
    ///
    /// # Errors
    /// If its directory is gone.
    pub fn wait(&self) -> Result<Option<Ended>, Error> {
        match self.get("/v1/wait") {
            Ok(ended) => self.gone().map(|()| Some(ended)),
            // It does not run, or its keeper was killed meanwhile.
            Err(_) => {
                self.directory.wait()?;
                self.directory.ended()
            }
        }
    }

    /// Waits for the keeper's end, after which it may have removed its machine.
    fn gone(&self) -> Result<(), Error> {
        match self.directory.wait() {
            Err(Error::NoMachine(_)) => Ok(()),
            done => done,
        }
    }

    /// What its command wrote.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub fn log(&self) -> Result<Reader, Error> {
        Reader::open(self.directory.log())
    }

    /// Its command's streams from now on: the host's end reads what the command writes, as lines of a log
    /// ([`crate::Line::parse`]), and what is written to it is the command's input, if that is kept open.
    ///
    /// # Errors
    /// As [`Handle::state`].
    pub fn attach(&self) -> Result<UnixStream, Error> {
        let stream = self.connect()?;
        match http::upgrade(&stream, "/v1/attach", ATTACH).map_err(Error::Answer)? {
            None => Ok(stream),
            Some(response) => Err(Error::Refused(complaint(&response))),
        }
    }

    /// Tells its command's terminal its size.
    ///
    /// # Errors
    /// As [`Handle::state`].
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.post("/v1/resize", &Resize { rows, columns })
    }

    /// What runs in it.
    ///
    /// # Errors
    /// As [`Handle::state`].
    pub fn guest(&self) -> Result<Guest, Error> {
        let config = self.state()?.config;
        let socket = self.directory.socket();
        Ok(Guest::new(move || agent(&socket), config))
    }

    fn connect(&self) -> Result<UnixStream, Error> {
        match UnixStream::connect(self.directory.socket()) {
            Ok(stream) => Ok(stream),
            Err(_) if !self.directory.is_running()? => {
                Err(Error::NotRunning(self.directory.name().clone()))
            }
            Err(error) => Err(Error::Answer(error)),
        }
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let response = self.ask("GET", path, &[])?;
        serde_json::from_slice(&response.body)
            .map_err(|error| Error::Answer(io::Error::new(ErrorKind::InvalidData, error)))
    }

    fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        let body = serde_json::to_vec(body).map_err(|error| Error::Answer(error.into()))?;
        self.ask("POST", path, &body).map(drop)
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Response, Error> {
        let stream = self.connect()?;
        let response = http::ask(&stream, method, path, body).map_err(Error::Answer)?;
        match response.status {
            200 => Ok(response),
            _ => Err(Error::Refused(complaint(&response))),
        }
    }
}

impl From<Directory> for Handle {
    fn from(directory: Directory) -> Self {
        Self { directory }
    }
}

/// A stream to the agent behind a keeper's socket.
fn agent(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    match http::upgrade(&stream, "/v1/agent", AGENT)? {
        None => Ok(stream),
        Some(response) => Err(io::Error::other(complaint(&response))),
    }
}

fn complaint(response: &Response) -> String {
    match serde_json::from_slice(&response.body) {
        Ok(Complaint { error }) => error,
        Err(_) => format!("the keeper answered with status {}", response.status),
    }
}
