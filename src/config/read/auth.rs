//! `auth` and the headers that go with it.

use http::header::AUTHORIZATION;

use super::super::keys;
use super::super::model::{Auth, AuthKind, Headers, Rename, SecretSource, StaticHeader, Value};
use super::super::node::Value as Node;
use super::super::problem::Code;
use super::super::text::quoted;
use super::header::{
    free_header_name, header_name_from, is_credential_header, plain_value_from, reserved, template,
};
use super::scalar::{choice, filled, text};
use super::secret::{secret, value_from};
use super::{Field, Reader, Section, list};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Bearer,
    ApiKey,
    Basic,
    Passthrough,
}

impl Kind {
    /// The keys that only some kinds have, of this one.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::None | Self::Passthrough => &[],
            Self::Bearer => &["token", "headerName", "valueTemplate"],
            Self::ApiKey => &["key", "headerName", "valueTemplate"],
            Self::Basic => &["username", "password"],
        }
    }
}

const KINDS: &[(&str, Kind)] = &[
    ("none", Kind::None),
    ("bearer", Kind::Bearer),
    ("apiKey", Kind::ApiKey),
    ("basic", Kind::Basic),
    ("passthrough", Kind::Passthrough),
    ("forward", Kind::Passthrough),
];

const LATER_KINDS: &[&str] = &["oauth2", "clientCredentials", "tokenExchange", "perUserKey"];

/// `auth` of the server of that name.
pub(super) fn auth(server: &str) -> impl Fn(&Reader, Field<'_>) -> Option<Auth> {
    move |reader, field| read(reader, field, server)
}

fn read(reader: &Reader, field: Field<'_>, server: &str) -> Option<Auth> {
    if let Some(entry) = field.node.entry("type") {
        let later = matches!(&entry.node.value, Node::Scalar { text, .. }
            if LATER_KINDS.contains(&text.as_str()));
        if later {
            // Its other keys belong to it, and are not worth a line each.
            reader.mask(field.node);
            choice(KINDS, LATER_KINDS)(
                reader,
                Field {
                    key: "type",
                    node: &entry.node,
                },
            );
            return None;
        }
    }
    let section = Section::open(reader, field, &keys::AUTH)?;
    let kind = section.need(
        "type",
        "auth: {type: bearer, token: …}",
        choice(KINDS, LATER_KINDS),
    )?;
    foreign_keys(&section, kind);
    let mut auth = Auth::new(credential(&section, kind, server)?);
    if kind == Kind::Bearer || kind == Kind::ApiKey {
        section.set("headerName", &mut auth.header_name, free_header_name);
        section.set_some("valueTemplate", &mut auth.value_template, template);
    }
    section.set_some("anonymous", &mut auth.anonymous, anonymous(kind, server));
    Some(auth)
}

/// The credential of callers who brought none: a bearer token, beside `passthrough`.
fn anonymous(kind: Kind, server: &str) -> impl Fn(&Reader, Field<'_>) -> Option<Box<Auth>> {
    move |reader, field| {
        let span = field.node.span;
        // Read in any case, so that what is secret in it is masked.
        let auth = read(reader, field, server)?;
        let message = if kind != Kind::Passthrough {
            "\"anonymous\" beside this type of auth is not supported by this version"
        } else if !matches!(auth.kind, AuthKind::Bearer { .. }) {
            "this type of anonymous credential is not supported by this version"
        } else if auth.header_name != AUTHORIZATION || auth.value_template.is_some() {
            "a header or a template for \"anonymous\" is not supported by this version"
        } else {
            return Some(Box::new(auth));
        };
        let help = "auth: {type: passthrough, anonymous: {type: bearer, token: …}}";
        reader.refuse(span, Code::NotSupported, message, help)
    }
}

fn credential(section: &Section<'_>, kind: Kind, server: &str) -> Option<AuthKind> {
    let secret = secret(server);
    Some(match kind {
        Kind::None => AuthKind::None,
        Kind::Passthrough => AuthKind::Passthrough,
        Kind::Bearer => AuthKind::Bearer {
            token: required(section, "token", server, &secret)?,
        },
        Kind::ApiKey => AuthKind::ApiKey {
            key: required(section, "key", server, &secret)?,
        },
        Kind::Basic => {
            let username = section.need("username", "username: NAME", user(server));
            let password = required(section, "password", server, &secret);
            AuthKind::Basic {
                username: username?,
                password: password?,
            }
        }
    })
}

