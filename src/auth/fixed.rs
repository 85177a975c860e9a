//! The credentials that are configured rather than obtained: none, bearer, API key, basic, passthrough.
//!
//! Contract:
//!
//! 1. There is one header, whatever the kind: `Authorization`, or `X-API-Key` for an API key, or the one that was set.
//! 2. `passthrough` sends the caller's own token; a caller without one gets the anonymous token if there is one, else
//!    none. No other kind looks at what the caller brought.
//! 3. A value that is missing, empty, or impossible in a header is [`Cause::CredentialMissing`], never an empty header.
//! 4. Renewal reads the file again, off the runtime's threads. What comes from elsewhere cannot change and is not
//!    renewable; neither is a caller's own token.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use http::HeaderName;
use http::header::AUTHORIZATION;
use tokio::task::JoinHandle;

use crate::auth::source::{Rendered, SecretCell, SourceError};
use crate::auth::template::{Template, TemplateError, TokenKind};
use crate::auth::{Context, Credential, CredentialSource, Outcome};
use crate::error::{Cause, Failure};
use crate::facts::Caller;

/// A credential that is configured.
#[derive(Clone, Debug)]
pub struct StaticCredential {
    header: HeaderName,
    template: Template,
    kind: TokenKind,
    from: From,
}

#[derive(Clone, Debug)]
enum From {
    Nowhere,
    Own(Arc<Rendered>),
    Caller { anonymous: Option<Arc<Rendered>> },
}

impl StaticCredential {
    /// No credential. A header of that kind which is set elsewhere stays.
    #[must_use]
    pub fn none() -> Self {
        Self::of(TokenKind::Bearer, |_| From::Nowhere)
    }

    /// `Authorization: Bearer` with the cell's value.
    #[must_use]
    pub fn bearer(token: SecretCell) -> Self {
        Self::of(TokenKind::Bearer, |template| From::own(token, template))
    }

    /// `X-API-Key` with the cell's value.
    #[must_use]
    pub fn api_key(key: SecretCell) -> Self {
        let template = Template::token_only();
        Self {
            header: HeaderName::from_static("x-api-key"),
            kind: TokenKind::ApiKey,
            from: From::own(key, &template),
            template,
        }
    }

    /// `Authorization: Basic` with this user and the cell's value as the password (RFC 7617).
    ///
    /// # Errors
    ///
    /// Fails if the user's name has a colon or a control character in it.
    pub fn basic(user: &str, password: SecretCell) -> Result<Self, SourceError> {
        if user.contains(|letter: char| letter == ':' || letter.is_control()) {
            return Err(SourceError::new(
                "a user name must have no colon and no control characters".to_owned(),
            ));
        }
        let kind = TokenKind::Basic {
            user: user.to_owned(),
        };
        Ok(Self::of(kind, |template| From::own(password, template)))
    }

    /// `Authorization: Bearer` with the caller's own token, or with `anonymous` for a caller that has none.
    #[must_use]
    pub fn passthrough(anonymous: Option<SecretCell>) -> Self {
        Self::of(TokenKind::Bearer, |template| From::Caller {
            anonymous: anonymous.map(|cell| Arc::new(Rendered::new(cell, template.clone()))),
        })
    }

    /// Sends it in this header instead.
    ///
    /// # Errors
    ///
    /// Fails if it is no header name, or one of the protocol or the connection.
    pub fn with_header(mut self, name: &str) -> Result<Self, SourceError> {
        let refused =
            |why| SourceError::new(format!("header {name:?} cannot carry a credential: {why}"));
        let parsed = HeaderName::try_from(name).map_err(|_| refused("it is no header name"))?;
        if is_reserved(parsed.as_str()) {
            return Err(refused("it belongs to the protocol or the connection"));
        }
        self.header = parsed;
        Ok(self)
    }

    /// Makes the header's value so, as [`Template::parse`] reads it.
    ///
    /// # Errors
    ///
    /// As [`Template::parse`].
    pub fn with_template(mut self, text: &str) -> Result<Self, TemplateError> {
        self.template = Template::parse(text, self.kind.clone())?;
        let anew = |rendered: &Rendered| {
            Arc::new(Rendered::new(
                rendered.cell().clone(),
                self.template.clone(),
            ))
        };
        self.from = match self.from {
            From::Nowhere => From::Nowhere,
            From::Own(own) => From::Own(anew(&own)),
            From::Caller { anonymous } => From::Caller {
                anonymous: anonymous.map(|rendered| anew(&rendered)),
            },
        };
        Ok(self)
    }

