//! The loop: each needed stage, instruction by instruction, from its base to its image.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use crate::{
    cache::{Key, Keying},
    chmod::Chmod,
    config::{Config, Empty, History},
    context::Context,
    copy::{Item, select},
    error::{Error, Fault},
    instruction::{Command, CopyWords, Instruction, RunWords, Source, Verb, all, triggers},
    layer::{Target, Writer},
    mounts::{Mount, MountKind, Wanted},
    parse::{heredoc_name, parse},
    root::{Kind, Root, entry, owner, resolve_in},
    stage::{Stages, needed},
    variables::Arguments,
    words::Words,
    worker::{Base, Layer, Run, Script, Step, Worker},
};

/// Where a script is that a command runs.
const SCRIPTS: &str = "/dev/pipes";

/// What is to be built, and for whom.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The stage, by name or number; the last one by default.
    pub target: Option<String>,
    /// Values for `ARG`.
    pub arguments: BTreeMap<String, String>,
    /// The machine that the image is for: `linux/amd64`.
    pub platform: String,
    /// The machine that commands are run on, if the file asks for it: `linux/amd64`.
    pub build_platform: String,
    /// Whether everything is done again.
    pub no_cache: bool,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// How it is run.
    pub config: Config,
    /// What it is made of, the lowest first.
    pub layers: Vec<Layer>,
    /// How it was made: one for each instruction, those of its base before.
    pub history: Vec<History>,
    /// The machine that it is for.
    pub platform: String,
}

/// Builds an image.
///
/// # Errors
///
/// The Dockerfile is wrong, something that it copies is not there, or the worker failed.
pub fn build(
    context: &Context,
    options: &Options,
    worker: &mut dyn Worker,
) -> Result<Built, Error> {
    let parsed = parse(&context.file, &context.dockerfile)?;
    let stages = Stages::new(&context.file, all(&parsed)?)?;
    let target = stages.target(&context.file, options.target.as_deref())?;
    let mut evaluation = Evaluation {
        context,
        options,
        worker,
        escape: parsed.escape,
        arguments: Arguments::new(options),
        stages: &stages,
        images: BTreeMap::new(),
        done: BTreeMap::new(),
    };
    evaluation.declare()?;
    let plans = needed(target, |stage| evaluation.plan(stage))?;
    for (stage, plan) in plans {
        let state = evaluation.stage(stage, plan)?;
        evaluation.done.insert(stage, state);
    }
    let state = evaluation.done.remove(&target).unwrap_or_default();
    Ok(Built {
        config: state.config,
        layers: state.layers,
        history: state.history,
        platform: state.platform,
    })
}

struct Evaluation<'a> {
    context: &'a Context,
    options: &'a Options,
    worker: &'a mut dyn Worker,
    escape: char,
    arguments: Arguments,
    stages: &'a Stages,
    /// Images that were asked for, by reference and platform.
    images: BTreeMap<(String, String), Base>,
    done: BTreeMap<usize, State>,
}

/// What a stage begins from, and does.
struct Plan {
    origin: Origin,
    platform: String,
    /// Its own, after those that its base has for it.
    instructions: Vec<Instruction>,
}

enum Origin {
    Stage(usize),
    Image(Box<Base>),
}

/// An image as it grows.
#[derive(Debug, Clone, Default)]
struct State {
    config: Config,
    layers: Vec<Layer>,
    history: Vec<History>,
    platform: String,
    /// Values of `ARG` so far.
    arguments: BTreeMap<String, String>,
    /// Whether this stage has said what the command is.
    has_command: bool,
}

impl State {
    /// What a variable stands for: the environment goes before arguments.
    fn variable(&self, name: &str) -> Option<String> {
        let own = self.config.variable(name).map(str::to_owned);
        own.or_else(|| self.arguments.get(name).cloned())
    }

    /// What a command sees, each `NAME=VALUE`.
    fn environment(&self) -> Vec<String> {
        let mut environment = self.config.env.clone();
        let arguments = self.arguments.iter();
        let only = arguments.filter(|(name, _)| self.config.variable(name).is_none());
        environment.extend(only.map(|(name, value)| format!("{name}={value}")));
        environment
    }
}

