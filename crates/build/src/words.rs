//! Words: how they are separated, what is quoted, and what variables stand for.
//!
//! Dockerfile reference, "Environment replacement".

/// How deep one `${a:-${b:-...}}` may be in another.
const DEEPEST: usize = 32;

/// How much of a text is in an error, in letters.
const SHOWN: usize = 80;

/// What separates an instruction's words, quotes and escapes left in them.
pub(crate) fn fields(text: &str, escape: char) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, more) = rest.split_at(field_end(rest, escape));
        found.push(word);
        rest = more.trim_start();
    }
    found
}

/// Where the first word ends.
pub(crate) fn field_end(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match quote {
            None if letter.is_whitespace() => return at,
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            Some(open) if letter == open => quote = None,
            // Between single quotes nothing escapes.
            _ if letter == escape && quote != Some('\'') => {
                letters.next();
            }
            _ => {}
        }
    }
    text.len()
}

/// Replaces what stands for something else.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    escape: char,
    /// Whether quotes are quotes; in here-documents they are not.
    quotes: bool,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// A letter, and whether it was quoted.
type Letter = (char, bool);

impl<'a> Words<'a> {
    pub(crate) fn new(escape: char, lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            escape,
            quotes: true,
            lookup,
        }
    }

    /// For the contents of a here-document.
    pub(crate) fn of_heredoc(self) -> Self {
        Self {
            escape: '\\',
            quotes: false,
            ..self
        }
    }

    /// What a text stands for, as one word.
    pub(crate) fn word(self, text: &str) -> Result<String, String> {
        let letters = self.letters(text)?;
        Ok(letters.into_iter().map(|(letter, _)| letter).collect())
    }

    /// What a text stands for, separated at white space that is not quoted.
    pub(crate) fn all(self, text: &str) -> Result<Vec<String>, String> {
        let letters = self.letters(text)?;
        let words = letters.split(|(letter, quoted)| letter.is_whitespace() && !quoted);
        let words = words.filter(|word| !word.is_empty());
        Ok(words
            .map(|word| word.iter().map(|(letter, _)| letter).collect())
            .collect())
    }

    fn letters(self, text: &str) -> Result<Vec<Letter>, String> {
        let mut expansion = Expansion {
            words: self,
            left: text.chars().peekable(),
            depth: 0,
        };
        expansion
            .until(None)
            .map_err(|reason| format!("{reason} in {}", shown(text)))
    }
}

struct Expansion<'a> {
    words: Words<'a>,
    left: std::iter::Peekable<std::str::Chars<'a>>,
    depth: usize,
}

impl Expansion<'_> {
    /// Everything up to `end`, which is taken.
    fn until(&mut self, end: Option<char>) -> Result<Vec<Letter>, String> {
        let mut found = Vec::new();
        while let Some(letter) = self.left.next() {
            match letter {
                _ if Some(letter) == end => return Ok(found),
                '$' => found.extend(quoted(self.variable()?, false)),
                '\'' if self.words.quotes => self.single(&mut found)?,
                '"' if self.words.quotes => self.double(&mut found)?,
                _ if letter == self.words.escape => self.escaped(&mut found),
                _ => found.push((letter, false)),
            }
        }
        match end {
            None => Ok(found),
            Some(end) => Err(format!("\"{end}\" is missing")),
        }
    }

    fn escaped(&mut self, found: &mut Vec<Letter>) {
        let escape = self.words.escape;
        match self.left.peek().copied() {
            // As a shell does in a here-document.
            Some(next) if !self.words.quotes && next != '$' && next != escape => {
                found.push((escape, true));
            }
            Some(next) => {
                self.left.next();
                found.push((next, true));
            }
            // At the end there is nothing to escape.
            None => {}
        }
    }

    fn single(&mut self, found: &mut Vec<Letter>) -> Result<(), String> {
        for letter in self.left.by_ref() {
            if letter == '\'' {
                return Ok(());
            }
            found.push((letter, true));
        }
        Err("a closing ' is missing".to_owned())
    }

    fn double(&mut self, found: &mut Vec<Letter>) -> Result<(), String> {
        while let Some(letter) = self.left.next() {
            match letter {
                '"' => return Ok(()),
                '$' => found.extend(quoted(self.variable()?, true)),
                _ if letter == self.words.escape => {
                    let special = |next: &char| ['"', '$', letter].contains(next);
                    let next = self.left.next_if(special);
                    found.push((next.unwrap_or(letter), true));
                }
                _ => found.push((letter, true)),
            }
        }
        Err("a closing \" is missing".to_owned())
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if self.left.next_if_eq(&'{').is_some() {
            return self.braces();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok((self.words.lookup)(&name).unwrap_or_default())
    }

    /// A name, or one of the letters that a shell has for its arguments, which are none here.
    fn name(&mut self) -> String {
        let special = |letter: &char| letter.is_ascii_digit() || "@*#?!".contains(*letter);
        if let Some(special) = self.left.next_if(special) {
            return special.to_string();
        }
        let mut name = String::new();
        let part = |letter: &char| *letter == '_' || letter.is_ascii_alphanumeric();
        while let Some(letter) = self.left.next_if(part) {
            name.push(letter);
        }
        name
    }

    /// What follows `${`.
    fn braces(&mut self) -> Result<String, String> {
        let name = self.name();
        if name.is_empty() {
            return Err("${} names no variable".to_owned());
        }
        let value = (self.words.lookup)(&name);
        let empty_is_unset = self.left.next_if_eq(&':').is_some();
        let value = value.filter(|value| !empty_is_unset || !value.is_empty());
        let operator = self.left.next();
        if operator == Some('}') && !empty_is_unset {
            return Ok(value.unwrap_or_default());
        }
        let unsupported = |operator: char| {
            format!("${{{name}{operator}...}} is not supported; of these there are :- - :+ + :? ?")
        };
        let operator = match operator {
            Some(operator @ ('-' | '+' | '?')) => operator,
            None => return Err("\"}\" is missing".to_owned()),
            Some(other) => return Err(unsupported(other)),
        };
        let word = self.nested()?;
        match (operator, value) {
            ('-', value) => Ok(value.unwrap_or(word)),
            ('+', value) => Ok(value.map(|_| word).unwrap_or_default()),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(format!("the variable {name} is not set: {word}")),
        }
    }

    /// The word up to the closing brace.
    fn nested(&mut self) -> Result<String, String> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > DEEPEST {
            return Err("too many ${...} in each other".to_owned());
        }
        let letters = self.until(Some('}'))?;
        self.depth = self.depth.saturating_sub(1);
        Ok(letters.into_iter().map(|(letter, _)| letter).collect())
    }
}

