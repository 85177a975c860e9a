//! The elements of a list result: what a proxy reads of them, and their removal, which leaves every other byte alone.

use bytes::{Bytes, BytesMut};

use crate::mcp::message::{Kind, Malformed, Message, Parsed, Span, Text, once};
use crate::mcp::scan::Scanner;

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum List {
    /// `tools`, by name.
    Tools,
    /// `prompts`, by name.
    Prompts,
    /// `resources`, by URI.
    Resources,
    /// `resourceTemplates`, by URI template.
    ResourceTemplates,
}

impl List {
    /// The key of the array in the result.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
        }
    }

    /// The key in an element that tells it from the others.
    #[must_use]
    pub fn identity(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::ResourceTemplates => "uriTemplate",
        }
    }
}

/// One element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Element {
    /// Where it stands.
    pub span: Span,
    /// Its name or URI, if it is a string.
    pub name: Option<Text>,
    /// `annotations.readOnlyHint` is true.
    pub is_read_only: bool,
    /// `annotations.idempotentHint` is true.
    pub is_idempotent: bool,
    /// `inputSchema` (of a tool), any JSON value.
    pub input_schema: Option<Span>,
}

/// The elements of the list that `message` carries, which was read from `bytes`; of another message none.
///
/// # Errors
///
/// [`Malformed::DuplicateKey`], in the result or in an element.
pub fn elements(bytes: &[u8], message: &Message, list: List) -> Result<Vec<Element>, Malformed> {
    let mut found = None;
    let Some(result) = message.outcome.filter(|_| message.kind == Kind::Result) else {
        return Ok(Vec::new());
    };
    let mut json = Scanner::within(bytes, result);
    if json.peek() == Some(b'{') {
        json.object(|json, key| {
            if key != list.key().as_bytes() {
                return json.value().map(drop);
            }
            let mut elements = Vec::new();
            if json.peek() == Some(b'[') {
                json.array(|json| {
                    elements.push(Element::read(json, bytes, list)?);
                    Ok(())
                })?;
            } else {
                json.value()?;
            }
            once(&mut found, elements)
        })?;
    }
    Ok(found.unwrap_or_default())
}

/// The message, or the batch, without the elements that `keep` does not want, every other byte as it came.
///
/// An element without a readable name is asked for as `""`.
///
/// # Errors
///
/// As [`Malformed`] says: then nothing is known of what is in it, and it must not be passed on.
pub fn remove_elements(
    message: &Bytes,
    list: List,
    keep: impl Fn(&str) -> bool,
) -> Result<Bytes, Malformed> {
    let messages = match Message::read(message)? {
        Parsed::One(one) => vec![one],
        Parsed::Batch(parts) => parts.into_iter().map(|(_, part)| part).collect(),
    };
    let mut cuts = Vec::new();
    for part in &messages {
        cut(message, &elements(message, part, list)?, &keep, &mut cuts);
    }
    if cuts.is_empty() {
        return Ok(message.clone());
    }
    let mut out = BytesMut::with_capacity(message.len());
    let mut from = 0;
    for span in cuts {
        out.extend_from_slice(message.get(from..span.start as usize).unwrap_or_default());
        from = span.end as usize;
    }
    out.extend_from_slice(message.get(from..).unwrap_or_default());
    Ok(out.freeze())
}

/// Notes what goes, each element with one comma: the one before it, or the one after it as long as none has stayed.
fn cut(message: &[u8], elements: &[Element], keep: &impl Fn(&str) -> bool, cuts: &mut Vec<Span>) {
    let mut has_kept = false;
    let mut previous_end = 0;
    let mut elements = elements.iter().peekable();
    while let Some(element) = elements.next() {
        let Span { start, end } = element.span;
        let name = element.name.map(|name| name.decode(message));
        if keep(name.as_deref().unwrap_or_default()) {
            has_kept = true;
        } else if has_kept {
            cuts.push(Span {
                start: previous_end,
                end,
            });
        } else {
            let end = elements.peek().map_or(end, |next| next.span.start);
            cuts.push(Span { start, end });
        }
        previous_end = end;
    }
}

impl Element {
    fn read(json: &mut Scanner<'_>, bytes: &[u8], list: List) -> Result<Self, Malformed> {
        let mut found = Self::default();
        if json.peek() != Some(b'{') {
            found.span = json.value()?;
            return Ok(found);
        }
        let (mut name, mut annotations) = (None, None);
        found.span = json.object(|json, key| match key {
            b"annotations" => once(&mut annotations, Hints::read(json, bytes)?),
            b"inputSchema" => once(&mut found.input_schema, json.value()?),
            key if key == list.identity().as_bytes() => once(&mut name, json.text()?.1),
            _ => json.value().map(drop),
        })?;
        let hints = annotations.unwrap_or_default();
        found.name = name.flatten();
        found.is_read_only = hints.read_only == Some(true);
        found.is_idempotent = hints.idempotent == Some(true);
        Ok(found)
    }
}

