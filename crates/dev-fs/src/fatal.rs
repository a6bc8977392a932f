//! What virtiofsd has to say, and panics.

use log::{LevelFilter, Log, Metadata, Record};

/// The device's log. What virtiofsd says of requests is below the level of a warning, so that a guest
/// cannot flood it.
struct Warnings;

impl Log for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= LevelFilter::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            ::device::report(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Takes over virtiofsd's log and its panics. A thread that panics takes the process along, also
/// where panics unwind: else the queue that it served would stand still for good.
///
/// # Errors
/// If there is a logger already.
pub(crate) fn install() -> Result<(), log::SetLoggerError> {
    log::set_logger(&Warnings)?;
    log::set_max_level(LevelFilter::Warn);
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        exit_failed();
    }));
    Ok(())
}

/// Ends the process as failed, from a place that has nobody to return an error to.
#[expect(clippy::exit, reason = "the device is one process, and it is over")]
fn exit_failed() -> ! {
    std::process::exit(1)
}
