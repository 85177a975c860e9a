//! From the tree of a file to the model: every section its function, every problem collected.
//!
//! 1. A section reports its unknown keys, its keys of later versions and its wrong types at once;
//!    reading goes on with what is right, so one look tells all.
//! 2. A value that cannot be read leaves the default in its place and a problem behind; the model
//!    is only handed out when there is none.
//! 3. What might be a secret is masked in every excerpt: literals where a source is wanted, values
//!    under unknown keys, everything in a text that is no YAML.

mod auth;
mod file;
mod header;
mod listener;
mod net;
mod scalar;
mod secret;
mod server;

use std::cell::RefCell;

use super::keys::{self, Keys};
use super::node::{Entry, Node, Value};
use super::problem::{Code, Draft};
use super::text::{Span, quoted};

pub(crate) use self::file::file;
pub(crate) use self::header::{
    header_name_from, is_credential_header, plain_value_from, reserved, template_from,
};
pub(crate) use self::net::{path_from, url_from};
pub(crate) use self::scalar::comma_list;
pub(crate) use self::secret::is_variable;

/// A masked value is longer than this; shorter ones are no secrets, and `30` explains itself.
const SHORT: usize = 3;

/// How many problems are noted; a hostile file has a problem every other byte.
const MOST: usize = 1000;

/// Where the functions of this module leave what they find.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    problems: RefCell<Vec<Draft<Span>>>,
    masks: RefCell<Vec<Span>>,
}

impl Reader {
    pub(crate) fn into_parts(self) -> (Vec<Draft<Span>>, Vec<Span>) {
        (self.problems.into_inner(), self.masks.into_inner())
    }

    /// Notes a problem; `None`, so that a reading function can end with it.
    fn refuse<T>(
        &self,
        span: Span,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Option<T> {
        if !self.is_full() {
            let problem = Draft::error(span, code, message, help);
            self.problems.borrow_mut().push(problem);
        }
        None
    }

    /// Whether there is no use in noting more: far more than are told.
    fn is_full(&self) -> bool {
        self.problems.borrow().len() >= MOST
    }

    /// Notes a key or value of a later version.
    fn later<T>(&self, span: Span, word: &str) -> Option<T> {
        let message = format!("{} is not supported by this version", quoted(word));
        self.refuse(span, Code::NotSupported, message, "")
    }

    /// Notes that something else was wanted here; silent where something was said already.
    fn wrong_type<T>(&self, field: Field<'_>, wanted: &str) -> Option<T> {
        let found = match field.node.value {
            Value::Refused => return None,
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        };
        let message = format!("{} wants {wanted}, this is {found}", quoted(field.key));
        self.mask(field.node);
        self.refuse(field.node.span, Code::Type, message, "")
    }

    /// Notes a key that nobody knows. One like no other, without a value, may be a secret in the
    /// wrong place, as in `auth: {TOKEN}`.
    fn unknown_key(&self, entry: &Entry, keys: &Keys) {
        if self.is_full() {
            return;
        }
        let near = keys::nearest(&entry.key, keys.known);
        let message = if near.is_none() && entry.node.value == Value::Null {
            self.masks.borrow_mut().push(entry.key_span);
            "no such key here".to_owned()
        } else {
            format!("no key {} here", quoted(&entry.key))
        };
        let elsewhere = || {
            keys::ALL
                .iter()
                .find(|keys| keys.known.contains(&&*entry.key))
        };
        let help = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => elsewhere().map_or_else(
                || format!("{} has {}", keys.at, keys.known.join(", ")),
                |section| format!("it belongs to {}", section.at),
            ),
        };
        self.refuse::<()>(entry.key_span, Code::UnknownKey, message, help);
    }

    /// Hides every value within, but for our own words and what is too short to be a secret.
    fn mask(&self, node: &Node) {
        node.scalars(&mut |span, text| {
            if text.chars().count() > SHORT && !keys::is_vocabulary(text) {
                self.masks.borrow_mut().push(span);
            }
        });
    }
}

/// A value and the key it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    key: &'a str,
    node: &'a Node,
}

/// A map whose keys are known.
#[derive(Clone, Copy, Debug)]
struct Section<'a> {
    reader: &'a Reader,
    span: Span,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// Takes a map as that section, and tells what it has that it should not.
    fn open(reader: &'a Reader, field: Field<'a>, keys: &'static Keys) -> Option<Self> {
        let Value::Map(entries) = &field.node.value else {
            return reader.wrong_type(field, "a map");
        };
        for entry in entries {
            if keys.known.contains(&entry.key.as_str()) {
                continue;
            }
            reader.mask(&entry.node);
            if keys.later.contains(&entry.key.as_str()) {
                reader.later::<()>(entry.key_span, &entry.key);
            } else {
                reader.unknown_key(entry, keys);
            }
        }
        Some(Self {
            reader,
            span: field.node.span,
            entries,
        })
    }

    /// The value of a key that is there and not null.
    fn field(&self, key: &'a str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (entry.node.value != Value::Null).then_some(Field {
            key,
            node: &entry.node,
        })
    }

    /// Where a key's value stands; the section itself where there is none.
    fn span_of(&self, key: &'a str) -> Span {
        self.field(key).map_or(self.span, |field| field.node.span)
    }

    fn get<T>(
        &self,
        key: &'a str,
        read: impl FnOnce(&Reader, Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.field(key).and_then(|field| read(self.reader, field))
    }

    /// Reads a key into its place, which keeps its default where there is nothing to read.
    fn set<T>(
        &self,
        key: &'a str,
        place: &mut T,
        read: impl FnOnce(&Reader, Field<'a>) -> Option<T>,
    ) {
        if let Some(value) = self.get(key, read) {
            *place = value;
        }
    }

    /// The same for a key that may be absent from the model.
    fn set_some<T>(
        &self,
        key: &'a str,
        place: &mut Option<T>,
        read: impl FnOnce(&Reader, Field<'a>) -> Option<T>,
    ) {
        if let Some(value) = self.get(key, read) {
            *place = Some(value);
        }
    }

    /// Reads a key that must be there.
    fn need<T>(
        &self,
        key: &'a str,
        help: &str,
        read: impl FnOnce(&Reader, Field<'a>) -> Option<T>,
    ) -> Option<T> {
        if self.field(key).is_none() {
            let message = format!("{} is missing", quoted(key));
            return self
                .reader
                .refuse(self.span, Code::MissingKey, message, help);
        }
        self.get(key, read)
    }
}

/// Reads a list, item by item.
fn list<T>(
    item: impl Fn(&Reader, Field<'_>) -> Option<T>,
) -> impl Fn(&Reader, Field<'_>) -> Option<Vec<T>> {
    move |reader, field| {
        let Value::List(nodes) = &field.node.value else {
            return reader.wrong_type(field, "a list");
        };
        let fields = nodes.iter().map(|node| Field {
            key: field.key,
            node,
        });
        // An item that is wrong must not shift the ones behind it: positions are looked up by
        // index. It is wrong, so the whole list is.
        let before = nodes.len();
        let items: Vec<T> = fields.filter_map(|field| item(reader, field)).collect();
        (items.len() == before).then_some(items)
    }
}
