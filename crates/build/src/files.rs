//! `COPY`, `ADD` and `WORKDIR`: layers that are made here.

use std::io;

use crate::{
    cache::Keying,
    chmod::Chmod,
    config::Config,
    context::Context,
    copy::{Item, Taking, name_at, select},
    error::Fault,
    evaluate::Evaluation,
    glob::Glob,
    instruction::{CopyWords, Source, is_address},
    layer::{Target, Writer},
    root::{Kind, Root, entry, owner, resolve_in},
    state::State,
    worker::Layer,
};

impl Evaluation<'_> {
    pub(crate) fn copy(
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
        let optional =
            |text: &Option<String>| text.as_ref().map(|text| state.word(text)).transpose();
        let (chown, chmod) = (optional(&words.chown)?, optional(&words.chmod)?);
        let mut target = target(state, words)?;
        target.chmod = chmod.as_deref().map(Chmod::parse).transpose()?;
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
        &mut self,
        state: &State,
        words: &CopyWords,
        source: &mut dyn Root,
    ) -> Result<Vec<Item>, Fault> {
        let context = self.context;
        let missing = |word: &str| match &words.from {
            None => explain(context, word),
            Some(from) => format!("\"{word}\" is not in {from}; check the path"),
        };
        let exclude = words.exclude.iter().map(|pattern| {
            let pattern = state.word(pattern)?;
            Ok(Glob::new(pattern.trim_start_matches("./"), true)?)
        });
        let taking = Taking {
            add: words.add,
            parents: words.parents,
            exclude: exclude.collect::<Result<_, Fault>>()?,
        };
        let mut items = Vec::new();
        for one in &words.sources {
            match one {
                Source::Path(text) => {
                    let word = state.nonempty(text, "a path")?;
                    if words.add && is_address(&word) {
                        items.push(self.fetch(state, words, &word)?);
                        continue;
                    }
                    if words.checksum.is_some() {
                        let reason = format!(
                            "--checksum is of what is fetched, and \"{word}\" is no address of http or https"
                        );
                        return Err(Fault::Reason(reason));
                    }
                    items.extend(select(source, &word, &taking, &missing)?);
                }
                Source::Heredoc(heredoc) => items.push(Item::Text {
                    name: heredoc.name.clone(),
                    content: match heredoc.expand {
                        true => {
                            state.with_words(|words| words.of_heredoc().word(&heredoc.content))?
                        }
                        false => heredoc.content.clone(),
                    },
                }),
            }
        }
        Ok(items)
    }

    fn fetch(&mut self, state: &State, words: &CopyWords, address: &str) -> Result<Item, Fault> {
        let checksum = words.checksum.as_ref().map(|text| state.word(text));
        let checksum = checksum.transpose()?;
        let fetched = self.worker.fetch(address, checksum.as_deref());
        let fetched = fetched.map_err(Fault::failed(format!("fetch {address}")))?;
        Ok(Item::Fetched {
            name: name_at(address).map(str::to_owned),
            fetched,
        })
    }

    pub(crate) fn workdir(&mut self, state: &mut State, text: &str) -> Result<(), Fault> {
        let path = state.nonempty(text, "a path")?;
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
                ..Target::default()
            };
            let mut nothing = this.context.tree();
            this.store(&state.layers, &target, &mut nothing, &[])
                .map(Some)
        })
    }

    /// Writes a layer over others: items at a target, or the target alone as a directory.
    pub(crate) fn store(
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

/// Where things go, as it is written.
fn target(state: &State, words: &CopyWords) -> Result<Target, Fault> {
    let destination = state.nonempty(&words.destination, "a path")?;
    let last = destination.rsplit('/').next();
    let is_directory = words.parents || matches!(last, Some("" | "." | ".."));
    match is_directory || words.sources.len() == 1 {
        true => Ok(Target {
            path: state.config.absolute(&destination),
            is_directory,
            ..Target::default()
        }),
        false => Err(format!(
            "of several sources {destination} has to be a directory; end it with /"
        )
        .into()),
    }
}

/// Why a word names nothing in the context.
pub(crate) fn explain(context: &Context, word: &str) -> String {
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