impl Evaluation<'_> {
    /// Takes the arguments that are declared before the first stage.
    fn declare(&mut self) -> Result<(), Error> {
        for instruction in &self.stages.arguments {
            let Verb::Arg(arguments) = &instruction.verb else {
                continue;
            };
            for (name, default) in arguments {
                let lookup = |name: &str| self.arguments.global(name);
                let words = Words::new(self.escape, &lookup);
                let default = default.as_ref().map(|text| words.word(text)).transpose();
                let default =
                    default.map_err(|reason| Fault::from(reason).at(&instruction.place))?;
                self.arguments.declare(name, default);
            }
        }
        for name in self.arguments.unused(|name| self.stages.declares(name)) {
            let warning = format!("the build argument {name} is not used: no ARG has this name");
            self.worker.progress(Step::Warning(&warning));
        }
        Ok(())
    }

    /// Finds out what a stage begins from, and the stages that it needs.
    fn plan(&mut self, number: usize) -> Result<(Plan, BTreeSet<usize>), Error> {
        let stages = self.stages;
        let Some(stage) = stages.all.get(number) else {
            return Err(Error::Whole {
                file: self.context.file.clone(),
                reason: format!("there is no stage {number}"),
            });
        };
        let place = &stage.head.place;
        let lookup = |name: &str| self.arguments.global(name);
        let words = Words::new(self.escape, &lookup);
        let word = |text: &str| {
            words
                .word(text)
                .map_err(|reason| Fault::from(reason).at(place))
        };
        let image = word(&stage.from.image)?;
        let platform = stage.from.platform.as_deref().map(word).transpose()?;
        let platform = platform.filter(|text| !text.is_empty());
        let platform = platform.unwrap_or_else(|| self.options.platform.clone());
        if image.is_empty() {
            let reason = format!(
                "\"{}\" stands for nothing: give an ARG before the first FROM a value, with = or --build-arg",
                stage.from.image
            );
            return Err(Fault::from(reason).at(place));
        }
        let mut needs = BTreeSet::new();
        let (origin, texts) = match stages.named(&image, number) {
            Some(earlier) => {
                needs.insert(earlier);
                (Origin::Stage(earlier), stages.triggers(earlier))
            }
            None => {
                let base = self
                    .image(&image, &platform)
                    .map_err(|fault| fault.at(place))?;
                let texts = base.config.on_build.clone();
                (Origin::Image(Box::new(base)), texts)
            }
        };
        let mut instructions = triggers(&image, &texts)?;
        instructions.extend(stage.instructions.iter().cloned());
        needs.extend(stages.sources(number, &instructions));
        let plan = Plan {
            origin,
            platform,
            instructions,
        };
        Ok((plan, needs))
    }

    /// An image that is no stage.
    fn image(&mut self, reference: &str, platform: &str) -> Result<Base, Fault> {
        if reference == "scratch" {
            return Ok(Base::default());
        }
        let key = (reference.to_owned(), platform.to_owned());
        if let Some(base) = self.images.get(&key) {
            return Ok(base.clone());
        }
        let action = format!("get the image {reference}");
        let base = self.worker.base(reference, platform);
        let base = base.map_err(Fault::failed(action))?;
        self.images.insert(key, base.clone());
        Ok(base)
    }

    fn stage(&mut self, number: usize, plan: Plan) -> Result<State, Error> {
        let mut state = match plan.origin {
            Origin::Stage(earlier) => self.done.get(&earlier).cloned().unwrap_or_default(),
            Origin::Image(base) => State {
                config: base.config,
                layers: base.layers,
                history: base.history,
                platform: plan.platform,
                ..State::default()
            },
        };
        state.arguments.clear();
        state.has_command = false;
        // They are done now.
        state.config.on_build.clear();
        let title = self.stages.title(number);
        let total = plan.instructions.len();
        for (index, instruction) in (1..).zip(&plan.instructions) {
            self.worker.progress(Step::Begun {
                stage: &title,
                number: index,
                total,
                text: &instruction.text,
            });
            let before = state.layers.len();
            let done = self.instruction(number, &mut state, instruction);
            done.map_err(|fault| fault.at(&instruction.place))?;
            state.history.push(History {
                created_by: instruction.text.clone(),
                empty_layer: state.layers.len() == before,
            });
        }
        Ok(state)
    }

    fn instruction(
        &mut self,
        stage: usize,
        state: &mut State,
        instruction: &Instruction,
    ) -> Result<(), Fault> {
        match &instruction.verb {
            Verb::Run(run) => self.run(stage, state, run),
            Verb::Copy(copy) => self.copy(stage, state, &instruction.place.keyword, copy),
            Verb::Workdir(text) => self.workdir(state, text),
            Verb::Arg(arguments) => self.argument(state, arguments),
            other => self.configure(state, other),
        }
    }

    fn argument(
        &mut self,
        state: &mut State,
        arguments: &[(String, Option<String>)],
    ) -> Result<(), Fault> {
        for (name, default) in arguments {
            let default = default
                .as_ref()
                .map(|text| self.word(state, text))
                .transpose()?;
            if let Some(value) = self.arguments.in_stage(name, default) {
                state.arguments.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    /// What changes the configuration alone.
    fn configure(&mut self, state: &mut State, verb: &Verb) -> Result<(), Fault> {
        match verb {
            Verb::Env(pairs) => {
                // All of them see what was there before.
                for (name, value) in self.pairs(state, pairs)? {
                    state.config.set_variable(&name, &value);
                }
            }
            Verb::Label(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                state.config.labels.extend(pairs);
            }
            Verb::Cmd(command) => {
                state.config.cmd = state.config.argv(command);
                state.has_command = true;
            }
            Verb::Entrypoint(command) => {
                state.config.entrypoint = state.config.argv(command);
                // The command of the base was for another one.
                if !state.has_command {
                    state.config.cmd.clear();
                }
            }
            Verb::Shell(argv) => state.config.shell.clone_from(argv),
            Verb::Expose(text) => {
                let lookup = |name: &str| state.variable(name);
                let words = Words::new(self.escape, &lookup).all(text)?;
                words
                    .iter()
                    .try_for_each(|word| state.config.expose(word))?;
            }
            Verb::Volume(paths) => {
                for path in paths {
                    let path = self.nonempty(state, path, "a path")?;
                    state.config.volumes.insert(path, Empty {});
                }
            }
            Verb::User(text) => state.config.user = self.nonempty(state, text, "a user")?,
            Verb::StopSignal(text) => {
                state.config.stop_signal = Some(self.nonempty(state, text, "a signal")?);
            }
            Verb::Healthcheck(check) => state.config.healthcheck = Some(check.clone()),
            Verb::Onbuild(text) => state.config.on_build.push(text.clone()),
            Verb::Maintainer(name) => {
                state
                    .config
                    .labels
                    .insert("maintainer".to_owned(), name.clone());
            }
            Verb::From(_) | Verb::Run(_) | Verb::Copy(_) | Verb::Workdir(_) | Verb::Arg(_) => {}
        }
        Ok(())
    }

    /// What a text stands for.
    fn word(&self, state: &State, text: &str) -> Result<String, Fault> {
        let lookup = |name: &str| state.variable(name);
        Ok(Words::new(self.escape, &lookup).word(text)?)
    }

    fn nonempty(&self, state: &State, text: &str, what: &str) -> Result<String, Fault> {
        match self.word(state, text)? {
            word if word.is_empty() => {
                Err(format!("\"{text}\" stands for nothing; it has to be {what}").into())
            }
            word => Ok(word),
        }
    }

    fn pairs(
        &self,
        state: &State,
        pairs: &[(String, String)],
    ) -> Result<Vec<(String, String)>, Fault> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| Ok((self.word(state, name)?, self.word(state, value)?)))
            .collect()
    }

    /// Adds a layer from the cache, or a new one.
    fn layer(
        &mut self,
        state: &mut State,
        key: Key,
        make: impl FnOnce(&mut Self, &State) -> Result<Option<Layer>, Fault>,
    ) -> Result<(), Fault> {
        let layer = match self.cached(&key) {
            Some(layer) => {
                self.worker.progress(Step::Cached);
                layer
            }
            None => {
                let layer = make(self, state)?;
                self.worker.remember(&key, layer.as_ref());
                layer
            }
        };
        state.layers.extend(layer);
        Ok(())
    }

    fn cached(&mut self, key: &Key) -> Option<Option<Layer>> {
        match self.options.no_cache {
            true => None,
            false => self.worker.cached(key),
        }
    }

    fn run(&mut self, stage: usize, state: &mut State, words: &RunWords) -> Result<(), Fault> {
        let environment = state.environment();
        let proxies = self
            .arguments
            .proxies(|name| state.variable(name).is_some());
        let (argv, script) = command(&state.config, words);
        let mut mounts = Vec::new();
        for wanted in &words.mounts {
            mounts.push(self.mount(stage, state, wanted)?);
        }
        let run = Run {
            argv,
            env: [environment.clone(), proxies].concat(),
            user: state.config.user.clone(),
            cwd: state.config.absolute(""),
            mounts,
            network: words.network,
            script,
            platform: state.platform.clone(),
        };
        let mut keying = Keying::new("RUN", &state.layers);
        keying.run(&run, &environment);
        self.layer(state, keying.key(), |this, state| {
            let done = this.worker.run(&state.layers, &run);
            done.map_err(Fault::failed("run the command"))
        })
    }

    fn mount(&mut self, stage: usize, state: &State, wanted: &Wanted) -> Result<Mount, Fault> {
        let lookup = |name: &str| state.variable(name);
        let words = Words::new(self.escape, &lookup);
        let mut mount = wanted.mount(words, |path| state.config.absolute(path))?;
        if let MountKind::Bind { layers, source, .. } = &mut mount.kind {
            *layers = match &wanted.from {
                Some(from) => self.layers_of(stage, from, &state.platform)?,
                None => vec![self.context_layer(source)?],
            };
            *source = Config::default().absolute(source);
        }
        Ok(mount)
    }

    /// A part of the context as a layer, at its own path.
    fn context_layer(&mut self, path: &str) -> Result<Layer, Fault> {
        let path = Config::default().absolute(path);
        let target = Target {
            path: path.clone(),
            is_directory: false,
            owner: None,
            chmod: None,
        };
        let context = self.context;
        let missing = |word: &str| explain(context, word);
        let items = select(&mut context.tree(), &literal(&path), false, &missing)?;
        let mut keying = Keying::new("the context", &[]);
        keying.text(&path);
        for item in &items {
            item.key(&mut context.tree(), &mut keying)?;
        }
        let key = keying.key();
        if let Some(Some(layer)) = self.cached(&key) {
            return Ok(layer);
        }
        let layer = self.store(&[], &target, &mut context.tree(), &items)?;
        self.worker.remember(&key, Some(&layer));
        Ok(layer)
    }

    /// The layers of an earlier stage, or of an image.
    fn layers_of(&mut self, stage: usize, name: &str, platform: &str) -> Result<Vec<Layer>, Fault> {
        match self.stages.find(name, stage) {
            Some(earlier) => Ok(self.done.get(&earlier).cloned().unwrap_or_default().layers),
            None if self.stages.find(name, self.stages.all.len()).is_some() => {
                Err(format!("the stage {name} is not before this one; move it up").into())
            }
            None => Ok(self.image(name, platform)?.layers),
        }
    }

    fn copy(
        &mut self,
        stage: usize,
        state: &mut State,
        keyword: &str,
        words: &CopyWords,
    ) -> Result<(), Fault> {
        let context = self.context;
        let mut source: Box<dyn Root> = match &words.from {
            None => Box::new(context.tree()),
            Some(from) => {
                let layers = self.layers_of(stage, from, &state.platform)?;
                self.root(&layers)?
            }
        };
        let items = self.items(state, words, &mut *source)?;
        let optional = |text: &Option<String>| text.as_ref().map(|text| self.word(state, text));
        let chown = optional(&words.chown).transpose()?;
        let chmod = optional(&words.chmod).transpose()?;
        let destination = self.nonempty(state, &words.destination, "a path")?;
        let mut target = Target {
            path: state.config.absolute(&destination),
            is_directory: words.sources.len() > 1 || is_directory(&destination),
            owner: None,
            chmod: chmod.as_deref().map(Chmod::parse).transpose()?,
        };
        if words.sources.len() > 1 && !is_directory(&destination) {
            return Err(format!(
                "of several sources {destination} has to be a directory; end it with /"
            )
            .into());
        }
        let mut keying = Keying::new(keyword, &state.layers);
        keying.text(&target.path);
        keying.number(u64::from(target.is_directory));
        keying.maybe(chown.as_deref());
        keying.maybe(chmod.as_deref());
        for item in &items {
            item.key(&mut *source, &mut keying)?;
        }
        self.layer(state, keying.key(), |this, state| {
            if let Some(chown) = &chown {
                target.owner = Some(owner(&mut *this.root(&state.layers)?, chown)?);
            }
            this.store(&state.layers, &target, &mut *source, &items)
                .map(Some)
        })
    }

    fn items(
        &self,
        state: &State,
        words: &CopyWords,
        source: &mut dyn Root,
    ) -> Result<Vec<Item>, Fault> {
        let missing = |word: &str| match &words.from {
            None => explain(self.context, word),
            Some(from) => format!("\"{word}\" is not in {from}; check the path"),
        };
        let lookup = |name: &str| state.variable(name);
        let mut items = Vec::new();
        for one in &words.sources {
            match one {
                Source::Path(text) => {
                    let word = self.nonempty(state, text, "a path")?;
                    items.extend(select(source, &word, words.add, &missing)?);
                }
                Source::Heredoc(heredoc) => items.push(Item::Text {
                    name: heredoc.name.clone(),
                    content: match heredoc.expand {
                        true => Words::of_heredoc(&lookup).word(&heredoc.content)?,
                        false => heredoc.content.clone(),
                    },
                }),
            }
        }
        Ok(items)
    }

    fn workdir(&mut self, state: &mut State, text: &str) -> Result<(), Fault> {
        let path = self.nonempty(state, text, "a path")?;
        state.config.working_dir = state.config.absolute(&path);
        let user = state.config.user.clone();
        let mut keying = Keying::new("WORKDIR", &state.layers);
        keying.text(&state.config.working_dir);
        keying.text(&user);
        self.layer(state, keying.key(), |this, state| {
            let mut root = this.root(&state.layers)?;
            let path = state.config.working_dir.clone();
            let there = resolve_in(&mut *root, path.as_ref())?;
            let there = entry(&mut *root, &there)?.map(|entry| entry.kind);
            if path == "/" || there == Some(Kind::Directory) {
                return Ok(None);
            }
            let target = Target {
                path,
                is_directory: true,
                owner: Some(owner(&mut *root, &user)?),
                chmod: None,
            };
            let mut nothing = this.context.tree();
            this.store(&state.layers, &target, &mut nothing, &[])
                .map(Some)
        })
    }

    fn root(&mut self, layers: &[Layer]) -> Result<Box<dyn Root>, Fault> {
        let root = self.worker.root(layers);
        root.map_err(Fault::failed("look into the image"))
    }

    /// Writes a layer over others: items at a target, or the target alone as a directory.
    fn store(
        &mut self,
        layers: &[Layer],
        target: &Target,
        source: &mut dyn Root,
        items: &[Item],
    ) -> Result<Layer, Fault> {
        let mut root = self.root(layers)?;
        let mut fault = None;
        let stored = self.worker.store(&mut |out| {
            let mut writer = Writer::new(out, &mut *root, target);
            let written = match items.is_empty() {
                true => writer.directory(),
                false => writer.copy(source, items),
            };
            written.and_then(|()| writer.finish()).map_err(|error| {
                fault = Some(error);
                io::Error::other("the layer could not be made")
            })
        });
        // Ours says more than what the worker made of it.
        stored.map_err(|error| fault.unwrap_or_else(|| Fault::failed("keep the layer")(error)))
    }
}

