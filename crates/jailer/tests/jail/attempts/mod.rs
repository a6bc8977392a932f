//! What a component under an attacker's control tries, and what stops it.
//!
//! Each attempt names the layers that stop it, in the order in which they are met, and how each
//! shows. It is made with all layers, with each single one left out, and with one more of its own
//! left out each time until nothing stops it: so every mechanism that is named is seen at work.

mod calls;
mod files;
mod kernel;
mod memory;
mod network;
mod processes;
mod resources;
mod rights;
mod siblings;

use std::io;

use libc::SIGSYS;
use libtest_mimic::{Failed, Trial};
use policy::{Limit, Policy, Reasoned, Resource};

use crate::component::Hands;
use crate::host::{self, COMPONENTS, Deed, Outcome};
use crate::layers::Layer;

/// What the filter does about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// It ends the process.
    Kill,
    /// It answers with one of these errors.
    Answer(&'static [i32]),
    /// It lets it pass: the component needs the call.
    Pass,
}

/// A layer that stops an attempt, and how this shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) layer: Layer,
    /// The error; several where kernels differ. None if it is the process that ends.
    pub(crate) errors: &'static [i32],
    /// Before this version of Landlock it was this one.
    pub(crate) older: Option<(u32, i32)>,
    /// The first version of Landlock that does this.
    pub(crate) abi: u32,
}

/// What becomes of an attempt that no layer stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It works: it harms nobody, or the last layer that was named is the only one left.
    Work,
    /// The host's settings, kernel or users decide. The attempt is not made.
    Host,
}

use End::{Host, Work};
use Filter::{Answer, Kill, Pass};

/// Components whose jails are the same but for the filter, and how many descriptors and how much
/// memory they may have. What the filter ends in one as in the first is tried with open layers in the
/// first only.
const ALIKE: [&str; 5] = [
    "dev-vsock",
    "dev-net",
    "dev-block",
    "dev-console",
    "dev-balloon",
];

/// One attempt.
struct Attempt {
    name: &'static str,
    filter: Each<Filter>,
    /// Behind the filter.
    stops: Each<&'static [Stop]>,
    end: End,
    what: fn(&Hands) -> io::Result<()>,
}

/// What is the same for most components.
struct Each<T: 'static> {
    most: T,
    others: &'static [(&'static str, T)],
}

impl<T: Copy> Each<T> {
    /// What it is for `component`.
    fn of(&self, component: &str) -> T {
        let other = self.others.iter().find(|(name, _)| *name == component);
        other.map_or(self.most, |(_, other)| *other)
    }
}

/// The same for all.
const fn all<T: Copy>(most: T) -> Each<T> {
    Each { most, others: &[] }
}

/// A call that only one component has.
const fn only(others: &'static [(&'static str, Filter); 1]) -> Each<Filter> {
    Each { most: Kill, others }
}

const VMM_ONLY: Each<Filter> = only(&[("vmm", Pass)]);
const VSOCK_ONLY: Each<Filter> = only(&[("dev-vsock", Pass)]);
const FS_ONLY: Each<Filter> = only(&[("dev-fs", Pass)]);
const DIALER_ONLY: Each<Filter> = only(&[("dialer", Pass)]);

/// A call that all have that serve a machine.
const SERVING: Each<Filter> = Each {
    most: Pass,
    others: &[("unpack", Kill)],
};

/// An attempt that the filter ends in every component.
const fn killed(
    name: &'static str,
    stops: &'static [Stop],
    end: End,
    what: fn(&Hands) -> io::Result<()>,
) -> Attempt {
    filtered(all(Kill), name, stops, end, what)
}

/// An attempt that the filter ends but in dev-fs, which works with names.
const fn by_name(
    name: &'static str,
    stops: &'static [Stop],
    end: End,
    what: fn(&Hands) -> io::Result<()>,
) -> Attempt {
    filtered(FS_ONLY, name, stops, end, what)
}

/// An attempt with a call that every component has.
const fn passed(
    name: &'static str,
    stops: &'static [Stop],
    end: End,
    what: fn(&Hands) -> io::Result<()>,
) -> Attempt {
    filtered(all(Pass), name, stops, end, what)
}

