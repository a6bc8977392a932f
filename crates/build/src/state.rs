//! A stage's image as it grows, and the instructions that change no more than its configuration.

use std::collections::BTreeMap;

use crate::{
    config::{Config, Empty, History},
    error::Fault,
    instruction::Verb,
    variables::Arguments,
    words::Words,
    worker::{Base, Layer},
};

/// An image as it grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) layers: Vec<Layer>,
    pub(crate) history: Vec<History>,
    pub(crate) platform: String,
    /// What escapes in the words of its file.
    escape: char,
    /// Values of `ARG` so far.
    arguments: BTreeMap<String, String>,
    /// Whether this stage has said what the command is.
    has_command: bool,
}

impl State {
    pub(crate) fn of(base: Base, platform: String) -> Self {
        Self {
            config: base.config,
            layers: base.layers,
            history: base.history,
            platform,
            ..Self::default()
        }
    }

    /// Begins a stage from an image, or from another stage, whose arguments it inherits.
    pub(crate) fn begin(self, escape: char) -> Self {
        let mut state = Self {
            escape,
            has_command: false,
            ..self
        };
        // They are done in this stage, and not again in the next.
        state.config.on_build.clear();
        state
    }

    /// What a variable stands for: the environment goes before arguments.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let own = self.config.variable(name).map(str::to_owned);
        own.or_else(|| self.arguments.get(name).cloned())
    }

    /// What a command sees, each `NAME=VALUE`.
    pub(crate) fn environment(&self) -> Vec<String> {
        let mut environment = self.config.env.clone();
        let arguments = self.arguments.iter();
        let only = arguments.filter(|(name, _)| self.config.variable(name).is_none());
        environment.extend(only.map(|(name, value)| format!("{name}={value}")));
        environment
    }

    /// Calls a function with what replaces variables.
    pub(crate) fn with_words<T>(&self, call: impl FnOnce(Words<'_>) -> T) -> T {
        let lookup = |name: &str| self.variable(name);
        call(Words::new(self.escape, &lookup))
    }

    /// What a text stands for.
    pub(crate) fn word(&self, text: &str) -> Result<String, Fault> {
        Ok(self.with_words(|words| words.word(text))?)
    }

    /// What a text stands for, if it is something.
    pub(crate) fn nonempty(&self, text: &str, what: &str) -> Result<String, Fault> {
        match self.word(text)? {
            word if word.is_empty() => {
                Err(format!("\"{text}\" stands for nothing; it has to be {what}").into())
            }
            word => Ok(word),
        }
    }

    fn pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, Fault> {
        let pairs = pairs.iter();
        let pairs = pairs.map(|(name, value)| Ok((self.word(name)?, self.word(value)?)));
        pairs.collect()
    }

    /// Does what changes no layer.
    pub(crate) fn configure(&mut self, verb: &Verb, arguments: &Arguments) -> Result<(), Fault> {
        match verb {
            Verb::Arg(declared) => self.declare(declared, arguments)?,
            Verb::Env(pairs) => {
                // All of them see what was there before.
                for (name, value) in self.pairs(pairs)? {
                    self.config.set_variable(&name, &value);
                }
            }
            Verb::Label(pairs) => {
                let pairs = self.pairs(pairs)?;
                self.config.labels.extend(pairs);
            }
            Verb::Maintainer(name) => {
                let label = ("maintainer".to_owned(), name.clone());
                self.config.labels.extend([label]);
            }
            Verb::Cmd(command) => {
                self.config.cmd = self.config.argv(command);
                self.has_command = true;
            }
            Verb::Entrypoint(command) => {
                self.config.entrypoint = self.config.argv(command);
                // The command of the base was for another one.
                if !self.has_command {
                    self.config.cmd.clear();
                }
            }
            Verb::Expose(text) => {
                let words = self.with_words(|words| words.all(text))?;
                let mut words = words.iter();
                words.try_for_each(|word| self.config.expose(word))?;
            }
            Verb::Volume(paths) => {
                for path in paths {
                    let path = self.nonempty(path, "a path")?;
                    self.config.volumes.insert(path, Empty {});
                }
            }
            Verb::User(text) => self.config.user = self.nonempty(text, "a user")?,
            Verb::StopSignal(text) => {
                self.config.stop_signal = Some(self.nonempty(text, "a signal")?);
            }
            Verb::Shell(argv) => self.config.shell.clone_from(argv),
            Verb::Healthcheck(check) => self.config.healthcheck = Some(check.clone()),
            Verb::Onbuild(text) => self.config.on_build.push(text.clone()),
            Verb::From(_) | Verb::Run(_) | Verb::Copy(_) | Verb::Workdir(_) => {}
        }
        Ok(())
    }

    fn declare(
        &mut self,
        declared: &[(String, Option<String>)],
        arguments: &Arguments,
    ) -> Result<(), Fault> {
        for (name, default) in declared {
            let default = default.as_ref().map(|text| self.word(text)).transpose()?;
            let value = arguments.in_stage(name, default);
            self.arguments
                .extend(value.map(|value| (name.clone(), value)));
        }
        Ok(())
    }
}
