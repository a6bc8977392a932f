//! What a keeper and those who ask it say to each other; `docs/api.yaml` has it for other programs.

use std::{collections::BTreeMap, time::SystemTime};

use crumble::{ProcessInfo, image::Config};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// What `GET /v1/machine` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The machine's name.
    pub name: String,
    /// What it runs.
    pub image: String,
    /// How far it is.
    pub status: Status,
    /// Process id of its keeper.
    pub keeper: u32,
    /// When its keeper began.
    #[serde(with = "crate::time")]
    pub started: SystemTime,
    /// How often it was started anew since.
    pub restarts: u32,
    /// Ports of the host that lead to it.
    pub published: Vec<String>,
    /// Its processes.
    pub processes: Vec<ProcessInfo>,
    /// Whether its command has a terminal.
    pub terminal: bool,
    /// The environment of commands in it.
    pub config: Config,
}

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being started, or waits to be started anew.
    Starting,
    /// It runs commands.
    Running,
    /// None of its vCPUs runs.
    Paused,
    /// It is being ended.
    Stopping,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
        })
    }
}

/// What `GET /v1/stats` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Exits to the VMM by reason, summed over vCPUs.
    pub exits: BTreeMap<String, u64>,
    /// The machine's processes.
    pub processes: Vec<ProcessInfo>,
}

/// What `POST /v1/stop` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stop {
    /// How long its command has after the image's stop signal.
    pub(crate) seconds: u64,
}

/// What `POST /v1/replace` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replace {
    /// The device, as [`State::processes`] names it.
    pub(crate) device: String,
}

/// What `POST /v1/resize` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resize {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// What `POST /v1/kill` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kill {
    /// The Linux signal; SIGKILL ends the machine with its command.
    pub(crate) signal: i32,
}

/// What goes with any status but 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Complaint {
    pub(crate) error: String,
}

/// The protocol of `GET /v1/agent` after its answer.
pub(crate) const AGENT: &str = "crumble-agent";

/// The protocol of `GET /v1/attach` after its answer: lines of a log one way, input the other.
pub(crate) const ATTACH: &str = "crumble-attach";

/// What a machine has on offer: method, path, and what it does.
pub(crate) const ROUTES: [(&str, &str); 12] = [
    ("GET", "/v1/machine"),
    ("GET", "/v1/stats"),
    ("GET", "/v1/metrics"),
    ("GET", "/v1/wait"),
    ("GET", "/v1/agent"),
    ("GET", "/v1/attach"),
    ("POST", "/v1/resize"),
    ("POST", "/v1/pause"),
    ("POST", "/v1/unpause"),
    ("POST", "/v1/replace"),
    ("POST", "/v1/stop"),
    ("POST", "/v1/kill"),
];

/// The number of the signal that asks the command of an image to end: its own, or SIGTERM.
pub(crate) fn stop_signal(config: &Config) -> i32 {
    let name = config.stop_signal.as_deref();
    name.and_then(signal_number)
        .unwrap_or(Signal::SIGTERM as i32)
}

/// A signal by its name, with or without SIG, or its number.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    let name = format!("SIG{}", text.strip_prefix("SIG").unwrap_or(text));
    match (text.parse(), name.parse::<Signal>()) {
        (Ok(number @ 1..=64), _) => Some(number),
        (_, Ok(signal)) => Some(signal as i32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        assert_eq!(signal_number("SIGINT"), Some(2));
        assert_eq!(signal_number("INT"), Some(2));
        assert_eq!(signal_number("37"), Some(37));
        for nonsense in ["0", "65", "-1", "", "SIG", "SIGNOTHING"] {
            assert_eq!(signal_number(nonsense), None, "{nonsense}");
        }
        let config = Config {
            stop_signal: Some("SIGQUIT".to_owned()),
            ..Config::default()
        };
        assert_eq!(stop_signal(&config), 3);
        assert_eq!(stop_signal(&Config::default()), 15);
    }
}
