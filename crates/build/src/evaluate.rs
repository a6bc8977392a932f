//! The loop: each needed stage, instruction by instruction, from its base to its image.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cache::Key,
    config::{Config, History},
    context::Context,
    error::{Error, Fault},
    instruction::{Instruction, Verb, all, triggers},
    parse::parse,
    root::Root,
    stage::{Stages, needed},
    state::State,
    variables::Arguments,
    words::Words,
    worker::{Base, Layer, Step, Worker},
};

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

pub(crate) struct Evaluation<'a> {
    pub(crate) context: &'a Context,
    options: &'a Options,
    pub(crate) worker: &'a mut dyn Worker,
    escape: char,
    pub(crate) arguments: Arguments,
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
        let base = match plan.origin {
            Origin::Stage(earlier) => self.done.get(&earlier).cloned().unwrap_or_default(),
            Origin::Image(base) => State::of(*base, plan.platform),
        };
        let mut state = base.begin(self.escape);
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
            other => state.configure(other, &self.arguments),
        }
    }

    /// Adds a layer from the cache, or a new one.
    pub(crate) fn layer(
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

    pub(crate) fn cached(&mut self, key: &Key) -> Option<Option<Layer>> {
        match self.options.no_cache {
            true => None,
            false => self.worker.cached(key),
        }
    }

    /// The layers of an earlier stage, or of an image.
    pub(crate) fn layers_of(
        &mut self,
        stage: usize,
        name: &str,
        platform: &str,
    ) -> Result<Vec<Layer>, Fault> {
        match self.stages.find(name, stage) {
            Some(earlier) => Ok(self.done.get(&earlier).cloned().unwrap_or_default().layers),
            None if self.stages.find(name, self.stages.all.len()).is_some() => {
                Err(format!("the stage {name} is not before this one; move it up").into())
            }
            None => Ok(self.image(name, platform)?.layers),
        }
    }

    pub(crate) fn root(&mut self, layers: &[Layer]) -> Result<Box<dyn Root>, Fault> {
        let root = self.worker.root(layers);
        root.map_err(Fault::failed("look into the image"))
    }
}
