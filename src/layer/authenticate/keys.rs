//! Who may call: anyone, or who has one of the configured API keys.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

use crate::auth::SecretCell;
use crate::facts::Caller;
use crate::layer::authenticate::{Authenticator, Challenge};
use crate::secret::Secret;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Everybody may call. A bearer token is kept for `passthrough`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Anyone;

impl Authenticator for Anyone {
    fn authenticate(&self, headers: &mut HeaderMap) -> Result<Caller, Challenge> {
        Ok(match take_bearer(headers) {
            Some(token) => Caller::anonymous().with_token(token),
            None => Caller::anonymous(),
        })
    }
}

/// Who has one of these keys may call, and is called by the key's name.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    keys: Vec<ApiKey>,
}

#[derive(Clone, Debug)]
struct ApiKey {
    principal: Arc<str>,
    value: SecretCell,
    /// Nothing: `X-API-Key`, or `Authorization: Bearer`.
    header: Option<HeaderName>,
}

impl ApiKeys {
    /// No key yet, so nobody may call.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key that is shown in `X-API-Key` or as a bearer token. A cell without a value is nobody's key.
    #[must_use]
    pub fn with(mut self, principal: &str, value: SecretCell) -> Self {
        self.keys.push(ApiKey {
            principal: principal.into(),
            value,
            header: None,
        });
        self
    }

    /// Adds a key that is shown in this header and nowhere else.
    #[must_use]
    pub fn with_header(mut self, principal: &str, value: SecretCell, header: HeaderName) -> Self {
        self.keys.push(ApiKey {
            principal: principal.into(),
            value,
            header: Some(header),
        });
        self
    }
}

impl Authenticator for ApiKeys {
    fn authenticate(&self, headers: &mut HeaderMap) -> Result<Caller, Challenge> {
        let bearer = take_bearer(headers);
        let plain = single(headers, &API_KEY);
        let mut principal = None;
        let mut was_bearer = false;
        // All keys are looked at, whichever fits: the time tells nothing.
        for key in &self.keys {
            let Some(value) = key.value.current() else {
                continue;
            };
            let own = key.header.as_ref().map(|name| single(headers, name));
            let by_header = own.as_ref().unwrap_or(&plain).as_ref() == Some(&value);
            let by_bearer = key.header.is_none() && bearer.as_ref() == Some(&value);
            if by_header || by_bearer {
                principal = Some(&key.principal);
                was_bearer = by_bearer;
            }
        }
        let mut was_shown = bearer.is_some();
        for name in self
            .keys
            .iter()
            .filter_map(|key| key.header.as_ref())
            .chain([&API_KEY])
        {
            was_shown |= headers.remove(name).is_some();
        }
        let principal = principal.ok_or(if was_shown {
            Challenge::Invalid
        } else {
            Challenge::Missing
        })?;
        let caller = Caller::named(Arc::clone(principal));
        Ok(match bearer {
            Some(token) if !was_bearer => caller.with_token(token),
            _ => caller,
        })
    }

    fn headers(&self) -> Vec<HeaderName> {
        let mut all = Vec::new();
        for key in &self.keys {
            let own = key.header.as_ref().map(std::slice::from_ref);
            for name in own.unwrap_or(&[API_KEY, AUTHORIZATION]) {
                if !all.contains(name) {
                    all.push(name.clone());
                }
            }
        }
        all
    }
}

/// Takes `Authorization` out, whatever is in it, and gives the bearer token that it held.
fn take_bearer(headers: &mut HeaderMap) -> Option<Secret> {
    if !headers.contains_key(AUTHORIZATION) {
        return None;
    }
    let shown = single(headers, &AUTHORIZATION);
    headers.remove(AUTHORIZATION);
    let shown = shown?;
    let (scheme, token) = shown.expose_secret().split_once(' ')?;
    let token = Secret::new(token);
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The value of a header that stands there once. Of two, a peer behind us might read the other one.
fn single(headers: &HeaderMap, name: &HeaderName) -> Option<Secret> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    Some(Secret::new(std::str::from_utf8(value.as_bytes()).ok()?))
}
