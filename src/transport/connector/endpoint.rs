//! Where an upstream is: the parsed and judged URL.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

/// Whether `http://` may lead anywhere but to this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlaintextPolicy {
    /// Only to loopback addresses and `localhost`.
    #[default]
    LoopbackOnly,
    /// Anywhere: somebody said that the network may be trusted.
    Allow,
}

/// The URL of an upstream, in the pieces that a request needs. A clone is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Arc<Parts>);

#[derive(PartialEq, Eq)]
struct Parts {
    origin: Arc<str>,
    uri: Uri,
    host_header: HeaderValue,
    host: Box<str>,
    port: u16,
    is_tls: bool,
}

impl Endpoint {
    /// The endpoint at `url`.
    ///
    /// # Errors
    ///
    /// If it is no `http` or `https` URL with a host, holds a user or password, or is plaintext where `policy` does
    /// not allow it.
    pub fn new(url: &str, policy: PlaintextPolicy) -> Result<Self, EndpointError> {
        let uri: Uri = url.parse().map_err(|_| EndpointError::NotAUrl)?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(EndpointError::NotAUrl);
        };
        let is_tls = is_tls(&scheme).ok_or(EndpointError::Scheme)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::Credentials);
        }
        let host = bare_host(&authority);
        if host.is_empty() || has_bad_port(&authority) {
            return Err(EndpointError::NotAUrl);
        }
        if !is_tls && policy == PlaintextPolicy::LoopbackOnly && !is_loopback(&host) {
            return Err(EndpointError::Plaintext);
        }
        let path = parts
            .path_and_query
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        let netloc = netloc(&authority, is_tls);
        let host_header = HeaderValue::from_str(&netloc).map_err(|_| EndpointError::NotAUrl)?;
        let scheme = if is_tls { "https" } else { "http" };
        Ok(Self(Arc::new(Parts {
            origin: format!("{scheme}://{netloc}").into(),
            uri: Uri::from(path),
            host_header,
            host: host.into(),
            port: authority.port_u16().unwrap_or_else(|| default_port(is_tls)),
            is_tls,
        })))
    }

    /// Scheme, host and port: all that may be shown of it.
    #[must_use]
    pub fn origin(&self) -> &Arc<str> {
        &self.0.origin
    }

    /// What stands in the request line: path and query.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0.uri
    }

    /// The value of `Host`.
    #[must_use]
    pub fn host_header(&self) -> &HeaderValue {
        &self.0.host_header
    }

    /// The name or address to connect to, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Whether it is `https`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.is_tls
    }

    /// Where a `Location` leads, if that is a place of the same origin: its path and query.
    pub(super) fn same_origin(&self, location: &str) -> Option<Uri> {
        if location.starts_with("//") || location.contains(['\\', ' ']) {
            return None;
        }
        if location.starts_with('/') {
            return location.parse::<PathAndQuery>().ok().map(Uri::from);
        }
        if !location.contains("://") {
            return self.relative(location);
        }
        let parts = location.parse::<Uri>().ok()?.into_parts();
        let (scheme, authority) = (parts.scheme?, parts.authority?);
        let is_tls = is_tls(&scheme)?;
        let is_same = is_tls == self.0.is_tls
            && !authority.as_str().contains('@')
            && !has_bad_port(&authority)
            && self.0.host_header == netloc(&authority, is_tls).as_str();
        is_same.then(|| {
            Uri::from(
                parts
                    .path_and_query
                    .unwrap_or_else(|| PathAndQuery::from_static("/")),
            )
        })
    }

    /// A reference relative to the endpoint's path; one with dots or a scheme is not worth following.
    fn relative(&self, reference: &str) -> Option<Uri> {
        let is_plain = !reference.is_empty()
            && !reference
                .split(['/', '?'])
                .any(|part| part == "." || part == "..")
            && !reference.split(['/', '?']).next()?.contains(':');
        if !is_plain {
            return None;
        }
        let path = self.0.uri.path();
        let base = if reference.starts_with('?') {
            path
        } else {
            path.rsplit_once('/').map_or("", |(folder, _)| folder)
        };
        let slash = if reference.starts_with('?') { "" } else { "/" };
        format!("{base}{slash}{reference}")
            .parse::<PathAndQuery>()
            .ok()
            .map(Uri::from)
    }
}

impl fmt::Debug for Endpoint {
    /// The origin only: paths and queries of MCP servers can hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.0.origin).finish()
    }
}

