//! One exchange as spans and measurements.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use tokio::time::Instant;

use crate::call::Call;
use crate::clock::Clock;
use crate::convention;
use crate::error::Cause;
use crate::exchange::{Attempted, Begun, End, Exchange, Peer, Recorder};
use crate::facts::Facts;
use crate::mcp::headers::SESSION_ID;
use crate::mcp::method::Method;
use crate::mcp::revision::Revision;
use crate::telemetry::about::{About, transport};
use crate::telemetry::names::Names;
use crate::telemetry::{attribute, remote};

/// The most attempts of one exchange that are told apart: more than any configuration makes.
const ATTEMPTS: usize = 64;

/// What durations are recorded with.
#[derive(Debug)]
pub(super) struct Instruments {
    server: Histogram<f64>,
    client: Histogram<f64>,
    server_session: Histogram<f64>,
    client_session: Histogram<f64>,
}

impl Instruments {
    pub(super) fn new(meter: &Meter) -> Self {
        let histogram = |name, description| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(convention::BOUNDARIES.to_vec())
                .build()
        };
        Self {
            server: histogram(
                attribute::SERVER_DURATION,
                "How long a request or notification took, to the end of its answer.",
            ),
            client: histogram(
                attribute::CLIENT_DURATION,
                "How long one sending of it took, to the end of its answer.",
            ),
            server_session: histogram(
                attribute::SERVER_SESSION,
                "How long a session lasted that its caller ended.",
            ),
            client_session: histogram(
                attribute::CLIENT_SESSION,
                "The same, of the session at the server.",
            ),
        }
    }
}

/// What all exchanges are recorded with.
#[derive(Debug)]
pub(super) struct Record {
    tracer: Option<SdkTracer>,
    instruments: Option<Instruments>,
    known: Names,
    clock: Clock,
    /// Makes of the id of a session a name that nobody can use.
    hash: RandomState,
}

impl Record {
    pub(super) fn new(tracer: Option<SdkTracer>, instruments: Option<Instruments>) -> Self {
        Self {
            tracer,
            instruments,
            known: Names::default(),
            clock: Clock::system(),
            hash: RandomState::new(),
        }
    }

    fn session(&self, headers: &HeaderMap) -> Option<String> {
        let id = headers.get(SESSION_ID)?;
        Some(format!("{:016x}", self.hash.hash_one(id.as_bytes())))
    }
}

impl Recorder for Record {
    fn begin(self: Arc<Self>, server: &Arc<str>, headers: &HeaderMap) -> Arc<dyn Exchange> {
        Arc::new(Watch {
            began: self.clock.now(),
            started: Instant::now(),
            server: server.clone(),
            header: remote::of_headers(headers),
            session: self.session(headers),
            state: Mutex::default(),
            record: self,
        })
    }
}

/// One exchange.
struct Watch {
    record: Arc<Record>,
    server: Arc<str>,
    began: SystemTime,
    started: Instant,
    /// The context of the caller's headers.
    header: Option<SpanContext>,
    /// The caller's session.
    session: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    about: Option<About>,
    span: Option<Span>,
    attempts: Vec<Attempt>,
    has_ended: bool,
}

/// One sending of it.
struct Attempt {
    span: Option<Span>,
    began: Duration,
    peer: (String, u16),
    seen: Option<Attempted>,
    /// Since when nobody waits for it.
    given_up: Option<Duration>,
    done: Option<Done>,
}

