//! The half of the launch protocol in the component.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;

use crate::{CHANNEL_FD, Channel, Error, Reply, Result, Start, VERSION, parent, socket};

/// Whether the inherited descriptor already has an owner.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What this process was started with.
#[derive(Debug)]
pub struct Launched<C> {
    /// The component's configuration.
    pub config: C,
    /// The descriptors that it works on.
    pub resources: Resources,
    /// The answer that the host waits for.
    pub answer: Answer,
}

/// The answer that the host waits for. Dropping it without one tells the host that the process
/// ended.
#[derive(Debug)]
#[must_use = "the host waits for an answer"]
pub struct Answer {
    channel: Channel,
}

/// Descriptors by name; those that are never taken are closed when this is dropped.
#[derive(Debug, Default)]
pub struct Resources {
    fds: BTreeMap<String, OwnedFd>,
}

/// Takes what the host handed over. Works once a process.
///
/// # Errors
/// [`Error::NotLaunched`] if this process was not started by the host's half or this was called
/// before; [`Error::Version`]; [`Error::Died`] if the host is gone; otherwise the message was
/// invalid. The host is told of what it can be told.
pub fn launched<C: DeserializeOwned>() -> Result<Launched<C>> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(Error::NotLaunched);
    }
    let socket = socket::adopt(CHANNEL_FD).map_err(|_| Error::NotLaunched)?;
    receive(Channel::from_fd(socket))
}

/// Receives the start message on `channel`.
pub(crate) fn receive<C: DeserializeOwned>(channel: Channel) -> Result<Launched<C>> {
    let answer = Answer { channel };
    match take_start(&answer.channel) {
        Ok((config, resources)) => Ok(Launched {
            config,
            resources,
            answer,
        }),
        Err(error) => {
            answer.refuse(&error);
            Err(error)
        }
    }
}

/// Receives the start message and takes it apart.
fn take_start<C: DeserializeOwned>(channel: &Channel) -> Result<(C, Resources)> {
    let (start, fds) = channel.receive::<Start>()?.ok_or(Error::Died)?;
    if start.version != VERSION {
        return Err(Error::Version(start.version));
    }
    if start.names.len() != fds.len() {
        return Err(Error::Protocol("names and descriptors differ in number"));
    }
    parent::check_names(&start.names)?;
    let config = wire::decode(&start.config)?;
    let fds = start.names.into_iter().zip(fds).collect();
    Ok((config, Resources { fds }))
}

impl<C> Launched<C> {
    /// As [`Answer::ready`], for a component that has taken what it needs.
    ///
    /// # Errors
    /// As [`Answer::ready`].
    pub fn ready(self) -> Result<Channel> {
        self.answer.ready()
    }

    /// As [`Answer::refuse`].
    pub fn refuse(self, error: &dyn StdError) {
        self.answer.refuse(error);
    }
}

impl Answer {
    /// Tells the host that the component is confined and about to serve. The channel is from now
    /// on the component's control channel.
    ///
    /// # Errors
    /// As [`Channel::send`], if the host is gone.
    pub fn ready(self) -> Result<Channel> {
        self.channel.send(&Reply::Ready, &[])?;
        Ok(self.channel)
    }

    /// Tells the host why the component cannot begin: the error and its causes.
    pub fn refuse(self, error: &dyn StdError) {
        let reason = wire::chain(error);
        // A host that is gone does not need to know.
        let _ = self.channel.send(&Reply::Failed(reason), &[]);
    }
}

impl Resources {
    /// Takes the descriptor called `name`.
    ///
    /// # Errors
    /// [`Error::NoResource`] if there is none, or it was taken before.
    pub fn take(&mut self, name: &str) -> Result<OwnedFd> {
        self.fds
            .remove(name)
            .ok_or_else(|| Error::NoResource(name.to_owned()))
    }

    /// Looks at the descriptor called `name`, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OwnedFd> {
        self.fds.get(name)
    }

    /// The names of what is left, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fds.keys().map(String::as_str)
    }
}

