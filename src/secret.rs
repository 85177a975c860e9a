//! A string that is a credential: it is wiped when dropped and never shown.
//!
//! Contract:
//!
//! 1. `Debug` prints `Secret(…)` whatever it holds; there is no `Display` and no serialization.
//! 2. The bytes are zeroed when the last owner drops them. Clones share one allocation.
//! 3. A header value made from it is sensitive, so that HTTP libraries do not log it either.
//! 4. Comparison takes the same time wherever the first difference is.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use http::header::InvalidHeaderValue;
use zeroize::Zeroizing;

/// A credential, from the moment it is parsed to the header it goes into.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes the credential over. Surrounding white space (a file's last newline) is dropped.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        let value = Zeroizing::new(value.into());
        let trimmed = value.trim();
        if trimmed.len() == value.len() {
            Self(Arc::new(value))
        } else {
            Self(Arc::new(Zeroizing::new(trimmed.to_owned())))
        }
    }

    /// The credential itself. The name is long so that a reviewer sees each use.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it: an empty file, an empty variable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The credential as a header value, marked sensitive.
    ///
    /// # Errors
    ///
    /// Fails if it holds a byte that no header may carry; the error does not show it.
    pub fn header_value(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&self.0)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), other.0.as_bytes());
        if ours.len() != theirs.len() {
            return false;
        }
        let difference = ours
            .iter()
            .zip(theirs)
            .fold(0_u8, |seen, (a, b)| seen | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_1_debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn a_trailing_newline_of_a_file_is_dropped() {
        assert_eq!(Secret::new("token\n").expose_secret(), "token");
    }

    #[test]
    fn rule_3_the_header_value_is_sensitive() {
        let value = Secret::new("token").header_value().unwrap();
        assert!(value.is_sensitive());
        assert!(Secret::new("a\nb").header_value().is_err());
    }

    #[test]
    fn rule_4_equality_is_by_content() {
        assert_eq!(Secret::new("a"), Secret::new("a"));
        assert_ne!(Secret::new("a"), Secret::new("b"));
        assert_ne!(Secret::new("a"), Secret::new("ab"));
    }
}
