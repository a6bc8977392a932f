//! `RUN`: the command, and what it sees beside its root.

use crate::{
    cache::Keying,
    config::Config,
    copy::{Taking, select},
    error::Fault,
    evaluate::Evaluation,
    files::explain,
    instruction::{Command, RunWords},
    layer::Target,
    mounts::{Mount, MountKind, Wanted},
    parse::heredoc_name,
    state::State,
    worker::{Layer, Run, Script},
};

/// Where a script is that a command runs.
const SCRIPTS: &str = "/dev/pipes";

impl Evaluation<'_> {
    pub(crate) fn run(
        &mut self,
        stage: usize,
        state: &mut State,
        words: &RunWords,
    ) -> Result<(), Fault> {
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
        let absolute = |path: &str| state.config.absolute(path);
        let mut mount = state.with_words(|words| wanted.mount(words, absolute))?;
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
            ..Target::default()
        };
        let context = self.context;
        let missing = |word: &str| explain(context, word);
        let items = select(
            &mut context.tree(),
            &literal(&path),
            &Taking::default(),
            &missing,
        )?;
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