impl FromIterator<(String, OwnedFd)> for Resources {
    fn from_iter<I: IntoIterator<Item = (String, OwnedFd)>>(entries: I) -> Self {
        Self {
            fds: entries.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write as _};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::{MAX_FDS, await_ready, start};

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_component_gets_its_configuration_and_resources_and_answers() {
        let (host, component) = Channel::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let config = ("root".to_owned(), 42_u32);
        start(&host, &config, &[("log".to_owned(), writer.as_fd())]).unwrap();
        drop(writer);

        let mut launched = receive::<(String, u32)>(component).unwrap();
        assert_eq!(launched.config, config);
        assert_eq!(launched.resources.names().collect::<Vec<_>>(), ["log"]);
        let mut log = File::from(launched.resources.take("log").unwrap());
        assert!(matches!(
            launched.resources.take("log"),
            Err(Error::NoResource(name)) if name == "log"
        ));
        log.write_all(b"hello").unwrap();
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        let control = launched.ready().unwrap();
        await_ready(&host, SOON).unwrap();
        control.send(&7_u8, &[]).unwrap();
        assert_eq!(host.receive::<u8>().unwrap().unwrap().0, 7);
    }

    #[test]
    fn a_refusal_carries_the_error_and_its_causes() {
        let (host, component) = Channel::pair().unwrap();
        start(&host, &(), &[]).unwrap();
        let launched = receive::<()>(component).unwrap();
        let cause = std::io::Error::other("no\u{1b}[2J space");
        launched.refuse(&Error::Socket("send", cause));
        let error = await_ready(&host, SOON).unwrap_err();
        assert_eq!(
            error.to_string(),
            "refused to start: cannot send on the channel: no\u{fffd}[2J space"
        );
    }

    #[test]
    fn a_component_that_ends_without_an_answer_has_died() {
        let (host, component) = Channel::pair().unwrap();
        start(&host, &(), &[]).unwrap();
        drop(receive::<()>(component).unwrap());
        assert!(matches!(await_ready(&host, SOON), Err(Error::Died)));
    }

    #[test]
    fn a_component_that_never_answers_runs_into_the_time_limit() {
        let (host, _component) = Channel::pair().unwrap();
        let limit = Duration::from_millis(20);
        assert!(matches!(await_ready(&host, limit), Err(Error::TimedOut)));
    }

    #[test]
    fn an_answer_with_descriptors_is_refused() {
        let (host, component) = Channel::pair().unwrap();
        let fds = [component.as_fd()];
        component.send(&Reply::Ready, &fds).unwrap();
        assert!(matches!(await_ready(&host, SOON), Err(Error::Protocol(_))));
    }

    #[test]
    fn another_version_is_refused_on_both_sides() {
        let (host, component) = Channel::pair().unwrap();
        let start = Start {
            version: VERSION + 1,
            config: Vec::new(),
            names: Vec::new(),
        };
        host.send(&start, &[]).unwrap();
        assert!(matches!(receive::<()>(component), Err(Error::Version(_))));
        assert!(matches!(
            await_ready(&host, SOON),
            Err(Error::Refused { reason }) if reason.contains("version")
        ));
    }

    #[test]
    fn more_names_than_descriptors_are_refused() {
        let (host, component) = Channel::pair().unwrap();
        let start = Start {
            version: VERSION,
            config: wire::encode(&()).unwrap(),
            names: vec!["a".to_owned()],
        };
        host.send(&start, &[]).unwrap();
        assert!(matches!(receive::<()>(component), Err(Error::Protocol(_))));
    }

    #[test]
    fn names_that_are_empty_long_or_doubled_are_refused_by_the_sender() {
        let (host, _component) = Channel::pair().unwrap();
        let fd = host.as_fd();
        for names in [vec![""], vec!["a", "a"], vec![&*"x".repeat(65)]] {
            let resources: Vec<_> = names.iter().map(|name| ((*name).to_owned(), fd)).collect();
            assert!(matches!(start(&host, &(), &resources), Err(Error::Name(_))));
        }
    }

    #[test]
    fn as_many_resources_as_a_message_carries_arrive_and_no_more_are_sent() {
        let (host, component) = Channel::pair().unwrap();
        let fd = host.as_fd();
        let resources: Vec<_> = (0..=MAX_FDS).map(|n| (n.to_string(), fd)).collect();
        assert!(matches!(
            start(&host, &(), &resources),
            Err(Error::TooManyFds(131))
        ));
        start(&host, &(), &resources[1..]).unwrap();
        let launched = receive::<()>(component).unwrap();
        assert_eq!(launched.resources.names().count(), MAX_FDS);
    }
}
