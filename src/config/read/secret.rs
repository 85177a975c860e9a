//! Secrets: where they come from, never what they are.

use std::path::PathBuf;

use super::super::keys::{self, Keys};
use super::super::model::SecretSource;
use super::super::node::Value;
use super::super::problem::Code;
use super::scalar::{filled, text};
use super::{Field, Reader, Section};

/// A secret: `{valueFrom: {file: PATH}}` or `{valueFrom: {env: NAME}}`, never the secret itself.
pub(super) fn secret(example: &str) -> impl Fn(&Reader, Field<'_>) -> Option<SecretSource> {
    move |reader, field| {
        let help = format!(
            "{}: {{valueFrom: {{file: /run/secrets/{example}}}}}",
            field.key
        );
        if is_literal(field, &keys::SECRET) {
            return literal(reader, field, &help);
        }
        let section = Section::open(reader, field, &keys::SECRET)?;
        section.need("valueFrom", &help, value_from(example))
    }
}

/// What stands behind `valueFrom`.
pub(super) fn value_from(example: &str) -> impl Fn(&Reader, Field<'_>) -> Option<SecretSource> {
    move |reader, field| {
        let help = format!("valueFrom: {{file: /run/secrets/{example}}}");
        if is_literal(field, &keys::VALUE_FROM) {
            return literal(reader, field, &help);
        }
        let section = Section::open(reader, field, &keys::VALUE_FROM)?;
        match (section.get("file", filled), section.get("env", variable)) {
            (Some(_), Some(_)) => {
                let message = "a secret comes from one place, not from a file and a variable";
                reader.refuse(field.node.span, Code::Conflict, message, "keep one of them")
            }
            (Some(path), None) => Some(SecretSource::File(PathBuf::from(path))),
            (None, Some(name)) => Some(SecretSource::Env(name)),
            (None, None) if section.entries.is_empty() => {
                let message = "\"valueFrom\" names no place";
                reader.refuse(field.node.span, Code::MissingKey, message, help)
            }
            // Something was there, and something was said about it.
            (None, None) => None,
        }
    }
}

/// The name of an environment variable.
fn variable(reader: &Reader, field: Field<'_>) -> Option<String> {
    let word = text(reader, field)?;
    if is_variable(&word) {
        return Some(word);
    }
    reader.masks.borrow_mut().push(field.node.span);
    let message = "a variable's name is letters, digits and `_`";
    reader.refuse(field.node.span, Code::Name, message, "")
}

/// Whether that can be the name of an environment variable.
pub(crate) fn is_variable(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !word.is_empty() && word.bytes().all(plain) && !word.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether this is no reference: no map, or one whose keys look like none of ours.
fn is_literal(field: Field<'_>, keys: &Keys) -> bool {
    let Value::Map(entries) = &field.node.value else {
        return true;
    };
    let strange =
        |key: &str| !keys.later.contains(&key) && keys::nearest(key, keys.known).is_none();
    entries.iter().any(|entry| strange(&entry.key))
}

/// Refuses a secret that is written down, and hides it.
pub(super) fn literal<T>(reader: &Reader, field: Field<'_>, help: &str) -> Option<T> {
    if field.node.value == Value::Refused {
        return None;
    }
    field
        .node
        .scalars(&mut |span, _| reader.masks.borrow_mut().push(span));
    if let Value::Map(entries) = &field.node.value {
        let keys = entries.iter().map(|entry| entry.key_span);
        reader.masks.borrow_mut().extend(keys);
    }
    reader.refuse(
        field.node.span,
        Code::SecretLiteral,
        "a secret is written into the file",
        help,
    )
}
