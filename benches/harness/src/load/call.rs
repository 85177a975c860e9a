//! The closed loop of calls.
//!
//! Request and expected reply are written once; from call to call only the id changes, which has a
//! fixed width. So the generator costs one write, one read and one comparison a call.

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Options, Run,
    http::Conn,
    session::{Session, Unexpected},
};
use crate::{Result, mcp};

/// Ids have twelve digits: the worker, then a count.
const ID_DIGITS: usize = 12;
const CALLS_PER_WORKER: u64 = 100_000_000;

/// Calls until the run is over; after an error on a new connection.
pub(super) async fn work(worker: usize, options: &Options, session: &Session, run: &Run) {
    let mut call = Call::new(worker, options.bytes, session);
    while !run.is_over() {
        if let Err(error) = on_one_connection(&mut call, session, run).await {
            run.failed(&*error);
        }
    }
}

async fn on_one_connection(call: &mut Call, session: &Session, run: &Run) -> Result<()> {
    let mut conn = Conn::open(&session.address).await?;
    while run.take() {
        call.next();
        let begin = Instant::now();
        conn.send(&call.request).await?;
        let head = conn.head().await?;
        let body = conn.body(head.framing).await?;
        let took = begin.elapsed();
        if head.status != 200 || !call.is_answered_by(body, head.event_stream) {
            return Err(Unexpected::new("tools/call", head.status, body).into());
        }
        run.answered(took);
    }
    Ok(())
}

/// One worker's call.
struct Call {
    id: u64,
    text: String,
    request: Vec<u8>,
    expected: Vec<u8>,
    /// Where the id stands in each.
    in_request: usize,
    in_expected: usize,
}

impl Call {
    fn new(worker: usize, bytes: usize, session: &Session) -> Self {
        // The text tells the workers apart too: an answer to another one's call is noticed.
        let mark = format!("worker {worker} ");
        let mut text = mark.repeat(bytes / mark.len() + 1);
        text.truncate(bytes);
        let id = (1_000 + worker as u64) * CALLS_PER_WORKER;
        let digits = id.to_string();
        let body = mcp::echo_request(session.era, &digits, &text);
        let request = session.post("tools/call", Some("echo"), &body);
        let expected = mcp::call_reply(session.era, &digits, &format!("\"{text}\""));
        let at = |whole: &[u8]| memchr::memmem::find(whole, digits.as_bytes()).unwrap_or(0);
        Self {
            id,
            in_request: request.len() - body.len() + at(body.as_bytes()),
            in_expected: at(expected.as_bytes()),
            text,
            request,
            expected: expected.into_bytes(),
        }
    }

    fn next(&mut self) {
        self.id += 1;
        let mut rest = self.id;
        let mut digits = [b'0'; ID_DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        for (whole, at) in [
            (&mut self.request, self.in_request),
            (&mut self.expected, self.in_expected),
        ] {
            if let Some(place) = whole.get_mut(at..at + ID_DIGITS) {
                place.copy_from_slice(&digits);
            }
        }
    }

    /// The same bytes as the upstream writes, or else (a peer that encodes anew, or that answers
    /// as SSE) the same id and text.
    fn is_answered_by(&self, body: &[u8], event_stream: bool) -> bool {
        if body == self.expected {
            return true;
        }
        if event_stream {
            let mut events = super::stream::Events::default();
            events.push(body);
            return std::iter::from_fn(|| events.next()).any(|data| self.is_reply(&data));
        }
        self.is_reply(body)
    }

    fn is_reply(&self, body: &[u8]) -> bool {
        serde_json::from_slice::<Reply>(body).is_ok_and(|reply| {
            reply.id == self.id && reply.result.content.iter().any(|c| c.text == self.text)
        })
    }
}

/// The parts of a reply that are checked.
#[derive(Deserialize)]
struct Reply {
    id: u64,
    result: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    content: Vec<Content>,
}

#[derive(Deserialize)]
struct Content {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        let mut call = Call {
            id: 100_000_000_000,
            text: "a".into(),
            request: b"100000000000".to_vec(),
            expected: mcp::call_reply(mcp::Era::Legacy, "100000000000", "\"a\"").into_bytes(),
            in_request: 0,
            in_expected: r#"{"jsonrpc":"2.0","id":"#.len(),
        };
        call.next();
        call
    }

    #[test]
    fn the_id_is_counted_in_place() {
        assert_eq!(call().request, b"100000000001");
        assert!(
            call()
                .expected
                .starts_with(br#"{"jsonrpc":"2.0","id":100000000001,"#)
        );
    }

    #[test]
    fn only_the_own_reply_counts() {
        let reply = |id: &str, text: &str| mcp::call_reply(mcp::Era::Modern, id, text).into_bytes();
        assert!(call().is_answered_by(&call().expected, false));
        assert!(call().is_answered_by(&reply("100000000001", "\"a\""), false));
        assert!(!call().is_answered_by(&reply("100000000000", "\"a\""), false));
        assert!(!call().is_answered_by(&reply("100000000001", "\"b\""), false));
        assert!(!call().is_answered_by(b"", false));
        let sse = [
            b": hold\n\ndata: ",
            &*reply("100000000001", "\"a\""),
            b"\n\n",
        ]
        .concat();
        assert!(call().is_answered_by(&sse, true));
    }
}
