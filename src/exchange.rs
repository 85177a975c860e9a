//! Who is told of an exchange while it lasts: the seam at which traces are recorded.
//!
//! Contract:
//!
//! 1. Whoever records gives `metrics` a [`Recorder`]. That layer begins an [`Exchange`] for each request, puts it into the
//!    [`Facts`], and ends it when it has counted it. Without a recorder there is no exchange, which
//!    costs whoever would tell it something one branch.
//! 2. It is told in this order: what the request is ([`Exchange::read`], by `inspect`), each time that it is sent
//!    ([`Exchange::attempt`], by `dialect`) and what became of that ([`Exchange::attempted`]), that it was the end of a
//!    session ([`Exchange::closed`], by `session`), how it ended ([`Exchange::ended`]). Any of them may be missing, and
//!    attempts may go on when it has ended.
//! 3. Only [`Exchange::attempt`] changes anything: it writes the trace that the upstream is to go on with.
//! 4. Nothing of it waits or fails.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::call::Call;
use crate::error::Cause;
use crate::facts::Facts;
use crate::mcp::revision::Revision;

/// Begins exchanges.
pub trait Recorder: fmt::Debug + Send + Sync {
    /// A request for `server` came with these headers.
    fn begin(self: Arc<Self>, server: &Arc<str>, headers: &HeaderMap) -> Arc<dyn Exchange>;
}

/// One request, from its begin to the end of its answer.
pub trait Exchange: fmt::Debug + Send + Sync {
    /// The request is this call.
    fn read(&self, call: &Call);

    /// The call is sent now. Writes the trace's context into `headers`, and says what the call is then, if its body has
    /// to change as well.
    fn attempt(&self, call: &Call, to: Peer<'_>, headers: &mut HeaderMap) -> Begun;

    /// That attempt came to this.
    fn attempted(&self, number: u32, end: Attempted);

    /// It has ended its caller's session, which had lasted so long and spoke that revision.
    fn closed(&self, lasted: Duration, revision: Option<Revision>) {
        let _ = (lasted, revision);
    }

    /// The answer, or the lack of one, has ended.
    fn ended(&self, facts: &Facts, end: End);
}

/// Where an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<'a> {
    host: &'a str,
    port: u16,
}

impl<'a> Peer<'a> {
    /// The peer at that name or address.
    #[must_use]
    pub fn new(host: &'a str, port: u16) -> Self {
        Self { host, port }
    }

    /// Its name or address.
    #[must_use]
    pub fn host(&self) -> &'a str {
        self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// An attempt that has begun.
#[derive(Debug)]
#[non_exhaustive]
pub struct Begun {
    /// Its number, as [`Exchange::attempted`] wants it.
    pub number: u32,
    /// The call as it has to go out, if that is not as it was.
    pub call: Option<Call>,
}

impl Begun {
    /// The attempt of that number.
    #[must_use]
    pub fn new(number: u32, call: Option<Call>) -> Self {
        Self { number, call }
    }
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attempted {
    /// An answer has begun.
    Answered(StatusCode),
    /// There is none.
    Failed(Cause),
    /// Nobody waited for it any more.
    GivenUp,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// As it should. `shown` says that an answer was looked at, so that what was asked for does exist.
    Ok {
        /// Whether an answer was looked at.
        shown: bool,
    },
    /// With a tool's `isError`.
    ToolError,
    /// With a JSON-RPC error of the upstream, and its code.
    RpcError(Option<i64>),
    /// With a status that says no.
    Refused(StatusCode),
    /// By us, with the code of the JSON-RPC error that we made of it.
    Failed(Cause, Option<i64>),
    /// The caller hung up.
    Cancelled,
}
