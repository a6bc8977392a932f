//! A command that is waited for, while signals, terminal sizes and a time limit are heeded.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::Instant,
};

use crumble::{Remote, Size};
use signal_hook::consts::SIGWINCH;

use crate::{
    report::{Failure, system},
    signals,
    terminal::{self, Raw},
};

/// So many requests to end in a row end this program, whatever the command makes of them.
const PATIENCE: u32 = 3;

/// What the main thread hears.
enum Message<T> {
    /// This process got a signal.
    Signal(i32),
    /// The command runs, and this controls it.
    Running(Box<dyn Control>),
    /// The command ended, or never began.
    Done(Result<T, Failure>),
}

/// What controls a command, or whatever else is waited for.
pub(crate) trait Control: Send {
    /// Its terminal has this size now.
    fn resize(&self, size: Size);

    /// This process got a signal that is meant for it.
    fn signal(&self, signal: i32);
}

/// A guest that is gone gets no signals, and its end is reported by other means.
impl Control for Remote {
    fn resize(&self, size: Size) {
        let _ = self.resize(size);
    }

    fn signal(&self, signal: i32) {
        let _ = self.signal(signal);
    }
}

/// How the wait for a command ended.
pub(crate) enum Attended<T> {
    Signalled(i32),
    TimedOut,
    Done(T),
}

/// Tells the main thread what controls the command, when there is one.
pub(crate) struct Teller<T>(Sender<Message<T>>);

impl<T> Teller<T> {
    pub(crate) fn running(&self, control: impl Control + 'static) {
        // Nobody listens any more if the process is about to end.
        let _ = self.0.send(Message::Running(Box::new(control)));
    }
}

/// Does `work` on a thread beside this one, passing signals and sizes on to its command. Whatever
/// else than its end this returns, it goes on, and the process is to end.
pub(crate) fn attend<T: Send + 'static>(
    deadline: Option<Instant>,
    tty: bool,
    work: impl FnOnce(&Teller<T>) -> Result<T, Failure> + Send + 'static,
) -> Result<Attended<T>, Failure> {
    let (tell, messages) = mpsc::channel();
    let signalled = tell.clone();
    signals::catch(move |signal| {
        let _ = signalled.send(Message::Signal(signal));
    })
    .map_err(system("catch signals"))?;
    let teller = Teller(tell);
    let worker = move || {
        let done = work(&teller);
        let _ = teller.0.send(Message::Done(done));
    };
    thread::Builder::new()
        .name("run".to_owned())
        .spawn(worker)
        .map_err(system("start a thread"))?;
    heed(&messages, deadline, tty)
}

fn heed<T>(
    messages: &Receiver<Message<T>>,
    deadline: Option<Instant>,
    tty: bool,
) -> Result<Attended<T>, Failure> {
    let mut running: Option<Box<dyn Control>> = None;
    let mut raw = None;
    let mut requests = 0;
    loop {
        let message = match deadline {
            None => messages.recv().map_err(RecvTimeoutError::from),
            Some(at) => messages.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match message {
            Err(RecvTimeoutError::Timeout) => return Ok(Attended::TimedOut),
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::Worker),
            Ok(Message::Done(done)) => {
                drop(raw);
                return done.map(Attended::Done);
            }
            Ok(Message::Running(control)) => {
                if tty {
                    raw = Some(Raw::enter().map_err(system("prepare the terminal"))?);
                }
                running = Some(control);
            }
            Ok(Message::Signal(signal)) => {
                requests += u32::from(signals::ends(signal));
                match &running {
                    Some(control) if requests < PATIENCE => pass_on(&**control, signal),
                    _ if signals::ends(signal) => return Ok(Attended::Signalled(signal)),
                    _ => {}
                }
            }
        }
    }
}

fn pass_on(control: &dyn Control, signal: i32) {
    match (signal, terminal::size()) {
        (SIGWINCH, Some(size)) => control.resize(size),
        (SIGWINCH, None) => {}
        _ => control.signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_decide_how_the_wait_ends() {
        let hear = |messages: &[i32], deadline| {
            let (tell, hear) = mpsc::channel();
            for signal in messages {
                tell.send(Message::Signal(*signal)).unwrap();
            }
            heed::<()>(&hear, deadline, false).unwrap()
        };
        // Before the command runs there is nobody to pass a request to end on to.
        let early = hear(&[SIGWINCH, 15], None);
        assert!(matches!(early, Attended::Signalled(15)));
        let late = hear(&[], Some(Instant::now()));
        assert!(matches!(late, Attended::TimedOut));
    }
}