/// An attempt that the same layers stop behind the filter in every component.
const fn filtered(
    filter: Each<Filter>,
    name: &'static str,
    stops: &'static [Stop],
    end: End,
    what: fn(&Hands) -> io::Result<()>,
) -> Attempt {
    Attempt {
        name,
        filter,
        stops: all(stops),
        end,
        what,
    }
}

/// An attempt that the filter ends but in the dialer, which is in the host's network: there
/// `outside` is what stops it.
const fn dialled(
    filter: Each<Filter>,
    name: &'static str,
    stops: &'static [Stop],
    outside: &'static [(&'static str, &'static [Stop]); 1],
    end: End,
    what: fn(&Hands) -> io::Result<()>,
) -> Attempt {
    let stops = Each {
        most: stops,
        others: outside,
    };
    Attempt {
        name,
        filter,
        stops,
        end,
        what,
    }
}

/// `layer` answers with one of `errors`.
const fn by(layer: Layer, errors: &'static [i32]) -> Stop {
    Stop {
        layer,
        errors,
        older: None,
        abi: 0,
    }
}

/// Landlock answers with one of `errors`, from a version on.
const fn landlock(abi: u32, errors: &'static [i32]) -> Stop {
    Stop {
        layer: Layer::Landlock,
        errors,
        older: None,
        abi,
    }
}

/// Landlock refuses to move a file between directories: with this error until it had a right for it.
const REFER: Stop = Stop {
    layer: Layer::Landlock,
    errors: &[libc::EACCES],
    older: Some((2, libc::EXDEV)),
    abi: 1,
};

/// Attempts of one kind.
pub(crate) struct Subject {
    pub(crate) title: &'static str,
    attempts: &'static [Attempt],
}

/// All attempts.
pub(crate) const SUBJECTS: [Subject; 8] = [
    subject("Files and directories", files::ATTEMPTS),
    subject("Processes, programs, namespaces", processes::ATTEMPTS),
    subject(
        "The host's process and other components",
        siblings::ATTEMPTS,
    ),
    subject("Rights", rights::ATTEMPTS),
    subject("Memory", memory::ATTEMPTS),
    subject("Sockets", network::ATTEMPTS),
    subject("The kernel", kernel::ATTEMPTS),
    subject("More than its share", resources::ATTEMPTS),
];

const fn subject(title: &'static str, attempts: &'static [Attempt]) -> Subject {
    Subject { title, attempts }
}

impl Subject {
    /// Its attempts under every policy, attempt by attempt.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for attempt in self.attempts {
            rows.extend(COMPONENTS.map(|component| attempt.row(component)));
        }
        rows
    }
}

/// An attempt under one policy: the layers that stop it, in the order in which they are met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) component: &'static str,
    /// It ends in the filter as that of the first of [`ALIKE`] does, which has all the runs.
    is_repeated: bool,
    pub(crate) stops: Vec<Stop>,
    pub(crate) end: End,
}

/// Every attempt under every policy.
pub(crate) fn rows() -> Vec<Row> {
    SUBJECTS.iter().flat_map(Subject::rows).collect()
}

impl Attempt {
    fn row(&self, component: &'static str) -> Row {
        let stops = self.stops_of(component);
        let is_killed = stops.first() == Some(&by(Layer::Seccomp, &[]));
        Row {
            name: self.name,
            component,
            is_repeated: is_killed
                && ALIKE[1..].contains(&component)
                && stops == self.stops_of(ALIKE[0]),
            stops,
            end: self.end,
        }
    }

    fn stops_of(&self, component: &str) -> Vec<Stop> {
        let errors = match self.filter.of(component) {
            Kill => Some(&[][..]),
            Answer(errors) => Some(errors),
            Pass => None,
        };
        let mut stops = Vec::new();
        stops.extend(errors.map(|errors| by(Layer::Seccomp, errors)));
        stops.extend(self.stops.of(component));
        stops
    }
}

impl Row {
    /// The layers to leave out, run by run.
    fn runs(&self) -> Vec<Vec<Layer>> {
        let mut runs = vec![Vec::new()];
        if self.is_repeated {
            return runs;
        }
        runs.extend(Layer::OPTIONAL.map(|layer| vec![layer]));
        for count in 2..=self.stops.len() {
            runs.push(self.stops[..count].iter().map(|stop| stop.layer).collect());
        }
        runs.retain(|run| run.iter().all(|layer| layer.is_optional()));
        runs
    }

