//! How long things may take: parameters that `deadline`, `retry` and whoever queues read alike.

use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::mcp::method::Method;

/// How long an attempt may take up to its first answer, and how its stream is watched then.
///
/// Cheap to clone: what is set per method is shared.
#[derive(Clone, Debug)]
pub struct Timeouts {
    request: Duration,
    stream_idle: Option<Duration>,
    total: Option<Duration>,
    methods: Arc<[(Name, Duration)]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Known(Method),
    Other(Box<str>),
}

impl Name {
    fn new(method: &str) -> Self {
        Method::parse(method).map_or_else(|| Self::Other(method.into()), Self::Known)
    }

    fn is_of(&self, call: &Call) -> bool {
        match self {
            Self::Known(method) => call.method() == Some(*method),
            Self::Other(name) => call.method_name().as_deref() == Some(name),
        }
    }
}

impl Default for Timeouts {
    /// 30 s up to the first answer, 5 minutes for `tools/call`; a stream may be silent for 5 minutes; no total.
    fn default() -> Self {
        let minutes = Duration::from_mins(5);
        Self {
            request: Duration::from_secs(30),
            stream_idle: Some(minutes),
            total: None,
            methods: Arc::new([(Name::Known(Method::ToolsCall), minutes)]),
        }
    }
}

impl Timeouts {
    /// Sets `request`, for all methods that have none of their own.
    #[must_use]
    pub fn request(mut self, span: Duration) -> Self {
        self.request = span;
        self
    }

    /// Sets `request` for one method, known or not.
    #[must_use]
    pub fn method(mut self, method: &str, span: Duration) -> Self {
        let name = Name::new(method);
        let others = self.methods.iter().filter(|(other, _)| *other != name);
        self.methods = others.cloned().chain([(name.clone(), span)]).collect();
        self
    }

    /// Sets how long a call's stream may be silent; `None` is for ever.
    #[must_use]
    pub fn stream_idle(mut self, span: Option<Duration>) -> Self {
        self.stream_idle = span;
        self
    }

    /// Sets how long a call may take in all; `None` is for ever.
    #[must_use]
    pub fn total(mut self, span: Option<Duration>) -> Self {
        self.total = span;
        self
    }

    /// How long an attempt may take up to its first answer.
    #[must_use]
    pub fn first_answer(&self, call: Option<&Call>) -> Duration {
        call.and_then(|call| self.methods.iter().find(|(name, _)| name.is_of(call)))
            .map_or(self.request, |(_, span)| *span)
    }

    /// How long a call's stream may be silent.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        self.stream_idle
    }

    /// How long a call may take in all.
    #[must_use]
    pub fn whole(&self) -> Option<Duration> {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::call::Form;
    use crate::mcp::message::{Message, Parsed};
    use crate::mcp::revision::Era;

    fn call(method: &str) -> Call {
        let body = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#));
        let Parsed::One(message) = Message::read(&body).unwrap() else {
            panic!("a batch")
        };
        Call::new(Form::Message(message), Era::Modern, None, body)
    }

    #[test]
    fn a_method_may_have_its_own() {
        let timeouts = Timeouts::default()
            .method("x/slow", Duration::from_secs(9))
            .method("tools/call", Duration::from_secs(7));
        assert_eq!(timeouts.first_answer(None).as_secs(), 30);
        assert_eq!(
            timeouts.first_answer(Some(&call("tools/list"))).as_secs(),
            30
        );
        assert_eq!(
            timeouts.first_answer(Some(&call("tools/call"))).as_secs(),
            7
        );
        assert_eq!(timeouts.first_answer(Some(&call("x/slow"))).as_secs(), 9);
        assert_eq!(
            Timeouts::default()
                .first_answer(Some(&call("tools/call")))
                .as_secs(),
            300
        );
    }
}
