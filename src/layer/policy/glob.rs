//! Patterns of names: `*` is any run of characters, `?` one character, everything else itself. Case counts.

use std::fmt;

use crate::layer::glob;

/// A pattern.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Reads a pattern; every text is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Whether the whole name fits. The time is bounded by the product of the lengths, whatever the pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        glob::matches(&self.0, name)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, fits) in [
            ("delete*", "delete_all", true),
            ("delete*", "delete", true),
            ("delete*", "undelete", false),
            ("*_file", "read_file", true),
            ("*_file", "read_files", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?", "ü", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("**a", "ba", true),
            ("*?", "ü", true),
            ("Read", "read", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), fits, "{pattern} {name}");
        }
    }

    /// The same by recursion, which is plainly right and too slow.
    fn slow(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', more @ ..], _) => (0..=name.len()).any(|taken| slow(more, &name[taken..])),
            (['?', more @ ..], [_, rest @ ..]) => slow(more, rest),
            ([wanted, more @ ..], [found, rest @ ..]) => wanted == found && slow(more, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_is_as_the_recursive_one(pattern in "[ab*?ü]{0,7}", name in "[abü]{0,9}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Glob::new(&pattern).matches(&name), slow(&chars(&pattern), &chars(&name)));
        }
    }
}
