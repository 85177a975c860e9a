//! Names and values of headers, and templates for them.

use http::{HeaderName, HeaderValue};

use super::super::problem::Code;
use super::scalar::text;
use super::{Field, Reader};

/// Headers that tell one hop of the protocol from the next; nobody else may set them.
const RESERVED: &[&str] = &[
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers whose value is a credential, whoever sets it.
const CREDENTIALS: &[&str] = &["authorization", "cookie", "apikey"];

/// How the names of others end whose value is one.
const CREDENTIAL_ENDS: &[&str] = &["-key", "-token", "-secret"];

/// Whether a header of that name carries a secret.
pub(crate) fn is_credential_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    CREDENTIALS.contains(&name) || CREDENTIAL_ENDS.iter().any(|end| name.ends_with(end))
}

/// The name of any header.
pub(super) fn header_name(reader: &Reader, field: Field<'_>) -> Option<HeaderName> {
    let word = text(reader, field)?;
    header_name_from(&word).or_else(|| {
        reader.mask(field.node);
        reader.refuse(
            field.node.span,
            Code::Header,
            "no header can have this name",
            "",
        )
    })
}

/// The name of a header that a configuration may set or let through.
pub(super) fn free_header_name(reader: &Reader, field: Field<'_>) -> Option<HeaderName> {
    let name = header_name(reader, field)?;
    match reserved(&name) {
        Some((message, help)) => {
            reader.refuse(field.node.span, Code::HeaderReserved, message, help)
        }
        None => Some(name),
    }
}

/// Why a header is not free, if it is not.
pub(crate) fn reserved(name: &HeaderName) -> Option<(String, &'static str)> {
    let protocol = name.as_str().starts_with("mcp-") || RESERVED.contains(&name.as_str());
    protocol.then(|| {
        (
            format!("\"{name}\" is set by Outrigger itself"),
            "leave it out",
        )
    })
}

/// Reads a header's name.
pub(crate) fn header_name_from(word: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(word.as_bytes()).ok()
}

/// A header's value that is written down: what a header can carry.
pub(crate) fn plain_value_from(word: &str) -> Option<String> {
    let fits = HeaderValue::from_str(word).is_ok() && word.trim() == word;
    fits.then(|| word.to_owned())
}

/// How a credential's header is made: known placeholders only, the token among them.
pub(super) fn template(reader: &Reader, field: Field<'_>) -> Option<String> {
    let word = text(reader, field)?;
    template_from(&word)
        .map_err(|message| {
            let help = "such as \"Bearer {token}\" or \"{token_type} {token}\"";
            reader.mask(field.node);
            reader.refuse::<()>(field.node.span, Code::Template, message, help);
        })
        .ok()
}

/// Checks a template.
pub(crate) fn template_from(word: &str) -> Result<String, &'static str> {
    if !word.contains("{token}") {
        return Err("the template has no {token}");
    }
    let rest = word.replace("{token_type}", "").replace("{token}", "");
    if rest.contains(['{', '}']) {
        return Err("a template knows {token} and {token_type} only");
    }
    HeaderValue::from_str(&rest).map_err(|_| "no header can have this value")?;
    Ok(word.to_owned())
}
