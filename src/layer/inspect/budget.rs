//! The bytes that all requests of the process may hold at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// A shared number of bytes, taken and given back.
#[derive(Clone, Debug)]
pub struct ByteBudget(Arc<AtomicUsize>);

impl ByteBudget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Holds nothing yet.
    #[must_use]
    pub(super) fn hold(&self) -> Held {
        Held {
            budget: self.clone(),
            bytes: 0,
        }
    }

    /// Takes `bytes`, if they are there.
    #[must_use]
    pub(super) fn take(&self, bytes: usize) -> Option<Held> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok()
            .then(|| Held {
                budget: self.clone(),
                bytes,
            })
    }
}

/// Bytes taken from a budget, given back on drop.
#[derive(Debug)]
pub(super) struct Held {
    budget: ByteBudget,
    bytes: usize,
}

impl Held {
    /// Takes more, so that `total` are held; false if they are not there.
    #[must_use]
    pub(super) fn grow_to(&mut self, total: usize) -> bool {
        let Some(more) = total.checked_sub(self.bytes) else {
            return true;
        };
        let Some(mut taken) = self.budget.take(more) else {
            return false;
        };
        // Both are given back together, by this one.
        taken.bytes = 0;
        self.bytes = total;
        true
    }
}

/// Bytes, and what was taken for them.
struct Charged {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Held {
    /// The same bytes, which give back what is held when the last piece of them is dropped.
    pub(super) fn charge(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Charged { bytes, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = ByteBudget::new(10);
        let mut held = budget.hold();
        assert!(held.grow_to(4));
        assert!(budget.take(7).is_none());
        assert!(held.grow_to(10));
        assert!(!held.grow_to(11));
        assert!(budget.take(1).is_none());
        drop(held);
        assert!(budget.take(10).is_some());
    }
}
