//! Which names of tools and prompts metrics tell apart: a bounded number of those that were seen to exist.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// The most names of one server.
const MOST: usize = 100;

/// Names that exist, by server.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<HashMap<Arc<str>, HashSet<Box<str>>>>);

impl Names {
    /// Whether the name is one to tell apart. `exists` says that a call has just shown it to exist.
    pub(super) fn knows(&self, server: &Arc<str>, name: &str, exists: bool) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = match all.get_mut(server) {
            Some(names) => names,
            None if exists => all.entry(server.clone()).or_default(),
            None => return false,
        };
        if names.contains(name) {
            return true;
        }
        let fits = exists && names.len() < MOST;
        if fits {
            names.insert(name.into());
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_4_a_name_counts_once_it_exists_and_there_are_not_too_many() {
        let names = Names::default();
        let server: Arc<str> = "wiki".into();
        assert!(!names.knows(&server, "echo", false));
        assert!(names.knows(&server, "echo", true));
        assert!(names.knows(&server, "echo", false));
        for number in 0..MOST {
            names.knows(&server, &number.to_string(), true);
        }
        assert!(!names.knows(&server, "one more", true));
        assert!(names.knows(&"other".into(), "one more", true));
    }
}