fn is_tls(scheme: &Scheme) -> Option<bool> {
    match scheme.as_str() {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

fn default_port(is_tls: bool) -> u16 {
    if is_tls { 443 } else { 80 }
}

fn bare_host(authority: &Authority) -> String {
    let host = authority.host();
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
        .to_ascii_lowercase()
}

/// `http` takes `host:` and `host:99999` as they come.
fn has_bad_port(authority: &Authority) -> bool {
    authority.port_u16().is_none_or(|port| port == 0)
        && authority.as_str().len() != authority.host().len()
}

/// Host and port as they stand in an origin: lower case, no default port.
fn netloc(authority: &Authority, is_tls: bool) -> String {
    let host = authority.host().to_ascii_lowercase();
    match authority.port_u16() {
        Some(port) if port != default_port(is_tls) => format!("{host}:{port}"),
        _ => host,
    }
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Why a URL is no endpoint. It does not repeat the URL, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointError {
    /// No absolute URL with a host and, if at all, a port from 1 to 65535.
    NotAUrl,
    /// Neither `http` nor `https`.
    Scheme,
    /// A user or a password stands in it.
    Credentials,
    /// `http` to another machine, and nobody allowed it.
    Plaintext,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAUrl => "not an absolute URL with a host",
            Self::Scheme => "only http and https URLs are supported",
            Self::Credentials => "a URL must not hold a user or password; use auth",
            Self::Plaintext => {
                "http:// to another machine is refused: use https://, or set allowPlaintext: true"
            }
        })
    }
}

impl std::error::Error for EndpointError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::new(url, PlaintextPolicy::LoopbackOnly)
    }

    #[test]
    fn an_url_comes_apart() {
        let e = endpoint("https://MCP.example.com:443/a/mcp?k=v#x").unwrap();
        assert_eq!(&**e.origin(), "https://mcp.example.com");
        assert_eq!(e.uri(), "/a/mcp?k=v");
        assert_eq!(e.host_header(), "mcp.example.com");
        assert_eq!(
            (e.host(), e.port(), e.is_tls()),
            ("mcp.example.com", 443, true)
        );
        let e = endpoint("http://[::1]:8080").unwrap();
        assert_eq!(&**e.origin(), "http://[::1]:8080");
        assert_eq!((e.host(), e.port(), e.uri().path()), ("::1", 8080, "/"));
    }

    #[test]
    fn s0_24_plaintext_is_for_loopback_unless_allowed() {
        for url in [
            "http://127.8.0.1/",
            "http://[::1]/",
            "http://localhost:1/",
            "http://a.localhost/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for url in [
            "http://mcp.internal/",
            "http://10.0.0.1/",
            "http://localhost.evil/",
            "http://127.0.0.1.evil/",
        ] {
            assert_eq!(endpoint(url), Err(EndpointError::Plaintext), "{url}");
            assert!(Endpoint::new(url, PlaintextPolicy::Allow).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for (url, error) in [
            ("", EndpointError::NotAUrl),
            ("/mcp", EndpointError::NotAUrl),
            ("mcp.example.com", EndpointError::NotAUrl),
            ("https://h:99999/", EndpointError::NotAUrl),
            ("https://h:/", EndpointError::NotAUrl),
            ("ftp://h/", EndpointError::Scheme),
            ("wss://h/", EndpointError::Scheme),
            ("https://u:p@h/", EndpointError::Credentials),
        ] {
            assert_eq!(endpoint(url), Err(error), "{url}");
        }
    }

    #[test]
    fn the_query_is_not_in_debug() {
        let e = endpoint("https://h/s3cret?key=s3cret").unwrap();
        assert!(!format!("{e:?}").contains("s3cret"));
    }

    #[test]
    fn a_location_of_the_same_origin_is_found_and_no_other() {
        let e = endpoint("https://h:8443/a/mcp?x=1").unwrap();
        for (location, path) in [
            ("/a/mcp/", "/a/mcp/"),
            ("https://H:8443/b?c", "/b?c"),
            ("https://h:8443", "/"),
            ("mcp/", "/a/mcp/"),
            ("?y", "/a/mcp?y"),
        ] {
            let uri = e.same_origin(location);
            assert_eq!(
                uri.map(|u| u.to_string()).as_deref(),
                Some(path),
                "{location}"
            );
        }
        for location in [
            "//evil/mcp",
            "https://evil:8443/",
            "http://h:8443/",
            "https://h/",
            "https://h:8443@evil/",
            "https://u@h:8443/",
            "/\\evil",
            "../x",
            "javascript:alert(1)",
            "",
            "https://h:8443:1/",
        ] {
            assert_eq!(e.same_origin(location), None, "{location}");
        }
    }
}
