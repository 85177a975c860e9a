//! Where variables are read from.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

/// Where variables come from: the process, or a map in a test.
pub trait Environment: Send + Sync {
    /// The value of one, if it is set.
    fn variable(&self, name: &str) -> Option<String>;

    /// The names of all.
    fn names(&self) -> Vec<String>;

    /// The value of one that is set, and not empty.
    fn filled(&self, name: &str) -> Option<String> {
        self.variable(name).filter(|value| !value.is_empty())
    }
}

/// The environment of this process. Values that are not UTF-8 are taken as if they were, with
/// marks in place of what is not, so that they fail where they are read.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        let mut all = std::env::vars_os();
        all.find(|(key, _)| key == name)
            .map(|(_, value)| value.to_string_lossy().into_owned())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

impl<S: BuildHasher + Send + Sync> Environment for HashMap<String, String, S> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}
