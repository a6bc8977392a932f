//! Patterns of file names: those of Go's `filepath.Match`, and Docker's `**`.
//!
//! Matching walks the text once with the set of places in the pattern that it may be at, so that no
//! pattern takes long.

/// A pattern.
#[derive(Debug, Clone)]
pub(crate) struct Glob(Vec<Token>);

#[derive(Debug, Clone)]
enum Token {
    Literal(char),
    /// `?`: one letter that is no slash.
    One,
    /// `*`: any number of these.
    Some,
    /// `**` at the end: anything.
    All,
    /// `**/`: any number of directories, none as well. Always before [`Token::Directories`].
    Maybe,
    /// As many letters as there are up to a slash.
    Directories,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// How a walk ended.
struct Walk {
    /// The pattern matches.
    accepted: bool,
    /// It may yet.
    alive: bool,
}

impl Glob {
    /// With `deep`, `**` crosses directories; without, it is `*`.
    pub(crate) fn new(pattern: &str, deep: bool) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut left = pattern.chars().peekable();
        let bad = |what: &str| format!("{pattern} is no pattern: {what}");
        while let Some(letter) = left.next() {
            match letter {
                '*' if deep && left.next_if_eq(&'*').is_some() => {
                    let slash = left.next_if_eq(&'/').is_some();
                    match left.peek() {
                        None if !slash => tokens.push(Token::All),
                        _ => tokens.extend([Token::Maybe, Token::Directories]),
                    }
                }
                '*' => tokens.push(Token::Some),
                '?' => tokens.push(Token::One),
                '[' => tokens.push(class(&mut left).ok_or_else(|| bad("a [ without its ]"))?),
                '\\' => {
                    let next = left.next().ok_or_else(|| bad("it ends with \\"))?;
                    tokens.push(Token::Literal(next));
                }
                _ => tokens.push(Token::Literal(letter)),
            }
        }
        Ok(Self(tokens))
    }

    /// Whether a text has anything that is special in a pattern.
    pub(crate) fn is_special(text: &str) -> bool {
        text.contains(['*', '?', '[', '\\'])
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        self.walk(text, |_| false).accepted
    }

    /// Whether it matches a path, or a directory that the path is in.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.walk(path, |letter| letter == '/').accepted
    }

    /// Whether a longer text that begins with this one may match.
    pub(crate) fn may_begin(&self, text: &str) -> bool {
        self.walk(text, |_| false).alive
    }

    /// Walks the text, and ends early at a letter that is an `end` if it has matched before it.
    fn walk(&self, text: &str, end: impl Fn(char) -> bool) -> Walk {
        // Where in the pattern one may be: before each token, and at its end.
        let mut here = vec![false; self.0.len().saturating_add(1)];
        let mut next = here.clone();
        set(&mut here, 0, true);
        self.skip(&mut here);
        for letter in text.chars() {
            if end(letter) && here.last() == Some(&true) {
                break;
            }
            next.fill(false);
            for ((at, token), _) in (0_usize..).zip(&self.0).zip(&here).filter(|(_, on)| **on) {
                let (stay, go) = token.take(letter);
                set(&mut next, at, stay);
                set(&mut next, at.saturating_add(1), go);
            }
            self.skip(&mut next);
            std::mem::swap(&mut here, &mut next);
            if !here.contains(&true) {
                break;
            }
        }
        Walk {
            accepted: here.last() == Some(&true),
            alive: here.contains(&true),
        }
    }

    /// Adds the places that are reached without a letter.
    fn skip(&self, here: &mut [bool]) {
        for (at, token) in (0_usize..).zip(&self.0) {
            let on = here.get(at).copied().unwrap_or(false);
            match token {
                Token::Some | Token::All => set(here, at.saturating_add(1), on),
                Token::Maybe => {
                    set(here, at.saturating_add(1), on);
                    set(here, at.saturating_add(2), on);
                }
                _ => {}
            }
        }
    }
}

fn set(places: &mut [bool], at: usize, on: bool) {
    if let Some(place) = places.get_mut(at) {
        *place |= on;
    }
}

impl Token {
    /// Whether a letter leaves one before this token, and whether it leads after it.
    fn take(&self, letter: char) -> (bool, bool) {
        match self {
            Self::Literal(literal) => (false, *literal == letter),
            Self::One => (false, letter != '/'),
            Self::Some => (letter != '/', false),
            Self::All => (true, false),
            Self::Maybe => (false, false),
            Self::Directories => (true, letter == '/'),
            Self::Class { negated, ranges } => {
                let within = |(low, high): &(char, char)| (*low..=*high).contains(&letter);
                let found = ranges.iter().any(within);
                (false, letter != '/' && found != *negated)
            }
        }
    }
}

/// What follows a `[`, up to its `]`.
fn class(left: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = left.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match left.next()? {
            ']' if !ranges.is_empty() => return Some(Token::Class { negated, ranges }),
            '\\' => left.next()?,
            ']' | '-' => return None,
            letter => letter,
        };
        let high = match left.next_if_eq(&'-') {
            None => low,
            Some(_) => match left.next()? {
                '\\' => left.next()?,
                ']' | '-' => return None,
                letter => letter,
            },
        };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str, deep: bool) -> bool {
        Glob::new(pattern, deep).unwrap().matches(text)
    }

    #[test]
    fn patterns_match_as_go_does() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*", "axbxcxdxexxx", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("a**b", "axb", true),
        ] {
            assert_eq!(matches(pattern, text, false), expected, "{pattern} {text}");
        }
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "a\\", "[a-b-c]",
        ] {
            assert!(Glob::new(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_stars_cross_directories() {
        for (pattern, text, expected) in [
            ("**", "a/b", true),
            ("**/a", "a", true),
            ("**/a", "x/y/a", true),
            ("**/a", "xa", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("**/*.go", "x/y.go", true),
            ("**/*.go", "y.go", true),
            ("a**/b", "ax/b", true),
        ] {
            assert_eq!(matches(pattern, text, true), expected, "{pattern} {text}");
        }
    }

    /// As simple as it can be, and as slow.
    fn oracle(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => {
                oracle(rest, text)
                    || matches!(text, [letter, more @ ..] if *letter != '/' && oracle(pattern, more))
            }
            (['?', rest @ ..], [letter, more @ ..]) => *letter != '/' && oracle(rest, more),
            ([one, rest @ ..], [other, more @ ..]) => one == other && oracle(rest, more),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_trying_everything_finds(
            pattern in "[ab/*?]{0,8}",
            text in "[ab/]{0,8}",
        ) {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(
                matches(&pattern, &text, false),
                oracle(&letters(&pattern), &letters(&text))
            );
        }

        #[test]
        fn any_pattern_matches_or_is_refused(pattern in ".{0,20}", text in ".{0,20}", deep: bool) {
            if let Ok(glob) = Glob::new(&pattern, deep) {
                prop_assert!(!glob.matches(&text) || glob.may_begin(&text));
            }
        }
    }
}
