//! The lines of a Dockerfile: directives, comments, continued lines, here-documents.
//!
//! Written here because of here-documents: no parser that is kept finds those that follow a command, as
//! in `RUN python3 <<EOF`, or several of one instruction. The rules are those of BuildKit's parser.

use std::iter::{Enumerate, Peekable};
use std::str::Lines;

use crate::error::{Error, Place};
use crate::words;

/// More than anybody writes, and little enough to be read whole.
const LONGEST: usize = 4 << 20;

/// A Dockerfile.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// What escapes, and continues a line.
    pub(crate) escape: char,
    pub(crate) instructions: Vec<Raw>,
}

/// An instruction as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) place: Place,
    /// What follows the keyword, continued lines joined.
    pub(crate) rest: String,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    pub(crate) name: String,
    /// Its lines, without tabs before them if it is written with `<<-`.
    pub(crate) content: String,
    /// Whether variables in it are replaced: its name is not quoted.
    pub(crate) expand: bool,
}

impl Raw {
    /// The instruction on one line.
    pub(crate) fn text(&self) -> String {
        format!("{} {}", self.place.keyword, self.rest)
    }

    /// What follows the keyword, so that it can be read again.
    pub(crate) fn rest_whole(&self) -> String {
        let mut text = self.rest.clone();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        text
    }
}

type Source<'a> = Peekable<Enumerate<Lines<'a>>>;

/// Reads a Dockerfile; `file` is for errors.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Parsed, Error> {
    let whole = |reason: &str| Error::Whole {
        file: file.to_owned(),
        reason: reason.to_owned(),
    };
    if bytes.len() > LONGEST {
        return Err(whole("it is longer than 4 MiB; is it a Dockerfile?"));
    }
    let text = str::from_utf8(bytes)
        .map_err(|_| whole("it is not UTF-8 text; save it as UTF-8, or name another with -f"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate().peekable();
    let escape = directives(file, &mut lines)?;
    let instructions = instructions(file, escape, &mut lines)?;
    Ok(Parsed {
        escape,
        instructions,
    })
}

/// Reads instructions that come without directives.
pub(crate) fn lines(file: &str, escape: char, text: &str) -> Result<Vec<Raw>, Error> {
    instructions(file, escape, &mut text.lines().enumerate().peekable())
}

/// The directives at the top, of which `escape` matters: there is one syntax here.
fn directives(file: &str, lines: &mut Source<'_>) -> Result<char, Error> {
    let mut escape = '\\';
    while let Some((number, line)) = lines.peek() {
        let directive = line.trim_start().strip_prefix('#');
        let Some((name, value)) = directive.and_then(|text| text.split_once('=')) else {
            break;
        };
        match (name.trim().to_ascii_lowercase().as_str(), value.trim()) {
            ("escape", "\\") => {}
            ("escape", "`") => escape = '`',
            ("escape", other) => {
                return Err(Error::Instruction {
                    place: format!("{file}:{}: escape", number.saturating_add(1)),
                    reason: format!("\"{other}\" cannot escape; write ` or \\"),
                });
            }
            ("syntax" | "check", _) => {}
            _ => break,
        }
        lines.next();
    }
    Ok(escape)
}

fn instructions(file: &str, escape: char, lines: &mut Source<'_>) -> Result<Vec<Raw>, Error> {
    let mut found = Vec::new();
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let joined = joined(line, escape, lines);
        let joined = joined.trim();
        if joined.is_empty() {
            continue;
        }
        let (keyword, rest) = joined
            .split_once(char::is_whitespace)
            .unwrap_or((joined, ""));
        let place = Place {
            file: file.to_owned(),
            line: number.saturating_add(1),
            keyword: keyword.to_ascii_uppercase(),
        };
        let rest = rest.trim_start().to_owned();
        let heredocs = heredocs(&place, &rest, escape, lines)?;
        found.push(Raw {
            place,
            rest,
            heredocs,
        });
    }
    Ok(found)
}

/// A line and those that continue it. Comments and empty lines between them are nothing.
fn joined(first: &str, escape: char, lines: &mut Source<'_>) -> String {
    let mut text = String::new();
    let mut line = first;
    loop {
        let Some(part) = continued(line, escape) else {
            text.push_str(line);
            return text;
        };
        text.push_str(part);
        let mut more = lines.by_ref().map(|(_, line)| line);
        let meaningful = |line: &&str| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with('#')
        };
        match more.find(meaningful) {
            Some(next) => line = next,
            None => return text,
        }
    }
}

/// What comes before an escape that ends the line and is not escaped itself.
fn continued(line: &str, escape: char) -> Option<&str> {
    let part = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!part.ends_with(escape)).then_some(part)
}

fn heredocs(
    place: &Place,
    rest: &str,
    escape: char,
    lines: &mut Source<'_>,
) -> Result<Vec<Heredoc>, Error> {
    let keyword = match place.keyword.as_str() {
        "ONBUILD" => words::fields(rest, escape).first().copied().unwrap_or(""),
        other => other,
    };
    let may = ["ADD", "COPY", "RUN"];
    if !may.iter().any(|may| keyword.eq_ignore_ascii_case(may)) {
        return Ok(Vec::new());
    }
    let starts = words::fields(rest, escape)
        .into_iter()
        .filter_map(heredoc_start);
    starts.map(|start| heredoc(place, start, lines)).collect()
}

/// How one begins: `<<NAME`, after a number perhaps.
struct Start {
    name: String,
    tabs: bool,
    expand: bool,
}

