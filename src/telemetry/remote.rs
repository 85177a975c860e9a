//! The contexts of spans as peers write them.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::call::Call;
use crate::mcp::context::{self, MetaContext, Traceparent};
use crate::mcp::message::{Message, Parsed};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What a peer's `traceparent` and `tracestate` say. A malformed `traceparent` says nothing; a malformed state is none.
fn read(traceparent: Option<&str>, tracestate: Option<&str>) -> Option<SpanContext> {
    let parent = Traceparent::parse(traceparent?)?;
    let flags = if parent.is_sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::NOT_SAMPLED
    };
    Some(SpanContext::new(
        TraceId::from_hex(parent.trace_id).ok()?,
        SpanId::from_hex(parent.parent_id).ok()?,
        flags,
        true,
        tracestate
            .and_then(|state| state.parse::<TraceState>().ok())
            .unwrap_or_default(),
    ))
}

/// What the headers say.
pub(super) fn of_headers(headers: &HeaderMap) -> Option<SpanContext> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    read(text(TRACEPARENT), text(TRACESTATE))
}

/// What the `_meta` of a call says.
pub(super) fn of_meta(call: &Call) -> Option<SpanContext> {
    let message = call.message()?;
    // Looked up when the message was read, which spares most calls another look.
    message.params.meta.traceparent?;
    let found = MetaContext::of(call.body(), message);
    read(found.traceparent.as_deref(), found.tracestate.as_deref())
}

/// The largest body that is written anew: the copy is outside of the budget that its original was charged to.
const MOST_COPIED: usize = 64 * 1024;

/// Lets the upstream go on under `context`. Returns the call as it is then, if its body had to change.
pub(super) fn write(context: &SpanContext, call: &Call, headers: &mut HeaderMap) -> Option<Call> {
    // After the exporter's end there is none, and what the caller sent says more than that.
    if !context.is_valid() {
        return None;
    }
    let traceparent = format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    );
    let state = context.trace_state().header();
    let state = Some(state).filter(|state| !state.is_empty());
    if let Ok(value) = HeaderValue::from_str(&traceparent) {
        headers.insert(TRACEPARENT, value);
    }
    match state.as_deref().map(HeaderValue::from_str) {
        Some(Ok(value)) => drop(headers.insert(TRACESTATE, value)),
        _ => drop(headers.remove(TRACESTATE)),
    }
    if call.body().len() > MOST_COPIED {
        return None;
    }
    let message = call.message()?;
    let body = context::write(call.body(), message, &traceparent, state.as_deref())?;
    let Ok(Parsed::One(message)) = Message::read(&body) else {
        return None;
    };
    let form = crate::call::Form::Message(message);
    Some(Call::new(form, call.era(), call.revision(), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_2_a_malformed_context_is_none_and_a_malformed_state_is_left_out() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read = |state| read(Some(parent), state).unwrap();
        assert!(read(None).is_remote() && read(None).is_sampled());
        assert_eq!(read(Some("a=1,b=2")).trace_state().header(), "a=1,b=2");
        assert_eq!(read(Some("nonsense")).trace_state().header(), "");
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, "00-x".parse().unwrap());
        assert_eq!(of_headers(&headers), None);
    }
}
