//! From TOML files to one checked table a component.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

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
    capabilities: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    limits: BTreeMap<String, Spanned<Number>>,
    #[serde(default)]
    calls: BTreeMap<String, Spanned<Line>>,
}

/// One of a few words.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kind {
    pub(crate) kind: String,
    pub(crate) why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Landlock {
    floor: Spanned<Number>,
}

/// A number with its reason.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct Number {
    pub(crate) value: u64,
    pub(crate) why: String,
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
#[derive(Clone)]
pub(crate) struct Entry<T> {
    pub(crate) value: T,
    /// `file:line`.
    pub(crate) place: String,
}

/// A system call.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) when: Vec<String>,
    pub(crate) error: Option<String>,
    pub(crate) only: Option<String>,
    pub(crate) why: String,
}

/// Everything that one component is granted: its own file over the files that it includes.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) summary: String,
    pub(crate) identity: Option<Entry<Kind>>,
    pub(crate) proc: Option<Entry<Kind>>,
    pub(crate) floor: Option<Entry<Number>>,
    pub(crate) namespaces: BTreeMap<String, Entry<String>>,
    pub(crate) capabilities: BTreeMap<String, Entry<String>>,
    pub(crate) limits: BTreeMap<String, Entry<Number>>,
    pub(crate) calls: BTreeMap<String, Entry<Call>>,
}

/// Reads `COMPONENT.toml` and what it includes.
pub(crate) fn read(directory: &Path, component: &str) -> Result<Table, String> {
    let mut table = Table::default();
    merge(directory, &format!("{component}.toml"), &mut table, 0)?;
    for (missing, section) in [
        (table.summary.is_empty(), "summary"),
        (table.identity.is_none(), "[identity]"),
        (table.floor.is_none(), "[landlock]"),
        (table.namespaces.is_empty(), "[namespaces]"),
        (table.calls.is_empty(), "[calls]"),
    ] {
        if missing {
            return Err(format!("{component}.toml: {section} is missing"));
        }
    }
    Ok(table)
}

/// Lays one file over `table`, after the files that it includes.
fn merge(directory: &Path, name: &str, table: &mut Table, depth: u32) -> Result<(), String> {
    if depth > 4 {
        return Err(format!("{name}: files include each other"));
    }
    let path = directory.join(name);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let file: File = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| line_of(&text, span.start));
        format!("{name}:{line}: {}", error.message())
    })?;
    for included in &file.include {
        merge(directory, included, table, depth + 1)?;
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
    fn entry<T>(&self, value: Spanned<T>, why: impl Fn(&T) -> &str) -> Result<Entry<T>, String> {
        let place = self.place(value.span().start);
        let value = value.into_inner();
        if why(&value).trim().is_empty() {
            return Err(format!("{place}: a line without a reason"));
        }
        Ok(Entry { value, place })
    }
}

/// Lays a parsed file over `table`.
fn lay(source: &Source<'_>, file: File, table: &mut Table) -> Result<(), String> {
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
    for (name, why) in file.capabilities {
        table
            .capabilities
            .insert(name, source.entry(why, |why| why)?);
    }
    for (name, limit) in file.limits {
        let entry = source.entry(limit, |number| &number.why)?;
        table.limits.insert(name, entry);
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
    before.matches('\n').count() + 1
}
