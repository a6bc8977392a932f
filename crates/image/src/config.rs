//! The configuration of an image: what to run in it, and how.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use crate::{Digest, Error, Platform, Result, text};

/// What an image says of how it is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What is run, before its arguments. Empty if there is none.
    pub entrypoint: Vec<String>,
    /// The arguments, or all of the command without an entry point.
    pub cmd: Vec<String>,
    /// The environment, each `NAME=VALUE`.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, each a name or a number; empty for root.
    pub user: String,
    /// Where it is run; empty for the root.
    pub working_dir: String,
    /// Directories whose contents are to outlive a container.
    pub volumes: Vec<String>,
    /// Ports that something listens on: `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// What ends it: `SIGTERM`, or a number.
    pub stop_signal: Option<String>,
    /// Whatever its maker wanted to say.
    pub labels: BTreeMap<String, String>,
    /// How to find out whether it works; docker's.
    pub healthcheck: Option<Healthcheck>,
    /// The CPU it was made for: `amd64`.
    pub architecture: String,
    /// The variant of the CPU: `v7`.
    pub variant: Option<String>,
    /// The system it was made for: `linux`.
    pub os: String,
    /// When it was made, as it says.
    pub created: Option<String>,
}

impl Config {
    /// The machine it was made for; `None` if it does not say.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        (!self.os.is_empty() && !self.architecture.is_empty()).then(|| Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().filter(|variant| !variant.is_empty()),
        })
    }
}

/// A command that finds out whether an image's service works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", COMMAND]`; empty means as inherited.
    pub test: Vec<String>,
    /// From one to the next.
    pub interval: Option<Duration>,
    /// For each.
    pub timeout: Option<Duration>,
    /// In which failures do not count.
    pub start_period: Option<Duration>,
    /// From one to the next in the start period.
    pub start_interval: Option<Duration>,
    /// As many failures mean that it does not work.
    pub retries: Option<u32>,
}

/// As it is written. Go writes `null` for whatever is empty.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<WrittenConfig>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

type Set = Option<BTreeMap<String, IgnoredAny>>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WrittenConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    volumes: Set,
    exposed_ports: Set,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<WrittenHealthcheck>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WrittenHealthcheck {
    test: Option<Vec<String>>,
    #[serde(deserialize_with = "nanoseconds")]
    interval: Option<Duration>,
    #[serde(deserialize_with = "nanoseconds")]
    timeout: Option<Duration>,
    #[serde(deserialize_with = "nanoseconds")]
    start_period: Option<Duration>,
    #[serde(deserialize_with = "nanoseconds")]
    start_interval: Option<Duration>,
    retries: Option<i64>,
}

/// Go's durations; 0 means as inherited.
fn nanoseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let number = Option::<i64>::deserialize(deserializer)?;
    let number = number.and_then(|number| u64::try_from(number).ok());
    Ok(number
        .filter(|number| *number > 0)
        .map(Duration::from_nanos))
}

/// Reads a configuration: what it says, and the digests of the layers' contents, base first. `name` is
/// for errors.
pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<(Config, Vec<Digest>)> {
    let written: Written = serde_json::from_slice(bytes).map_err(|error| {
        Error::malformed(
            format!("the configuration of {name}"),
            text::shown(&error.to_string()),
        )
    })?;
    let config = written.config.unwrap_or_default();
    let names = |set: Set| set.unwrap_or_default().into_keys().collect();
    let config = Config {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        volumes: names(config.volumes),
        exposed_ports: names(config.exposed_ports),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        labels: config.labels.unwrap_or_default(),
        healthcheck: config.healthcheck.map(healthcheck),
        architecture: written.architecture.unwrap_or_default(),
        variant: written.variant,
        os: written.os.unwrap_or_default(),
        created: written.created,
    };
    Ok((config, written.rootfs.diff_ids.unwrap_or_default()))
}

fn healthcheck(written: WrittenHealthcheck) -> Healthcheck {
    let retries = written
        .retries
        .and_then(|retries| u32::try_from(retries).ok());
    Healthcheck {
        test: written.test.unwrap_or_default(),
        interval: written.interval,
        timeout: written.timeout,
        start_period: written.start_period,
        start_interval: written.start_interval,
        retries: retries.filter(|retries| *retries > 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_docker_writes_is_read() {
        let text = r#"{"architecture":"arm","variant":"v7","os":"linux","created":"2024-01-01T00:00:00Z",
            "config":{"Hostname":"","User":"1:2","Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c","d"],
            "Volumes":{"/data":{}},"ExposedPorts":{"80/tcp":{},"53/udp":{}},"WorkingDir":"/w",
            "StopSignal":"SIGINT","Labels":{"k":"v"},"OnBuild":null,"Healthcheck":{"Test":["CMD","x"],
            "Interval":1000000000,"Retries":3,"Timeout":0}},
            "history":[{"created_by":"x"}],"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let (config, layers) = parse("x", text.as_bytes()).unwrap();
        assert!(layers.is_empty());
        assert_eq!(config.entrypoint, ["/e"]);
        assert_eq!(config.cmd, ["c", "d"]);
        assert_eq!(config.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(config.volumes, ["/data"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(config.platform().unwrap().to_string(), "linux/arm/v7");
        let check = config.healthcheck.unwrap();
        assert_eq!(check.interval, Some(Duration::from_secs(1)));
        assert_eq!((check.timeout, check.retries), (None, Some(3)));
    }

    #[test]
    fn whatever_is_null_is_empty() {
        let text = r#"{"architecture":null,"os":"linux","config":{"Env":null,"Cmd":null,
            "Volumes":null,"Labels":null,"Healthcheck":null},"rootfs":{"diff_ids":null}}"#;
        let (config, _) = parse("x", text.as_bytes()).unwrap();
        assert_eq!(
            config,
            Config {
                os: "linux".to_owned(),
                ..Config::default()
            }
        );
        assert_eq!(config.platform(), None);
    }

    #[test]
    fn what_is_no_configuration_is_refused_by_name() {
        for text in ["", "{}", "[]", r#"{"rootfs":{"diff_ids":["md5:0"]}}"#] {
            let message = parse("x", text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("configuration of x"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_configuration_is_read_or_refused(value in "[{}\\[\\]\":,a-zA-Z0-9 ]{0,80}") {
            let _ = parse("x", value.as_bytes());
            let _ = parse("x", format!(r#"{{"rootfs":{{}},"config":{{{value}}}}}"#).as_bytes());
        }
    }
}
