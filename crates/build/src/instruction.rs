//! Instructions: what their words mean. Variables are replaced later.

use crate::{
    chmod::Chmod,
    config::Healthcheck,
    error::{Error, Place},
    healthcheck,
    mounts::{self, Wanted},
    parse::{self, Heredoc, Parsed, Raw, heredoc_name},
    words::{field_end, fields},
    worker::Network,
};

/// An instruction.
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub(crate) place: Place,
    /// On one line, for people and the history.
    pub(crate) text: String,
    pub(crate) verb: Verb,
}

/// Names and what they stand for.
pub(crate) type Pairs = Vec<(String, String)>;

#[derive(Debug, Clone)]
pub(crate) enum Verb {
    From(From),
    Run(RunWords),
    Copy(CopyWords),
    Arg(Vec<(String, Option<String>)>),
    Env(Pairs),
    Label(Pairs),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    Expose(String),
    Volume(Vec<String>),
    User(String),
    Workdir(String),
    StopSignal(String),
    Maintainer(String),
    Healthcheck(Healthcheck),
    Onbuild(String),
}

#[derive(Debug, Clone)]
pub(crate) struct From {
    pub(crate) image: String,
    pub(crate) platform: Option<String>,
    pub(crate) name: Option<String>,
}

/// A command, for a shell or as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Shell(String),
    Exec(Vec<String>),
}

#[derive(Debug, Clone)]
pub(crate) struct RunWords {
    pub(crate) command: Command,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) mounts: Vec<Wanted>,
    pub(crate) network: Network,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone)]
pub(crate) struct CopyWords {
    /// Whether archives are unpacked.
    pub(crate) add: bool,
    pub(crate) from: Option<String>,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    /// Whether the directories above the sources go along.
    pub(crate) parents: bool,
    /// Patterns of what is left out.
    pub(crate) exclude: Vec<String>,
    /// The digest of an address's content.
    pub(crate) checksum: Option<String>,
    pub(crate) sources: Vec<Source>,
    pub(crate) destination: String,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    Path(String),
    Heredoc(Heredoc),
}

type Result<T, E = String> = std::result::Result<T, E>;

/// The instructions of a whole file.
pub(crate) fn all(parsed: &Parsed) -> Result<Vec<Instruction>, Error> {
    let raw = parsed.instructions.iter();
    raw.map(|raw| one(raw, parsed.escape)).collect()
}

/// What `ONBUILD` of a base has in store; `whose` is for errors.
pub(crate) fn triggers(whose: &str, texts: &[String]) -> Result<Vec<Instruction>, Error> {
    let file = format!("ONBUILD of {whose}");
    let mut found = Vec::new();
    for text in texts {
        for raw in &parse::lines(&file, '\\', text)? {
            let may = !["FROM", "ONBUILD", "MAINTAINER"].contains(&raw.place.keyword.as_str());
            let refused = || Error::Instruction {
                place: raw.place.to_string(),
                reason: "it cannot be an ONBUILD instruction; use another base".to_owned(),
            };
            found.push(may.then(|| one(raw, '\\')).ok_or_else(refused)??);
        }
    }
    Ok(found)
}

fn one(raw: &Raw, escape: char) -> Result<Instruction, Error> {
    let verb = verb(raw, escape).map_err(|reason| Error::Instruction {
        place: raw.place.to_string(),
        reason,
    })?;
    Ok(Instruction {
        place: raw.place.clone(),
        text: raw.text(),
        verb,
    })
}

fn verb(raw: &Raw, escape: char) -> Result<Verb> {
    let keyword = raw.place.keyword.as_str();
    let rest = raw.rest.as_str();
    if rest.is_empty() && keyword_is_known(keyword) {
        return Err("it says nothing; give it what it needs, or remove it".to_owned());
    }
    Ok(match keyword {
        "FROM" => Verb::From(from(rest, escape)?),
        "RUN" => Verb::Run(run(raw, escape)?),
        "COPY" | "ADD" => Verb::Copy(copy(raw, escape)?),
        "ARG" => Verb::Arg(arguments(rest, escape)?),
        "ENV" => Verb::Env(pairs(rest, escape)?),
        "LABEL" => Verb::Label(pairs(rest, escape)?),
        "CMD" => Verb::Cmd(command(rest)),
        "ENTRYPOINT" => Verb::Entrypoint(command(rest)),
        "SHELL" => Verb::Shell(shell(rest)?),
        "EXPOSE" => Verb::Expose(rest.to_owned()),
        "VOLUME" => Verb::Volume(array(rest).unwrap_or_else(|| owned(fields(rest, escape)))),
        "USER" => Verb::User(rest.to_owned()),
        "WORKDIR" => Verb::Workdir(rest.to_owned()),
        "STOPSIGNAL" => Verb::StopSignal(rest.to_owned()),
        "MAINTAINER" => Verb::Maintainer(rest.to_owned()),
        "HEALTHCHECK" => Verb::Healthcheck(healthcheck::parse(rest, escape)?),
        "ONBUILD" => Verb::Onbuild(onbuild(raw, escape)?),
        _ => return Err(unknown(keyword)),
    })
}