/// An attempt that has ended.
struct Done {
    took: Duration,
    error: Option<String>,
    code: Option<i64>,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, since: Duration) -> SystemTime {
        self.began.checked_add(since).unwrap_or(self.began)
    }

    /// Begins the SERVER span.
    fn span(&self, about: &About, call: &Call) -> Option<Span> {
        let tracer = self.record.tracer.as_ref()?;
        let meta = remote::of_meta(call);
        let (parent, linked) = match (meta, self.header.clone()) {
            (Some(meta), header) => (Some(meta), header),
            (None, header) => (header, None),
        };
        let is_another = |linked: &SpanContext| {
            parent.as_ref().is_none_or(|parent| {
                (parent.trace_id(), parent.span_id()) != (linked.trace_id(), linked.span_id())
            })
        };
        let links = linked.filter(is_another).map(Link::with_context);
        let mut attributes = about.attributes(call, self.session.clone());
        attributes.push(KeyValue::new(attribute::OUR_SERVER, self.server.clone()));
        let builder = SpanBuilder::from_name(about.span_name())
            .with_kind(SpanKind::Server)
            .with_start_time(self.began)
            .with_attributes(attributes)
            .with_links(links.into_iter().collect());
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        Some(tracer.build_with_context(builder, &context))
    }

    /// Ends an attempt, unless it has ended.
    fn finish(
        &self,
        attempt: &mut Attempt,
        at: Duration,
        error: Option<String>,
        code: Option<i64>,
    ) {
        if attempt.done.is_some() {
            return;
        }
        if let Some(span) = &mut attempt.span {
            close(span, error.as_deref(), code);
            span.end_with_timestamp(self.at(at));
        }
        attempt.done = Some(Done {
            took: at.saturating_sub(attempt.began),
            error,
            code,
        });
    }

    /// Ends what another attempt follows.
    fn finish_before_another(&self, state: &mut State) {
        let now = self.started.elapsed();
        for attempt in &mut state.attempts {
            let (at, error) = match attempt.seen {
                Some(Attempted::Answered(status)) => {
                    let refused = !status.is_success();
                    (now, refused.then(|| status.as_u16().to_string()))
                }
                // Nobody repeats what somebody else has given up: a deadline has.
                _ => (attempt.given_up.unwrap_or(now), Some("timeout".to_owned())),
            };
            self.finish(attempt, at, error, None);
        }
    }

    /// Ends what is open when the exchange ends.
    fn finish_with(&self, attempt: &mut Attempt, now: Duration, end: End) {
        let (at, error) = if let Some(Attempted::Answered(status)) = attempt.seen {
            let error = match end {
                End::RpcError(Some(_)) => convention::client_error(end),
                _ if !status.is_success() => Some(status.as_u16().to_string()),
                _ => convention::client_error(end),
            };
            (now, error)
        } else {
            let error = match end {
                End::Failed(cause, _) => convention::word(cause),
                _ => "cancelled",
            };
            (attempt.given_up.unwrap_or(now), Some(error.to_owned()))
        };
        let code = match end {
            End::RpcError(code) => code,
            _ => None,
        };
        self.finish(attempt, at, error, code);
    }

    fn measure(&self, state: &State, about: &About, took: Duration, end: End) {
        let Some(instruments) = &self.record.instruments else {
            return;
        };
        let exists = matches!(end, End::Ok { shown: true });
        let known = &self.record.known;
        let has_subject = about
            .subject
            .as_ref()
            .is_some_and(|(_, subject)| known.knows(&self.server, subject, exists));
        let method = about.known.map_or(convention::OTHER, Method::as_str);
        let measured =
            |error: Option<&str>, code: Option<i64>| {
                let mut all = about.common(method, has_subject);
                all.push(KeyValue::new(attribute::OUR_SERVER, self.server.clone()));
                all.extend(error.map(|error| {
                    KeyValue::new(
                        attribute::ERROR_TYPE,
                        convention::bounded_error(error, code).to_owned(),
                    )
                }));
                all.extend(code.map(|code| {
                    KeyValue::new(attribute::STATUS_CODE, convention::bounded_code(code))
                }));
                all
            };
        let error = error_of(about, end);
        let attributes = measured(error.as_deref(), convention::code(end));
        instruments.server.record(took.as_secs_f64(), &attributes);
        for attempt in &state.attempts {
            let Some(done) = &attempt.done else { continue };
            let mut attributes = measured(done.error.as_deref(), done.code);
            attributes.extend(address(&attempt.peer.0, attempt.peer.1));
            instruments
                .client
                .record(done.took.as_secs_f64(), &attributes);
        }
    }
}

/// What became of it, on our side. A stream that lives on its own ends when its reader goes.
fn error_of(about: &About, end: End) -> Option<String> {
    if end == End::Cancelled && about.known == Some(Method::Listen) {
        return None;
    }
    convention::server_error(end)
}

fn failure(error: Option<&str>, code: Option<i64>) -> impl Iterator<Item = KeyValue> {
    let error = error.map(|error| KeyValue::new(attribute::ERROR_TYPE, error.to_owned()));
    let code = code.map(|code| KeyValue::new(attribute::STATUS_CODE, code.to_string()));
    error.into_iter().chain(code)
}

fn address(host: &str, port: u16) -> [KeyValue; 2] {
    [
        KeyValue::new(attribute::ADDRESS, host.to_owned()),
        KeyValue::new(attribute::PORT, i64::from(port)),
    ]
}

/// Says of a span how it went. No text of a peer is in its status.
fn close(span: &mut Span, error: Option<&str>, code: Option<i64>) {
    span.set_attributes(failure(error, code));
    if error.is_some() {
        span.set_status(Status::error(""));
    }
}

