//! The rules of the layer, and their application to a header map in place.

use std::fmt;

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue,
};

use crate::auth::source::{Rendered, SecretCell};
use crate::auth::template::Template;
use crate::body::said_length;

/// What the upstream is asked for, so that what is spliced or held need not be unpacked.
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
/// How many names are taken off in one pass over a map. More take another pass.
const PER_PASS: usize = 8;

/// What is known of the request that headers stand on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carried {
    pub(super) is_modern: bool,
    /// How many bytes its body has.
    pub(super) length: Option<u64>,
}

impl Carried {
    /// Whether a `Content-Length` says what is so.
    fn has_length(self, value: &HeaderValue) -> bool {
        self.length.is_some() && said_length(value) == self.length
    }
}

/// Which headers cross. The default: those of the protocol.
#[derive(Debug, Default)]
pub struct Params {
    forward: Vec<HeaderName>,
    renamed: Vec<(HeaderName, HeaderName)>,
    fixed: Vec<(HeaderName, HeaderValue)>,
    secret: Vec<(HeaderName, Rendered)>,
}

impl Params {
    /// Passes an inbound header on.
    ///
    /// # Errors
    ///
    /// Fails if it is no name (`*` counts as none), or one that never crosses.
    pub fn forward(mut self, name: &str) -> Result<Self, HeaderRefused> {
        self.forward.push(crossing(name)?);
        Ok(self)
    }

    /// Passes an inbound header on under another name.
    ///
    /// # Errors
    ///
    /// Fails if either is no name, or one that never crosses, or if the new one is the protocol's.
    pub fn rename(mut self, from: &str, to: &str) -> Result<Self, HeaderRefused> {
        self.renamed.push((crossing(from)?, settable(to)?));
        Ok(self)
    }

    /// Sets a header to the same value in each request. `Authorization` may be set so.
    ///
    /// # Errors
    ///
    /// Fails if the name or the value is none that a header may have, or if the header is the protocol's or the
    /// connection's.
    pub fn fixed(mut self, name: &str, value: &str) -> Result<Self, HeaderRefused> {
        let name = settable(name)?;
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            HeaderRefused::new(
                name.as_str(),
                "its value has bytes that no header may carry",
            )
        })?;
        value.set_sensitive(name == AUTHORIZATION);
        self.fixed.push((name, value));
        Ok(self)
    }

    /// Sets a header to what `cell` holds at the time, marked sensitive.
    ///
    /// # Errors
    ///
    /// As [`fixed`](Self::fixed) for the name. A value that no header can carry counts as missing.
    pub fn secret(mut self, name: &str, cell: SecretCell) -> Result<Self, HeaderRefused> {
        let name = settable(name)?;
        self.secret
            .push((name, Rendered::new(cell, Template::token_only())));
        Ok(self)
    }

    /// Applies the rules to a request's headers; false if a secret is missing.
    pub(super) fn inward(&self, headers: &mut HeaderMap, carried: Carried) -> bool {
        let renamed = self.take_renamed(headers);
        remove(headers, |name, value| !self.crosses(name, value, carried));
        for (to, value) in renamed {
            headers.insert(to, value);
        }
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        for (name, value) in &self.fixed {
            headers.insert(name, value.clone());
        }
        for (name, secret) in &self.secret {
            let Some((value, _)) = secret.value() else {
                return false;
            };
            headers.insert(name, value);
        }
        true
    }

    /// Empty, and no allocation, where nothing is renamed.
    fn take_renamed(&self, headers: &mut HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        self.renamed
            .iter()
            .filter_map(|(from, to)| Some((to.clone(), headers.remove(from)?)))
            .collect()
    }

    fn crosses(&self, name: &HeaderName, value: &HeaderValue, carried: Carried) -> bool {
        if *name == CONTENT_LENGTH {
            return carried.has_length(value);
        }
        if carried.is_modern && matches!(name.as_str(), "mcp-session-id" | "last-event-id") {
            return false;
        }
        // Stays until it is set anew, which is cheaper than to take it off first.
        is_protocol(name.as_str()) || *name == ACCEPT_ENCODING || self.forward.contains(name)
    }
}

