//! Stages: what a file builds, which of it is needed, and from what each begins.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::Error,
    instruction::{From, Instruction, Verb},
};

/// A `FROM` and what follows it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) from: From,
    pub(crate) instructions: Vec<Instruction>,
    /// The `FROM` itself.
    pub(crate) head: Instruction,
}

/// The stages of a file.
#[derive(Debug)]
pub(crate) struct Stages {
    /// Declarations before the first one.
    pub(crate) arguments: Vec<Instruction>,
    pub(crate) all: Vec<Stage>,
}

impl Stages {
    /// `file` is for errors.
    pub(crate) fn new(file: &str, instructions: Vec<Instruction>) -> Result<Self, Error> {
        let mut stages = Self {
            arguments: Vec::new(),
            all: Vec::new(),
        };
        for instruction in instructions {
            match (&instruction.verb, stages.all.last_mut()) {
                (Verb::From(from), _) => {
                    let from = from.clone();
                    stages.begin(from, instruction)?;
                }
                (_, Some(stage)) => stage.instructions.push(instruction),
                (Verb::Arg(_), None) => stages.arguments.push(instruction),
                (_, None) => {
                    return Err(wrong(&instruction, "only ARG may be before the first FROM"));
                }
            }
        }
        match stages.all.is_empty() {
            false => Ok(stages),
            true => Err(Error::Whole {
                file: file.to_owned(),
                reason: "it has no FROM; begin with FROM IMAGE, or FROM scratch".to_owned(),
            }),
        }
    }

    fn begin(&mut self, from: From, head: Instruction) -> Result<(), Error> {
        let taken = |stage: &Stage| stage.from.name.is_some() && stage.from.name == from.name;
        if self.all.iter().any(taken) {
            return Err(wrong(
                &head,
                "another stage has this name; choose one for each",
            ));
        }
        self.all.push(Stage {
            from,
            instructions: Vec::new(),
            head,
        });
        Ok(())
    }

    /// The stage with a name among the first `before` ones.
    pub(crate) fn named(&self, name: &str, before: usize) -> Option<usize> {
        let mut stages = self.all.iter().take(before);
        let is = |stage: &Stage| {
            stage
                .from
                .name
                .as_deref()
                .is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        stages.position(is)
    }

    /// The stage with a name or a number among the first `before` ones.
    pub(crate) fn find(&self, name: &str, before: usize) -> Option<usize> {
        let number = || name.parse().ok().filter(|number| *number < before);
        self.named(name, before).or_else(number)
    }

    /// The stage that is to be built: the last one by default.
    pub(crate) fn target(&self, file: &str, target: Option<&str>) -> Result<usize, Error> {
        let Some(target) = target else {
            return Ok(self.all.len().saturating_sub(1));
        };
        self.find(target, self.all.len()).ok_or_else(|| {
            let names = self
                .all
                .iter()
                .filter_map(|stage| stage.from.name.as_deref());
            Error::Whole {
                file: file.to_owned(),
                reason: format!(
                    "there is no stage \"{target}\" for --target, but {:?}",
                    names.collect::<Vec<_>>()
                ),
            }
        })
    }

    /// What is called in messages.
    pub(crate) fn title(&self, stage: usize) -> String {
        let name = self
            .all
            .get(stage)
            .and_then(|stage| stage.from.name.clone());
        name.unwrap_or_else(|| stage.to_string())
    }

    /// The stages that a stage takes files from.
    pub(crate) fn sources(&self, stage: usize, instructions: &[Instruction]) -> BTreeSet<usize> {
        let mut names = Vec::new();
        for instruction in instructions {
            match &instruction.verb {
                Verb::Copy(copy) => names.extend(copy.from.as_deref()),
                Verb::Run(run) => names.extend(
                    run.mounts
                        .iter()
                        .filter_map(|wanted| wanted.from.as_deref()),
                ),
                _ => {}
            }
        }
        let found = names.into_iter().filter_map(|name| self.find(name, stage));
        found.collect()
    }

    /// Whether an `ARG` anywhere has this name.
    pub(crate) fn declares(&self, name: &str) -> bool {
        let inner = self.all.iter().flat_map(|stage| &stage.instructions);
        let mut all = self.arguments.iter().chain(inner);
        all.any(|instruction| match &instruction.verb {
            Verb::Arg(arguments) => arguments.iter().any(|(known, _)| known == name),
            _ => false,
        })
    }

    /// What a stage leaves to those that begin from it.
    pub(crate) fn triggers(&self, stage: usize) -> Vec<String> {
        let instructions = self
            .all
            .get(stage)
            .map(|stage| stage.instructions.as_slice());
        let texts = instructions.unwrap_or_default().iter();
        texts
            .filter_map(|instruction| match &instruction.verb {
                Verb::Onbuild(text) => Some(text.clone()),
                _ => None,
            })
            .collect()
    }
}

/// The stages that are needed, each with what `plan` says of it and the stages that it needs itself. Only
/// earlier stages are ever needed, so the last one found is the next one.
pub(crate) fn needed<T>(
    target: usize,
    mut plan: impl FnMut(usize) -> Result<(T, BTreeSet<usize>), Error>,
) -> Result<BTreeMap<usize, T>, Error> {
    let mut planned = BTreeMap::new();
    let mut left = BTreeSet::from([target]);
    while let Some(stage) = left.pop_last() {
        let (this, needs) = plan(stage)?;
        left.extend(needs.into_iter().filter(|needed| *needed < stage));
        planned.insert(stage, this);
    }
    Ok(planned)
}

fn wrong(instruction: &Instruction, reason: &str) -> Error {
    Error::Instruction {
        place: instruction.place.to_string(),
        reason: reason.to_owned(),
    }
}
