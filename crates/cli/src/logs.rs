//! `crumble logs`.

use std::{
    collections::VecDeque,
    io::{self, Write},
    process::ExitCode,
    thread,
    time::Duration,
};

use detached::{Handle, Line, Reader, Stream};

use crate::{
    arguments::Logs,
    report::{Failure, system},
};

/// How often is looked whether there is more.
const PERIOD: Duration = Duration::from_millis(100);

/// Prints what a machine's command wrote to the stream that it wrote it to.
pub(crate) fn logs(options: &Logs) -> Result<ExitCode, Failure> {
    let handle = Handle::open(&options.name)?;
    let mut reader = handle.log()?;
    let mut printer = Printer::new(options.timestamps);
    let mut last = VecDeque::new();
    while let Some(line) = reader.next_line()? {
        let Some(most) = options.tail else {
            printer.print(&line)?;
            continue;
        };
        last.push_back(line);
        while whole(&last) > most {
            last.pop_front();
        }
    }
    last.iter().try_for_each(|line| printer.print(line))?;
    if options.follow {
        follow(&handle, &mut reader, &mut printer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what is added until the machine has ended.
fn follow(handle: &Handle, reader: &mut Reader, printer: &mut Printer) -> Result<(), Failure> {
    loop {
        // What was written before it ended is there when it has.
        let runs = handle.directory().is_running()?;
        while let Some(line) = reader.next_line()? {
            printer.print(&line)?;
        }
        if !runs {
            return Ok(());
        }
        thread::sleep(PERIOD);
    }
}

/// How many lines these are: one that does not end goes on in the next.
fn whole(lines: &VecDeque<Line>) -> usize {
    let ends = lines.iter().filter(|line| line.text.ends_with(b"\n"));
    let open = lines.back().is_some_and(|line| !line.text.ends_with(b"\n"));
    ends.count().saturating_add(usize::from(open))
}

/// Prints lines to the streams that they were written to.
pub(crate) struct Printer {
    timestamps: bool,
    /// Whether the next thing begins a line, on standard output and error.
    at_start: [bool; 2],
}

impl Printer {
    pub(crate) const fn new(timestamps: bool) -> Self {
        Self {
            timestamps,
            at_start: [true; 2],
        }
    }

    pub(crate) fn print(&mut self, line: &Line) -> Result<(), Failure> {
        let [out, err] = &mut self.at_start;
        let printed = match line.stream {
            Stream::Stdout => write(io::stdout(), line, self.timestamps && *out),
            Stream::Stderr => write(io::stderr(), line, self.timestamps && *err),
        };
        let at_start = match line.stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
        };
        *at_start = line.text.ends_with(b"\n");
        printed.map_err(system("print the log"))
    }
}

fn write(mut to: impl Write, line: &Line, with_time: bool) -> io::Result<()> {
    if with_time {
        write!(to, "{} ", line.time)?;
    }
    to.write_all(&line.text)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_goes_on_is_one() {
        let line = |text: &str| Line {
            time: String::new(),
            stream: Stream::Stdout,
            text: text.into(),
        };
        let lines = |texts: &[&str]| whole(&texts.iter().map(|text| line(text)).collect());
        assert_eq!(lines(&[]), 0);
        assert_eq!(lines(&["a\n", "b\n"]), 2);
        assert_eq!(lines(&["a", "b\n", "c"]), 2);
    }
}
