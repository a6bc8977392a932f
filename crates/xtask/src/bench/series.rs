//! Numbers of one kind.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    command::words,
    error::{Error, Result},
};

/// Durations of runs that should be equal.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<Duration>);

impl Series {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
        self.0.sort_unstable();
    }

    /// The middle one, the upper of two; zero if there is none.
    pub(crate) fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// `median (fastest .. slowest)` in milliseconds.
    pub(crate) fn show(&self) -> String {
        let ends = self.0.first().zip(self.0.last());
        let (first, last) = ends.map_or_else(Default::default, |(first, last)| (*first, *last));
        format!(
            "{:>6} ({} .. {}) ms",
            self.median().as_millis(),
            first.as_millis(),
            last.as_millis()
        )
    }

    /// This median as a multiple of the other's.
    pub(crate) fn times(&self, other: &Self) -> f64 {
        self.median().as_secs_f64() / other.median().as_secs_f64()
    }
}

/// Numbers that should be equal.
#[derive(Debug, Default, Clone)]
pub(crate) struct Numbers(Vec<f64>);

impl Numbers {
    pub(crate) fn add(&mut self, number: f64) {
        self.0.push(number);
        self.0.sort_unstable_by(f64::total_cmp);
    }

    /// The middle one, the upper of two; zero if there is none.
    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// `median (least .. greatest)`.
    pub(crate) fn show(&self) -> String {
        let ends = self.0.first().zip(self.0.last());
        let (least, greatest) = ends.unwrap_or((&0.0, &0.0));
        format!(
            "{} ({} .. {})",
            short(self.median()),
            short(*least),
            short(*greatest)
        )
    }
}

/// Three digits, or all before the point.
fn short(number: f64) -> String {
    match number {
        ..1.0 => format!("{number:.3}"),
        1.0..10.0 => format!("{number:.2}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// Runs a command that must succeed, and returns how long it took.
pub(crate) fn timed(command: &mut Command) -> Result<Duration> {
    let begin = Instant::now();
    let output = command.output().map_err(|source| Error::Start {
        command: words(command),
        source,
    })?;
    let took = begin.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    Err(Error::Measure {
        what: words(command),
        why: format!(
            "{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(times: &[u64]) -> Series {
        let mut series = Series::default();
        for time in times {
            series.add(Duration::from_millis(*time));
        }
        series
    }

    #[test]
    fn the_median_ignores_one_that_is_out_of_line() {
        let series = series(&[30, 10, 1000, 20, 25]);
        assert_eq!(series.median(), Duration::from_millis(25));
        assert_eq!(series.show(), "    25 (10 .. 1000) ms");
    }

    #[test]
    fn numbers_are_shown_to_three_digits() {
        let mut numbers = Numbers::default();
        for number in [30.0, 0.5, 1000.4, 20.0, 25.25] {
            numbers.add(number);
        }
        assert_eq!(numbers.show(), "25.2 (0.500 .. 1000)");
        assert_eq!(short(4.994), "4.99");
    }

    #[test]
    fn a_ratio_is_of_medians() {
        assert!((series(&[5]).times(&series(&[10])) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_failed_run_is_no_measurement() {
        assert!(timed(Command::new("sh").args(["-c", "exit 1"])).is_err());
        assert!(timed(Command::new("sh").args(["-c", "exit 0"])).is_ok());
    }
}