impl Exchange for Watch {
    fn read(&self, call: &Call) {
        let mut state = self.lock();
        let Some(about) = About::of(call).filter(|_| state.about.is_none()) else {
            return;
        };
        state.span = self.span(&about, call);
        state.about = Some(about);
    }

    fn attempt(&self, call: &Call, to: Peer<'_>, headers: &mut HeaderMap) -> Begun {
        let mut state = self.lock();
        let number = u32::try_from(state.attempts.len()).unwrap_or(u32::MAX);
        let Some(about) = &state.about else {
            return Begun::new(u32::MAX, None);
        };
        let parent = state.span.as_ref().map(|span| span.span_context().clone());
        if state.has_ended || state.attempts.len() >= ATTEMPTS {
            let call = parent.and_then(|parent| remote::write(&parent, call, headers));
            return Begun::new(u32::MAX, call);
        }
        let now = self.started.elapsed();
        let span = self.record.tracer.as_ref().zip(parent);
        let span = span.map(|(tracer, parent)| {
            let mut attributes = about.attributes(call, self.record.session(headers));
            attributes.extend(address(to.host(), to.port()));
            attributes.push(KeyValue::new(attribute::OUR_SERVER, self.server.clone()));
            if number > 0 {
                attributes.push(KeyValue::new(attribute::RESENDS, i64::from(number)));
            }
            let builder = SpanBuilder::from_name(about.span_name())
                .with_kind(SpanKind::Client)
                .with_start_time(self.at(now))
                .with_attributes(attributes);
            tracer.build_with_context(builder, &Context::new().with_remote_span_context(parent))
        });
        self.finish_before_another(&mut state);
        let context = span.as_ref().map(|span| span.span_context().clone());
        state.attempts.push(Attempt {
            span,
            began: now,
            peer: (to.host().to_owned(), to.port()),
            seen: None,
            given_up: None,
            done: None,
        });
        drop(state);
        let call = context.and_then(|context| remote::write(&context, call, headers));
        Begun::new(number, call)
    }

    fn attempted(&self, number: u32, end: Attempted) {
        let mut state = self.lock();
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(attempt) = state.attempts.get_mut(place) else {
            return;
        };
        let now = self.started.elapsed();
        attempt.seen = Some(end);
        match end {
            Attempted::Answered(status) => {
                let status = i64::from(status.as_u16());
                if let Some(span) = &mut attempt.span {
                    span.set_attribute(KeyValue::new(attribute::HTTP_STATUS, status));
                }
            }
            Attempted::Failed(cause) => {
                if let Some(span) = &mut attempt.span {
                    span.set_attribute(KeyValue::new(attribute::OUR_CAUSE, cause.as_str()));
                }
                self.finish(attempt, now, Some(convention::word(cause).to_owned()), None);
            }
            Attempted::GivenUp => attempt.given_up = Some(now),
        }
    }

    fn closed(&self, lasted: Duration, revision: Option<Revision>) {
        let Some(instruments) = &self.record.instruments else {
            return;
        };
        let mut attributes = transport().to_vec();
        attributes.push(KeyValue::new(attribute::OUR_SERVER, self.server.clone()));
        attributes
            .extend(revision.map(|revision| KeyValue::new(attribute::VERSION, revision.as_str())));
        for session in [&instruments.server_session, &instruments.client_session] {
            session.record(lasted.as_secs_f64(), &attributes);
        }
    }

    fn ended(&self, facts: &Facts, end: End) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(about) = &state.about else { return };
        if std::mem::replace(&mut state.has_ended, true) {
            return;
        }
        let now = self.started.elapsed();
        let is_over = about.known == Some(Method::Listen) && end == End::Cancelled;
        let seen = if is_over {
            End::Ok { shown: false }
        } else {
            end
        };
        for attempt in &mut state.attempts {
            self.finish_with(attempt, now, seen);
        }
        if let Some(span) = &mut state.span {
            close(span, error_of(about, end).as_deref(), convention::code(end));
            let id = facts.request_id().to_string();
            span.set_attribute(KeyValue::new(attribute::OUR_REQUEST_ID, id));
            if let Some(cause) = facts.cause().map(Cause::as_str) {
                span.set_attribute(KeyValue::new(attribute::OUR_CAUSE, cause));
            }
            span.end_with_timestamp(self.at(now));
        }
        if let Some(about) = &state.about {
            self.measure(state, about, now, end);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
