//! Streams between the host and the guest, whichever process is the vsock device.

use std::{
    collections::BTreeMap,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Mutex, MutexGuard, PoisonError},
};

use handoff::Channel;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, Shutdown, recv, shutdown},
};
use wire::vsock::{Request, Stream};

use crate::{Error, launch::named, machine::system};

/// Streams in one message, each with a descriptor.
const BATCH: usize = 100;

/// The most streams that are kept: twice as many as a device serves at a time, since those that are
/// over are found out later. A connection beyond that does not survive its device.
const MOST: usize = 8192;

/// The streams of a machine, with a copy of each end that is the device's. A device that takes
/// another's place gets them from here.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Held while a stream is numbered and sent, so that they arrive in order.
    door: Mutex<Door>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Door {
    /// Leads to the device; there is none before it is started.
    device: Option<Channel>,
    /// The number of the last stream.
    last: u32,
    /// The machine is over.
    closed: bool,
}

#[derive(Debug, Default)]
struct Kept {
    streams: BTreeMap<u32, (Stream, OwnedFd)>,
    /// How many there were after those that were over had been dropped.
    swept: usize,
}

impl Streams {
    /// A new stream to `port` of the guest, which a device that is not there now will serve.
    ///
    /// # Errors
    /// [`Error::Ended`], or [`Error::Channel`] if the device is there and takes nothing.
    pub(crate) fn connect(&self, port: u32) -> Result<UnixStream, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(system("make a socket pair"))?;
        let mut door = lock(&self.door);
        if door.closed {
            return Err(Error::Ended);
        }
        door.last = door.last.wrapping_add(1) & !wire::vsock::ACCEPTED;
        let stream = Stream {
            id: door.last,
            port,
        };
        let theirs = OwnedFd::from(theirs);
        let copy = theirs.try_clone().map_err(system("copy a socket"))?;
        self.keep(stream, copy);
        let request = Request::Connect(stream);
        let sent = door.device.as_ref();
        let sent = sent.map(|device| device.send(&request, &[theirs.as_fd()]));
        // Whatever else fails is the device's death, and then the next one gets the stream.
        if let Some(Err(source @ handoff::Error::TimedOut)) = sent {
            lock(&self.kept).streams.remove(&stream.id);
            return Err(named("vsock", source));
        }
        Ok(ours)
    }

    /// Keeps the device's end of a stream.
    pub(crate) fn keep(&self, stream: Stream, end: OwnedFd) {
        let mut kept = lock(&self.kept);
        if kept.streams.len() > kept.swept.saturating_mul(2).max(BATCH) {
            kept.sweep();
        }
        if kept.streams.len() < MOST {
            kept.streams.insert(stream.id, (stream, end));
        }
    }

    /// Tells a device that has been started what streams there are, and to begin.
    pub(crate) fn hand_over(&self, device: Channel) -> Result<(), Error> {
        let mut door = lock(&self.door);
        let mut kept = lock(&self.kept);
        kept.sweep();
        let all: Vec<_> = kept.streams.values().collect();
        let told = all.chunks(BATCH).try_for_each(|batch| {
            let streams = batch.iter().map(|(stream, _)| *stream).collect();
            let ends: Vec<_> = batch.iter().map(|(_, end)| end.as_fd()).collect();
            device.send(&Request::Resume(streams), &ends)
        });
        let told = told.and_then(|()| device.send(&Request::Begin, &[]));
        told.map_err(|source| named("vsock", source))?;
        door.device = Some(device);
        Ok(())
    }

    /// The machine is over: all streams end.
    pub(crate) fn close(&self) {
        let mut door = lock(&self.door);
        (door.closed, door.device) = (true, None);
        for (_, end) in lock(&self.kept).streams.values() {
            // It fails if the other end is closed.
            let _ = shutdown(end.as_raw_fd(), Shutdown::Both);
        }
        lock(&self.kept).streams.clear();
    }
}

impl Kept {
    /// Drops streams whose both directions have ended and been read to their end.
    fn sweep(&mut self) {
        let ends = self.streams.values();
        let mut polled: Vec<_> = ends
            .map(|(_, end)| PollFd::new(end.as_fd(), PollFlags::empty()))
            .collect();
        let _ = poll(&mut polled, PollTimeout::ZERO);
        let ends = self.streams.values().zip(&polled);
        let over: Vec<_> = ends
            .map(|((_, end), fd)| fd.any().unwrap_or(false) && is_read(end))
            .collect();
        let mut over = over.into_iter();
        self.streams.retain(|_, _| !over.next().unwrap_or(false));
        self.swept = self.streams.len();
    }
}

/// Whether nothing is left to be read, now or ever.
fn is_read(end: &OwnedFd) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(end.as_raw_fd(), &mut [0], flags) == Ok(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// What a device that begins is told: the streams, and their ends.
    fn told(device: &Channel) -> Vec<(Stream, UnixStream)> {
        let mut all = Vec::new();
        loop {
            match device.receive::<Request>().unwrap().unwrap() {
                (Request::Resume(streams), fds) => {
                    let ends = fds.into_iter().map(UnixStream::from);
                    all.extend(streams.into_iter().zip(ends));
                }
                (Request::Begin, _) => return all,
                (request, _) => panic!("{request:?}"),
            }
        }
    }

    fn start(streams: &Streams) -> (Channel, Vec<(Stream, UnixStream)>) {
        let (ours, theirs) = Channel::pair().unwrap();
        streams.hand_over(ours).unwrap();
        let told = told(&theirs);
        (theirs, told)
    }

    #[test]
    fn streams_wait_for_a_device_and_are_there_for_the_next_one() {
        let streams = Streams::default();
        let mut early = streams.connect(7).unwrap();
        let (device, told) = start(&streams);
        let [(first, _)] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!((first.id, first.port), (1, 7));

        let _late = streams.connect(8).unwrap();
        let (request, _) = device.receive::<Request>().unwrap().unwrap();
        let stream = Stream { id: 2, port: 8 };
        assert_eq!(request, Request::Connect(stream));
        early.write_all(b"unread").unwrap();
        drop((device, told));

        // While nobody is there.
        let _between = streams.connect(9).unwrap();
        let (_device, mut told) = start(&streams);
        let ids: Vec<_> = told.iter().map(|(stream, _)| stream.id).collect();
        assert_eq!(ids, [1, 2, 3]);
        let mut bytes = [0; 6];
        told[0].1.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"unread");
    }

    #[test]
    fn streams_that_are_over_are_dropped_once_they_are_read() {
        let streams = Streams::default();
        let mut ended = streams.connect(1).unwrap();
        let _open = streams.connect(2).unwrap();
        ended.write_all(b"x").unwrap();
        drop(ended);
        let (_, told) = start(&streams);
        assert_eq!(told.len(), 2);
        let (_, mut end) = told.into_iter().next().unwrap();
        end.read_exact(&mut [0]).unwrap();
        let (_, told) = start(&streams);
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn as_many_as_a_device_serves_are_handed_over() {
        let streams = Streams::default();
        let held: Vec<_> = (0..250).map(|_| streams.connect(1).unwrap()).collect();
        let (_, told) = start(&streams);
        assert_eq!(told.len(), held.len());
    }

    #[test]
    fn the_end_of_the_machine_is_the_end_of_its_streams() {
        let streams = Streams::default();
        let mut stream = streams.connect(1).unwrap();
        let (_device, _told) = start(&streams);
        streams.close();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        streams.connect(1).unwrap_err();
    }
}