/// The beginning of a text, for people.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
    }
}

fn quoted(text: String, quoted: bool) -> Vec<Letter> {
    text.chars().map(|letter| (letter, quoted)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "foo" => "/bar",
            "empty" => "",
            "two" => "a b",
            "UNICODE_ß" => "no",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn word(text: &str) -> Result<String, String> {
        Words::new('\\', &lookup).word(text)
    }

    #[test]
    fn words_are_replaced_as_the_reference_says() {
        for (text, expected) in [
            ("$foo", "/bar"),
            ("${foo}", "/bar"),
            ("\\$foo", "$foo"),
            ("\\${foo}", "${foo}"),
            ("${foo}_$foo", "/bar_/bar"),
            ("a$foo.b", "a/bar.b"),
            ("${foo:-word}", "/bar"),
            ("${none:-word}", "word"),
            ("${empty:-word}", "word"),
            ("${empty-word}", ""),
            ("${none-word}", "word"),
            ("${foo:+word}", "word"),
            ("${none:+word}", ""),
            ("${empty:+word}", ""),
            ("${empty+word}", "word"),
            ("${none:-${foo}}", "/bar"),
            ("${none:-${nor:-x}}y", "xy"),
            ("${none:-'}'}", "}"),
            ("${foo:?why}", "/bar"),
            ("$none", ""),
            ("${none}x", "x"),
            ("'$foo'", "$foo"),
            ("\"$foo\"", "/bar"),
            ("\"\\$foo\"", "$foo"),
            ("\"\\\"a\\\"\\n\"", "\"a\"\\n"),
            ("\"'$foo'\"", "'/bar'"),
            ("a\\ b", "a b"),
            ("$", "$"),
            ("a$.b$", "a$.b$"),
            ("$1x", "x"),
            ("$$foo", "$/bar"),
            ("ß$foo", "ß/bar"),
            ("a\\", "a"),
        ] {
            assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_refused_with_the_text() {
        for (text, part) in [
            ("${foo", "\"}\" is missing"),
            ("${}", "names no variable"),
            ("${foo:-a", "\"}\" is missing"),
            ("'a", "closing '"),
            ("\"a", "closing \""),
            ("${none:?gone}", "none is not set: gone"),
            ("${foo#a}", "not supported"),
            ("${foo:}", "not supported"),
        ] {
            let message = word(text).unwrap_err();
            assert!(
                message.contains(part) && message.contains(text),
                "{message}"
            );
        }
        assert!(word(&"${none:-".repeat(100_000)).is_err());
    }

    #[test]
    fn a_variable_of_two_words_is_two_words_unless_it_is_quoted() {
        let all = |text| Words::new('\\', &lookup).all(text).unwrap();
        assert_eq!(all("$two \"$two\" c\\ d"), ["a", "b", "a b", "c d"]);
        assert_eq!(
            Words::new('`', &lookup).word("a\\b`$foo").unwrap(),
            "a\\b$foo"
        );
    }

    #[test]
    fn quotes_are_letters_in_a_here_document() {
        let text = "it's \"$foo\" \\$foo \\n \\\\";
        assert_eq!(
            Words::new('`', &lookup).of_heredoc().word(text).unwrap(),
            "it's \"/bar\" $foo \\n \\"
        );
    }

    #[test]
    fn fields_keep_their_quotes() {
        assert_eq!(
            fields(" a=\"b c\" d\\ e 'f\\' g", '\\'),
            ["a=\"b c\"", "d\\ e", "'f\\'", "g"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_replaced_or_refused(text in "[$\\{\\}:+?a-f'\"\\\\ -]{0,40}") {
            let _ = word(&text);
            let _ = Words::new('\\', &lookup).of_heredoc().word(&text);
            let joined: usize = fields(&text, '\\').iter().map(|field| field.len()).sum();
            prop_assert!(joined <= text.len());
        }

        #[test]
        fn plain_text_stands_for_itself(text in "[a-z0-9/.:_-]{0,40}") {
            prop_assert_eq!(word(&text), Ok(text));
        }
    }
}
