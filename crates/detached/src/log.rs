//! What a machine's command has written, line by line with its time and its stream, as Kubernetes'
//! container runtimes have it:
//!
//! ```text
//! 2026-11-27T06:40:00.123456789Z stdout F a whole line
//! 2026-11-27T06:40:01.123456789Z stderr P the beginning of one
//! ```
//!
//! A file that has grown large gets another name, and the one that had that name before is gone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{Error, file};

/// Two files of this size at most are kept, in bytes.
const LARGE: u64 = 16 << 20;

/// What a line may have: more is several lines that do not end.
const LONGEST: usize = 16 << 10;

/// Where something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A file that has a successor when it is large.
#[derive(Debug)]
pub(crate) struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    large: u64,
}

impl Rotating {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        Ok(Self {
            path: path.to_owned(),
            size: file.metadata()?.len(),
            file,
            large: LARGE,
        })
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, older(&self.path))?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// All that is given at once is in one file.
impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size >= self.large {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        let added = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.size = self.size.saturating_add(added);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("1")
}

/// The lines of `bytes`, which a command wrote to `stream`.
pub(crate) fn lines(stream: Stream, time: SystemTime, bytes: &[u8]) -> Vec<u8> {
    let time = humantime::format_rfc3339_nanos(time);
    let mut lines = Vec::new();
    let mut begin = |tag: char, text: &[u8]| {
        let head = format!("{time} {} {tag} ", stream.name());
        lines.extend_from_slice(head.as_bytes());
        lines.extend_from_slice(text);
        lines.push(b'\n');
    };
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (text, is_full) = match line.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (line, false),
        };
        let mut pieces = text.chunks(LONGEST).peekable();
        if pieces.peek().is_none() {
            begin('F', &[]);
        }
        while let Some(piece) = pieces.next() {
            let is_last = is_full && pieces.peek().is_none();
            begin(if is_last { 'F' } else { 'P' }, piece);
        }
    }
    lines
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was written, as RFC 3339 has it.
    pub time: String,
    /// Where to.
    pub stream: Stream,
    /// What, with the end of the line unless it goes on.
    pub text: Vec<u8>,
}

impl Line {
    /// The line that these bytes are, with their end; none if they are no line of a log.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.strip_suffix(b"\n")?.splitn(4, |byte| *byte == b' ');
        let time = str::from_utf8(fields.next()?).ok()?.to_owned();
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let tag = fields.next()?;
        let mut text = fields.next()?.to_vec();
        match tag {
            b"F" => text.push(b'\n'),
            b"P" => {}
            _ => return None,
        }
        Some(Self { time, stream, text })
    }
}

/// Reads a log from its beginning, also while it is written.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// The newer file is being read.
    is_newest: bool,
    /// A line that is not written to its end yet.
    unfinished: Vec<u8>,
}

impl Reader {
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let mut reader = Self {
            file: existing(&older(&path))?,
            path,
            is_newest: false,
            unfinished: Vec::new(),
        };
        reader.advance()?;
        Ok(reader)
    }

    /// The next line, if one is written; what is no line of a log is left out.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next_line(&mut self) -> Result<Option<Line>, Error> {
        loop {
            let Some(file) = &mut self.file else {
                self.advance()?;
                if self.file.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let read = file.read_until(b'\n', &mut self.unfinished);
            read.map_err(crate::file("read", &self.path))?;
            if self.unfinished.last() == Some(&b'\n') {
                let line = Line::parse(&self.unfinished);
                self.unfinished.clear();
                match line {
                    Some(line) => return Ok(Some(line)),
                    None => continue,
                }
            }
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// At the end of a file: goes on with the one after it, if there is one.
    fn advance(&mut self) -> Result<bool, Error> {
        let ours = self.file.as_ref().and_then(identity);
        let named = existing(&self.path)?;
        if self.is_newest && ours == named.as_ref().and_then(identity) {
            return Ok(false);
        }
        let older = existing(&older(&self.path))?;
        // Of two files that are newer than ours the older one comes first.
        let follows = self.is_newest && ours != older.as_ref().and_then(identity);
        (self.file, self.is_newest) = match older {
            Some(older) if follows && ours.is_some() => (Some(older), false),
            _ => (named, true),
        };
        Ok(self.file.is_some())
    }
}

/// What tells a file from all others as long as it is open.
fn identity(file: &BufReader<File>) -> Option<(u64, u64)> {
    let metadata = file.get_ref().metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn existing(path: &Path) -> Result<Option<BufReader<File>>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file("open", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn read_all(reader: &mut Reader) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            bytes.extend(line.text);
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_byte_for_byte_whatever_it_is(
            pieces in vec(prop_oneof![
                vec(any::<u8>(), 0..100),
                vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..20),
                vec(Just(b'x'), LONGEST - 1..LONGEST * 2 + 2),
            ], 0..20),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let mut log = Rotating::open(&path).unwrap();
            let mut reader = Reader::open(path).unwrap();
            for piece in &pieces {
                log.write_all(&lines(Stream::Stdout, SystemTime::now(), piece)).unwrap();
                prop_assert_eq!(&read_all(&mut reader), piece);
            }
            let mut again = Reader::open(folder.path().join("log")).unwrap();
            prop_assert_eq!(read_all(&mut again), pieces.concat());
        }
    }

    #[test]
    fn a_log_has_two_files_at_most_and_who_follows_it_misses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Rotating::open(&path).unwrap();
        log.large = 1000;
        let mut reader = Reader::open(path.clone()).unwrap();
        let (mut all, mut followed) = (Vec::new(), Vec::new());
        for number in 0..200 {
            let line = format!("line {number}\n");
            all.extend(line.as_bytes());
            log.write_all(&lines(Stream::Stderr, SystemTime::now(), line.as_bytes()))
                .unwrap();
            if number % 25 == 0 {
                followed.extend(read_all(&mut reader));
            }
        }
        followed.extend(read_all(&mut reader));
        assert_eq!(followed, all);
        let mut kept = Reader::open(path).unwrap();
        assert!(all.ends_with(&read_all(&mut kept)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines = "nonsense\n\nT stdout F yes\nT stdin F no\nT stdout X no\nT stderr P y";
        fs::write(&path, lines).unwrap();
        let mut reader = Reader::open(path.clone()).unwrap();
        assert_eq!(read_all(&mut reader), b"yes\n");
        let mut file = append(&path).unwrap();
        file.write_all(b"es\n").unwrap();
        assert_eq!(read_all(&mut reader), b"yes");
    }
}
