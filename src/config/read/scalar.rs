//! Single values: texts, numbers, durations, names, addresses, URLs, secrets.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::keys;
use super::super::model::Rate;
use super::super::node::Value;
use super::super::problem::Code;
use super::super::text::quoted;
use super::{Field, Reader};

/// The longest duration that is taken: far enough for anything, and safe to add to any clock.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Any single value, as written.
pub(super) fn text(reader: &Reader, field: Field<'_>) -> Option<String> {
    match &field.node.value {
        Value::Scalar { text, .. } => Some(text.clone()),
        _ => reader.wrong_type(field, "a text"),
    }
}

/// A text that is not empty.
pub(super) fn filled(reader: &Reader, field: Field<'_>) -> Option<String> {
    let text = text(reader, field)?;
    if text.is_empty() {
        return reader.wrong_type(field, "a text that is not empty");
    }
    Some(text)
}

/// `true` or `false`, not in quotes.
pub(super) fn boolean(reader: &Reader, field: Field<'_>) -> Option<bool> {
    match &field.node.value {
        Value::Scalar {
            text,
            quoted: false,
        } if text == "true" => Some(true),
        Value::Scalar {
            text,
            quoted: false,
        } if text == "false" => Some(false),
        _ => reader.wrong_type(field, "true or false"),
    }
}

/// A whole number in a range, not in quotes.
pub(super) fn integer<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&Reader, Field<'_>) -> Option<T> {
    move |reader, field| {
        let Value::Scalar {
            text,
            quoted: false,
        } = &field.node.value
        else {
            return reader.wrong_type(field, "a number");
        };
        let number = text
            .parse::<u64>()
            .ok()
            .filter(|number| (least..=most).contains(number));
        if let Some(number) = number.and_then(|number| T::try_from(number).ok()) {
            return Some(number);
        }
        reader.mask(field.node);
        let message = format!(
            "{} wants a whole number from {least} to {most}",
            quoted(field.key)
        );
        reader.refuse(field.node.span, Code::Number, message, "")
    }
}

/// One of some words; those of later versions are known, and refused as such.
pub(super) fn choice<T: Clone + PartialEq>(
    now: &'static [(&'static str, T)],
    later: &'static [&'static str],
) -> impl Fn(&Reader, Field<'_>) -> Option<T> {
    move |reader, field| {
        let word = text(reader, field)?;
        if let Some((_, value)) = now.iter().find(|(name, _)| *name == word) {
            return Some(value.clone());
        }
        if later.contains(&word.as_str()) {
            return reader.later(field.node.span, &word);
        }
        let names: Vec<&str> = now.iter().map(|(name, _)| *name).collect();
        let near = keys::nearest(&word, &names);
        // `type` stands beside secrets, which get into the wrong place; elsewhere the word says what was meant.
        if field.key == "type" && near.is_none() {
            reader.mask(field.node);
        }
        let help = near.map_or_else(
            || format!("one of {}", canonical(now).join(", ")),
            |near| format!("did you mean \"{near}\"?"),
        );
        reader.refuse(
            field.node.span,
            Code::Choice,
            format!("no such {}", field.key),
            help,
        )
    }
}

/// The words without those that mean the same as one before them.
fn canonical<T: PartialEq>(words: &[(&'static str, T)]) -> Vec<&'static str> {
    let mut all: Vec<&(&'static str, T)> = Vec::new();
    for word in words {
        if all.iter().all(|(_, value)| *value != word.1) {
            all.push(word);
        }
    }
    all.into_iter().map(|(name, _)| *name).collect()
}

/// A duration above zero.
pub(super) fn duration(reader: &Reader, field: Field<'_>) -> Option<Duration> {
    let word = text(reader, field)?;
    match duration_from(&word) {
        Ok(duration) => Some(duration),
        Err((code, message)) => {
            reader.mask(field.node);
            let help = match code {
                Code::DurationUnit => format!("{}: {word}s", field.key),
                _ => "a whole number with ms, s, m, h or d, such as 30s".to_owned(),
            };
            reader.refuse(field.node.span, code, message, help)
        }
    }
}

/// Reads `30s`, `1500ms`, `5m`, `1h`, `1d`.
pub(crate) fn duration_from(word: &str) -> Result<Duration, (Code, &'static str)> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.split_at_checked(digits).unwrap_or((word, ""));
    if number.is_empty() {
        return Err((Code::Duration, "this is not a duration"));
    }
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        "" => return Err((Code::DurationUnit, "a duration needs a unit")),
        _ => return Err((Code::Duration, "this is not a duration")),
    };
    let number: Option<u64> = number.parse().ok();
    let duration = number.and_then(|number| number.checked_mul(milliseconds));
    match duration.map(Duration::from_millis) {
        Some(Duration::ZERO) => Err((Code::Duration, "a duration of zero would stop everything")),
        Some(duration) if duration <= LONGEST => Ok(duration),
        _ => Err((Code::Duration, "no duration may be longer than a year")),
    }
}

/// A rate such as `50/s`.
pub(super) fn rate(reader: &Reader, field: Field<'_>) -> Option<Rate> {
    let word = text(reader, field)?;
    let parsed = word.split_once('/').and_then(|(calls, unit)| {
        let per = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            _ => return None,
        };
        let calls: NonZeroU32 = calls.parse().ok()?;
        Some(Rate::new(calls, Duration::from_secs(per)))
    });
    if parsed.is_none() {
        reader.mask(field.node);
        let message = "a rate is a number above zero and a time";
        return reader.refuse(
            field.node.span,
            Code::Number,
            message,
            "such as 50/s, 600/m, 1000/h",
        );
    }
    parsed
}

/// The name of a server or listener: a DNS label, as it becomes a path and a metric's label.
pub(super) fn name(reader: &Reader, field: Field<'_>) -> Option<String> {
    let word = text(reader, field)?;
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = (1..=63).contains(&word.len())
        && word.bytes().all(inner)
        && !word.starts_with('-')
        && !word.ends_with('-');
    if fits {
        return Some(word);
    }
    let message = "a name is up to 63 small letters, digits and hyphens, no hyphen at its ends";
    reader.refuse(field.node.span, Code::Name, message, "")
}

/// The items of a comma list, without the spaces around them.
pub(crate) fn comma_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}
