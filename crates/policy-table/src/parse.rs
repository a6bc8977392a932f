//! From TOML files to one checked table a component.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path as FilePath;

use serde::Deserialize;
use toml::Spanned;

use crate::Error;

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    summary: Option<String>,
    #[serde(default)]
    include: Vec<String>,
    identity: Option<Spanned<Kind>>,
    proc: Option<Spanned<Kind>>,
    landlock: Option<Landlock>,
    #[serde(default)]
    namespaces: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    shared: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    capabilities: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    limits: BTreeMap<String, Spanned<Number>>,
    #[serde(default)]
    paths: BTreeMap<String, Spanned<Path>>,
    #[serde(default)]
    calls: BTreeMap<String, Spanned<Line>>,
}

/// One of a few words.
#[derive(Debug, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// The word.
    pub kind: String,
    /// Why.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Landlock {
    floor: Spanned<Number>,
}

/// A number with its reason.
#[derive(Debug, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Number {
    /// The number.
    pub value: u64,
    /// Why.
    pub why: String,
}

/// A place of the host's file tree that a program sees, with its reason.
#[derive(Debug, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Path {
    /// `read`, `write` or `execute`; the last two include the first.
    pub access: String,
    /// Why.
    pub why: String,
}

/// A system call: its reason, or a table with conditions.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Always(String),
    Sometimes(Sometimes),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sometimes {
    #[serde(default)]
    when: Vec<String>,
    error: Option<String>,
    only: Option<String>,
    why: String,
}

/// Something that a table says, and where.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// What it says.
    pub value: T,
    /// `file:line`.
    pub place: String,
}

/// A system call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The alternatives that its arguments must match one of; none if they do not matter.
    pub when: Vec<String>,
    /// The error that it always returns.
    pub error: Option<String>,
    /// The only architecture that has it.
    pub only: Option<String>,
    /// Why.
    pub why: String,
}

/// Everything that one component is granted: its own file over the files that it includes.
#[derive(Debug, Default)]
pub struct Table {
    /// What the program is for.
    pub summary: String,
    /// `single` or `all`.
    pub identity: Option<Entry<Kind>>,
    /// `self-fd`, if it sees anything of `/proc`.
    pub proc: Option<Entry<Kind>>,
    /// The version of Landlock below which it does not start.
    pub floor: Option<Entry<Number>>,
    /// By name, with the reason.
    pub namespaces: BTreeMap<String, Entry<String>>,
    /// Namespaces of an included file that the program does without, by name, with the reason: it
    /// stays in the host's.
    pub shared: BTreeMap<String, Entry<String>>,
    /// By name, with the reason.
    pub capabilities: BTreeMap<String, Entry<String>>,
    /// By the resource's name.
    pub limits: BTreeMap<String, Entry<Number>>,
    /// By absolute path. The product's own components have none: their resources arrive open.
    pub paths: BTreeMap<String, Entry<Path>>,
    /// By name.
    pub calls: BTreeMap<String, Entry<Call>>,
}

/// A loader of files that are in `directory`.
pub fn directory(directory: &FilePath) -> impl Fn(&str) -> Result<String, Error> {
    move |name| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Reads a policy and what it includes. `load` finds the text of a file by its name.
///
/// # Errors
/// What is missing or wrong, with its place.
pub fn read(name: &str, load: &dyn Fn(&str) -> Result<String, Error>) -> Result<Table, Error> {
    let mut table = Table::default();
    merge(name, load, &mut table, 0)?;
    for (missing, section) in [
        (table.summary.is_empty(), "summary"),
        (table.identity.is_none(), "[identity]"),
        (table.floor.is_none(), "[landlock]"),
        (table.namespaces.is_empty(), "[namespaces]"),
        (table.calls.is_empty(), "[calls]"),
    ] {
        if missing {
            return Err(format!("{name}: {section} is missing"));
        }
    }
    Ok(table)
}

/// Lays one file over `table`, after the files that it includes.
fn merge(
    name: &str,
    load: &dyn Fn(&str) -> Result<String, Error>,
    table: &mut Table,
    depth: u32,
) -> Result<(), Error> {
    if depth > 4 {
        return Err(format!("{name}: files include each other"));
    }
    let text = load(name)?;
    let file: File = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| line_of(&text, span.start));
        format!("{name}:{line}: {}", error.message())
    })?;
    for included in &file.include {
        merge(included, load, table, depth.saturating_add(1))?;
    }
    lay(&Source { name, text: &text }, file, table)
}

