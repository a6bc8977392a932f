//! The attempts as a table, which is part of the documentation.
//!
//! Each of its rows is what one test asserts; here the committed text is held to the same.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use libtest_mimic::{Failed, Trial};

use crate::attempts::{self, End, Row};
use crate::host::COMPONENTS;
use crate::layers::Layer;

/// Set to write the table instead of comparing it.
const WRITE: &str = "CRUMBLE_WRITE_ATTEMPTS";

/// The table as it is committed.
const COMMITTED: &str = include_str!("../../../../docs/attempts.md");

const HEAD: &str = "\
# Attempts to get out

What a component under an attacker's control tries, and what stops it. Written by the test that makes
the attempts (`crates/jailer/tests/jail`), which fails if this page says anything else than what it
asserts. After a change:

    CRUMBLE_WRITE_ATTEMPTS=1 cargo test -p jailer --test jail -- the_table

Each attempt is made with every layer closed, with each single layer left open, and with the layers of
its row left open one after the other. What is seen is the mechanism and the error: `SIGSYS` is the
death of the process. A layer that is not in a row makes no difference there when it is left open.

The jails of dev-vsock, dev-net, dev-block, dev-console and dev-balloon are the same but for the filter, and how many descriptors
and how much memory they may have: what the filter ends in one of these as in dev-vsock is tried with
open layers in dev-vsock only.
The dialer is in the host's network; its Landlock grants one TCP port, as with an egress policy that
allows no other. What unpacks layers belongs to no machine; its filter lets far less pass.

| layer | is |
|---|---|
| seccomp | the filter of system calls |
| namespaces | of processes, network, IPC, names and cgroups |
| empty root | no path leads anywhere |
| subtree | the served directory is a mount of its own |
| capabilities | dropped, and locked |
| Landlock | \"(ABI n)\": from that version on; before it, the next column holds |
| limits | of resources |
| user namespace | capabilities and users in it are nobody's outside; never left open, as others are made of it |
| descriptors | it has none on which this would work; never left open |
| kernel | refuses this to everybody; never left open |

\"works\" at the end: nothing but the layers before stops it, or nothing need stop it. \"the host\": its
settings, kernel and users decide, and the attempt is not made without the layers before.
";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test("every_attempt_has_one_name", unique)];
    // Some attempts are of one architecture.
    if cfg!(target_arch = "x86_64") {
        trials.push(Trial::test("the_table_says_what_the_tests_assert", compare));
    }
    trials
}

fn unique() -> Result<(), Failed> {
    let mut names: Vec<_> = attempts::rows()
        .iter()
        .map(|row| (row.name, row.component))
        .collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{:?} is there twice", pair[0]).into()),
        None => Ok(()),
    }
}

fn compare() -> Result<(), Failed> {
    let text = text();
    if std::env::var_os(WRITE).is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/attempts.md");
        return Ok(std::fs::write(path, text)?);
    }
    if text == COMMITTED {
        return Ok(());
    }
    Err(format!("docs/attempts.md is not what the tests assert; set {WRITE} to write it").into())
}

fn text() -> String {
    let rows = attempts::rows();
    let mut text = HEAD.to_owned();
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n## In short\n");
    summary(&mut text, &rows);
    let _ = writeln!(text, "\n## Where one layer alone stops it\n");
    alone(&mut text, &rows);
    for subject in attempts::SUBJECTS {
        let _ = writeln!(text, "\n## {}\n", subject.title);
        let _ = writeln!(
            text,
            "| attempt | by | stopped by | without it | without both | at the end |"
        );
        let _ = writeln!(text, "|---|---|---|---|---|---|");
        for group in subject.rows().chunks(COMPONENTS.len()) {
            lines(&mut text, group);
        }
    }
    text
}

