//! What of a request is kept so that it, or one like it, can be sent again.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::Full;

use crate::call::{Call, Form};
use crate::facts::{Facts, Pin};
use crate::head::Head;
use crate::mcp::headers::{LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID};
use crate::mcp::message::{Message, Parsed};
use crate::mcp::revision::{Era, Revision};
use crate::session::OpenSession;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const EITHER: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");

/// What of a request a second one needs. The [`Call`] is read anew from its body if it is ever needed, so that a stream
/// can let the body go.
pub(super) struct Again {
    head: Arc<Head>,
    shape: Shape,
    revision: Option<Revision>,
    body: Bytes,
    facts: Option<Facts>,
    session: Arc<OpenSession>,
}

/// What of a call decides here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A GET.
    Stream,
    /// A DELETE.
    End,
    /// One request.
    Request,
    /// Anything else with a body.
    Other,
}

impl Shape {
    fn of(call: &Call) -> Self {
        match call.form() {
            Form::Stream => Self::Stream,
            Form::End => Self::End,
            Form::Message(_) if call.wants_answer() => Self::Request,
            Form::Message(_) | Form::Batch(_) => Self::Other,
        }
    }
}

impl Again {
    /// Nothing for a call that is not legacy, or has no [`Call`].
    pub(super) fn of<B>(request: &Request<B>, session: Arc<OpenSession>) -> Option<Self> {
        let call = request.extensions().get::<Call>()?;
        if call.era() != Era::Legacy {
            return None;
        }
        Some(Self {
            head: call.head_of(request),
            shape: Shape::of(call),
            revision: call.revision(),
            body: call.body().clone(),
            facts: Facts::get(request).cloned(),
            session,
        })
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// What was called. Nothing only if it is none, which `inspect` would not have let through.
    pub(super) fn call(&self) -> Option<Call> {
        let form = match self.shape {
            Shape::Stream => Form::Stream,
            Shape::End => Form::End,
            Shape::Request | Shape::Other => match Message::read(&self.body).ok()? {
                Parsed::One(message) => Form::Message(message),
                Parsed::Batch(parts) => Form::Batch(parts),
            },
        };
        let body = self.body.clone();
        Some(Call::new(form, Era::Legacy, self.revision, body))
    }

    /// Lets the body go: what was called will not be sent again.
    pub(super) fn forget_body(&mut self) {
        self.body = Bytes::new();
    }

    pub(super) fn session(&self) -> &OpenSession {
        &self.session
    }

    /// The session, to be held across what changes `self`.
    pub(super) fn shared_session(&self) -> Arc<OpenSession> {
        self.session.clone()
    }

    /// The same request, for the session as it is now. Says which generation that is.
    pub(super) fn request(&self) -> Option<(Request<Full<Bytes>>, u32)> {
        let mut request = self.build(self.head.method().clone(), self.call()?, self.body.clone());
        if let Some(facts) = &self.facts {
            request.extensions_mut().insert(facts.clone());
        }
        let generation = self.session.address(&mut request);
        Some((request, generation))
    }

    /// A GET for the session as it is now, from `last` on if that is an event of this `generation`.
    pub(super) fn stream(&self, last: Option<&(Bytes, u32)>) -> (Request<Full<Bytes>>, u32) {
        let call = Call::new(Form::Stream, Era::Legacy, self.revision, Bytes::new());
        let mut request = self.build(Method::GET, call, Bytes::new());
        request.headers_mut().insert(header::ACCEPT, STREAM);
        if let Some(facts) = &self.facts {
            request.extensions_mut().insert(facts.clone());
        }
        let generation = self.session.address(&mut request);
        if let Some((id, of)) = last
            && *of == generation
            && let Ok(id) = HeaderValue::from_maybe_shared(id.clone())
        {
            request.headers_mut().insert(LAST_EVENT_ID, id);
        }
        (request, generation)
    }

    /// A message of our own, on behalf of the same caller, in the upstream session that it names. It has facts of its
    /// own, which are given back.
    pub(super) fn message(
        &self,
        body: Bytes,
        upstream: Option<&HeaderValue>,
        pin: Pin,
    ) -> Option<(Request<Full<Bytes>>, Facts)> {
        let Ok(Parsed::One(message)) = Message::read(&body) else {
            return None;
        };
        let revision = self.session.revision();
        let call = Call::new(Form::Message(message), Era::Legacy, revision, body.clone());
        let method = call.method();
        let mut request = self.build(Method::POST, call, body);
        let facts = self.own_facts();
        facts.set_method(method);
        request.extensions_mut().insert(facts.clone());
        if self.session.is_pinned() {
            request.extensions_mut().insert(pin);
        }
        if let Some(upstream) = upstream {
            request.headers_mut().insert(SESSION_ID, upstream.clone());
        }
        Some((request, facts))
    }

    /// The end of an upstream session that will not be used.
    pub(super) fn end(&self, upstream: &HeaderValue, pin: Pin) -> Request<Full<Bytes>> {
        let revision = self.session.revision();
        let call = Call::new(Form::End, Era::Legacy, revision, Bytes::new());
        let mut request = self.build(Method::DELETE, call, Bytes::new());
        request.extensions_mut().insert(self.own_facts());
        request.extensions_mut().insert(pin);
        request.headers_mut().insert(SESSION_ID, upstream.clone());
        request
    }

    fn own_facts(&self) -> Facts {
        let theirs = self.facts.as_ref();
        let facts = Facts::new(theirs.and_then(Facts::server).cloned());
        facts.set_era(Era::Legacy);
        if let Some(caller) = theirs.and_then(Facts::caller) {
            facts.set_caller(caller.clone());
        }
        facts
    }

    fn build(&self, method: Method, call: Call, body: Bytes) -> Request<Full<Bytes>> {
        let has_body = !body.is_empty();
        let mut request = self.head.bare_request(method, Full::new(body));
        let headers = request.headers_mut();
        for (name, value) in self.head.headers().filter(|(name, _)| !is_remade(name)) {
            headers.append(name.clone(), value.clone());
        }
        headers.insert(header::ACCEPT, EITHER);
        if has_body {
            headers.insert(header::CONTENT_TYPE, JSON);
        }
        // Revisions before that have no such header.
        let revision = self.session.revision();
        if let Some(revision) = revision.filter(|it| *it >= Revision::V2025_06_18) {
            let revision = HeaderValue::from_static(revision.as_str());
            headers.insert(PROTOCOL_VERSION, revision);
        }
        request.extensions_mut().insert(call);
        request
    }
}

/// Headers that every request of ours has, or that hold for one sending only.
fn is_remade(name: &HeaderName) -> bool {
    const REMADE: [HeaderName; 9] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::ACCEPT,
        header::CONNECTION,
        header::ACCEPT_ENCODING,
        SESSION_ID,
        LAST_EVENT_ID,
        PROTOCOL_VERSION,
    ];
    REMADE.contains(name)
}
