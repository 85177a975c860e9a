//! YAML text to a tree that knows where everything stood.
//!
//! 1. The tree has maps, lists, scalars and nulls; nothing is converted, so `1.10` stays `1.10`.
//! 2. Each node and key has its [`Span`]. Entries keep their order.
//! 3. Refused, each with its place: duplicate keys, aliases, tags. Reading goes on behind them, so
//!    that all are told at once. A key that is no scalar and a second document end it.
//! 4. Bounded: [`MAX_DEPTH`] levels, [`MAX_KEYS`] keys in a map; the caller bounds the text ([`MAX_BYTES`]). Without aliases a
//!    tree is never larger than its text.
//! 5. A text that is no YAML ends with one problem; the tree is then empty, and nothing is known
//!    to be harmless in the text.
//!
//! JSON is YAML here, but for `\u` escapes of surrogate pairs, which must be written as characters.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span as Marks, StrInput};

use super::problem::{Code, Draft};
use super::text::{Span, quoted};

/// The largest text that is read.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// How deep maps and lists may be nested.
const MAX_DEPTH: usize = 64;

/// How many keys one map may have.
const MAX_KEYS: usize = 1024;

/// A value and where it stood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Scalar {
        text: String,
        /// Quoted, so a text whatever it looks like.
        quoted: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Refused already; whoever reads it says nothing more.
    Refused,
}

/// One key of a map with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

impl Node {
    fn new(span: Span, value: Value) -> Self {
        Self { span, value }
    }

    /// The entry of that key, if this is a map that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Where a path such as `servers.0.auth.token` leads: the value if it is a single one, else
    /// its key. What is not in the text is where it would have to be put.
    pub(crate) fn place(&self, path: &str) -> Span {
        let (mut node, mut place) = (self, self.span);
        for part in path.split('.') {
            let next = match &node.value {
                Value::Map(_) => node.entry(part).map(|entry| (&entry.node, entry.key_span)),
                Value::List(items) => part
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get(index))
                    .map(|item| (item, item.span)),
                _ => None,
            };
            let Some((found, at)) = next else { break };
            let single = matches!(found.value, Value::Scalar { .. });
            (node, place) = (found, if single { found.span } else { at });
        }
        place
    }

    /// Calls `visit` for each scalar within.
    pub(crate) fn scalars(&self, visit: &mut impl FnMut(Span, &str)) {
        match &self.value {
            Value::Scalar { text, .. } => visit(self.span, text),
            Value::List(items) => items.iter().for_each(|item| item.scalars(visit)),
            Value::Map(entries) => entries.iter().for_each(|entry| entry.node.scalars(visit)),
            Value::Null | Value::Refused => {}
        }
    }
}

/// The tree of a text, and what was refused on the way.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: Node,
    pub(crate) problems: Vec<Draft<Span>>,
    /// Scalars that the tree does not have, and nobody can judge.
    pub(crate) dropped: Vec<Span>,
    /// Whether the whole text was understood; if not, the tree is empty.
    pub(crate) complete: bool,
}

/// Reads one YAML document.
pub(crate) fn parse(text: &str) -> Tree {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    let ended = builder.run(&mut parser);
    let complete = ended.is_ok();
    if let Err(problem) = ended {
        builder.problems.push(problem);
    }
    let root = builder.root.filter(|_| complete);
    let root = root.unwrap_or_else(|| Node::new(Span::default(), Value::Null));
    Tree {
        root,
        problems: builder.problems,
        dropped: builder.dropped,
        complete,
    }
}

/// A map or list that is not closed yet.
#[derive(Debug)]
struct Frame {
    span: Span,
    value: Value,
    /// In a map: the key that waits for its value.
    key: Option<(String, Span)>,
}

#[derive(Debug, Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Frame>,
    documents: usize,
    problems: Vec<Draft<Span>>,
    dropped: Vec<Span>,
}

impl Builder {
    fn run(&mut self, parser: &mut Parser<'_, StrInput<'_>>) -> Result<(), Draft<Span>> {
        while let Some(event) = parser.next_event() {
            let (event, marks) = event.map_err(|error| not_yaml(&error))?;
            let span = Span::new(marks.start.index(), marks.end.index());
            self.take(event, marks, span)?;
        }
        Ok(())
    }

    fn take(&mut self, event: Event<'_>, marks: Marks, span: Span) -> Result<(), Draft<Span>> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let message = "only one document is taken";
                    return Err(Draft::error(
                        span,
                        Code::Yaml,
                        message,
                        "split the file here",
                    ));
                }
            }
            Event::Scalar(text, style, _, tag) => {
                let quoted = style != ScalarStyle::Plain;
                let value = if tag.is_some() {
                    self.refuse(span, "tags (`!name`) are not taken", "leave the tag out")
                } else if !quoted && (marks.is_empty() || is_null(&text)) {
                    Value::Null
                } else {
                    Value::Scalar {
                        text: text.into_owned(),
                        quoted,
                    }
                };
                self.push(Node::new(span, value))?;
            }
            Event::Alias(_) => {
                let message = "aliases (`*name`) are not taken";
                let value = self.refuse(span, message, "write the value out");
                self.push(Node::new(span, value))?;
            }
            Event::SequenceStart(_, tag) => {
                self.open(span, Value::List(Vec::new()), tag.is_some())?;
            }
            Event::MappingStart(_, tag) => {
                self.open(span, Value::Map(Vec::new()), tag.is_some())?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.open.pop() {
                    self.push(Node::new(frame.span, frame.value))?;
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn open(&mut self, span: Span, value: Value, tagged: bool) -> Result<(), Draft<Span>> {
        if self.open.len() >= MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(Draft::error(span, Code::TooLarge, message, ""));
        }
        if tagged {
            self.refuse(span, "tags (`!name`) are not taken", "leave the tag out");
        }
        self.open.push(Frame {
            span,
            value,
            key: None,
        });
        Ok(())
    }

    /// Puts a finished node where it belongs: the root, a list, a key or the value of one.
    fn push(&mut self, node: Node) -> Result<(), Draft<Span>> {
        let Some(frame) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut frame.value, frame.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some((key, key_span))) => {
                if entries.iter().any(|entry| entry.key == key) {
                    let message = format!("{} is written twice in this map", quoted(&key));
                    let problem = Draft::error(key_span, Code::DuplicateKey, message, "keep one");
                    self.problems.push(problem);
                    node.scalars(&mut |span, _| self.dropped.push(span));
                } else if entries.len() < MAX_KEYS {
                    entries.push(Entry {
                        key,
                        key_span,
                        node,
                    });
                } else {
                    let message = format!("more than {MAX_KEYS} keys in one map");
                    return Err(Draft::error(key_span, Code::TooLarge, message, ""));
                }
            }
            (_, _) => {
                let key = match &node.value {
                    Value::Scalar { text, .. } => text.clone(),
                    Value::Null => "~".to_owned(),
                    Value::List(_) | Value::Map(_) | Value::Refused => {
                        let message = "a key must be a plain word";
                        return Err(Draft::error(node.span, Code::Yaml, message, ""));
                    }
                };
                frame.key = Some((key, node.span));
            }
        }
        Ok(())
    }

    fn refuse(&mut self, span: Span, message: &str, help: &str) -> Value {
        self.problems
            .push(Draft::error(span, Code::Yaml, message, help));
        self.dropped.push(span);
        Value::Refused
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The parser's own words hold nothing of the text.
fn not_yaml(error: &ScanError) -> Draft<Span> {
    let at = error.marker().index();
    Draft::error(Span::new(at, at + 1), Code::Yaml, error.info(), "")
}
