//! When a listener stops, in two steps: no more callers, then no more answers.

use tokio::sync::watch;

/// Says when to stop, in two steps.
#[derive(Clone, Debug)]
pub struct Drain {
    stop: watch::Sender<bool>,
    over: watch::Sender<bool>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            stop: watch::Sender::new(false),
            over: watch::Sender::new(false),
        }
    }
}

impl Drain {
    /// Begins to drain. Cannot be undone.
    pub fn begin(&self) {
        self.stop.send_replace(true);
    }

    /// Ends it: what is open still has had its time.
    pub fn finish(&self) {
        self.over.send_replace(true);
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ready once it has begun.
    pub async fn begun(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives as long as `self`.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Ready once it is to end.
    pub async fn finished(&self) {
        let mut over = self.over.subscribe();
        // The sender lives as long as `self`.
        let _ = over.wait_for(|over| *over).await;
    }

    /// A receiver that turns true when it is to end.
    #[must_use]
    pub fn subscribe_end(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    /// A receiver that turns true when it begins.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}
