//! The whole stack of one server behind one listener. Read this first.

use std::sync::Arc;

use tower_layer::Layer;

use crate::auth::StaticCredential;
use crate::layer::complete::CompleteLayer;
use crate::layer::credential::InjectCredentialLayer;
use crate::layer::deadline::DeadlineLayer;
use crate::layer::headers::FilterHeadersLayer;
use crate::layer::inspect::InspectLayer;
use crate::layer::limit::{self, Cap, LimitLayer};
use crate::layer::log_bodies::LogBodiesLayer;
use crate::layer::metrics::{MetricsLayer, TimeAttemptsLayer};
use crate::layer::rate::Rate;
use crate::layer::rescue::RescueLayer;
use crate::layer::session::SessionLayer;
use crate::layer::trace::TraceLayer;
use crate::layer::wind_down::WindDownLayer;
use crate::sidecar::front::Front;
use crate::sidecar::router::{Route, StackRoute};
use crate::sidecar::server::{Attempt, ServerState};
use crate::transport::connector::Connector;
use crate::transport::dialect::DialectLayer;

/// The layers of one attempt at one endpoint, innermost first.
pub(super) fn attempt(
    connector: &Connector,
    timed: &TimeAttemptsLayer,
    deadline: &DeadlineLayer,
    headers: &FilterHeadersLayer,
    credential: &InjectCredentialLayer<StaticCredential>,
) -> Attempt {
    // Next to the connector: it makes the request what the upstream reads, and tells it when nobody waits any more.
    let stack = DialectLayer::new(connector.endpoint().clone()).layer(connector.clone());
    // Innermost of those that know headers, so that nothing after it can overwrite or show the credential, and so that an
    // attempt at another endpoint has a credential of its own.
    let stack = credential.layer(stack);
    // Before the credential, which would be dropped else.
    let stack = headers.layer(stack);
    // Around one attempt: what it bounds can be tried again elsewhere.
    let stack = deadline.layer(stack);
    // Around one attempt, so that those that ran into their deadline are in it too.
    let stack = timed.layer(stack);
    // The seam: above it layers make answers of their own, and endpoints have one type. Around deadline, which bounds the
    // silence of what is waited for; inside of retry, so that an answer that breaks can be asked for again.
    CompleteLayer::new().layer(stack)
}

/// Puts the layers of `server` behind those of `front`, innermost first.
pub(super) fn route(front: &Front, server: &ServerState) -> Arc<dyn Route> {
    // Chooses an endpoint for each attempt, so that a second one can go elsewhere.
    let stack = server.upstream.clone();
    // Around the choice, and inside of all that must not notice that there were two attempts.
    let stack = server.retry.layer(stack);
    // In the upstream's own form, before policy cuts anything out of it.
    let stack = server.learn.layer(stack);
    // Outside of retry: what comes back 404 was not executed, and is no failure of an endpoint.
    let stack = server.rejoin.layer(stack);
    // Inside of session, so that what is hidden from a call that outlives its caller stays hidden; outside of all that
    // send, for what is refused is not sent.
    let stack = server.policy.layer(stack);
    // Around all that only know the upstream's ids; a call that outlives its caller takes the layers above along.
    let stack = SessionLayer::new(server.sessions.clone()).layer(stack);
    // Outside of all that fail, inside of all that answer for themselves: one place writes error answers.
    let stack = RescueLayer::new().layer(stack);
    // Outside of rescue, so that what it makes of a late failure becomes an event; inside of all that may refuse.
    let stack = server.hold.layer(stack);
    // Outside of hold, whose comments are no event; around the streams that it commits.
    let stack = WindDownLayer::new(front.wind_down.clone()).layer(stack);
    // What callers said and were told, so outside of all that change it.
    let stack = LogBodiesLayer::new(front.bodies.clone()).layer(stack);
    // First of those that need to know what a request is; whoever comes before has refused who may not even be read.
    let stack = InspectLayer::new(front.inspect.clone()).layer(stack);
    // Before a byte of the body is read, and after it is known whose share is used.
    let stack = LimitLayer::new(limits(front, server)).layer(stack);
    // Before anything of the body is read: who does not say who it is gets no byte into memory.
    let stack = front.authenticate.layer(stack);
    // First of all that refuse, for it costs least.
    let stack = front.guard.layer(stack);
    // Around all that answer, so that refused calls count too.
    let metrics = MetricsLayer::new(server.families.clone());
    let stack = metrics.recorded_by(server.recorder.clone()).layer(stack);
    // Outermost, so that every log line of a call stands in its span.
    let stack = TraceLayer::new().layer(stack);
    Arc::new(StackRoute::new(stack, front.peer))
}

/// What one caller may have of this server behind this listener, and all together.
fn limits(front: &Front, server: &ServerState) -> limit::Params {
    limit::Params {
        calls: Cap {
            total: server.config.limits.concurrency,
            each: front.config.limits.concurrency,
            ..Cap::default()
        },
        // A stream holds a connection of the upstream, too, so who may have so many calls may have so many streams.
        streams: Cap {
            each: front.config.limits.concurrency,
            ..Cap::default()
        },
        rate_each: front
            .config
            .rate_limit
            .and_then(|rate| Rate::new(rate.calls.get(), rate.per)),
        ..limit::Params::default()
    }
}