const KEYWORDS: &str = "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER \
    ONBUILD RUN SHELL STOPSIGNAL USER VOLUME WORKDIR";

fn keyword_is_known(keyword: &str) -> bool {
    KEYWORDS.split(' ').any(|known| known == keyword)
}

fn unknown(keyword: &str) -> String {
    let hint = match keyword {
        "INCLUDE" | "INCLUDE+" => "; write what it includes here",
        "CD" => "; WORKDIR changes the directory",
        _ => "; a line goes on in the next one if it ends with \\",
    };
    format!("there is no such instruction, but {KEYWORDS}{hint}")
}

/// A flag: its name, and its value if it has one.
pub(crate) type Flag = (String, Option<String>);

/// The flags before the words of an instruction, and these words.
pub(crate) fn flags(rest: &str, escape: char) -> (Vec<Flag>, &str) {
    let mut found = Vec::new();
    let mut left = rest;
    while let Some(text) = left.strip_prefix("--") {
        let (flag, more) = text.split_at(field_end(text, escape));
        left = more.trim_start();
        if flag.is_empty() {
            break;
        }
        found.push(match flag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(unquoted(value).to_owned())),
            None => (flag.to_owned(), None),
        });
    }
    (found, left)
}

fn unquoted(text: &str) -> &str {
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or(text)
}

/// The value of a flag that needs one.
pub(crate) fn value((name, value): &Flag) -> Result<String> {
    let given = value.clone().filter(|value| !value.is_empty());
    given.ok_or_else(|| format!("--{name} needs a value: --{name}=..."))
}

/// For a flag that is none of those that an instruction has.
pub(crate) fn no_such_flag(name: &str, known: &str) -> String {
    match name {
        "security" => "--security is not supported; a command has a machine of its own".to_owned(),
        "keep-git-dir" => format!("--{name} is for git, from which ADD does not fetch here"),
        _ => format!("there is no flag --{name}, but {known}"),
    }
}

fn from(rest: &str, escape: char) -> Result<From> {
    let (flags, rest) = flags(rest, escape);
    let mut platform = None;
    for flag in &flags {
        match flag.0.as_str() {
            "platform" => platform = Some(value(flag)?),
            name => return Err(no_such_flag(name, "--platform")),
        }
    }
    let (image, name) = match fields(rest, escape)[..] {
        [image] => (image, None),
        [image, word, name] if word.eq_ignore_ascii_case("as") => (image, Some(stage_name(name)?)),
        _ => return Err("write FROM IMAGE, or FROM IMAGE AS NAME".to_owned()),
    };
    Ok(From {
        image: image.to_owned(),
        platform,
        name,
    })
}

fn stage_name(name: &str) -> Result<String> {
    let name = name.to_ascii_lowercase();
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(sound) {
        return Ok(name);
    }
    Err(format!(
        "\"{name}\" cannot be the name of a stage: begin with a letter, go on with letters, digits, - _ ."
    ))
}