/// What is run, and the script that it runs if there is one.
fn command(config: &Config, words: &RunWords) -> (Vec<String>, Option<Script>) {
    let text = match &words.command {
        Command::Shell(text) => text,
        exec @ Command::Exec(_) => return (config.argv(exec), None),
    };
    let shell = |text: String| config.argv(&Command::Shell(text));
    match (&words.heredocs[..], heredoc_name(text)) {
        // Nothing but a here-document is the command itself.
        ([only], Some(name)) if only.content.starts_with("#!") => {
            let path = format!("{SCRIPTS}/{name}");
            let content = only.content.clone();
            (shell(path.clone()), Some(Script { path, content }))
        }
        ([only], Some(_)) => (shell(only.content.clone()), None),
        // Among other words it is the shell's business.
        (heredocs, _) => {
            let bodies = heredocs
                .iter()
                .map(|one| format!("\n{}{}", one.content, one.name));
            (shell(format!("{text}{}", bodies.collect::<String>())), None)
        }
    }
}

/// Whether a destination is a directory because it is written so.
fn is_directory(destination: &str) -> bool {
    let last = destination.rsplit('/').next();
    matches!(last, Some("" | "." | ".."))
}

/// A path as a pattern that matches it alone.
fn literal(path: &str) -> String {
    let special = |letter: char| "*?[\\".contains(letter);
    let mut pattern = String::new();
    for letter in path.chars() {
        if special(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// Why a word names nothing in the context.
fn explain(context: &Context, word: &str) -> String {
    let path = Config::default().absolute(word);
    let path = path.trim_start_matches('/');
    match context.ignore.hidden_by(path) {
        Some(pattern) if context.has(path) => {
            format!("\"{word}\" is hidden by .dockerignore, {pattern}; bring it back with !{path}")
        }
        _ => format!(
            "\"{word}\" is not in the context {}; check the path",
            context.directory()
        ),
    }
}
