//! What ends the process from within: some of virtiofsd's log records, and panics.

use log::{Level, LevelFilter, Log, Metadata, Record};

/// The module in which virtiofsd handles queues. Each of its errors means that a queue cannot be
/// served any more: a broken available ring, which it would go on reading as fast as it can, or a
/// malformed descriptor chain, after which it exits by itself.
const QUEUES: &str = "virtiofsd::vhost_user";

/// The device's log, which a guest cannot flood.
struct Limited;

impl Log for Limited {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        ::device::report(&record.args().to_string());
        if record.level() == Level::Error && record.target() == QUEUES {
            crate::exit_failed();
        }
    }

    fn flush(&self) {}
}

/// Takes over virtiofsd's log and its panics. A thread that panics takes the process along, also
/// where panics unwind: else the queue that it served would stand still for good.
///
/// # Errors
/// If there is a logger already: without this one, a broken queue would not end the process.
pub(crate) fn install() -> Result<(), log::SetLoggerError> {
    log::set_logger(&Limited)?;
    log::set_max_level(LevelFilter::Warn);
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        crate::exit_failed();
    }));
    Ok(())
}
