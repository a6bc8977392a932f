//! The network, beside what a user would pick instead.
//!
//! Four machines with one kernel and one root are up at once, and every measurement is made in each
//! of them in turn, so that what disturbs one disturbs the others. The servers are on the host, at
//! addresses that are not loopback's: what crosses a user-mode network ends at a socket of the host,
//! what crosses a TAP device at the host's kernel.

mod host;
pub(crate) mod peer;
mod rival;

use std::{collections::BTreeMap, path::Path};

use self::{
    host::{Directory, Host},
    rival::Rival,
};
use super::{series::Numbers, traffic::difference};
use crate::error::{Error, Result};

/// What runs in the guests and on the host, and the Debian package of each.
pub(crate) const PROGRAMS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
];

/// How long a number is measured, for programs' command lines.
const SECONDS: &str = "2";

/// The ports of the host's servers.
const IPERF: u16 = 5201;
const HTTP: u16 = 8080;
const ECHO: u16 = 7;

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Measure {
    name: &'static str,
    unit: &'static str,
    /// Gets the number from a machine.
    take: fn(&Rival) -> Result<f64>,
}

const MEASURES: [Measure; 5] = [
    Measure {
        name: "TCP, guest to host",
        unit: "Mb/s",
        take: |rival| bulk(rival, &[]),
    },
    Measure {
        name: "TCP, host to guest",
        unit: "Mb/s",
        take: |rival| bulk(rival, &["--reverse"]),
    },
    Measure {
        name: "a byte there and back",
        unit: "µs",
        take: round_trip,
    },
    Measure {
        name: "HTTP, connections kept",
        unit: "requests/s",
        take: |rival| requests(rival, &[]),
    },
    Measure {
        name: "HTTP, a connection each",
        unit: "requests/s",
        take: |rival| requests(rival, &["--header", "Connection: close"]),
    },
];

/// Of each rival, in [`MEASURES`]' order: its numbers, and exits to its VMM if it is ours.
#[derive(Debug, Default)]
struct Results {
    numbers: Vec<Numbers>,
    exits: Vec<u64>,
}

/// Prints the tables.
pub(crate) fn print(runs: u32, bin_dir: &Path) -> Result<()> {
    let directory = Directory::new()?;
    let host = Host::start(&directory)?;
    let rivals = rival::start(bin_dir, &directory, &host)?;
    let mut results: Vec<Results> = rivals.iter().map(|_| Results::new()).collect();
    // The first round warms the caches.
    for round in 0..=runs {
        for (index, measure) in MEASURES.iter().enumerate() {
            for (rival, result) in rivals.iter().zip(&mut results) {
                let before = rival.machine.stats()?;
                let number = (measure.take)(rival)?;
                eprintln!(
                    "round {round}: {}, {}: {number:.0} {}",
                    rival.name, measure.name, measure.unit
                );
                let exits = before
                    .zip(rival.machine.stats()?)
                    .map(|(b, a)| difference(&b, &a).0);
                if round > 0 {
                    result.add(index, number, exits);
                }
            }
        }
    }
    println!("The network, 1 vCPU, median of {runs} (range)\n");
    for pair in [0, 2] {
        print_pair(&rivals, &results, pair);
    }
    print_exits(&rivals, &results, runs);
    drop(rivals);
    Ok(())
}

impl Results {
    fn new() -> Self {
        Self {
            numbers: vec![Numbers::default(); MEASURES.len()],
            exits: vec![0; MEASURES.len()],
        }
    }

    fn add(&mut self, index: usize, number: f64, exits: Option<u64>) {
        if let Some(numbers) = self.numbers.get_mut(index) {
            numbers.add(number);
        }
        if let Some(sum) = self.exits.get_mut(index) {
            *sum = sum.saturating_add(exits.unwrap_or_default());
        }
    }
}

