//! From an inherited socket to a machine, and to its end.

use std::{
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::ExitCode,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Instant,
};

use handoff::{Channel, Launched};
use wire::vmm::{Config, End, Event, Request, Stats};

use crate::{
    Error,
    machine::{self, Machine, Parts},
};

/// The name of the policy.
const COMPONENT: &str = "vmm";

/// The launch failed. The ends of a machine have codes of their own, see [`End::exit_code`].
const EXIT_LAUNCH: u8 = 2;

/// What the main thread hears.
pub(crate) enum Input {
    /// The kernel is in memory.
    Loaded,
    /// The first vCPU is about to enter the guest.
    Entered,
    /// A device has something to report.
    Device(Event),
    /// The supervisor wants something.
    Request(Request, Vec<OwnedFd>),
    /// The supervisor is gone.
    Orphaned,
    /// A vCPU ended the machine.
    Ended(End),
}

/// The whole of `crumble-vmm`. The exit code is [`End::exit_code`], or 2 if nothing was started.
///
/// Returning ends the process whatever its other threads are doing, and the kernel takes the
/// machine apart faster than we could.
#[must_use]
pub fn run() -> ExitCode {
    let began = Instant::now();
    let (parts, channel) = match launch() {
        Ok(launched) => launched,
        Err(code) => return code,
    };
    let (tell, inputs) = mpsc::channel();
    let end = listen(&channel, tell.clone())
        .and_then(|()| machine::start(parts, &tell))
        .map(|machine| serve(&machine, &channel, &inputs, began))
        .unwrap_or_else(|error| End::Failed(wire::chain(&error)));
    let code = ExitCode::from(end.exit_code());
    // A supervisor that is gone does not need to know.
    let _ = channel.send(&Event::Ended(end), &[]);
    code
}

/// Takes what was handed over and closes the jail, before anything of the guest's is looked at.
fn launch() -> Result<(Parts, Channel), ExitCode> {
    let Launched {
        config,
        resources,
        answer,
    } = handoff::launched::<Config>().map_err(|error| fail(&error))?;
    let confined = Parts::take(config, resources).and_then(|parts| {
        let policy = policy::component(COMPONENT);
        let policy = policy.ok_or_else(|| Error::Config("no policy".to_owned()))?;
        jailer::confine(policy, &[])?;
        Ok(parts)
    });
    match confined {
        Ok(parts) => match answer.ready() {
            Ok(channel) => Ok((parts, channel)),
            Err(error) => Err(fail(&error)),
        },
        Err(error) => {
            let code = fail(&error);
            answer.refuse(&error);
            Err(code)
        }
    }
}

/// Writes the reason to the log.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    // A log that is gone is nobody's to read.
    let _ = writeln!(io::stderr(), "vmm: {}", wire::chain(error));
    ExitCode::from(EXIT_LAUNCH)
}

/// Passes the supervisor's requests on, on a thread of its own.
fn listen(channel: &Channel, tell: Sender<Input>) -> Result<(), Error> {
    let channel = channel.try_clone()?;
    let body = move || {
        // A message that makes no sense ends the machine like a supervisor that is gone: there is
        // nobody left who could be answered.
        while let Ok(Some((request, fds))) = channel.receive::<Request>() {
            if tell.send(Input::Request(request, fds)).is_err() {
                return;
            }
        }
        let _ = tell.send(Input::Orphaned);
    };
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(body)
        .map_err(Error::system("start a thread"))?;
    Ok(())
}

/// Serves the supervisor until the machine ends.
fn serve(machine: &Machine, channel: &Channel, inputs: &Receiver<Input>, began: Instant) -> End {
    let mut loaded_at = 0;
    for input in inputs {
        let now = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let event = match input {
            Input::Loaded => {
                loaded_at = now;
                continue;
            }
            Input::Entered => Event::Started {
                loaded_at,
                entered_at: now,
            },
            Input::Device(event) => event,
            Input::Request(Request::Stats, _) => Event::Stats(Stats {
                exits: machine.counters.sums(),
            }),
            Input::Request(Request::PowerButton, _) => {
                // It only fails when the button has been pressed 2^64 times.
                let _ = machine.power.write(1);
                continue;
            }
            Input::Request(Request::Replace { name, life }, fds) => {
                // The supervisor names what it has described, and sends one connection with it.
                let device = machine.replacements.get(&name);
                if let Some((device, socket)) = device.zip(fds.into_iter().next()) {
                    device.connect(UnixStream::from(socket), life);
                }
                continue;
            }
            Input::Orphaned => return End::Killed,
            Input::Ended(end) => return end,
        };
        // The control thread notices when the supervisor is gone.
        let _ = channel.send(&event, &[]);
    }
    End::Killed
}