/// A JSON array of strings, if it is one.
pub(crate) fn array(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

pub(crate) fn command(text: &str) -> Command {
    match array(text) {
        Some(argv) => Command::Exec(argv),
        None => Command::Shell(text.to_owned()),
    }
}

fn shell(text: &str) -> Result<Vec<String>> {
    let argv = array(text).filter(|argv| !argv.is_empty());
    argv.ok_or_else(|| "write it as in [\"/bin/bash\", \"-c\"]".to_owned())
}

fn run(raw: &Raw, escape: char) -> Result<RunWords> {
    let (flags, rest) = flags(&raw.rest, escape);
    let mut mounts = Vec::new();
    let mut network = Network::Default;
    for flag in &flags {
        match (flag.0.as_str(), flag.1.as_deref()) {
            ("mount", _) => mounts.push(mounts::parse(&value(flag)?)?),
            ("network", Some("default")) => network = Network::Default,
            ("network", Some("none")) => network = Network::None,
            ("network", _) => {
                return Err(
                    "--network is none or default; others would leave the machine".to_owned(),
                );
            }
            (name, _) => return Err(no_such_flag(name, "--mount and --network")),
        }
    }
    let command = command(rest);
    match &command {
        Command::Exec(argv) if argv.is_empty() => Err("it has no command".to_owned()),
        Command::Shell(text) if text.is_empty() => Err("it has no command".to_owned()),
        _ => Ok(RunWords {
            command,
            heredocs: raw.heredocs.clone(),
            mounts,
            network,
        }),
    }
}

fn copy(raw: &Raw, escape: char) -> Result<CopyWords> {
    let add = raw.place.keyword == "ADD";
    let (flags, rest) = flags(&raw.rest, escape);
    let mut words = match array(rest) {
        Some(words) => words,
        None => owned(fields(rest, escape)),
    };
    let destination = words.pop().filter(|_| !words.is_empty());
    let destination = destination.ok_or("write what to copy, and where to: two words at least")?;
    let mut heredocs = raw.heredocs.iter();
    let sources = words.into_iter().map(|word| {
        let heredoc = heredoc_name(&word).and_then(|_| heredocs.next());
        heredoc.map_or(Source::Path(word), |heredoc| {
            Source::Heredoc(heredoc.clone())
        })
    });
    let mut copy = CopyWords {
        add,
        from: None,
        chown: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        checksum: None,
        sources: sources.collect(),
        destination,
    };
    for flag in &flags {
        match flag.0.as_str() {
            "from" if !add => copy.from = Some(value(flag)?),
            "chown" => copy.chown = Some(value(flag)?),
            "chmod" => copy.chmod = Some(value(flag)?),
            "exclude" => copy.exclude.push(value(flag)?),
            "checksum" if add => copy.checksum = Some(value(flag)?),
            "parents" if !add => copy.parents = !matches!(flag.1.as_deref(), Some("false")),
            // How the layer is made, which is always so here.
            "link" => {}
            name if add => {
                let known = "--chown, --chmod, --checksum, --exclude and --link";
                return Err(no_such_flag(name, known));
            }
            name => {
                let known = "--from, --chown, --chmod, --parents, --exclude and --link";
                return Err(no_such_flag(name, known));
            }
        }
    }
    check_copy(&copy)?;
    Ok(copy)
}

fn check_copy(copy: &CopyWords) -> Result<()> {
    if copy.from.as_ref().is_some_and(|from| from.contains('$')) {
        return Err(
            "--from takes no variables; give the image a name with FROM $IMAGE AS NAME before"
                .to_owned(),
        );
    }
    if let Some(chmod) = copy.chmod.as_ref().filter(|chmod| !chmod.contains('$')) {
        Chmod::parse(chmod)?;
    }
    let mut paths = copy.sources.iter().filter_map(|source| match source {
        Source::Path(path) => Some(path),
        Source::Heredoc(_) => None,
    });
    let refused = |path: &&String| match copy.add {
        true => ["ftp://", "git://", "git@", "ssh://"]
            .iter()
            .any(|start| path.starts_with(start)),
        false => is_address(path),
    };
    match paths.find(refused) {
        Some(address) if copy.add => Err(format!(
            "\"{address}\" is not fetched, but http and https are; fetch it with RUN, or before"
        )),
        Some(address) => Err(format!(
            "\"{address}\" is not in the context; ADD fetches addresses"
        )),
        None => Ok(()),
    }
}

/// Whether `ADD` fetches it.
pub(crate) fn is_address(word: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|start| word.starts_with(start))
}

fn arguments(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>> {
    let words = fields(rest, escape).into_iter();
    words
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Ok((name_of(name)?, Some(value.to_owned()))),
            None => Ok((name_of(word)?, None)),
        })
        .collect()
}

/// `NAME=VALUE ...`, or the old `NAME VALUE` with one value up to the end of the line.
fn pairs(rest: &str, escape: char) -> Result<Pairs> {
    let words = fields(rest, escape);
    if words.first().is_some_and(|first| !first.contains('=')) {
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("\"{rest}\" has no value; write {rest}=VALUE"))?;
        return Ok(vec![(name_of(name)?, value.trim_start().to_owned())]);
    }
    let words = words.into_iter();
    words
        .map(|word| {
            let pair = word.split_once('=');
            let (name, value) = pair.ok_or_else(|| {
                format!("\"{word}\" has no =; quote a value that has spaces: NAME=\"a b\"")
            })?;
            Ok((name_of(name)?, value.to_owned()))
        })
        .collect()
}