/// Takes off what `goes` says: one look at each name, no list of names to try.
pub(super) fn remove(headers: &mut HeaderMap, goes: impl Fn(&HeaderName, &HeaderValue) -> bool) {
    loop {
        let mut found = [const { None }; PER_PASS];
        let mut count = 0;
        let mut has_connection = false;
        let going = headers.iter().filter(|(name, value)| {
            has_connection |= **name == CONNECTION;
            goes(name, value)
        });
        for (slot, (name, _)) in found.iter_mut().zip(going) {
            *slot = Some(name.clone());
            count += 1;
        }
        // Before it is taken off itself.
        if has_connection {
            remove_named_by_connection(headers);
        }
        for name in found.into_iter().flatten() {
            headers.remove(name);
        }
        if count < PER_PASS {
            return;
        }
    }
}

/// What an upstream says that a caller does not get to see.
pub(super) fn stays_behind(name: &HeaderName, _: &HeaderValue) -> bool {
    let name = name.as_str();
    is_of_connection(name)
        || matches!(name, "set-cookie" | "set-cookie2" | "server" | "alt-svc")
        // Challenges speak of the credential that we sent.
        || matches!(name, "www-authenticate" | "authentication-info" | "proxy-authentication-info")
        || name.starts_with("access-control-")
}

/// RFC 9110, section 7.6.1: what `Connection` names goes with it.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::try_from(token.trim()).ok())
        .filter(|name| !is_protocol(name.as_str()))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// What the protocol needs, in either era.
fn is_protocol(name: &str) -> bool {
    matches!(name, "accept" | "content-type" | "last-event-id") || name.starts_with("mcp-")
}

/// What belongs to one connection.
fn is_of_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What is written anew on this side.
fn is_written_anew(name: &str) -> bool {
    matches!(
        name,
        "accept-encoding" | "content-length" | "expect" | "host"
    )
}

/// What a caller says of itself, or others on the way here.
fn is_private(name: &str) -> bool {
    matches!(
        name,
        "authorization" | "cookie" | "forwarded" | "origin" | "x-real-ip"
    ) || name.starts_with("x-forwarded-")
}

/// A name that an inbound header may cross with.
fn crossing(name: &str) -> Result<HeaderName, HeaderRefused> {
    let name = parse(name)?;
    let text = name.as_str();
    if is_private(text) {
        return Err(HeaderRefused::new(
            text,
            "it is never forwarded; a caller's token goes on with auth type passthrough",
        ));
    }
    if is_of_connection(text) || is_written_anew(text) {
        return Err(HeaderRefused::new(
            text,
            "it belongs to one connection and is written anew",
        ));
    }
    Ok(name)
}

/// A name that may be set by configuration.
fn settable(name: &str) -> Result<HeaderName, HeaderRefused> {
    let name = parse(name)?;
    let text = name.as_str();
    if is_of_connection(text) || is_written_anew(text) {
        return Err(HeaderRefused::new(
            text,
            "it belongs to one connection and is written anew",
        ));
    }
    if matches!(
        text,
        "accept"
            | "content-type"
            | "last-event-id"
            | "mcp-session-id"
            | "mcp-protocol-version"
            | "mcp-method"
            | "mcp-name"
    ) {
        return Err(HeaderRefused::new(text, "it belongs to the protocol"));
    }
    Ok(name)
}

fn parse(name: &str) -> Result<HeaderName, HeaderRefused> {
    if name == "*" {
        return Err(HeaderRefused::new(name, "each header has to be named"));
    }
    HeaderName::try_from(name).map_err(|_| HeaderRefused::new(name, "it is no header name"))
}

/// Why a header cannot be forwarded or set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRefused {
    name: String,
    why: &'static str,
}

impl HeaderRefused {
    fn new(name: &str, why: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            why,
        }
    }
}

impl fmt::Display for HeaderRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "header {:?} cannot be used: {}", self.name, self.why)
    }
}

impl std::error::Error for HeaderRefused {}
