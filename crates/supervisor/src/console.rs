//! What the guest writes to its serial port.

use std::{
    io::{self, PipeReader, Read, Write},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use crate::{machine::Shared, tail::Tail};

/// Where the output goes besides the end of it that is kept.
pub(crate) type Sink = Box<dyn Write + Send>;

/// How long the machine's end waits for the sink to take what is left. A terminal that is held, or
/// a pipe that nobody reads, loses the rest.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// A thread that reads it: a sink that blocks holds up the output, and in the end the guest that
/// writes, but not the supervision of the machine.
pub(crate) struct Console(Receiver<()>);

impl Console {
    /// Reads `console` until no process has its other end.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn start(
        console: PipeReader,
        sink: Option<Sink>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let (ending, ended) = channel();
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || read(console, sink, &shared, &ending))?;
        Ok(Self(ended))
    }

    /// Waits until everything has been read, but not for ever.
    pub(crate) fn finish(self) {
        // Both an answer and a thread that is gone are its end.
        let _ = self.0.recv_timeout(LAST_WORDS_WITHIN);
    }
}

fn read(mut console: PipeReader, mut sink: Option<Sink>, shared: &Shared, _ending: &Sender<()>) {
    let mut tail = Tail::default();
    let mut buffer = [0; 4096];
    loop {
        let length = match console.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        tail.push(bytes);
        shared.update(|state| state.console = tail.text());
        if let Some(sink) = &mut sink {
            // A sink that fails, a closed terminal say, is the caller's loss and not the guest's.
            let _ = sink.write_all(bytes).and_then(|()| sink.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_blocks_does_not_hold_up_the_end() {
        let (blocked, mut writer) = io::pipe().unwrap();
        let (reader, mut guest) = io::pipe().unwrap();
        // More than a pipe holds, so that the sink is stuck for good.
        let noise = vec![b'x'; 1 << 20];
        let shared = Arc::new(Shared::default());
        let sink = Box::new(writer.try_clone().unwrap());
        let console = Console::start(reader, Some(sink), Arc::clone(&shared)).unwrap();
        let flood = thread::spawn(move || guest.write_all(&noise));
        console.finish();
        assert!(!shared.lock().console.is_empty());
        // Once nobody could ever read it, the sink fails, and the guest is heard to the end.
        drop(blocked);
        assert!(writer.write_all(b"x").is_err());
        flood.join().unwrap().unwrap();
    }

    #[test]
    fn everything_is_heard_before_the_end() {
        let (reader, mut guest) = io::pipe().unwrap();
        let shared = Arc::new(Shared::default());
        let console = Console::start(reader, None, Arc::clone(&shared)).unwrap();
        guest.write_all(b"panic: at the very end\n").unwrap();
        drop(guest);
        console.finish();
        assert_eq!(shared.lock().console, "panic: at the very end");
    }
}