    fn of(kind: TokenKind, from: impl FnOnce(&Template) -> From) -> Self {
        let template = Template::typed(kind.clone());
        Self {
            header: AUTHORIZATION,
            from: from(&template),
            template,
            kind,
        }
    }

    fn look(&self, caller: Option<&Caller>) -> Outcome {
        match &self.from {
            From::Nowhere => Ok(None),
            From::Own(own) => given(own, &self.header, Context::Server),
            From::Caller { anonymous } => {
                if let Some(token) = caller.and_then(Caller::token) {
                    let value = self.template.render(token).map_err(|error| {
                        Failure::unsent(Cause::Unauthenticated).with_source(error)
                    })?;
                    let context = Context::of_token(token);
                    return Ok(Some(Credential::new(
                        self.header.clone(),
                        value,
                        context,
                        0,
                    )));
                }
                anonymous.as_ref().map_or(Ok(None), |anonymous| {
                    given(anonymous, &self.header, Context::Anonymous)
                })
            }
        }
    }

    /// The configured value that a call of `caller` uses.
    fn rendered(&self, caller: Option<&Caller>) -> Option<(&Arc<Rendered>, Context)> {
        match &self.from {
            From::Own(own) => Some((own, Context::Server)),
            From::Caller { anonymous } if caller.and_then(Caller::token).is_none() => {
                Some((anonymous.as_ref()?, Context::Anonymous))
            }
            From::Nowhere | From::Caller { .. } => None,
        }
    }
}

impl From {
    fn own(cell: SecretCell, template: &Template) -> Self {
        Self::Own(Arc::new(Rendered::new(cell, template.clone())))
    }
}

impl CredentialSource for StaticCredential {
    type Future = Fetch;

    fn header(&self) -> Option<&HeaderName> {
        (!matches!(self.from, From::Nowhere)).then_some(&self.header)
    }

    fn credential(&self, caller: Option<&Caller>) -> Fetch {
        Fetch(State::Ready(Some(self.look(caller))))
    }

    fn at_hand(&self, caller: Option<&Caller>) -> Option<Outcome> {
        Some(self.look(caller))
    }

    fn is_renewable(&self) -> bool {
        match &self.from {
            From::Own(rendered)
            | From::Caller {
                anonymous: Some(rendered),
            } => rendered.cell().file().is_some(),
            From::Nowhere | From::Caller { anonymous: None } => false,
        }
    }

    fn renew(&self, caller: Option<&Caller>, _refused: u64) -> Fetch {
        match self.rendered(caller) {
            Some((rendered, context)) if rendered.cell().file().is_some() => {
                let (rendered, header) = (Arc::clone(rendered), self.header.clone());
                Fetch(State::Reading(tokio::task::spawn_blocking(move || {
                    if let Err(error) = rendered.cell().reread() {
                        tracing::debug!(%error, "refused credential cannot be read again");
                    }
                    given(&rendered, &header, context)
                })))
            }
            _ => self.credential(caller),
        }
    }

    fn uses_callers_token(&self) -> bool {
        matches!(self.from, From::Caller { .. })
    }
}

/// The answer of a [`StaticCredential`]: there already, unless a file is read again.
#[derive(Debug)]
pub struct Fetch(State);

#[derive(Debug)]
enum State {
    Ready(Option<Outcome>),
    Reading(JoinHandle<Outcome>),
}

impl Future for Fetch {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome> {
        match &mut self.0 {
            State::Ready(outcome) => outcome.take().map_or(Poll::Pending, Poll::Ready),
            State::Reading(handle) => Pin::new(handle).poll(cx).map(|read| {
                read.unwrap_or_else(
                    |error| Err(Failure::unsent(Cause::Internal).with_source(error)),
                )
            }),
        }
    }
}