/// How many attempts each layer is the first to stop.
fn summary(text: &mut String, rows: &[Row]) {
    let names = COMPONENTS.join(" | ");
    let line = "---|".repeat(COMPONENTS.len());
    let _ = writeln!(text, "| first stopped by | {names} |\n|---|{line}");
    let layers = Layer::OPTIONAL.into_iter().chain(Layer::FIXED).map(Some);
    for layer in layers.chain([None]) {
        let counts = COMPONENTS.map(|component| {
            let first = |row: &&Row| {
                row.component == component && row.stops.first().map(|stop| stop.layer) == layer
            };
            rows.iter().filter(first).count()
        });
        if counts.iter().any(|count| *count > 0) {
            let name = layer.map_or("nothing", Layer::name);
            let _ = writeln!(text, "| {name} | {} |", join(&counts));
        }
    }
    let count = rows.len() / COMPONENTS.len();
    let _ = writeln!(text, "| of | {} |", join(&COMPONENTS.map(|_| count)));
}

fn join(counts: &[usize]) -> String {
    let texts: Vec<_> = counts.iter().map(ToString::to_string).collect();
    texts.join(" | ")
}

/// The attempts that one layer alone stops, or none, by that layer and by who makes them.
fn alone(text: &mut String, rows: &[Row]) {
    let _ = writeln!(
        text,
        "| layer | of | without it | attempts |\n|---|---|---|---|"
    );
    let layers = Layer::OPTIONAL.into_iter().map(Some).chain([None]);
    for layer in layers {
        let mut names = BTreeMap::<_, Vec<_>>::new();
        for group in rows.chunks(COMPONENTS.len()) {
            let alike: Vec<_> = group
                .iter()
                .filter(|row| row.only() == Some(layer))
                .collect();
            if let Some(first) = alike.first() {
                let key = (who(&alike), first.ending());
                names.entry(key).or_default().push(words(first.name));
            }
        }
        for ((of, end), names) in names {
            let name = layer.map_or("nothing", Layer::name);
            let _ = writeln!(text, "| {name} | {of} | {end} | {} |", names.join("; "));
        }
    }
}

/// Whose rows these are.
fn who(rows: &[&Row]) -> String {
    if rows.len() == COMPONENTS.len() {
        return "all".to_owned();
    }
    let names: Vec<_> = rows.iter().map(|row| row.component).collect();
    let mut others = COMPONENTS.into_iter().filter(|name| !names.contains(name));
    match (others.next(), others.next()) {
        (Some(other), None) => format!("all but {other}"),
        _ => names.join(", "),
    }
}

/// The lines of one attempt: components for which all is the same share one.
fn lines(text: &mut String, group: &[Row]) {
    let mut left: Vec<_> = group.iter().collect();
    while let Some(first) = left.first().copied() {
        let same = |row: &&Row| row.stops == first.stops;
        let who = who(&left.iter().copied().filter(same).collect::<Vec<_>>());
        left.retain(|row| !same(row));
        let mut cells = first.cells();
        cells.resize(3, String::new());
        let name = words(first.name);
        let end = first.ending();
        let _ = writeln!(text, "| {name} | {who} | {} | {end} |", cells.join(" | "));
    }
}

impl Row {
    /// The layer, or nothing, that alone stops it; none if there are more.
    fn only(&self) -> Option<Option<Layer>> {
        match self.stops.as_slice() {
            [] => Some(None),
            [stop] if Layer::OPTIONAL.contains(&stop.layer) => Some(Some(stop.layer)),
            _ => None,
        }
    }

    /// What stops it, in the order in which it is met.
    fn cells(&self) -> Vec<String> {
        self.stops.iter().map(attempts::Stop::text).collect()
    }

    /// What becomes of it without all that stops it.
    fn ending(&self) -> &'static str {
        let fixed = |layer| !Layer::OPTIONAL.contains(&layer);
        if self.stops.last().is_some_and(|stop| fixed(stop.layer)) {
            return "";
        }
        match self.end {
            End::Work => "works",
            End::Host => "the host",
        }
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}
