//! virtiofsd's log records, to standard error; some of them end the process.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// The module in which virtiofsd handles queues. Each of its errors means that a queue cannot be
/// served any more: a broken available ring, which it would go on reading as fast as it can, or a
/// malformed descriptor chain, after which it exits by itself.
const QUEUES: &str = "virtiofsd::vhost_user";

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let _ = writeln!(std::io::stderr(), "{}", record.args());
        if record.level() == Level::Error && record.target() == QUEUES {
            crate::exit_failed();
        }
    }

    fn flush(&self) {}
}

/// Takes over the log, if nobody has. virtiofsd's chatter about guests' mistakes stays out.
pub(crate) fn install() -> Result<(), log::SetLoggerError> {
    log::set_logger(&Stderr)?;
    log::set_max_level(LevelFilter::Warn);
    Ok(())
}