fn given(rendered: &Rendered, header: &HeaderName, context: Context) -> Outcome {
    let (value, generation) = rendered
        .value()
        .ok_or_else(|| Failure::unsent(Cause::CredentialMissing))?;
    Ok(Some(Credential::new(
        header.clone(),
        value,
        context,
        generation,
    )))
}

/// Headers in which a credential would break the message or be overwritten.
fn is_reserved(name: &str) -> bool {
    name.starts_with("mcp-")
        || matches!(
            name,
            "accept"
                | "accept-encoding"
                | "connection"
                | "content-length"
                | "content-type"
                | "expect"
                | "host"
                | "keep-alive"
                | "last-event-id"
                | "proxy-authorization"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn cell(text: &str) -> SecretCell {
        SecretCell::new(Secret::new(text))
    }

    fn header(source: &StaticCredential, caller: Option<&Caller>) -> Option<String> {
        let (name, value) = source.look(caller).unwrap()?.into_header();
        assert!(value.is_sensitive());
        Some(format!("{name}: {}", value.to_str().unwrap()))
    }

    #[test]
    fn s0_05_a_bearer_token_is_always_sent() {
        let caller = Caller::anonymous().with_token(Secret::new("inbound"));
        let source = StaticCredential::bearer(cell("t"));
        assert_eq!(header(&source, None).unwrap(), "authorization: Bearer t");
        assert_eq!(
            header(&source, Some(&caller)).unwrap(),
            "authorization: Bearer t"
        );
        assert_eq!(header(&StaticCredential::none(), Some(&caller)), None);
    }

    #[test]
    fn rule_1_the_other_kinds_have_their_header() {
        assert_eq!(
            header(&StaticCredential::api_key(cell("k")), None).unwrap(),
            "x-api-key: k"
        );
        let basic = StaticCredential::basic("Aladdin", cell("open sesame")).unwrap();
        assert_eq!(
            header(&basic, None).unwrap(),
            "authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert!(StaticCredential::basic("a:b", cell("p")).is_err());
    }

    #[test]
    fn s0_08_s0_09_passthrough_takes_the_callers_token_and_else_the_anonymous_one() {
        let caller = Caller::named("ann".into()).with_token(Secret::new("inbound"));
        let with = StaticCredential::passthrough(Some(cell("anon")));
        assert_eq!(
            header(&with, Some(&caller)).unwrap(),
            "authorization: Bearer inbound"
        );
        assert_eq!(
            header(&with, Some(&Caller::anonymous())).unwrap(),
            "authorization: Bearer anon"
        );
        assert_eq!(header(&StaticCredential::passthrough(None), None), None);
        let context = |caller| with.look(caller).unwrap().unwrap().context();
        assert!(context(Some(&caller)).is_callers());
        assert_eq!(context(None), Context::Anonymous);
    }

    #[test]
    fn s0_33_header_and_template_can_be_set() {
        let source = StaticCredential::bearer(cell("t"))
            .with_header("X-Auth")
            .unwrap()
            .with_template("{token_type}={token}")
            .unwrap();
        assert_eq!(header(&source, None).unwrap(), "x-auth: Bearer=t");
        for name in ["Host", "mcp-session-id", "a b", "content-length"] {
            assert!(
                StaticCredential::none().with_header(name).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn rule_3_an_empty_or_impossible_value_is_missing() {
        for text in ["", "a\nb"] {
            let failure = StaticCredential::bearer(cell(text)).look(None).unwrap_err();
            assert_eq!(failure.cause(), Cause::CredentialMissing);
        }
    }

    #[tokio::test]
    async fn s0_06_renewal_reads_the_file_again() {
        let path = std::env::temp_dir().join(format!("outrigger-fixed-{}", std::process::id()));
        std::fs::write(&path, "old\n").unwrap();
        let file = SecretCell::from_file(&path);
        file.reread().unwrap();
        let source = StaticCredential::bearer(file);
        assert!(source.is_renewable());
        let first = source.credential(None).await.unwrap().unwrap();
        std::fs::write(&path, "new\n").unwrap();
        let second = source
            .renew(None, first.generation())
            .await
            .unwrap()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_ne!(first.generation(), second.generation());
        assert_eq!(second.into_header().1, "Bearer new");
        assert!(!StaticCredential::bearer(cell("t")).is_renewable());
    }
}
