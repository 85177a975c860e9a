//! The header value that a token becomes: `{token_type} {token}`, or what the configuration says.
//!
//! Contract:
//!
//! 1. `{token}` stands for the token and must be there; `{token_type}` for its type (`Bearer`, `Basic`, `ApiKey`).
//! 2. Anything else in braces is refused, so that a typing error is not sent.
//! 3. What is rendered is sensitive, and no error shows it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// What kind of token it is, which fills in `{token_type}`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenKind {
    /// A bearer token (RFC 6750).
    Bearer,
    /// An API key.
    ApiKey,
    /// A password of this user (RFC 7617).
    Basic {
        /// Who it belongs to.
        user: String,
    },
}

impl TokenKind {
    fn word(&self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::ApiKey => "ApiKey",
            Self::Basic { .. } => "Basic",
        }
    }
}

/// How a header value is made of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    kind: TokenKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Token,
    TokenType,
}

impl Template {
    /// `{token_type} {token}`.
    #[must_use]
    pub fn typed(kind: TokenKind) -> Self {
        Self {
            pieces: vec![Piece::TokenType, Piece::Text(" ".to_owned()), Piece::Token],
            kind,
        }
    }

    /// `{token}`, for API keys.
    #[must_use]
    pub fn token_only() -> Self {
        Self {
            pieces: vec![Piece::Token],
            kind: TokenKind::ApiKey,
        }
    }

    /// Reads a template.
    ///
    /// # Errors
    ///
    /// Fails if `{token}` is missing, if braces hold something unknown, or if a header cannot carry the text.
    pub fn parse(text: &str, kind: TokenKind) -> Result<Self, TemplateError> {
        HeaderValue::from_str(text)
            .map_err(|_| TemplateError("has bytes that no header may carry"))?;
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (name, after) = after
                .split_once('}')
                .ok_or(TemplateError("has a brace that is not closed"))?;
            pieces.push(match name {
                "token" => Piece::Token,
                "token_type" => Piece::TokenType,
                _ => return Err(TemplateError("may name {token} and {token_type} only")),
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if !pieces.contains(&Piece::Token) {
            return Err(TemplateError("must have {token} in it"));
        }
        Ok(Self { pieces, kind })
    }

    /// The header value for `token`, marked sensitive.
    pub(crate) fn render(&self, token: &Secret) -> Result<HeaderValue, TemplateError> {
        let basic;
        let token = match &self.kind {
            TokenKind::Basic { user } => {
                let pair = Zeroizing::new(format!("{user}:{}", token.expose_secret()));
                basic = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
                basic.as_str()
            }
            TokenKind::Bearer | TokenKind::ApiKey => token.expose_secret(),
        };
        let mut text = Zeroizing::new(String::with_capacity(token.len() + 16));
        for piece in &self.pieces {
            text.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Token => token,
                Piece::TokenType => self.kind.word(),
            });
        }
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| TemplateError("gives bytes that no header may carry"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Why a template cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateError(&'static str);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the header's template {}", self.0)
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_33_token_and_type_are_filled_in() {
        let token = Secret::new("abc");
        let of = |text, kind| Template::parse(text, kind).unwrap().render(&token).unwrap();
        assert_eq!(of("{token_type} {token}", TokenKind::Bearer), "Bearer abc");
        assert_eq!(of("token={token};v=1", TokenKind::ApiKey), "token=abc;v=1");
        assert_eq!(
            Template::typed(TokenKind::Bearer).render(&token).unwrap(),
            "Bearer abc"
        );
        assert_eq!(Template::token_only().render(&token).unwrap(), "abc");
    }

    #[test]
    fn basic_is_base64_of_user_and_password() {
        let kind = TokenKind::Basic {
            user: "Aladdin".to_owned(),
        };
        let value = Template::typed(kind)
            .render(&Secret::new("open sesame"))
            .unwrap();
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn rule_2_typing_errors_are_refused() {
        for text in ["Bearer", "{tokn}", "{token", "{token} {}", "{token}\n", ""] {
            assert!(Template::parse(text, TokenKind::Bearer).is_err(), "{text}");
        }
    }

    #[test]
    fn rule_3_what_is_rendered_is_sensitive_and_not_in_errors() {
        let template = Template::typed(TokenKind::Bearer);
        assert!(template.render(&Secret::new("a")).unwrap().is_sensitive());
        let error = template.render(&Secret::new("hun\u{7f}ter2")).unwrap_err();
        assert!(!error.to_string().contains("ter2"));
    }
}
