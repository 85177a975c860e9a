//! How much is open at the moment, in all and per principal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Whose share it is: a principal's, or that of all whom nobody asked for a name.
pub(super) type Key = Option<Arc<str>>;

/// How many may be open, in all and per principal. Nothing is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cap {
    /// In all.
    pub total: Option<usize>,
    /// For each principal.
    pub each: Option<usize>,
}

/// What is open. It has an entry only for who has something open, so it is as bounded as that.
#[derive(Debug)]
pub(super) struct Shares {
    cap: Cap,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    each: HashMap<Key, usize>,
}

impl Shares {
    pub(super) fn new(cap: Cap) -> Arc<Self> {
        Arc::new(Self {
            cap,
            open: Mutex::default(),
        })
    }

    /// Whether there is anything to count.
    pub(super) fn are_limited(&self) -> bool {
        self.cap != Cap::default()
    }

    /// Opens one more, unless that is too many.
    pub(super) fn take(self: &Arc<Self>, key: &Key) -> Option<Permit> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.each.get(key).copied().unwrap_or_default();
        let is_full = |cap: Option<usize>, count| cap.is_some_and(|cap| count >= cap);
        if is_full(self.cap.total, open.total) || is_full(self.cap.each, own) {
            return None;
        }
        open.total += 1;
        open.each.insert(key.clone(), own + 1);
        Some(Permit {
            shares: Arc::clone(self),
            key: key.clone(),
        })
    }
}

/// One that is open, until this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    shares: Arc<Shares>,
    key: Key,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let open = self.shares.open.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        if let Some(own) = open.each.get_mut(&self.key) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.each.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_share_and_all_have_one() {
        let shares = Shares::new(Cap {
            total: Some(3),
            each: Some(2),
        });
        let (ann, bob) = (Some("ann".into()), Some("bob".into()));
        let first = shares.take(&ann).unwrap();
        let _second = shares.take(&ann).unwrap();
        assert!(shares.take(&ann).is_none());
        let _third = shares.take(&bob).unwrap();
        assert!(shares.take(&bob).is_none());
        drop(first);
        assert!(shares.take(&bob).is_some());
    }

    #[test]
    fn the_table_holds_who_has_something_open() {
        let shares = Shares::new(Cap {
            total: Some(1),
            each: None,
        });
        for name in ["a", "b", "c"] {
            drop(shares.take(&Some(name.into())).unwrap());
        }
        let open = shares.open.lock().unwrap();
        assert_eq!((open.total, open.each.len()), (0, 0));
    }
}
