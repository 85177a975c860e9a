//! How much of a server's traffic may be repetition.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Thousandths, so that a first attempt can pay in a fraction.
const WHOLE: u64 = 1_000;
/// How many seconds of the minimum may be saved up.
const SAVED_SECONDS: u64 = 10;

/// A share of the traffic, and a minimum a second that is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// Repetitions for each hundred first attempts.
    pub percent: u32,
    /// Repetitions a second that are always allowed.
    pub min_per_second: u32,
}

impl Default for Budget {
    /// 20 for each hundred, and 10 a second.
    fn default() -> Self {
        Self {
            percent: 20,
            min_per_second: 10,
        }
    }
}

impl Budget {
    /// So many for each hundred first attempts, and so many a second in any case.
    #[must_use]
    pub fn new(percent: u32, min_per_second: u32) -> Self {
        Self {
            percent,
            min_per_second,
        }
    }
}

/// The purse: first attempts pay in, repetitions draw.
#[derive(Debug)]
pub(super) struct Purse {
    budget: Budget,
    thousandths: AtomicU64,
    /// Until when the minimum has been paid in. Only repetitions lock it.
    paid_until: Mutex<Instant>,
}

impl Purse {
    pub(super) fn new(budget: Budget) -> Self {
        let purse = Self {
            budget,
            thousandths: AtomicU64::new(0),
            paid_until: Mutex::new(Instant::now()),
        };
        purse.thousandths.store(purse.capacity(), Ordering::Relaxed);
        purse
    }

    /// What fits: more than that is forgotten, so that a calm day does not pay for a storm.
    fn capacity(&self) -> u64 {
        let minimum = u64::from(self.budget.min_per_second) * SAVED_SECONDS;
        minimum.max(u64::from(self.budget.percent)) * WHOLE
    }

    /// Pays in for a first attempt.
    pub(super) fn pay(&self) {
        let share = u64::from(self.budget.percent) * WHOLE / 100;
        self.thousandths.fetch_add(share, Ordering::Relaxed);
    }

    /// Draws for a repetition, if there is enough.
    pub(super) fn draw(&self) -> bool {
        let Ok(mut paid_until) = self.paid_until.lock() else {
            return false;
        };
        let now = Instant::now();
        let since = now.saturating_duration_since(*paid_until);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        // Thousandths a millisecond are whole ones a second.
        let minimum = millis.saturating_mul(u64::from(self.budget.min_per_second));
        *paid_until += Duration::from_millis(millis);
        let capacity = self.capacity();
        let mut is_enough = false;
        // Always stored: what time has paid in stays, also where it is not enough yet.
        let _ = self
            .thousandths
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |there| {
                let there = there.saturating_add(minimum).min(capacity);
                is_enough = there >= WHOLE;
                Some(if is_enough { there - WHOLE } else { there })
            });
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(purse: &Purse) -> usize {
        (0..10_000).take_while(|_| purse.draw()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_minimum_comes_back_with_time() {
        let purse = Purse::new(Budget::new(0, 2));
        assert_eq!(draws(&purse), 20);
        tokio::time::advance(Duration::from_millis(400)).await;
        assert_eq!(draws(&purse), 0);
        tokio::time::advance(Duration::from_millis(1_100)).await;
        assert_eq!(draws(&purse), 3);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(draws(&purse), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn first_attempts_pay_for_their_share() {
        let purse = Purse::new(Budget::new(20, 0));
        assert_eq!(draws(&purse), 20);
        (0..50).for_each(|_| purse.pay());
        assert_eq!(draws(&purse), 10);
        (0..100_000).for_each(|_| purse.pay());
        assert_eq!(draws(&purse), 20);
    }
}
