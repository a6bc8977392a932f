//! An image's configuration, as it grows from instruction to instruction.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::instruction::Command;

/// What is said of how an image is run: the object `config` of an image's configuration (OCI image
/// specification, "Image Configuration"; `Healthcheck`, `OnBuild` and `Shell` are Docker's). Its serde
/// form is that object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// `USER[:GROUP]`, names or numbers; empty for root.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports: `80/tcp`.
    #[serde(
        deserialize_with = "or_null",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// The environment, each `NAME=VALUE`.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is run, before its arguments.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The arguments, or all of the command.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Directories whose contents are to outlive a container.
    #[serde(
        deserialize_with = "or_null",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// Where it is run; empty for the root.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Whatever its maker wanted to say.
    #[serde(
        deserialize_with = "or_null",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// What ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How to find out whether it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for images that are built from this one.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// What runs commands that are not arrays; empty for `/bin/sh -c`.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// Nothing: how JSON has a set, as a map to this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// How to find out whether an image's service works. Times are in nanoseconds; 0 is Docker's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", COMMAND]`.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// From one to the next.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// For each.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// From one to the next in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// As many failures mean that it does not work.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

/// What one instruction did (OCI image specification, `history`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The instruction.
    #[serde(default)]
    pub created_by: String,
    /// Whether there is no layer of it.
    #[serde(default)]
    pub empty_layer: bool,
}

/// Go writes `null` for whatever is empty.
fn or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Config {
    /// The value of a variable of the environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let mut pairs = self.env.iter().filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Sets a variable, where it is if it is there.
    pub(crate) fn set_variable(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        let named = |known: &&mut String| {
            known
                .split_once('=')
                .is_some_and(|(known, _)| known == name)
        };
        match self.env.iter_mut().find(named) {
            Some(known) => *known = pair,
            None => self.env.push(pair),
        }
    }

    /// The arguments that run a command.
    pub(crate) fn argv(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(argv) => argv.clone(),
            Command::Shell(text) => {
                let default = ["/bin/sh".to_owned(), "-c".to_owned()];
                let shell = match self.shell.is_empty() {
                    true => &default[..],
                    false => &self.shell,
                };
                [shell, std::slice::from_ref(text)].concat()
            }
        }
    }

    /// A path from the working directory, absolute, without `.`, `..` and doubled slashes.
    pub(crate) fn absolute(&self, path: &str) -> String {
        let mut parts: Vec<&str> = Vec::new();
        let before = match path.starts_with('/') {
            true => "",
            false => self.working_dir.as_str(),
        };
        for part in before.split('/').chain(path.split('/')) {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                _ => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }

    /// Adds the ports of one word of `EXPOSE`: `80`, `53/udp`, `8000-8005`.
    pub(crate) fn expose(&mut self, word: &str) -> Result<(), String> {
        let bad = || format!("\"{word}\" is no port; write it as in 80, 53/udp or 8000-8005/tcp");
        let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().map_err(|_| bad());
        let (first, last) = (port(first)?, port(last)?);
        if first > last || !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
            return Err(bad());
        }
        let names = (first..=last).map(|port| (format!("{port}/{protocol}"), Empty {}));
        self.exposed_ports.extend(names);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_it_is_written() {
        let text = r#"{"User":"a","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Cmd":["c"],"WorkingDir":"/w",
            "Healthcheck":{"Test":["NONE"],"Interval":5},"OnBuild":["RUN x"],"Shell":["/s","-c"]}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.on_build, ["RUN x"]);
        assert_eq!(config.healthcheck.as_ref().unwrap().interval, 5);
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&again).unwrap(), config);
        assert!(!again.contains("Labels"));
        let nulls = r#"{"Env":null,"Cmd":null,"Volumes":null,"Labels":null,"OnBuild":null,"Healthcheck":null,
            "Hostname":""}"#;
        assert_eq!(
            serde_json::from_str::<Config>(nulls).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn paths_are_taken_from_the_working_directory() {
        let config = Config {
            working_dir: "/a/b".to_owned(),
            ..Config::default()
        };
        for (path, expected) in [
            ("c", "/a/b/c"),
            ("/c//d/", "/c/d"),
            ("../../../x", "/x"),
            (".", "/a/b"),
        ] {
            assert_eq!(config.absolute(path), expected);
        }
        assert_eq!(Config::default().absolute("x"), "/x");
    }

    #[test]
    fn ports_are_exposed_one_by_one() {
        let mut config = Config::default();
        for word in ["80", "53/UDP", "8000-8002"] {
            config.expose(word).unwrap();
        }
        let ports: Vec<&str> = config.exposed_ports.keys().map(String::as_str).collect();
        assert_eq!(
            ports,
            ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
        );
        for bad in ["x", "80/x", "70000", "9-8", ""] {
            assert!(config.expose(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_is_set_where_it_is() {
        let mut config = Config {
            env: vec!["A=1".into(), "AB=2".into()],
            ..Config::default()
        };
        config.set_variable("A", "3");
        config.set_variable("C", "x=y");
        assert_eq!(config.env, ["A=3", "AB=2", "C=x=y"]);
        assert_eq!(config.variable("C"), Some("x=y"));
    }
}