    /// What stops it without some layers, on this kernel.
    fn stop(&self, without: &[Layer]) -> Option<&Stop> {
        self.stops
            .iter()
            .find(|stop| stop.abi <= abi() && !without.contains(&stop.layer))
    }

    /// Makes the attempt in every run.
    fn check(&self) -> Result<(), Failed> {
        let mut wrong = Vec::new();
        for without in self.runs() {
            let stop = self.stop(&without);
            if stop.is_none() && self.end == Host {
                continue;
            }
            let deed = Deed::Attempt(self.name.to_owned());
            let outcome = host::perform(self.component, &without, &deed)?;
            if !fits(stop, outcome) {
                let expected = stop.map_or("that it works".to_owned(), Stop::text);
                let seen = outcome.text();
                wrong.push(format!(
                    "without {without:?}: expected {expected}, got {seen}"
                ));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(wrong.join("\n").into())
    }
}

/// Whether an attempt came out as it must where `stop` is the first to stop it.
fn fits(stop: Option<&Stop>, outcome: Outcome) -> bool {
    match (stop, outcome) {
        (None, Outcome::Done) => true,
        (Some(stop), Outcome::Killed(signal)) => stop.errors.is_empty() && signal == SIGSYS,
        (Some(stop), Outcome::Refused(errno)) => match stop.older {
            Some((version, error)) if abi() < version => errno == error,
            _ => stop.errors.contains(&errno),
        },
        _ => false,
    }
}

/// The kernel's version of Landlock.
fn abi() -> u32 {
    jailer::landlock_abi().unwrap_or(0)
}

impl Stop {
    /// The layer, and how it shows.
    pub(crate) fn text(&self) -> String {
        let layer = self.layer.name();
        if self.errors.is_empty() {
            return format!("{layer} SIGSYS");
        }
        let errors: Vec<_> = self.errors.iter().map(|errno| name(*errno)).collect();
        let since = match (self.abi, self.older) {
            (_, Some((version, errno))) => format!(" ({} before ABI {version})", name(errno)),
            (0 | 1, None) => String::new(),
            (version, None) => format!(" (ABI {version})"),
        };
        format!("{layer} {}{since}", errors.join(" or "))
    }
}

impl Outcome {
    fn text(self) -> String {
        match self {
            Self::Refused(errno) => name(errno),
            other => format!("{other:?}"),
        }
    }
}

/// The name of an error.
fn name(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}

/// In the component.
pub(crate) fn perform(name: &str, hands: &Hands) -> io::Result<()> {
    let attempt = SUBJECTS
        .iter()
        .flat_map(|subject| subject.attempts)
        .find(|attempt| attempt.name == name);
    (attempt.ok_or(io::ErrorKind::NotFound)?.what)(hands)
}

/// In the host: a test for each attempt and component.
pub(crate) fn trials() -> Vec<Trial> {
    let attempts = rows().into_iter().map(|row| {
        let name = format!("{}::attempt::{}", row.component, row.name);
        Trial::test(name, move || row.check())
    });
    let alike = Trial::test("jails_that_are_tried_as_one_are_one", alike);
    attempts.chain([alike]).collect()
}

/// Those of [`ALIKE`] are what they are said to be.
fn alike() -> Result<(), Failed> {
    let [first, others @ ..] = ALIKE.map(policy::component);
    let first = first.ok_or("no policy")?;
    for other in others {
        compare(first, other.ok_or("no policy")?)?;
    }
    Ok(())
}

fn compare(first: &Policy, second: &Policy) -> Result<(), Failed> {
    let values = |lines: &[Reasoned<Limit>]| -> Vec<Limit> {
        let limits = lines.iter().map(|line| line.value);
        limits
            .filter(|limit| !matches!(limit.resource, Resource::Nofile | Resource::Data))
            .collect()
    };
    let same = first.identity.value == second.identity.value
        && first.proc == second.proc
        && first.landlock_floor == second.landlock_floor
        && first.namespaces == second.namespaces
        && first.shared == second.shared
        && first.capabilities == second.capabilities
        && values(first.limits) == values(second.limits);
    if same {
        return Ok(());
    }
    let names = [first.component, second.component];
    Err(format!("{names:?} differ in more than their filters").into())
}
