//! Which credentials an upstream refused a short while ago, and for how long they are not sent again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a credential is held back after its first refusal.
const FIRST: Duration = Duration::from_secs(10);
/// The longest that it is held back.
const LONGEST: Duration = Duration::from_mins(5);
/// How many are remembered. One more is simply sent again.
const MOST: usize = 1024;

/// Credentials that were refused, by generation.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// How many there are, so that the usual call takes no lock.
    count: AtomicUsize,
    holds: Mutex<HashMap<u64, Hold>>,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Instant,
    span: Duration,
    /// Whether one call was let through to see whether it is accepted now.
    is_on_trial: bool,
}

impl Held {
    /// Whether a credential may be sent now; if not, how long to wait. When its time is up one call is let through,
    /// and the others wait for what becomes of it.
    pub(super) fn admit(&self, generation: u64) -> Result<(), Duration> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(hold) = holds.get_mut(&generation) else {
            return Ok(());
        };
        let now = Instant::now();
        if now < hold.until {
            return Err(hold.until - now);
        }
        hold.until = now + hold.span;
        hold.is_on_trial = true;
        Ok(())
    }

    /// The upstream refused it.
    pub(super) fn refuse(&self, generation: u64) -> Duration {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // What has not been tried for so long has been replaced at its source, or is not used any more.
        holds.retain(|of, hold| *of == generation || now < hold.until + LONGEST);
        if !holds.contains_key(&generation) && holds.len() >= MOST {
            return FIRST;
        }
        let hold = holds.entry(generation).or_insert(Hold {
            until: now + FIRST,
            span: FIRST,
            is_on_trial: false,
        });
        // Several calls may have been under way with it: only the one on trial counts for the next span.
        if hold.is_on_trial {
            hold.span = (hold.span * 2).min(LONGEST);
            hold.until = now + hold.span;
            hold.is_on_trial = false;
        }
        let wait = hold.until - now;
        self.count.store(holds.len(), Ordering::Release);
        wait
    }

    /// The upstream accepted it.
    pub(super) fn accept(&self, generation: u64) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.remove(&generation);
        self.count.store(holds.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn it_doubles_from_10_seconds_to_5_minutes() {
        let held = Held::default();
        assert_eq!(held.admit(1), Ok(()));
        assert_eq!(held.refuse(1), secs(10));
        for span in [20, 40, 80, 160, 300, 300] {
            let wait = held.admit(1).unwrap_err();
            tokio::time::advance(wait).await;
            assert_eq!(held.admit(1), Ok(()), "one is let through");
            assert!(held.admit(1).is_err(), "and no second one");
            assert_eq!(held.refuse(1), secs(span));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_under_way_do_not_lengthen_it() {
        let held = Held::default();
        held.refuse(1);
        tokio::time::advance(secs(4)).await;
        assert_eq!(held.refuse(1), secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn another_generation_is_free_and_acceptance_ends_it() {
        let held = Held::default();
        held.refuse(1);
        assert_eq!(held.admit(2), Ok(()));
        held.accept(1);
        assert_eq!(held.admit(1), Ok(()));
        assert_eq!(held.refuse(1), secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded() {
        let held = Held::default();
        for generation in 0..2000 {
            held.refuse(generation);
        }
        assert_eq!(held.count.load(Ordering::Relaxed), MOST);
        tokio::time::advance(FIRST + LONGEST).await;
        held.refuse(5000);
        assert_eq!(held.count.load(Ordering::Relaxed), 1);
    }
}