/// A rival of another VMM and, behind it, ours.
fn print_pair(rivals: &[Rival], results: &[Results], first: usize) {
    let both = |index: usize| rivals.get(index).zip(results.get(index));
    let (Some((other, theirs)), Some((own, ours))) = (both(first), both(first + 1)) else {
        return;
    };
    println!(
        "| | {} | {} | ratio |\n|---|---|---|---|",
        other.name, own.name
    );
    let numbers = theirs.numbers.iter().zip(&ours.numbers);
    for (measure, (theirs, ours)) in MEASURES.iter().zip(numbers) {
        println!(
            "| {}, {} | {} | {} | {:.2} |",
            measure.name,
            measure.unit,
            theirs.show(),
            ours.show(),
            ours.median() / theirs.median(),
        );
    }
    println!();
}

fn print_exits(rivals: &[Rival], results: &[Results], runs: u32) {
    println!("Exits to the VMM during all {runs}\n");
    let ours = || {
        rivals
            .iter()
            .zip(results)
            .filter(|(rival, _)| rival.machine.is_ours())
    };
    let names: Vec<_> = ours().map(|(rival, _)| rival.name).collect();
    println!("| | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for (index, measure) in MEASURES.iter().enumerate() {
        let counts = ours().map(|(_, result)| result.exits.get(index).copied());
        let counts: Vec<_> = counts.map(|c| c.unwrap_or_default().to_string()).collect();
        println!("| {} | {} |", measure.name, counts.join(" | "));
    }
    println!();
}

/// One stream of TCP. Where a round trip takes as long as in the testbed, CUBIC's slow start ends
/// by chance, at any rate from the least to the greatest; Reno's goes on until there is a loss.
fn bulk(rival: &Rival, more: &[&str]) -> Result<f64> {
    let (host, port) = (rival.host.to_string(), IPERF.to_string());
    let arguments = [
        "iperf3", "--client", &host, "--port", &port, "--time", SECONDS,
    ];
    let always = ["--congestion", "reno", "--json"];
    let said = rival
        .machine
        .run(&[&arguments[..], &always, more].concat())?;
    let bits = serde_json::from_str(&said).ok().and_then(|report: Report| {
        let sum = report.end.get("sum_received")?;
        sum.get("bits_per_second")?.as_f64()
    });
    Ok(bits.ok_or_else(|| rival.failed(&said))? / 1e6)
}

/// The part of iperf3's report that is looked at.
#[derive(serde::Deserialize)]
struct Report {
    end: BTreeMap<String, serde_json::Value>,
}

fn round_trip(rival: &Rival) -> Result<f64> {
    let server = format!("{}:{ECHO}", rival.host);
    let said = rival
        .machine
        .run(&[&rival.peer, "peer", &server, SECONDS])?;
    said.trim().parse().map_err(|_| rival.failed(&said))
}

/// Eight connections at a time.
fn requests(rival: &Rival, more: &[&str]) -> Result<f64> {
    let url = format!("http://{}:{HTTP}/", rival.host);
    let arguments = [
        "wrk",
        "--threads",
        "1",
        "--connections",
        "8",
        "--duration",
        SECONDS,
    ];
    let said = rival
        .machine
        .run(&[&arguments[..], more, &[&url]].concat())?;
    requests_in(&said).ok_or_else(|| rival.failed(&said))
}

/// What wrk counted; none if some requests failed.
fn requests_in(said: &str) -> Option<f64> {
    if said.contains("Socket errors") || said.contains("Non-2xx") {
        return None;
    }
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    line?.trim().parse().ok()
}

/// That something of this name did not give a number, and what it said.
fn failed(what: &str, said: &str) -> Error {
    Error::Measure {
        what: what.to_owned(),
        why: said.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_failed_are_no_measurement() {
        let said = "  120 requests in 3.00s\nRequests/sec:     40.25\nTransfer/sec: 3KB\n";
        assert_eq!(requests_in(said), Some(40.25));
        let errors = "  Socket errors: connect 0, read 2, write 0, timeout 0\n";
        assert_eq!(requests_in(&format!("{errors}{said}")), None);
    }
}
