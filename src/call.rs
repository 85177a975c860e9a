//! What a request carries, read once by `inspect` and used by every layer inside it.
//!
//! Contract:
//!
//! 1. A [`Call`] describes what the request carries *now*. Who changes the body replaces the call.
//! 2. A layer that finds no call passes the request on untouched (`policy` refuses it).
//! 3. Spans point into [`Call::body`], which is the body of the request.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::Request;

use crate::head::Head;
use crate::mcp::message::{Kind, Message, MethodName, Span};
use crate::mcp::method::{Class, Method};
use crate::mcp::revision::{Era, Revision};

/// From more bytes than this on, a body is large: what is kept of it is copied.
pub(crate) const LARGE: usize = 16 * 1024;

/// What a request to an MCP endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// A POST with one message.
    Message(Message),
    /// A POST with an array of messages (2025-03-26).
    Batch(Vec<(Span, Message)>),
    /// A GET: the stream of a legacy session.
    Stream,
    /// A DELETE: the end of a legacy session.
    End,
}

/// What a request carries. A clone is the same call, and costs next to nothing: layers keep one for what may come after.
#[derive(Clone, Debug)]
pub struct Call(Arc<Content>);

#[derive(Debug)]
struct Content {
    form: Form,
    era: Era,
    revision: Option<Revision>,
    body: Bytes,
    head: OnceLock<Arc<Head>>,
}

impl Call {
    /// A call of `form`, whose spans point into `body`.
    ///
    /// `revision` is the one that the request names, in its header or envelope; a legacy `initialize` names the one
    /// it offers.
    #[must_use]
    pub fn new(form: Form, era: Era, revision: Option<Revision>, body: Bytes) -> Self {
        Self(Arc::new(Content {
            form,
            era,
            revision,
            body,
            head: OnceLock::new(),
        }))
    }

    /// What it is.
    #[must_use]
    pub fn form(&self) -> &Form {
        &self.0.form
    }

    /// The caller's era.
    #[must_use]
    pub fn era(&self) -> Era {
        self.0.era
    }

    /// The revision that the request names.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.0.revision
    }

    /// The bytes that the spans point into.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// The head of the request that carries it, to be kept. The first who asks makes the copy; later ones share it, if
    /// nobody has changed the head in between.
    pub(crate) fn head_of<B>(&self, request: &Request<B>) -> Arc<Head> {
        if let Some(head) = self.0.head.get()
            && head.is_of(request)
        {
            return head.clone();
        }
        let head = Arc::new(Head::of(request));
        let _ = self.0.head.set(head.clone());
        head
    }

    /// The one message, if it is one.
    #[must_use]
    pub fn message(&self) -> Option<&Message> {
        match &self.0.form {
            Form::Message(message) => Some(message),
            _ => None,
        }
    }

    /// The known method of the one message.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        self.message()?.known_method()
    }

    /// The name of the method of the one message, known or not.
    #[must_use]
    pub fn method_name(&self) -> Option<Cow<'_, str>> {
        self.message()?
            .method
            .map(|name: MethodName| name.name(&self.0.body))
    }

    /// What the request is about: the tool, prompt or resource.
    #[must_use]
    pub fn subject(&self) -> Option<Cow<'_, str>> {
        self.message()?
            .subject()
            .map(|text| text.decode(&self.0.body))
    }

    /// The id of a request, in its JSON spelling; nothing for what has no answer.
    #[must_use]
    pub fn id_token(&self) -> Option<Bytes> {
        let message = self.message()?;
        let id = (message.kind == Kind::Request).then_some(message.id)??;
        let (start, end) = (id.start as usize, id.end as usize);
        let body = &self.0.body;
        let token = body.get(start..end)?;
        // Ids are kept for as long as a call lasts, which a large body must not be because of it.
        Some(if body.len() > LARGE {
            Bytes::copy_from_slice(token)
        } else {
            body.slice_ref(token)
        })
    }

    /// Whether an answer with a JSON-RPC message is due: a request, or a batch with one in it.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        match &self.0.form {
            Form::Message(message) => message.kind == Kind::Request,
            Form::Batch(parts) => parts.iter().any(|(_, part)| part.kind == Kind::Request),
            Form::Stream | Form::End => false,
        }
    }

    /// Whether its answer is a stream that lives on its own: GET, or `subscriptions/listen`. Such a stream has a
    /// connection and a cap of its own, is no load, and is not timed out for being silent.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        match &self.0.form {
            Form::Stream => true,
            Form::Message(message) => message.known_method() == Some(Method::Listen),
            Form::Batch(_) | Form::End => false,
        }
    }

    /// Whether it may be sent again although an earlier try may have been executed. A batch may if all its parts may.
    #[must_use]
    pub fn is_safe_to_repeat(&self) -> bool {
        match &self.0.form {
            Form::Message(message) => is_safe(message),
            Form::Batch(parts) => parts.iter().all(|(_, part)| is_safe(part)),
            Form::Stream => true,
            Form::End => false,
        }
    }

    /// The class of the known method of the one message.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        self.method().map(Method::class)
    }
}

fn is_safe(message: &Message) -> bool {
    message.kind == Kind::Request
        && message
            .known_method()
            .is_some_and(Method::is_safe_to_repeat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::message::Parsed;

    fn call(text: &'static str) -> Call {
        let body = Bytes::from_static(text.as_bytes());
        let form = match Message::read(&body).unwrap() {
            Parsed::One(message) => Form::Message(message),
            Parsed::Batch(parts) => Form::Batch(parts),
        };
        Call::new(form, Era::Legacy, None, body)
    }

    #[test]
    fn the_id_is_that_of_a_request_only() {
        assert_eq!(
            call(r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#)
                .id_token()
                .unwrap(),
            "1.0"
        );
        assert_eq!(
            call(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).id_token(),
            None
        );
    }

    #[test]
    fn a_head_is_copied_once_as_long_as_it_stays_the_same() {
        let call = call(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        let mut request = Request::new(());
        let first = call.head_of(&request);
        assert!(Arc::ptr_eq(&first, &call.head_of(&request)));
        let value = http::HeaderValue::from_static("1");
        request.headers_mut().insert("x", value);
        let changed = call.head_of(&request);
        assert!(changed.is_of(&request) && !first.is_of(&request));
    }

    #[test]
    fn a_batch_is_safe_if_all_its_parts_are() {
        let ping = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#;
        let mixed = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call"}]"#;
        assert!(call(ping).is_safe_to_repeat());
        assert!(!call(mixed).is_safe_to_repeat());
        assert!(
            !call(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#).is_safe_to_repeat()
        );
    }

    #[test]
    fn listen_and_get_are_streams() {
        assert!(call(r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}"#).is_stream());
        assert!(!call(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#).is_stream());
        assert!(Call::new(Form::Stream, Era::Legacy, None, Bytes::new()).is_stream());
    }
}
