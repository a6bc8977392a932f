//! Progress of what is fetched, unpacked and sent: bars on a terminal, lines elsewhere.

use std::{
    collections::HashMap,
    io::{self, IsTerminal},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crumble::image::{Item, Progress, Step};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

const STYLE: &str = "{prefix:>9} {msg:12} [{bar:30}] {bytes:>10}/{total_bytes:<10} \
    {bytes_per_sec:>11} {eta:>4}";

/// Bars, one for each step of each layer that is under way.
pub(crate) struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<(u8, usize), ProgressBar>>,
    lines: bool,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            bars: Mutex::default(),
            lines: !io::stderr().is_terminal(),
        }
    }

    fn bars(&self) -> MutexGuard<'_, HashMap<(u8, usize), ProgressBar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, item: &Item, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.bars().get(&key(item)) {
            act(bar);
        }
    }

    fn say(&self, text: &str) {
        if self.lines {
            eprintln!("crumble: {text}");
        } else {
            // It fails if the terminal is gone, and then nobody reads it.
            let _ = self.all.println(format!("crumble: {text}"));
        }
    }
}

const fn key(item: &Item) -> (u8, usize) {
    (item.step as u8, item.index)
}

const fn verb(step: Step) -> &'static str {
    match step {
        Step::Download => "fetching",
        Step::Unpack => "unpacking",
        Step::Upload => "sending",
    }
}

/// The beginning of a digest, enough to tell it from others.
fn short(item: &Item) -> String {
    item.digest.hex().chars().take(12).collect()
}

impl Progress for Bars {
    fn begin(&self, item: &Item) {
        if self.lines {
            let (number, count) = (item.index.saturating_add(1), item.count);
            let (verb, size) = (verb(item.step), indicatif::HumanBytes(item.total));
            eprintln!("crumble: {verb} layer {number} of {count} ({size})");
            return;
        }
        let bar = self.all.add(ProgressBar::new(item.total));
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(verb(item.step));
        bar.set_message(short(item));
        self.bars().insert(key(item), bar);
    }

    fn advance(&self, item: &Item, done: u64) {
        self.with(item, |bar| bar.set_position(done));
    }

    fn waiting(&self, item: &Item) {
        self.with(item, |bar| bar.set_prefix("waiting"));
        if self.lines {
            self.say(&format!("somebody else is fetching {}", short(item)));
        }
    }

    fn end(&self, item: &Item) {
        if let Some(bar) = self.bars().remove(&key(item)) {
            bar.finish_and_clear();
        }
    }

    fn retry(&self, reason: &str, wait: Duration) {
        let wait = humantime::format_duration(wait);
        self.say(&format!("{reason}; trying again in {wait}"));
    }
}
