//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Waits between attempts: the first is `initial`, each later one twice as long, up to `max`; each is then drawn
/// between zero and its length, so that callers who failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Whether waits double; else all are the first.
    pub is_exponential: bool,
    /// Whether a wait is drawn between zero and its length; else it is kept.
    pub has_jitter: bool,
}

impl Default for Backoff {
    /// 100 ms, doubling up to 10 s, with jitter.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// Doubling from `initial` up to `max`, with jitter.
    #[must_use]
    pub fn exponential(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            is_exponential: true,
            has_jitter: true,
        }
    }

    /// Always `wait`, with jitter.
    #[must_use]
    pub fn fixed(wait: Duration) -> Self {
        Self {
            initial: wait,
            max: wait,
            is_exponential: false,
            has_jitter: true,
        }
    }

    /// Waits exactly so long.
    #[must_use]
    pub fn without_jitter(mut self) -> Self {
        self.has_jitter = false;
        self
    }

    /// The wait after the `tries`th attempt (from 1), with any 64 bits for the draw.
    pub(super) fn wait(&self, tries: u32, random: u64) -> Duration {
        let doublings = if self.is_exponential {
            tries.saturating_sub(1)
        } else {
            0
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let longest = self.initial.saturating_mul(factor).min(self.max);
        if !self.has_jitter {
            return longest;
        }
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        // The upper half of the product is as evenly spread as the bits are.
        let drawn = (u128::from(nanos) * u128::from(random)) >> 64;
        Duration::from_nanos(u64::try_from(drawn).unwrap_or(nanos))
    }
}

/// Bits for draws, not for secrets.
#[derive(Debug)]
pub(super) struct Dice(AtomicU64);

impl Dice {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one(0_u8)))
    }

    /// `SplitMix64`.
    pub(super) fn roll(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn s1_8_waits_double_up_to_the_longest() {
        let backoff = Backoff::exponential(100 * MS, 1_000 * MS).without_jitter();
        let waits: Vec<_> = [1, 2, 3, 4, 5, 40, u32::MAX]
            .map(|tries| backoff.wait(tries, 0).as_millis())
            .to_vec();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000, 1_000]);
        assert_eq!(Backoff::fixed(7 * MS).without_jitter().wait(9, 0), 7 * MS);
    }

    #[test]
    fn jitter_draws_between_zero_and_the_wait() {
        let backoff = Backoff::exponential(100 * MS, 1_000 * MS);
        assert_eq!(backoff.wait(1, 0), Duration::ZERO);
        assert_eq!(backoff.wait(1, 1 << 63), 50 * MS);
        assert!(backoff.wait(1, u64::MAX) < 100 * MS);
        let dice = Dice::new();
        assert!((0..64).any(|_| dice.roll() >> 63 == 0) && (0..64).any(|_| dice.roll() >> 63 == 1));
    }
}
