//! So many in so long, per key: the generic cell rate algorithm over one bounded table.
//!
//! Contract:
//!
//! 1. A [`Rate`] of n per span lets n through at once and then one per n-th of the span, for each key.
//! 2. What is refused is not counted, and is told how long to wait.
//! 3. A table holds a fixed number of keys. Keys whose share is whole again make room; the keys that find none share one
//!    share together, so that neither memory nor the rate is without a bound.
//!
//! It is written here because its time must be tokio's, which tests pause, and its table bounded; the usual crate offers
//! neither, and brings nine others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The most keys of one table.
const MOST: usize = 10_000;
/// A full table is looked through for room at most this often.
const SWEEP: Duration = Duration::from_secs(1);

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Duration,
}

impl Rate {
    /// `count` in the span `per`; nothing if either is zero.
    #[must_use]
    pub fn new(count: u32, per: Duration) -> Option<Self> {
        (count > 0 && !per.is_zero()).then_some(Self { count, per })
    }

    /// What one costs.
    fn interval(self) -> Duration {
        self.per / self.count
    }
}

/// What the keys of one table have used of a rate.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    rate: Rate,
    table: Mutex<Table<K>>,
}

#[derive(Debug)]
struct Table<K> {
    /// When each key's share will be whole again.
    whole_at: HashMap<K, Instant>,
    /// The same for all keys that found no room.
    overflow_whole_at: Instant,
    next_sweep: Instant,
}

impl<K: Eq + Hash> Rates<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        let now = Instant::now();
        Self {
            rate,
            table: Mutex::new(Table {
                whole_at: HashMap::new(),
                overflow_whole_at: now,
                next_sweep: now,
            }),
        }
    }

    /// Takes one of the share of `key`, or says how long to wait for it.
    pub(crate) fn take(&self, key: K) -> Result<(), Duration> {
        let now = Instant::now();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slot(key, now);
        let whole_at = (*slot).max(now) + self.rate.interval();
        // The share is used up when it would be whole only after a full span.
        let wait = whole_at.saturating_duration_since(now + self.rate.per);
        if wait.is_zero() {
            *slot = whole_at;
            Ok(())
        } else {
            Err(wait)
        }
    }
}

impl<K: Eq + Hash> Table<K> {
    fn slot(&mut self, key: K, now: Instant) -> &mut Instant {
        if self.whole_at.len() >= MOST && now >= self.next_sweep {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            self.next_sweep = now + SWEEP;
        }
        let is_full = self.whole_at.len() >= MOST;
        match self.whole_at.entry(key) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(_) if is_full => &mut self.overflow_whole_at,
            Entry::Vacant(slot) => slot.insert(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(count: u32, seconds: u64) -> Rates<u32> {
        Rates::new(Rate::new(count, Duration::from_secs(seconds)).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn rule_1_a_burst_and_then_one_by_one_for_each_key() {
        let rates = rates(2, 10);
        assert_eq!([rates.take(1), rates.take(1)], [Ok(()), Ok(())]);
        assert_eq!(rates.take(1), Err(Duration::from_secs(5)));
        assert_eq!(rates.take(2), Ok(()));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(rates.take(1), Ok(()));
        assert_eq!(rates.take(1), Err(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!([rates.take(1), rates.take(1)], [Ok(()), Ok(())]);
        assert!(rates.take(1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn rule_2_what_is_refused_is_not_counted() {
        let rates = rates(1, 10);
        assert_eq!(rates.take(1), Ok(()));
        for _ in 0..100 {
            assert_eq!(rates.take(1), Err(Duration::from_secs(10)));
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(rates.take(1), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn rule_3_a_full_table_is_bounded_and_its_overflow_shares_one_share() {
        let rates = rates(1, 10);
        for key in 0..10_000 {
            assert_eq!(rates.take(key), Ok(()));
        }
        assert_eq!(rates.take(10_000), Ok(()));
        assert!(rates.take(10_001).is_err());
        assert_eq!(rates.table.lock().unwrap().whole_at.len(), MOST);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(rates.take(10_001), Ok(()));
        assert_eq!(rates.table.lock().unwrap().whole_at.len(), 1);
    }

    #[test]
    fn a_rate_of_nothing_is_none() {
        assert_eq!(Rate::new(0, Duration::from_secs(1)), None);
        assert_eq!(Rate::new(1, Duration::ZERO), None);
    }
}