/// The start of a here-document, if a word is one.
fn heredoc_start(word: &str) -> Option<Start> {
    let word = word.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let word = word.strip_prefix("<<")?;
    let (word, tabs) = match word.strip_prefix('-') {
        Some(word) => (word, true),
        None => (word, false),
    };
    let mut name = String::new();
    let mut quote = None;
    let mut letters = word.chars();
    while let Some(letter) = letters.next() {
        match letter {
            _ if quote == Some(letter) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(letter),
            '\\' if quote.is_none() => name.push(letters.next()?),
            '<' => return None,
            _ if quote.is_none() && letter.is_whitespace() => return None,
            _ => name.push(letter),
        }
    }
    (!name.is_empty() && quote.is_none()).then_some(Start {
        // Quoted as a whole or in part.
        expand: name == word,
        name,
        tabs,
    })
}

/// Whether a word of an instruction stands for a here-document, and its name.
pub(crate) fn heredoc_name(word: &str) -> Option<String> {
    heredoc_start(word).map(|start| start.name)
}

fn heredoc(place: &Place, start: Start, lines: &mut Source<'_>) -> Result<Heredoc, Error> {
    let fault = |reason: String| Error::Instruction {
        place: place.to_string(),
        reason,
    };
    // Files are called like it.
    if start.name.contains('/') || [".", ".."].contains(&start.name.as_str()) {
        let name = start.name;
        return Err(fault(format!(
            "a here-document cannot be called {name}; choose a plain name"
        )));
    }
    let mut content = String::new();
    for (_, line) in lines {
        let line = match start.tabs {
            true => line.trim_start_matches('\t'),
            false => line,
        };
        if line == start.name {
            return Ok(Heredoc {
                name: start.name,
                content,
                expand: start.expand,
            });
        }
        content.push_str(line);
        content.push('\n');
    }
    let name = start.name;
    Err(fault(format!(
        "the here-document <<{name} does not end; put {name} on a line of its own"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rests(text: &str) -> Vec<String> {
        let parsed = parse("Dockerfile", text.as_bytes()).unwrap();
        parsed.instructions.iter().map(Raw::text).collect()
    }

    #[test]
    fn continued_lines_are_joined_over_comments_and_empty_lines() {
        let text = "run a \\\n# no\n\n  # no\n  b\\  \n c\nRUN d";
        assert_eq!(rests(text), ["RUN a   b c", "RUN d"]);
        assert_eq!(rests("RUN a \\\\\nRUN b"), ["RUN a \\\\", "RUN b"]);
        assert_eq!(
            rests("\u{feff}RUN a\r\nRUN b\\\r\n c \\"),
            ["RUN a", "RUN b c"]
        );
    }

    #[test]
    fn the_escape_directive_counts_only_at_the_top() {
        let text = "# syntax=docker/dockerfile:1\n# Escape = `\nCOPY a c:\\\nRUN b `\n c";
        assert_eq!(rests(text), ["COPY a c:\\", "RUN b  c"]);
        assert_eq!(rests("# a comment\n# escape=`\nRUN b \\\n c"), ["RUN b  c"]);
        let message = parse("D", b"# escape=x").unwrap_err().to_string();
        assert_eq!(message, "D:1: escape: \"x\" cannot escape; write ` or \\");
    }

    #[test]
    fn several_here_documents_are_read_in_their_order() {
        let text = "RUN cat <<A > /a && cat 3<<-'B'\n# $x\nA\n\tb\n\tB\nRUN c";
        let parsed = parse("D", text.as_bytes()).unwrap();
        let [first, second] = &parsed.instructions[..] else {
            panic!("{parsed:?}");
        };
        assert_eq!(first.heredocs.len(), 2);
        assert_eq!(first.heredocs[0].content, "# $x\n");
        assert!(first.heredocs[0].expand);
        assert_eq!(first.heredocs[1].content, "b\n");
        assert!(!first.heredocs[1].expand);
        assert_eq!(second.place.line, 6);
    }

    #[test]
    fn the_name_of_a_here_document_may_be_quoted_in_part() {
        for (word, name, expand) in [
            ("<<EOF", "EOF", true),
            ("<<-'EOF'", "EOF", false),
            ("4<<e'o'f", "eof", false),
            ("<<eo\\'f", "eo'f", false),
            ("<<\"one two\"", "one two", false),
        ] {
            let start = heredoc_start(word).unwrap();
            assert_eq!(
                (start.name.as_str(), start.expand),
                (name, expand),
                "{word}"
            );
        }
    }

    #[test]
    fn what_only_looks_like_a_here_document_is_none() {
        for text in [
            "RUN cat <<<x",
            "RUN echo $((1<<2))",
            "ENV a=<<E",
            "RUN echo '<<E'",
        ] {
            assert_eq!(rests(text), [text]);
        }
        let message = parse("D", b"RUN a <<E\nb").unwrap_err().to_string();
        assert!(
            message.starts_with("D:1: RUN: the here-document <<E does not end"),
            "{message}"
        );
    }

    #[test]
    fn a_here_document_is_not_called_like_a_path() {
        for name in ["../a", "/a", ".."] {
            let text = format!("COPY <<{name} /d/\n{name}\n");
            let message = parse("D", text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("choose a plain name"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = crate::check("D", &bytes);
        }

        #[test]
        fn any_lines_are_read_or_refused(
            lines in "((FROM|RUN|COPY|ENV|ARG|ONBUILD|HEALTHCHECK|LABEL|ADD|SHELL|USER|X) \
                [-a=$\\{\\}:<E\"'\\\\ ,\\[\\]#\n]{0,12}\n){0,6}"
        ) {
            let _ = crate::check("D", lines.as_bytes());
        }
    }
}
