//! Wall-clock time, for what expires: sealed session ids, tokens, rejected credentials.
//!
//! Spans are measured with tokio's `Instant`, which tests pause; only an expiry that another process must
//! understand needs the wall clock, and takes it from here so that a test can set it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, from the system or from a test.
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `seconds` until [`advance`](Self::advance) moves it, and all its clones.
    #[must_use]
    pub fn manual(seconds: u64) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(seconds))))
    }

    /// The time, to be shown.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            #[expect(
                clippy::disallowed_methods,
                reason = "with the one below all that reads it"
            )]
            Source::System => SystemTime::now(),
            Source::Manual(seconds) => {
                UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed))
            }
        }
    }

    /// Seconds since 1970; 0 if the system's clock stands before it.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        match &self.0 {
            Source::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
                let now = SystemTime::now();
                now.duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs())
            }
            Source::Manual(seconds) => seconds.load(Ordering::Relaxed),
        }
    }

    /// Moves a manual clock; the system's stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(seconds) = &self.0 {
            seconds.fetch_add(by.as_secs(), Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.unix_seconds()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_with_its_clones() {
        let clock = Clock::manual(10);
        clock.clone().advance(Duration::from_secs(5));
        assert_eq!(clock.unix_seconds(), 15);
    }
}
