//! Where upstream credentials come from: the trait, and the static kinds.
//!
//! | Module | Holds |
//! | --- | --- |
//! | [`source`] | a value from file or environment that is read again when it changes |
//! | [`template`] | the header value that a token becomes |
//! | [`fixed`] | none, bearer, API key, basic, passthrough |
//!
//! Contract of a [`CredentialSource`]:
//!
//! 1. It gives one credential, for one header, or none, or says why it cannot. It never sends anything with the call
//!    itself: the `credential` layer does.
//! 2. A [`Credential`] has a *generation*, which no other value of this process has, and a [`Context`]: whose it is,
//!    stable across renewal. Caches and channels are keyed by the context; a refused credential is held back by its
//!    generation.
//! 3. A caller's own token is used by `passthrough` only.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use http::{HeaderName, HeaderValue};

use crate::error::Failure;
use crate::facts::Caller;
use crate::secret::Secret;

pub mod fixed;
pub mod source;
pub mod template;

pub use fixed::StaticCredential;
pub use source::{SecretCell, SourceError, Watch};
pub use template::{Template, TemplateError, TokenKind};

/// What a source answers: a credential, none, or why there is none although there should be.
pub type Outcome = Result<Option<Credential>, Failure>;

/// Gives the credential for one upstream.
pub trait CredentialSource {
    /// The answer. A source that has it at hand is ready at once and allocates nothing.
    type Future: Future<Output = Outcome>;

    /// The header it goes into, unless there never is one. What a caller sent there is removed.
    fn header(&self) -> Option<&HeaderName>;

    /// The credential for a call of `caller`.
    fn credential(&self, caller: Option<&Caller>) -> Self::Future;

    /// What [`credential`](Self::credential) would answer, if the source has it at hand: then the call goes on without a
    /// wait for it.
    fn at_hand(&self, caller: Option<&Caller>) -> Option<Outcome> {
        let _ = caller;
        None
    }

    /// Whether [`renew`](Self::renew) can find another one. If so the call is kept until it is answered.
    fn is_renewable(&self) -> bool;

    /// The credential after the upstream refused the one of generation `refused`: looked for anew where it comes from.
    fn renew(&self, caller: Option<&Caller>, refused: u64) -> Self::Future;

    /// Whether it sends callers' own tokens on, so that the upstream's 401 and 403 are meant for them.
    fn uses_callers_token(&self) -> bool {
        false
    }
}

/// A header that proves something to an upstream.
#[derive(Clone)]
pub struct Credential {
    name: HeaderName,
    value: HeaderValue,
    context: Context,
    generation: u64,
}

impl Credential {
    /// A credential; its value becomes sensitive.
    #[must_use]
    pub fn new(
        name: HeaderName,
        mut value: HeaderValue,
        context: Context,
        generation: u64,
    ) -> Self {
        value.set_sensitive(true);
        Self {
            name,
            value,
            context,
            generation,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }

    /// Which value it is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The header.
    pub(crate) fn into_header(self) -> (HeaderName, HeaderValue) {
        (self.name, self.value)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("name", &self.name)
            .field("context", &self.context)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// The authorization context: whose credential serves a call. Not who calls, which is the principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Context {
    /// The server's own credential, or none at all: all callers share it.
    Server,
    /// The credential for callers that bring none.
    Anonymous,
    /// A caller's own token, by a keyed digest that means nothing outside this process.
    Token(u128),
}

impl Context {
    /// The context of a caller's own token.
    #[must_use]
    pub fn of_token(token: &Secret) -> Self {
        static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
        let [high, low] = KEYS
            .get_or_init(|| [RandomState::new(), RandomState::new()])
            .each_ref()
            .map(|key| u128::from(key.hash_one(token.expose_secret())));
        Self::Token(high << 64 | low)
    }

    /// Whether it is a caller's own.
    #[must_use]
    pub fn is_callers(self) -> bool {
        matches!(self, Self::Token(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_the_tokens_and_shows_nothing_of_it() {
        let context = Context::of_token(&Secret::new("hunter2"));
        assert_eq!(context, Context::of_token(&Secret::new("hunter2")));
        assert_ne!(context, Context::of_token(&Secret::new("hunter3")));
        assert!(!format!("{context:?}").contains("hunter"));
    }

    #[test]
    fn s0_26_a_credential_is_sensitive_and_not_shown() {
        let value = HeaderValue::from_static("hunter2");
        let credential = Credential::new(http::header::AUTHORIZATION, value, Context::Server, 1);
        assert!(!format!("{credential:?}").contains("hunter2"));
        assert!(credential.into_header().1.is_sensitive());
    }
}