/// A file's name and text, to name places in it.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// `file:line` of a byte.
    fn place(&self, offset: usize) -> String {
        format!("{}:{}", self.name, line_of(self.text, offset))
    }

    /// A value that must have a reason, and its place.
    fn entry<T>(&self, value: Spanned<T>, why: impl Fn(&T) -> &str) -> Result<Entry<T>, Error> {
        let place = self.place(value.span().start);
        let value = value.into_inner();
        if why(&value).trim().is_empty() {
            return Err(format!("{place}: a line without a reason"));
        }
        Ok(Entry { value, place })
    }
}

/// Lays a parsed file over `table`.
fn lay(source: &Source<'_>, file: File, table: &mut Table) -> Result<(), Error> {
    if let Some(summary) = file.summary {
        table.summary = summary;
    }
    for (kind, slot) in [
        (file.identity, &mut table.identity),
        (file.proc, &mut table.proc),
    ] {
        if let Some(kind) = kind {
            *slot = Some(source.entry(kind, |kind| &kind.why)?);
        }
    }
    if let Some(landlock) = file.landlock {
        table.floor = Some(source.entry(landlock.floor, |number| &number.why)?);
    }
    for (name, why) in file.namespaces {
        table.namespaces.insert(name, source.entry(why, |why| why)?);
    }
    share(source, file.shared, table)?;
    for (name, why) in file.capabilities {
        table
            .capabilities
            .insert(name, source.entry(why, |why| why)?);
    }
    for (name, limit) in file.limits {
        let entry = source.entry(limit, |number| &number.why)?;
        table.limits.insert(name, entry);
    }
    for (name, path) in file.paths {
        let entry = source.entry(path, |path| &path.why)?;
        let place = &entry.place;
        if !name.starts_with('/') || name.split('/').any(|part| part == "..") {
            return Err(format!(
                "{place}: `{name}` is not an absolute path without `..`"
            ));
        }
        if !["read", "write", "execute"].contains(&entry.value.access.as_str()) {
            return Err(format!(
                "{place}: the access is `read`, `write` or `execute`"
            ));
        }
        table.paths.insert(name, entry);
    }
    for (name, line) in file.calls {
        let entry = source.entry(line, Line::why)?;
        let call = Entry {
            value: entry.value.into(),
            place: entry.place,
        };
        table.calls.insert(name, call);
    }
    Ok(())
}

/// Moves namespaces from those of the program's own to those that it shares with the host.
fn share(
    source: &Source<'_>,
    shared: BTreeMap<String, Spanned<String>>,
    table: &mut Table,
) -> Result<(), Error> {
    for (name, why) in shared {
        let entry = source.entry(why, |why| why)?;
        let place = &entry.place;
        if ["user", "mount"].contains(&name.as_str()) {
            return Err(format!(
                "{place}: the {name} namespace cannot be shared, the jail is made in it"
            ));
        }
        if table.namespaces.remove(&name).is_none() {
            return Err(format!(
                "{place}: `{name}` is no namespace of an included file, so there is none to share"
            ));
        }
        table.shared.insert(name, entry);
    }
    Ok(())
}

impl Line {
    fn why(&self) -> &str {
        match self {
            Self::Always(why) => why,
            Self::Sometimes(line) => &line.why,
        }
    }
}

impl From<Line> for Call {
    fn from(line: Line) -> Self {
        match line {
            Line::Always(why) => Self {
                when: Vec::new(),
                error: None,
                only: None,
                why,
            },
            Line::Sometimes(line) => Self {
                when: line.when,
                error: line.error,
                only: line.only,
                why: line.why,
            },
        }
    }
}

/// The number of the line, from 1, that holds the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.matches('\n').count().saturating_add(1)
}
