//! Addresses, networks, paths and URLs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Uri;
use url::Url;

use super::super::model::Network;
use super::super::problem::Code;
use super::scalar::{filled, text};
use super::{Field, Reader};

/// IP and port; `localhost` is 127.0.0.1.
pub(super) fn address(reader: &Reader, field: Field<'_>) -> Option<SocketAddr> {
    let word = text(reader, field)?;
    let parsed = match word.strip_prefix("localhost:") {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| (IpAddr::from(Ipv4Addr::LOCALHOST), port).into()),
        None => word.parse().ok(),
    };
    if parsed.is_none() {
        reader.mask(field.node);
        let help = format!(
            "{}: 127.0.0.1:8000, or 0.0.0.0:8000 for all interfaces",
            field.key
        );
        let message = "an address is an IP and a port";
        return reader.refuse(field.node.span, Code::Address, message, help);
    }
    parsed
}

/// A network in CIDR notation, or a single address.
pub(super) fn network(reader: &Reader, field: Field<'_>) -> Option<Network> {
    let word = text(reader, field)?;
    let (address, prefix) = word
        .split_once('/')
        .map_or((word.as_str(), None), |(a, p)| (a, Some(p)));
    let parsed = address.parse::<IpAddr>().ok().and_then(|address| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok())?;
        (prefix <= longest).then(|| Network::new(address, prefix))
    });
    if parsed.is_none() {
        reader.mask(field.node);
        let message = "a network is an address and a length";
        return reader.refuse(
            field.node.span,
            Code::Address,
            message,
            "such as 10.0.0.0/8 or ::1",
        );
    }
    parsed
}

/// An upstream's or our own URL.
pub(super) fn url(reader: &Reader, field: Field<'_>) -> Option<Uri> {
    let word = filled(reader, field)?;
    url_from(&word)
        .map_err(|(code, message, help)| {
            if code != Code::NotSupported {
                reader.masks.borrow_mut().push(field.node.span);
            }
            reader.refuse::<()>(field.node.span, code, message, help);
        })
        .ok()
}

/// Checks a URL; what it says of a refused one repeats nothing of it.
pub(crate) fn url_from(word: &str) -> Result<Uri, (Code, &'static str, &'static str)> {
    const HELP: &str = "such as https://mcp.example.com/mcp";
    let url = Url::parse(word).map_err(|_| (Code::Url, "this is not a URL", HELP))?;
    match url.scheme() {
        "http" | "https" => {}
        "ws" | "wss" => {
            return Err((
                Code::NotSupported,
                "WebSocket is not supported by this version",
                "",
            ));
        }
        _ => {
            return Err((
                Code::Url,
                "only http:// and https:// lead to a server",
                HELP,
            ));
        }
    }
    if !url.username().is_empty() || url.password().is_some() {
        let help = "auth: {type: basic, username: NAME, password: {valueFrom: {file: PATH}}}";
        return Err((Code::UrlSecret, "a URL with a user or password in it", help));
    }
    if url.query_pairs().any(|(key, _)| is_secret_parameter(&key)) {
        let help =
            "send it in a header: headers: {static: [{name: X-API-Key, valueFrom: {file: PATH}}]}";
        return Err((Code::UrlSecret, "a URL with a secret in its query", help));
    }
    if url.fragment().is_some() {
        return Err((
            Code::Url,
            "a URL with a fragment (`#`), which no server ever sees",
            "",
        ));
    }
    Uri::try_from(url.as_str()).map_err(|_| (Code::Url, "this URL cannot be sent over HTTP", HELP))
}

/// Whether a query parameter of that name is likely to carry a secret.
fn is_secret_parameter(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    [
        "token",
        "secret",
        "password",
        "passwd",
        "apikey",
        "api_key",
        "api-key",
        "signature",
    ]
    .iter()
    .any(|word| key.contains(word))
        || matches!(key.as_str(), "key" | "sig" | "auth" | "code")
}

/// An `Origin`: scheme, host and port, nothing behind.
pub(super) fn origin(reader: &Reader, field: Field<'_>) -> Option<String> {
    let word = text(reader, field)?;
    let url = Url::parse(&word).ok().filter(Url::has_host);
    let origin = url.map(|url| url.origin().ascii_serialization());
    if let Some(origin) = origin.filter(|origin| *origin == word.to_ascii_lowercase()) {
        return Some(origin);
    }
    reader.mask(field.node);
    let message = "an origin is a scheme, a host and perhaps a port";
    reader.refuse(
        field.node.span,
        Code::Url,
        message,
        "such as https://app.example.com",
    )
}

/// A `Host`: a name or an address, perhaps with a port.
pub(super) fn host(reader: &Reader, field: Field<'_>) -> Option<String> {
    let word = text(reader, field)?;
    let url = Url::parse(&format!("http://{word}/")).ok();
    let fits = url.is_some_and(|url| {
        url.has_host() && url.path() == "/" && url.username().is_empty() && url.query().is_none()
    });
    if fits && !word.contains(['/', '@', '?', '#', '\\', ' ']) {
        return Some(word.to_ascii_lowercase());
    }
    reader.mask(field.node);
    let message = "a host is a name or an address, perhaps with a port";
    reader.refuse(
        field.node.span,
        Code::Address,
        message,
        "such as sidecar.internal:8000",
    )
}

/// A path that requests start with: `/a/b`, without a slash at its end.
pub(super) fn base_path(reader: &Reader, field: Field<'_>) -> Option<String> {
    let word = text(reader, field)?;
    path_from(&word)
        .map_err(|message| {
            let help = format!("{}: /api/github", field.key);
            reader.refuse::<()>(field.node.span, Code::Path, message, help);
        })
        .ok()
}

/// Reads a base path; `/` is the empty one.
pub(crate) fn path_from(word: &str) -> Result<String, &'static str> {
    let trimmed = word.strip_suffix('/').unwrap_or(word);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    if !word.starts_with('/') {
        return Err("a path starts with a slash");
    }
    let odd = |segment: &str| matches!(segment, "" | "." | "..");
    if !trimmed.bytes().all(plain) || trimmed.split('/').skip(1).any(odd) {
        return Err("a path is segments of letters, digits, `-`, `.`, `_` and `~`");
    }
    Ok(trimmed.to_owned())
}
