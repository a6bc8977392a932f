//! `.dockerignore`: what of the context is not there.

use crate::glob::Glob;

/// The patterns of a `.dockerignore`.
#[derive(Debug, Clone, Default)]
pub struct Ignore(Vec<Pattern>);

#[derive(Debug, Clone)]
struct Pattern {
    glob: Glob,
    /// It brings back what an earlier one hid: `!`.
    exception: bool,
    line: usize,
    text: String,
}

impl Ignore {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The line that is no pattern, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = (1..).zip(text.lines());
        let lines = lines.filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty());
        let patterns = lines.map(|(line, text)| Pattern::new(line, text.trim()));
        Ok(Self(patterns.collect::<Result<_, _>>()?))
    }

    /// Whether a path, relative to the context, is hidden; by its parents' names too.
    #[must_use]
    pub fn hides(&self, path: &str) -> bool {
        self.hidden_by(path).is_some()
    }

    /// The pattern that hides a path, for people.
    pub(crate) fn hidden_by(&self, path: &str) -> Option<String> {
        let mut hiding = None;
        for pattern in &self.0 {
            // Only what turns the matter can matter: most patterns are never tried.
            if pattern.exception == hiding.is_some() && pattern.glob.covers(path) {
                hiding = (!pattern.exception).then_some(pattern);
            }
        }
        hiding.map(|pattern| format!("line {}, \"{}\"", pattern.line, pattern.text))
    }

    /// Whether something in a directory that is hidden may be brought back.
    pub(crate) fn may_show_below(&self, directory: &str) -> bool {
        let begin = format!("{directory}/");
        let mut exceptions = self.0.iter().filter(|pattern| pattern.exception);
        exceptions.any(|pattern| pattern.glob.may_begin(&begin))
    }
}

impl Pattern {
    fn new(line: usize, text: &str) -> Result<Self, String> {
        let (path, exception) = match text.strip_prefix('!') {
            Some(path) => (path.trim(), true),
            None => (text, false),
        };
        if path.is_empty() {
            return Err(format!("line {line}: ! without a pattern"));
        }
        let glob = Glob::new(&cleaned(path), true);
        Ok(Self {
            glob: glob.map_err(|reason| format!("line {line}: {reason}"))?,
            exception,
            line,
            text: text.to_owned(),
        })
    }
}

/// A path without what changes nothing in it: slashes around it or doubled, `.` and `..`.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            ("..", None) if path.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(patterns: &str, hidden: &[&str], shown: &[&str]) {
        let ignore = Ignore::parse(patterns).unwrap();
        for path in hidden {
            assert!(ignore.hides(path), "{path} is shown by {patterns:?}");
        }
        for path in shown {
            assert!(!ignore.hides(path), "{path} is hidden by {patterns:?}");
        }
    }

    #[test]
    fn the_examples_of_the_reference_hold() {
        let text = "# comment\n*/temp*\n*/*/temp*\ntemp?\n";
        check(
            text,
            &["a/temporary.txt", "a/temp/x", "a/b/temporary.txt", "tempa"],
            &["temp", "temporary.txt", "a/b/c/temp", "# comment"],
        );
        check("*.md\n!README.md", &["a.md"], &["README.md", "b/a.md"]);
        check(
            "*.md\n!README*.md\nREADME-secret.md",
            &["README-secret.md", "x.md"],
            &["README-a.md"],
        );
        check(
            "*.md\nREADME-secret.md\n!README*.md",
            &["x.md"],
            &["README-secret.md"],
        );
        check("**/*.go", &["a.go", "x/y/z.go"], &["a.gox"]);
    }

    #[test]
    fn slashes_around_a_pattern_change_nothing() {
        check(
            "/foo/bar\nbaz/\n./a//b/../c",
            &["foo/bar", "foo/bar/x", "baz", "baz/x", "a/c"],
            &["foo", "a/b"],
        );
        check(
            " x \n\n\u{20}# not a comment",
            &["x", "# not a comment"],
            &["y"],
        );
        check(".", &[], &["a"]);
    }

    #[test]
    fn what_is_in_a_hidden_directory_may_be_brought_back() {
        check(
            "*\n!src/lib\n",
            &["src/main", "x", "src"],
            &["src/lib", "src/lib/a"],
        );
        let ignore = Ignore::parse("*\n!src/lib").unwrap();
        assert!(ignore.may_show_below("src"));
        assert!(!ignore.may_show_below("target"));
        assert_eq!(ignore.hidden_by("x").as_deref(), Some("line 1, \"*\""));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_line() {
        assert_eq!(
            Ignore::parse("a\n!").unwrap_err(),
            "line 2: ! without a pattern"
        );
        assert!(
            Ignore::parse("a\n[")
                .unwrap_err()
                .starts_with("line 2: [ is no pattern")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ab/*?!\\[\\]#. \n\\\\]{0,40}", path in "[ab/]{0,12}") {
            if let Ok(ignore) = Ignore::parse(&text) {
                let _ = ignore.hides(&path);
            }
        }
    }
}