fn name_of(name: &str) -> Result<String> {
    match name.is_empty() {
        true => Err("a name before = is missing".to_owned()),
        false => Ok(name.to_owned()),
    }
}

/// The instruction for later, which is read now so that its faults are found now.
fn onbuild(raw: &Raw, escape: char) -> Result<String> {
    let text = raw.rest_whole();
    let whose = "this stage";
    let inner = parse::lines(whose, escape, &text).map_err(|error| error.to_string())?;
    for raw in &inner {
        if ["FROM", "ONBUILD", "MAINTAINER"].contains(&raw.place.keyword.as_str()) {
            return Err(format!("{} cannot be done later", raw.place.keyword));
        }
        verb(raw, escape).map_err(|reason| format!("{}: {reason}", raw.place.keyword))?;
    }
    Ok(text)
}

fn owned(words: Vec<&str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verbs(text: &str) -> Result<Vec<Verb>, String> {
        let parsed = parse::parse("D", text.as_bytes()).map_err(|error| error.to_string())?;
        let all = all(&parsed).map_err(|error| error.to_string())?;
        Ok(all
            .into_iter()
            .map(|instruction| instruction.verb)
            .collect())
    }

    #[test]
    fn a_command_is_for_the_shell_unless_it_is_an_array_of_strings() {
        assert_eq!(
            command("[\"a\", \"b c\"]"),
            Command::Exec(vec!["a".into(), "b c".into()])
        );
        assert_eq!(command("[ -e x ]"), Command::Shell("[ -e x ]".into()));
        assert_eq!(command("['a']"), Command::Shell("['a']".into()));
    }

    #[test]
    fn environment_is_read_in_both_forms() {
        let expected = |pairs: &[(&str, &str)]| -> Pairs {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        for (text, pairs) in [
            (
                "ENV a=b c=\"d e\" f=g\\ h",
                expected(&[("a", "b"), ("c", "\"d e\""), ("f", "g\\ h")]),
            ),
            ("ENV a  b c=d", expected(&[("a", "b c=d")])),
            ("ENV a=", expected(&[("a", "")])),
        ] {
            let [Verb::Env(found)] = &verbs(text).unwrap()[..] else {
                panic!("{text}");
            };
            assert_eq!(*found, pairs);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_a_way_out() {
        for (text, part) in [
            ("FRM x", "D:1: FRM: there is no such instruction, but ADD"),
            ("FROM x\nRUN", "D:2: RUN: it says nothing"),
            ("FROM x y", "write FROM IMAGE"),
            ("FROM x AS 1", "cannot be the name of a stage"),
            ("FROM --as=x y", "there is no flag --as, but --platform"),
            ("COPY x", "two words at least"),
            ("COPY --form=x a b", "there is no flag --form, but --from"),
            ("ADD --from=x a b", "there is no flag --from"),
            ("COPY --from=$x a b", "--from takes no variables"),
            ("COPY --chmod=999 a b", "is no mode"),
            ("ADD --parents a b", "there is no flag --parents"),
            ("COPY --chown a b", "--chown needs a value"),
            ("ADD git://x/y /z", "\"git://x/y\" is not fetched"),
            ("RUN --security=insecure x", "--security is not supported"),
            ("RUN --network=host x", "--network is none or default"),
            ("RUN --network=none", "it has no command"),
            ("RUN []", "it has no command"),
            ("ENV a", "\"a\" has no value"),
            ("ENV a=b c", "\"c\" has no ="),
            ("LABEL =b", "a name before = is missing"),
            ("SHELL /bin/sh", "write it as in"),
            ("ONBUILD FROM x", "FROM cannot be done later"),
            ("ONBUILD ONBUILD RUN x", "ONBUILD cannot be done later"),
            ("ONBUILD COPY x", "COPY: write what to copy"),
        ] {
            let message = verbs(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn an_instruction_for_later_keeps_its_here_document() {
        let verbs = verbs("ONBUILD RUN cat <<E >x\n$a\nE").unwrap();
        let [Verb::Onbuild(text)] = &verbs[..] else {
            panic!("{verbs:?}");
        };
        assert_eq!(text, "RUN cat <<E >x\n$a\nE");
        let triggers = triggers("x", std::slice::from_ref(text)).unwrap();
        assert!(matches!(&triggers[0].verb, Verb::Run(run) if run.heredocs.len() == 1));
    }
}