fn required(
    section: &Section<'_>,
    key: &'static str,
    server: &str,
    secret: impl Fn(&Reader, Field<'_>) -> Option<SecretSource>,
) -> Option<SecretSource> {
    let help = format!("{key}: {{valueFrom: {{file: /run/secrets/{server}}}}}");
    section.need(key, &help, secret)
}

/// A user's name: written down, or from where secrets come from.
fn user(server: &str) -> impl Fn(&Reader, Field<'_>) -> Option<Value> {
    move |reader, field| match &field.node.value {
        Node::Map(_) => secret(server)(reader, field).map(Value::Secret),
        _ => filled(reader, field).and_then(|name| {
            if name.contains(':') {
                let message = "a user's name has no colon";
                return reader.refuse(field.node.span, Code::Header, message, "");
            }
            Some(Value::Plain(name))
        }),
    }
}

/// Tells of keys that belong to another kind of credential.
fn foreign_keys(section: &Section<'_>, kind: Kind) {
    const OF_SOME: [&str; 6] = [
        "token",
        "key",
        "username",
        "password",
        "headerName",
        "valueTemplate",
    ];
    for entry in section.entries {
        let key = entry.key.as_str();
        if OF_SOME.contains(&key) && !kind.keys().contains(&key) {
            section.reader.mask(&entry.node);
            let message = format!("{} does not belong to this type of auth", quoted(key));
            let owner = KINDS.iter().find(|(_, kind)| kind.keys().contains(&key));
            let help = owner.map(|(name, _)| format!("it belongs to type {name}"));
            let help = help.unwrap_or_default();
            section
                .reader
                .refuse::<()>(entry.key_span, Code::Conflict, message, help);
        }
    }
}

/// `headers` of the server of that name.
pub(super) fn headers(server: &str) -> impl Fn(&Reader, Field<'_>) -> Option<Headers> {
    move |reader, field| {
        let section = Section::open(reader, field, &keys::HEADERS)?;
        let mut headers = Headers::default();
        section.set("static", &mut headers.set, list(fixed(server)));
        section.set("forward", &mut headers.forward, list(forwarded));
        section.set("rename", &mut headers.rename, renames);
        Some(headers)
    }
}

/// One item of `headers.static`.
fn fixed(server: &str) -> impl Fn(&Reader, Field<'_>) -> Option<StaticHeader> {
    move |reader, field| {
        let section = Section::open(reader, field, &keys::STATIC_HEADER)?;
        let name = section.need("name", "name: X-API-Version", free_header_name);
        let secret = section
            .get("valueFrom", value_from(server))
            .map(Value::Secret);
        let plain = section.field("value");
        let value = match (plain, section.field("valueFrom")) {
            (Some(plain), Some(_)) => {
                reader.mask(plain.node);
                let message = "a header has one value, not \"value\" and \"valueFrom\"";
                reader.refuse(plain.node.span, Code::Conflict, message, "keep one of them")
            }
            (Some(plain), None) => {
                if name.as_ref().is_none_or(is_credential_header) {
                    reader.mask(plain.node);
                }
                plain_value(reader, plain)
            }
            (None, Some(_)) => secret,
            (None, None) => section.need("value", "value: v1", |_, _| None),
        };
        Some(StaticHeader::new(name?, value?))
    }
}

fn plain_value(reader: &Reader, field: Field<'_>) -> Option<Value> {
    let word = text(reader, field)?;
    plain_value_from(&word).map(Value::Plain).or_else(|| {
        reader.mask(field.node);
        reader.refuse(
            field.node.span,
            Code::Header,
            "no header can have this value",
            "",
        )
    })
}

/// A header that is let through.
fn forwarded(reader: &Reader, field: Field<'_>) -> Option<http::HeaderName> {
    if matches!(&field.node.value, Node::Scalar { text, .. } if text == "*") {
        let message = "\"*\" would hand cookies and tokens on";
        let help = "name the headers: forward: [X-Request-ID, User-Agent]";
        return reader.refuse(field.node.span, Code::HeaderReserved, message, help);
    }
    let name = free_header_name(reader, field)?;
    if name == AUTHORIZATION {
        let message = "the caller's credential is let through by auth, not by forward";
        let help = "auth: {type: passthrough}";
        return reader.refuse(field.node.span, Code::HeaderReserved, message, help);
    }
    Some(name)
}

/// `headers.rename`: a map from the name inside to the name outside.
fn renames(reader: &Reader, field: Field<'_>) -> Option<Vec<Rename>> {
    let Node::Map(entries) = &field.node.value else {
        return reader.wrong_type(field, "a map from one header to another");
    };
    let mut renames = Vec::new();
    for entry in entries {
        let from = header_name_from(&entry.key).filter(|from| *from != AUTHORIZATION);
        let from = from.filter(|from| reserved(from).is_none()).or_else(|| {
            let message = "this header cannot be renamed";
            reader.refuse(entry.key_span, Code::HeaderReserved, message, "")
        });
        let to = free_header_name(
            reader,
            Field {
                key: "rename",
                node: &entry.node,
            },
        );
        renames.extend(from.zip(to).map(|(from, to)| Rename::new(from, to)));
    }
    Some(renames)
}
