//! How the code stands to the house's aims.
//!
//! The code is formatted by rustfmt, so lines tell enough: a function ends with the brace that has
//! its indentation, and the tests of a file follow `#[cfg(test)]` in its first column.

use std::{fs, path::Path};

use crate::{
    error::{Error, Result, file},
    metadata::Metadata,
};

/// Aims, in lines.
const LONG_FUNCTION: usize = 60;
const LONG_FILE: usize = 600;
const LARGE_CRATE: usize = 4000;

/// What a reader finishes in an afternoon, together under 8,000 lines.
const AFTERNOON: &[&str] = &["vmm", "hv-kvm", "pci", "boot"];

/// A file, measured.
#[derive(Debug, Default, PartialEq, Eq)]
struct Measured {
    /// Lines that are neither blank nor comments, without tests.
    code: usize,
    /// The same of its tests.
    tests: usize,
    /// Names, first lines and lengths of functions outside tests.
    functions: Vec<(String, usize, usize)>,
    /// Lines of `unsafe` blocks and implementations without a SAFETY comment before them.
    unexplained: Vec<usize>,
    /// `unsafe` blocks and implementations.
    unsafes: usize,
}

/// Prints the table and what misses an aim. Aims are not rules: the exit code is 0.
pub(crate) fn print() -> Result {
    let metadata = Metadata::read()?;
    println!(
        "{:<14} {:>6} {:>6} {:>6} {:>7}",
        "crate", "code", "tests", "fns", "unsafe"
    );
    let mut misses = Vec::new();
    let (mut afternoon, mut functions, mut long) = (0, 0, 0);
    for package in metadata.ours() {
        let manifest = Path::new(&package.manifest_path);
        let files = measure_crate(manifest.parent().unwrap_or(manifest))?;
        let sum = |of: fn(&Measured) -> usize| files.iter().map(|(_, m)| of(m)).sum::<usize>();
        let code = sum(|m| m.code);
        println!(
            "{:<14} {:>6} {:>6} {:>6} {:>7}",
            package.name,
            code,
            sum(|m| m.tests),
            sum(|m| m.functions.len()),
            sum(|m| m.unsafes),
        );
        if code > LARGE_CRATE {
            misses.push(format!("{}: {code} lines in one crate", package.name));
        }
        if AFTERNOON.contains(&package.name.as_str()) {
            afternoon += code;
        }
        functions += sum(|m| m.functions.len());
        long += sum(|m| m.functions.iter().filter(|f| f.2 > LONG_FUNCTION).count());
        misses.extend(files.iter().flat_map(|(path, m)| file_misses(path, m)));
    }
    let share = 100.0 * as_f64(long) / as_f64(functions.max(1));
    println!("\n{functions} functions, {long} over {LONG_FUNCTION} lines ({share:.1}%, aim 1.5%)");
    println!("{}: {afternoon} lines (aim 8000)", AFTERNOON.join(" + "));
    for miss in misses {
        println!("{miss}");
    }
    Ok(0)
}

fn as_f64(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

fn file_misses(path: &str, measured: &Measured) -> Vec<String> {
    let mut misses = Vec::new();
    if measured.code > LONG_FILE {
        misses.push(format!("{path}: {} lines of code", measured.code));
    }
    for (name, line, length) in &measured.functions {
        if *length > LONG_FUNCTION {
            misses.push(format!("{path}:{line}: `{name}` has {length} lines"));
        }
    }
    for line in &measured.unexplained {
        misses.push(format!("{path}:{line}: unsafe without SAFETY"));
    }
    misses
}

/// All Rust files of a crate, with their paths.
fn measure_crate(directory: &Path) -> Result<Vec<(String, Measured)>> {
    let mut found = Vec::new();
    for name in ["src", "build", "build.rs", "tests", "benches", "examples"] {
        walk(&directory.join(name), &mut |path| {
            let text = fs::read_to_string(path).map_err(file("read", path))?;
            let mut measured = measure(&text);
            if !matches!(name, "src" | "build" | "build.rs") {
                measured.tests += std::mem::take(&mut measured.code);
                measured.functions.clear();
            }
            let short = path.strip_prefix(testbed::workspace()).unwrap_or(path);
            found.push((short.display().to_string(), measured));
            Ok(())
        })?;
    }
    Ok(found)
}

fn walk(path: &Path, found: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(file("list", path))? {
            walk(&entry.map_err(file("list", path))?.path(), found)?;
        }
        return Ok(());
    }
    if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
        return found(path);
    }
    Ok::<(), Error>(())
}