#[derive(Default)]
struct Hints {
    read_only: Option<bool>,
    idempotent: Option<bool>,
}

impl Hints {
    fn read(json: &mut Scanner<'_>, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut found = Self::default();
        if json.peek() != Some(b'{') {
            json.value()?;
            return Ok(found);
        }
        json.object(|json, key| {
            let is_true = json.value()?.of(bytes) == b"true";
            match key {
                b"readOnlyHint" => once(&mut found.read_only, is_true),
                b"idempotentHint" => once(&mut found.idempotent, is_true),
                _ => Ok(()),
            }
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const LIST: &str = r#"{"jsonrpc":"2.0","x":[1e3],"id":"a","result":{ "tools" : [
        {"name":"a","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}} ,
        {"annotations":{"idempotentHint":true,"readOnlyHint":"true"},"name":"\u0062"},{"name":"c","_x":1.0}
    ],"nextCursor":"n"}}"#;

    fn one(bytes: &[u8]) -> Message {
        Message::read_answer(bytes).unwrap().0
    }

    #[test]
    fn names_and_hints_are_read() {
        let bytes = LIST.as_bytes();
        let tools = elements(bytes, &one(bytes), List::Tools).unwrap();
        let names: Vec<_> = tools
            .iter()
            .map(|tool| tool.name.unwrap().decode(bytes))
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        let hints: Vec<_> = tools
            .iter()
            .map(|tool| (tool.is_read_only, tool.is_idempotent))
            .collect();
        assert_eq!(hints, [(true, false), (false, true), (false, false)]);
        assert_eq!(
            tools[0].input_schema.unwrap().of(bytes),
            br#"{"type":"object"}"#
        );
        assert_eq!(elements(bytes, &one(bytes), List::Prompts), Ok(Vec::new()));
    }

    #[test]
    fn a_removed_element_takes_one_comma_with_it() {
        let kept = |names: &[&str]| {
            remove_elements(&Bytes::from_static(LIST.as_bytes()), List::Tools, |name| {
                names.contains(&name)
            })
            .unwrap()
        };
        assert_eq!(kept(&["a", "b", "c"]), LIST);
        let gap = ",\n        {\"annotations\":{\"idempotentHint\":true,\"readOnlyHint\":\"true\"},\"name\":\"\\u0062\"}";
        assert_eq!(kept(&["a", "c"]), LIST.replace(&format!(" {gap}"), ""));
        let none: Value = serde_json::from_slice(&kept(&[])).unwrap();
        assert_eq!(none["result"], json!({"tools": [], "nextCursor": "n"}));
    }

    #[test]
    fn an_element_that_names_itself_twice_is_refused() {
        let message = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"safe","name":"rm"}]}}"#,
        );
        assert_eq!(
            remove_elements(&message, List::Tools, |_| true),
            Err(Malformed::DuplicateKey)
        );
        let message = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"rm"}]}}"#,
        );
        assert_eq!(
            remove_elements(&message, List::Tools, |_| true),
            Err(Malformed::DuplicateKey)
        );
    }

    #[test]
    fn each_answer_of_a_batch_is_cut() {
        let message = Bytes::from_static(br#"[{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"},{"name":"b"}]}},{"jsonrpc":"2.0","id":2,"result":{"tools":[7,{"name":"a"}]}}]"#);
        let cut = remove_elements(&message, List::Tools, |name| name == "b").unwrap();
        assert_eq!(cut, &br#"[{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"b"}]}},{"jsonrpc":"2.0","id":2,"result":{"tools":[]}}]"#[..]);
    }

    proptest! {
        #[test]
        fn what_is_kept_stays_and_nothing_else_goes(kept in vec(any::<bool>(), 0..8), space in "[ \n]{0,2}") {
            let names: Vec<_> = (0..kept.len()).map(|index| format!("t{index}")).collect();
            let tools: Vec<_> = names.iter().map(|name| format!("{space}{{\"name\":\"{name}\"}}{space}")).collect();
            let wrap = |tools: &str| format!(r#"{{"id":1,"result":{{"tools":[{tools}],"x":1.0}},"jsonrpc":"2.0"}}"#);
            let message = Bytes::from(wrap(&tools.join(",")));
            let wanted = |name: &str| kept[name[1..].parse::<usize>().unwrap()];
            let cut = remove_elements(&message, List::Tools, wanted).unwrap();
            let left: Vec<_> = names.iter().filter(|name| wanted(name)).map(|name| json!({"name": name})).collect();
            let read: Value = serde_json::from_slice(&cut).unwrap();
            prop_assert_eq!(&read["result"]["tools"], &json!(left));
            let head_and_tail = wrap("\0");
            let (head, tail) = head_and_tail.split_once('\0').unwrap();
            prop_assert!(cut.starts_with(head.as_bytes()) && cut.ends_with(tail.as_bytes()));
        }
    }
}
