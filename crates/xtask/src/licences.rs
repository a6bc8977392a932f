//! Licence expressions (SPDX, annex D): what a crate's terms leave us to choose.

/// Whether the expression can be met with `allowed` alone. `OR` and its older form `/` let us
/// choose, `AND` does not. What cannot be parsed is not met.
pub(crate) fn met(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut parser = Parser {
        words: spaced.split_whitespace().collect(),
        allowed,
    };
    parser.words.reverse();
    let result = parser.any();
    result == Some(true) && parser.words.is_empty()
}

/// The words that are left, the next one last.
struct Parser<'a> {
    words: Vec<&'a str>,
    allowed: &'a [&'a str],
}

impl Parser<'_> {
    fn accept(&mut self, word: &str) -> bool {
        let found = self.words.last() == Some(&word);
        if found {
            self.words.pop();
        }
        found
    }

    /// Alternatives.
    fn any(&mut self) -> Option<bool> {
        let mut met = self.all()?;
        while self.accept("OR") {
            met |= self.all()?;
        }
        Some(met)
    }

    /// Conjunctions, which bind closer.
    fn all(&mut self) -> Option<bool> {
        let mut met = self.one()?;
        while self.accept("AND") {
            met &= self.one()?;
        }
        Some(met)
    }

    fn one(&mut self) -> Option<bool> {
        if self.accept("(") {
            let met = self.any()?;
            return self.accept(")").then_some(met);
        }
        let mut name = self.words.pop()?.to_owned();
        if self.accept("WITH") {
            name = format!("{name} WITH {}", self.words.pop()?);
        }
        Some(self.allowed.contains(&name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] = &[
        "MIT",
        "Apache-2.0",
        "BSD-3-Clause",
        "Apache-2.0 WITH LLVM-exception",
    ];

    #[test]
    fn one_of_several_licences_is_enough() {
        assert!(met("GPL-3.0 OR MIT", ALLOWED));
        assert!(met("GPL-3.0/MIT", ALLOWED));
        assert!(met("CC0-1.0 OR Apache-2.0 WITH LLVM-exception", ALLOWED));
    }

    #[test]
    fn all_of_several_licences_are_needed() {
        assert!(met("Apache-2.0 AND BSD-3-Clause", ALLOWED));
        assert!(!met("Apache-2.0 AND GPL-3.0", ALLOWED));
        assert!(!met("(MIT OR Apache-2.0) AND Unicode-3.0", ALLOWED));
        assert!(!met("GPL-3.0 AND (MIT OR Apache-2.0)", ALLOWED));
    }

    #[test]
    fn nonsense_is_not_met() {
        for text in ["", "OR", "MIT OR", "(MIT", "MIT)", "MIT MIT", "WITH MIT"] {
            assert!(!met(text, ALLOWED), "{text}");
        }
    }
}
