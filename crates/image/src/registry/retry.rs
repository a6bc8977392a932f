//! What is tried again, and when.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::Patience;
use crate::{Error, Progress, Result};

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It would fail again.
    Final(Error),
    /// It may succeed.
    Again {
        error: Box<Error>,
        /// When, as the registry asks.
        after: Option<Duration>,
        /// Whether it got on: then patience begins anew.
        moved: bool,
    },
}

impl Failure {
    pub(crate) fn again(error: Error) -> Self {
        Self::Again {
            error: Box::new(error),
            after: None,
            moved: false,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Whoever does something, who looks on, and whether it is still wanted.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub(crate) progress: &'a dyn Progress,
    pub(crate) stop: &'a AtomicBool,
}

impl Watch<'_> {
    /// # Errors
    /// [`Error::Stopped`] if it is not wanted any more.
    pub(crate) fn check(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Stopped),
            false => Ok(()),
        }
    }

    fn sleep(&self, mut rest: Duration) -> Result<()> {
        const SLICE: Duration = Duration::from_millis(50);
        while !rest.is_zero() {
            self.check()?;
            thread::sleep(rest.min(SLICE));
            rest = rest.saturating_sub(SLICE);
        }
        Ok(())
    }
}

/// Does it until it succeeds, fails for good, or patience is at its end.
pub(crate) fn retrying<T>(
    patience: &Patience,
    watch: Watch<'_>,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T> {
    let mut tried: u32 = 0;
    loop {
        watch.check()?;
        let (error, after, moved) = match attempt() {
            Ok(done) => return Ok(done),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again {
                error,
                after,
                moved,
            }) => (error, after, moved),
        };
        tried = if moved { 1 } else { tried.saturating_add(1) };
        if tried >= patience.attempts {
            return Err(*error);
        }
        let doubled = 1_u32
            .checked_shl(tried.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let pause = after.unwrap_or_else(|| patience.pause.saturating_mul(doubled));
        let pause = pause.min(patience.pause_max);
        watch.progress.retry(&error.to_string(), pause);
        watch.sleep(pause)?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Pauses(Mutex<Vec<u64>>);

    impl Progress for Pauses {
        fn retry(&self, _reason: &str, wait: Duration) {
            self.0
                .lock()
                .unwrap()
                .push(u64::try_from(wait.as_millis()).unwrap());
        }
    }

    /// The pauses between attempts that fail so.
    fn pauses(failure: impl Fn(u32) -> Failure) -> Vec<u64> {
        let patience = Patience {
            pause: Duration::from_millis(1),
            pause_max: Duration::from_millis(3),
            ..Patience::default()
        };
        let pauses = Pauses::default();
        let watch = Watch {
            progress: &pauses,
            stop: &AtomicBool::new(false),
        };
        let mut counts = 1..;
        let end = retrying(&patience, watch, || {
            Err::<(), _>(failure(counts.next().unwrap()))
        });
        assert!(matches!(end, Err(Error::Missing(_))));
        pauses.0.into_inner().unwrap()
    }

    fn missing() -> Error {
        Error::Missing(String::new())
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        assert_eq!(pauses(|_| Failure::again(missing())), [1, 2, 3, 3]);
    }

    #[test]
    fn what_the_registry_asks_for_is_done_within_reason() {
        let after = Some(Duration::from_secs(3600));
        let asked = |_| Failure::Again {
            error: Box::new(missing()),
            after,
            moved: false,
        };
        assert_eq!(pauses(asked), [3, 3, 3, 3]);
    }

    #[test]
    fn what_gets_on_is_tried_for_longer_and_what_cannot_succeed_is_not() {
        let moved = |count| Failure::Again {
            error: Box::new(missing()),
            after: None,
            moved: count < 7,
        };
        assert_eq!(pauses(moved), [1, 1, 1, 1, 1, 1, 2, 3, 3]);
        assert!(pauses(|_| Failure::Final(missing())).is_empty());
    }

    #[test]
    fn nothing_is_tried_that_is_not_wanted() {
        let watch = Watch {
            progress: &(),
            stop: &AtomicBool::new(true),
        };
        let end = retrying(&Patience::default(), watch, || -> Result<(), Failure> {
            unreachable!()
        });
        assert!(matches!(end, Err(Error::Stopped)));
    }
}
