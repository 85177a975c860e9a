//! Where the changing part of sessions is kept.
//!
//! Contract:
//!
//! 1. [`SessionStore::find`] is asked once for each session that a process has not open, not for each call. A store in
//!    memory answers at once, without a box; one behind a network gives a future.
//! 2. What is not found is as it was sealed: never rebuilt, nothing subscribed, not over. So a store that forgets costs a
//!    rebuild at most, and that of a session with large parameters its end.
//! 3. [`SessionStore::save`] does not wait. A store behind a network queues it, bounded.
//! 4. [`MemoryStore`] holds at most as many as it was made for: the expired ones go first, then those that live and expire
//!    first, and last those that are over: forgotten, such a session would be open again.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use crate::clock::Clock;
use crate::session::state::{Handle, SessionState, lock};

/// Keeps what changes of sessions.
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// The state of a session.
    fn find(&self, handle: Handle) -> Found;

    /// Keeps a state until `expires`, in seconds since 1970: at its start, and whenever it has changed.
    fn save(&self, handle: Handle, expires: u64, state: &Arc<SessionState>);
}

/// What a store says.
#[non_exhaustive]
pub enum Found {
    /// It knows at once.
    Now(Option<Arc<SessionState>>),
    /// It has to ask.
    Later(Pin<Box<dyn Future<Output = Option<Arc<SessionState>>> + Send>>),
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(state) => f.debug_tuple("Now").field(state).finish(),
            Self::Later(_) => f.debug_tuple("Later").finish_non_exhaustive(),
        }
    }
}

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    capacity: usize,
    clock: Clock,
    entries: Mutex<HashMap<Handle, Entry>>,
}

#[derive(Debug)]
struct Entry {
    expires: u64,
    state: Arc<SessionState>,
}

impl MemoryStore {
    /// A store for `capacity` sessions.
    #[must_use]
    pub fn new(capacity: usize, clock: Clock) -> Self {
        Self {
            capacity: capacity.max(1),
            clock,
            entries: Mutex::default(),
        }
    }

    /// How many it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SessionStore for MemoryStore {
    fn find(&self, handle: Handle) -> Found {
        let entries = lock(&self.entries);
        Found::Now(entries.get(&handle).map(|entry| entry.state.clone()))
    }

    fn save(&self, handle: Handle, expires: u64, state: &Arc<SessionState>) {
        let mut entries = lock(&self.entries);
        if entries.len() >= self.capacity && !entries.contains_key(&handle) {
            make_room(&mut entries, self.clock.unix_seconds());
        }
        let state = state.clone();
        entries.insert(handle, Entry { expires, state });
    }
}

/// Drops what has expired; if that is nothing, the sixteenth part that is missed least, so that a full store is not gone
/// through for each new session.
fn make_room(entries: &mut HashMap<Handle, Entry>, now: u64) {
    let before = entries.len();
    entries.retain(|_, entry| entry.expires > now);
    if entries.len() < before {
        return;
    }
    // Asked once, since a session may end meanwhile.
    let mut ranked: Vec<_> = entries
        .iter()
        .map(|(handle, entry)| (entry.state.is_over(), entry.expires, *handle))
        .collect();
    ranked.sort_unstable_by_key(|&(is_over, expires, _)| (is_over, expires));
    for (_, _, handle) in ranked.iter().take(before / 16 + 1) {
        entries.remove(handle);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn handle(n: u8) -> Handle {
        Handle::of_nonce(&[n; 24])
    }

    fn is_known(store: &MemoryStore, n: u8) -> bool {
        matches!(store.find(handle(n)), Found::Now(Some(_)))
    }

    #[test]
    fn rule_1_what_was_saved_is_found() {
        let store = MemoryStore::new(2, Clock::manual(0));
        let state = Arc::new(SessionState::default());
        store.save(handle(1), 10, &state);
        state.end();
        let Found::Now(Some(found)) = store.find(handle(1)) else {
            panic!("not found")
        };
        assert!(found.is_over());
        assert!(!is_known(&store, 2));
    }

    #[test]
    fn rule_4_it_never_holds_more_than_it_was_made_for() {
        let clock = Clock::manual(0);
        let store = MemoryStore::new(4, clock.clone());
        for n in 0..4 {
            store.save(handle(n), 10 + u64::from(n), &Arc::default());
        }
        store.save(handle(9), 100, &Arc::default());
        assert!(!is_known(&store, 0), "expires first, goes first");
        assert_eq!(store.len(), 4);
        clock.advance(Duration::from_secs(12));
        store.save(handle(10), 100, &Arc::default());
        assert!(!is_known(&store, 1) && !is_known(&store, 2), "expired");
        assert!(is_known(&store, 3) && is_known(&store, 9) && is_known(&store, 10));
    }

    #[test]
    fn rule_4_what_is_over_is_the_last_to_be_forgotten() {
        let store = MemoryStore::new(3, Clock::manual(0));
        let over = Arc::new(SessionState::default());
        over.end();
        store.save(handle(0), 10, &over);
        for n in 1..20 {
            store.save(handle(n), 100, &Arc::default());
            assert!(is_known(&store, 0) && is_known(&store, n));
        }
        for n in 20..30 {
            store.save(handle(n), 100, &over);
        }
        assert_eq!(store.len(), 3, "bounded all the same");
        assert!(is_known(&store, 29) && !is_known(&store, 0));
    }
}
