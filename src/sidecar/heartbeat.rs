//! Notices when the runtime is late: a task that should run each second, and how long it had to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How often it beats: seldom enough to cost nothing, often enough to notice what a caller would.
const EVERY: Duration = Duration::from_secs(1);
/// After how many beats a late one is on its way to be forgotten; whoever scrapes more often misses none.
const REMEMBERED: u32 = 60;

/// How late beats were of late. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Heartbeat(Arc<Worst>);

/// The longest wait in nanoseconds, in this minute and the one before.
#[derive(Debug, Default)]
struct Worst {
    now: AtomicU64,
    before: AtomicU64,
}

impl Heartbeat {
    /// Beats for as long as it is polled.
    pub(super) async fn beat(self) {
        let mut due = Instant::now();
        loop {
            for _ in 0..REMEMBERED {
                due += EVERY;
                sleep_until(due).await;
                let now = Instant::now();
                let late = now.saturating_duration_since(due);
                let nanoseconds = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
                self.0.now.fetch_max(nanoseconds, Ordering::Relaxed);
                // One long wait is told once, not again by each beat that it has delayed.
                due = due.max(now - late.min(EVERY));
            }
            let now = self.0.now.swap(0, Ordering::Relaxed);
            self.0.before.store(now, Ordering::Relaxed);
        }
    }

    /// The longest that a beat had to wait in the last minute or two.
    pub(super) fn lag(&self) -> Duration {
        let worst = &self.0;
        let (now, before) = (
            worst.now.load(Ordering::Relaxed),
            worst.before.load(Ordering::Relaxed),
        );
        Duration::from_nanos(now.max(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_beat_is_told_and_forgotten_again() {
        let heartbeat = Heartbeat::default();
        let task = tokio::spawn(heartbeat.clone().beat());
        // Between two beats.
        tokio::time::sleep(Duration::from_millis(10_500)).await;
        let at_rest = heartbeat.lag();
        assert!(at_rest < Duration::from_millis(5), "{at_rest:?}");
        // As if something had held the thread.
        tokio::time::advance(Duration::from_secs(4)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let late = heartbeat.lag();
        assert!(late > Duration::from_secs(2), "{late:?}");
        assert!(late < Duration::from_secs(4), "{late:?}");
        tokio::time::sleep(Duration::from_mins(3)).await;
        assert!(heartbeat.lag() < Duration::from_millis(5));
        task.abort();
    }
}