fn measure(text: &str) -> Measured {
    let lines: Vec<&str> = text.lines().collect();
    let mut measured = Measured::default();
    let tests = lines
        .windows(2)
        .position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        })
        .unwrap_or(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let words = line.trim();
        let counts = !words.is_empty() && !words.starts_with("//");
        if index >= tests {
            measured.tests += usize::from(counts);
            continue;
        }
        measured.code += usize::from(counts);
        if let Some(name) = function_name(words)
            && let Some(length) = block_length(&lines[index..tests])
        {
            measured
                .functions
                .push((name.to_owned(), index + 1, length));
        }
        if is_unsafe(words) {
            measured.unsafes += 1;
            if !explained(&lines[..index]) {
                measured.unexplained.push(index + 1);
            }
        }
    }
    measured
}

/// The name, if a function begins here.
fn function_name(words: &str) -> Option<&str> {
    let mut rest = words;
    for prefix in [
        "pub(crate) ",
        "pub(super) ",
        "pub ",
        "const ",
        "unsafe ",
        "extern \"C\" ",
    ] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

/// The lines up to the brace with the first line's indentation; none if there is no body.
fn block_length(lines: &[&str]) -> Option<usize> {
    let first = lines.first()?;
    let indentation = &first[..first.len() - first.trim_start().len()];
    if first.ends_with('}') {
        return Some(1);
    }
    for (index, line) in lines.iter().enumerate() {
        let rest = line.strip_prefix(indentation)?.trim_end();
        if rest == "}" {
            return Some(index + 1);
        }
        // A trait's method without a body.
        let body_or_more =
            index == 0 || rest.starts_with([' ', ')', 'w', '{']) || line.trim().is_empty();
        if !body_or_more || (rest.ends_with(';') && !rest.starts_with(' ')) {
            return None;
        }
    }
    None
}

fn is_unsafe(words: &str) -> bool {
    // In a string it is only a word.
    let code = words.split('"').next().unwrap_or_default();
    !code.starts_with("//") && (code.contains("unsafe {") || code.starts_with("unsafe impl"))
}

/// Whether the comment right above, or above the statement's other lines, says SAFETY.
fn explained(before: &[&str]) -> bool {
    let recent = before.iter().rev().take(8);
    let mut comment = recent.skip_while(|line| !line.trim_start().starts_with("//"));
    comment.any(|line| line.contains("SAFETY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
//! Words.

/// A function.
pub(crate) const fn one(
    a: u8,
) -> u8 {
    // SAFETY: it is.
    unsafe { two(a) }
}

trait T {
    fn three(&self);
    fn four(&self) {
        five()
    }
}

fn six() {
    unsafe { seven() }
}

#[cfg(test)]
mod tests {
    fn eight() {}
}
";

    #[test]
    fn functions_are_found_with_their_lengths() {
        let found = measure(TEXT).functions;
        let expected = [("one", 4, 6), ("four", 13, 3), ("six", 18, 3)];
        let expected = expected.map(|(name, line, length)| (name.to_owned(), line, length));
        assert_eq!(found, expected);
    }

    #[test]
    fn unsafe_without_a_reason_is_found() {
        let measured = measure(TEXT);
        assert_eq!(measured.unsafes, 2);
        assert_eq!(measured.unexplained, [19]);
    }

    #[test]
    fn tests_are_counted_apart_and_comments_not() {
        let measured = measure(TEXT);
        assert_eq!((measured.code, measured.tests), (14, 4));
    }
}
