//! Credentials towards an upstream, and where secrets come from.

use std::path::PathBuf;

use http::HeaderName;
use http::header::AUTHORIZATION;

use crate::secret::Secret;

/// `servers[].auth`: the credential of a server. A change: *next call*.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Auth {
    /// Which credential. Default: none.
    pub kind: AuthKind,
    /// The header it goes into. Default: `Authorization`, or `X-API-Key` for `apiKey`.
    pub header_name: HeaderName,
    /// How the header's value is made of `{token}` and `{token_type}`. Default: what the kind
    /// demands (`Bearer {token}`, or the key itself).
    pub value_template: Option<String>,
    /// The credential of callers who brought none: a bearer token, beside `passthrough` only.
    /// Default: none.
    pub anonymous: Option<Box<Self>>,
}

impl Auth {
    pub(crate) fn new(kind: AuthKind) -> Self {
        let header_name = kind.default_header();
        Self {
            kind,
            header_name,
            value_template: None,
            anonymous: None,
        }
    }

    /// Whether it puts a header into requests.
    #[must_use]
    pub fn sets_header(&self) -> bool {
        self.kind != AuthKind::None
    }

    /// Whether calls carry a credential of ours, not of their caller.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !matches!(self.kind, AuthKind::None | AuthKind::Passthrough)
            || self.anonymous.as_ref().is_some_and(|it| it.is_own())
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self::new(AuthKind::None)
    }
}

/// The kind of a credential, with its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthKind {
    /// No credential.
    None,
    /// A bearer token.
    Bearer {
        /// The token.
        token: SecretSource,
    },
    /// A key in a header of its own.
    ApiKey {
        /// The key.
        key: SecretSource,
    },
    /// HTTP Basic.
    Basic {
        /// The user's name, which need not be a secret.
        username: Value,
        /// The password.
        password: SecretSource,
    },
    /// What the caller sent in `Authorization`, as it came.
    Passthrough,
}

impl AuthKind {
    fn default_header(&self) -> HeaderName {
        match self {
            Self::ApiKey { .. } => HeaderName::from_static("x-api-key"),
            _ => AUTHORIZATION,
        }
    }
}

/// Where a secret comes from; never the secret, but for [`Literal`](Self::Literal).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretSource {
    /// A file, read anew when it changes.
    File(PathBuf),
    /// An environment variable of this process.
    Env(String),
    /// The secret itself. Only the environment and the command line can say it; no file can.
    Literal(Secret),
}

/// A value that may be a secret, and need not be one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Written in the configuration.
    Plain(String),
    /// Kept elsewhere.
    Secret(SecretSource),
}
