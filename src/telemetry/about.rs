//! What a message is, in the words of the convention.

use std::borrow::Cow;

use opentelemetry::KeyValue;

use crate::call::Call;
use crate::convention;
use crate::mcp::message::Kind;
use crate::mcp::method::Method;
use crate::mcp::revision::{Era, Revision};
use crate::telemetry::attribute;

/// The longest text of a peer that is kept.
const LONGEST: usize = 128;
/// What the message is.
pub(super) struct About {
    /// As it stands in the message.
    pub(super) method: Cow<'static, str>,
    pub(super) known: Option<Method>,
    /// The tool or prompt, and what kind it is.
    pub(super) subject: Option<(&'static str, String)>,
    version: Option<&'static str>,
    era: Era,
}

impl About {
    /// Nothing of what has no method.
    pub(super) fn of(call: &Call) -> Option<Self> {
        let method = call.method_name()?;
        let known = call.method();
        let kind = match known {
            Some(Method::ToolsCall) => Some(attribute::TOOL),
            Some(Method::PromptsGet) => Some(attribute::PROMPT),
            _ => None,
        };
        Some(Self {
            method: match known {
                Some(known) => Cow::Borrowed(known.as_str()),
                None => Cow::Owned(cut(&method).to_owned()),
            },
            known,
            subject: kind.and_then(|kind| Some((kind, cut(&call.subject()?).to_owned()))),
            version: call.revision().map(Revision::as_str),
            era: call.era(),
        })
    }

    pub(super) fn span_name(&self) -> String {
        match &self.subject {
            Some((_, subject)) => format!("{} {subject}", self.method),
            None => self.method.clone().into_owned(),
        }
    }

    /// What spans of both kinds have.
    pub(super) fn attributes(&self, call: &Call, session: Option<String>) -> Vec<KeyValue> {
        let mut all = self.common(&self.method, true);
        if let Some(id) = request_id(call) {
            all.push(KeyValue::new(attribute::REQUEST_ID, id));
        }
        if let Some(session) = session.filter(|_| self.era == Era::Legacy) {
            all.push(KeyValue::new(attribute::SESSION, session));
        }
        all
    }

    /// What spans and metrics have. Metrics have only names that are bounded in number.
    pub(super) fn common(&self, method: &str, has_subject: bool) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(16);
        all.push(KeyValue::new(attribute::METHOD, method.to_owned()));
        all.extend(transport());
        if let Some(version) = self.version {
            all.push(KeyValue::new(attribute::VERSION, version));
        }
        if self.known == Some(Method::ToolsCall) {
            all.push(KeyValue::new(
                attribute::OPERATION,
                convention::EXECUTE_TOOL,
            ));
        }
        if let Some((kind, subject)) = self.subject.as_ref().filter(|_| has_subject) {
            all.push(KeyValue::new(*kind, subject.clone()));
        }
        all
    }
}

/// What everything goes over.
pub(super) fn transport() -> [KeyValue; 3] {
    [
        KeyValue::new(attribute::PROTOCOL_NAME, "http"),
        KeyValue::new(attribute::PROTOCOL_VERSION, "1.1"),
        KeyValue::new(attribute::TRANSPORT, "tcp"),
    ]
}

/// At most so much of it, cut between characters.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST))
        .unwrap_or_default()
}

/// The id of a request, as text.
fn request_id(call: &Call) -> Option<String> {
    let message = call.message()?;
    let id = (message.kind == Kind::Request).then_some(message.id)??;
    let token = id.text(call.body());
    let text: Cow<'_, str> = if token.starts_with('"') {
        Cow::Owned(serde_json::from_str::<String>(token).ok()?)
    } else {
        Cow::Borrowed(token)
    };
    Some(cut(&text).to_owned())
}
