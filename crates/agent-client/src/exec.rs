//! The description of a command.

use wire::agent::{Size, Stream};

/// A command to run, put together step by step.
#[derive(Debug, Clone)]
pub struct Exec(wire::agent::Exec);

impl Exec {
    /// `program` without arguments, as root, with every stream on `/dev/null`.
    #[must_use]
    pub fn new(program: &[u8]) -> Self {
        Self(wire::agent::Exec {
            session: 0,
            argv: vec![program.to_vec()],
            env: Vec::new(),
            cwd: None,
            user: None,
            terminal: None,
            streams: Vec::new(),
        })
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: &[u8]) -> &mut Self {
        self.0.argv.push(argument.to_vec());
        self
    }

    /// Sets a variable of the environment.
    pub fn env(&mut self, key: &[u8], value: &[u8]) -> &mut Self {
        self.0.env.push((key.to_vec(), value.to_vec()));
        self
    }

    /// Sets the working directory.
    pub fn cwd(&mut self, directory: &[u8]) -> &mut Self {
        self.0.cwd = Some(directory.to_vec());
        self
    }

    /// Sets the user, `USER[:GROUP]`.
    pub fn user(&mut self, user: &str) -> &mut Self {
        self.0.user = Some(user.to_owned());
        self
    }

    /// Runs it on a terminal, which is then its only stream.
    pub fn terminal(&mut self, size: Size) -> &mut Self {
        self.0.terminal = Some(size);
        self
    }

    /// Whether it runs on a terminal.
    #[must_use]
    pub const fn has_terminal(&self) -> bool {
        self.0.terminal.is_some()
    }

    /// Attaches these of its standard input, output and error.
    pub fn attach(&mut self, stdin: bool, stdout: bool, stderr: bool) -> &mut Self {
        let all = [
            (stdin, Stream::Stdin),
            (stdout, Stream::Stdout),
            (stderr, Stream::Stderr),
        ];
        let wanted = all
            .into_iter()
            .filter_map(|(wanted, stream)| wanted.then_some(stream));
        self.0.streams = wanted.collect();
        self
    }

    /// The request, and the streams to be attached for it.
    pub(crate) fn into_request(mut self, session: u64) -> (wire::agent::Exec, Vec<Stream>) {
        self.0.session = session;
        if self.0.terminal.is_some() {
            self.0.streams.clear();
            return (self.0, vec![Stream::Terminal]);
        }
        let streams = self.0.streams.clone();
        (self.0, streams)
    }
}
