//! `--chmod`: permissions in digits or in letters (POSIX `chmod`, "Extended description").

/// A change of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chmod {
    Exactly(u32),
    Clauses(Vec<Clause>),
}

/// One of `u+x,g-w`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// The bits of those that are meant, the special ones among them.
    who: u32,
    operator: char,
    /// The bits of `rwxst` for everybody.
    bits: u32,
    /// `X`: may be run if it is a directory, or by anybody already.
    if_executable: bool,
}

impl Chmod {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "--chmod={text} is no mode; write digits as in 755, or letters as in u=rwX,go=rX"
            )
        };
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777);
            return mode.map(Self::Exactly).ok_or_else(bad);
        }
        let clauses: Option<Vec<Clause>> = text.split(',').map(Clause::parse).collect();
        clauses.map(Self::Clauses).ok_or_else(bad)
    }

    /// The permissions that come of these.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Exactly(mode) => *mode,
            Self::Clauses(clauses) => clauses
                .iter()
                .fold(mode, |mode, clause| clause.apply(mode, directory)),
        }
    }
}

impl Clause {
    fn parse(text: &str) -> Option<Self> {
        let at = text.find(['+', '-', '='])?;
        let (who, rest) = text.split_at(at);
        let mut letters = rest.chars();
        let operator = letters.next()?;
        let mut clause = Self {
            who: if who.is_empty() { 0o7777 } else { 0 },
            operator,
            bits: 0,
            if_executable: false,
        };
        for letter in who.chars() {
            clause.who |= match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        for letter in letters {
            clause.bits |= match letter {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                's' => 0o6000,
                't' => 0o1000,
                'X' => {
                    clause.if_executable = true;
                    0
                }
                _ => return None,
            };
        }
        Some(clause)
    }

    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let run = self.if_executable && (directory || mode & 0o111 != 0);
        let bits = (self.bits | if run { 0o111 } else { 0 }) & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !self.who | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_letters_mean_what_chmod_says() {
        for (text, before, directory, after) in [
            ("755", 0o600, false, 0o755),
            ("4755", 0, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("u=rwX,go=rX", 0o666, false, 0o644),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o711, false, 0o755),
            ("g+s,o+t", 0o755, true, 0o3755),
            ("go=", 0o777, false, 0o700),
        ] {
            let chmod = Chmod::parse(text).unwrap();
            assert_eq!(chmod.apply(before, directory), after, "{text}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused_with_an_example() {
        for bad in [
            "", "888", "77777", "x", "u", "u+z", "z+x", "755,u+x", "u+x,",
        ] {
            assert!(Chmod::parse(bad).unwrap_err().contains("755"), "{bad}");
        }
    }
}
