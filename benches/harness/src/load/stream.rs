//! Calls whose answers are streams, and the delay of each event on its way.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Options, Run,
    http::Conn,
    session::{Session, Unexpected},
};
use crate::{Result, mcp};

/// Streams until the run is over.
pub(super) async fn work(worker: usize, options: &Options, session: &Session, run: &Run) {
    // Spread over one interval: bursts would measure the queue in front of the generator.
    let offset = options.interval_ms * 1_000 * worker as u64 / options.in_flight.max(1) as u64;
    tokio::time::sleep(Duration::from_micros(offset)).await;
    let mut id = (1_000 + worker as u64) * 100_000_000;
    while run.take() {
        id += 1;
        let mut received = 0;
        let begin = Instant::now();
        match one(id, options, session, run, &mut received).await {
            Ok(()) => run.answered(begin.elapsed()),
            Err(error) => run.failed(&*error),
        }
        run.lost(u64::from(options.events).saturating_sub(received));
    }
}

async fn one(
    id: u64,
    options: &Options,
    session: &Session,
    run: &Run,
    received: &mut u64,
) -> Result<()> {
    let mut conn = Conn::open(&session.address).await?;
    let body = mcp::stream_request(
        session.era,
        &id.to_string(),
        options.events,
        options.interval_ms,
    );
    conn.send(&session.post("tools/call", Some("stream"), &body))
        .await?;
    let head = conn.head().await?;
    if head.status != 200 || !head.event_stream {
        let body = conn.body(head.framing).await?;
        return Err(Unexpected::new("tools/call of stream", head.status, body).into());
    }
    let (mut framing, mut part, mut events) = (head.framing, Vec::new(), Events::default());
    let mut done = false;
    loop {
        part.clear();
        if !conn.part(&mut framing, &mut part).await? {
            break;
        }
        let now = mcp::now_nanos();
        events.push(&part);
        while let Some(data) = events.next() {
            let Some(sent) = serde_json::from_slice::<Event<'_>>(&data)?.sent(id, *received + 1)
            else {
                done = serde_json::from_slice::<Reply>(&data)?.id == id;
                continue;
            };
            *received += 1;
            run.event(now.saturating_sub(sent));
        }
    }
    if done {
        Ok(())
    } else {
        Err("the stream ended without its reply".into())
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    params: Option<Progress<'a>>,
}

#[derive(Deserialize)]
struct Progress<'a> {
    #[serde(rename = "progressToken")]
    token: u64,
    #[serde(rename = "progress")]
    n: u64,
    message: &'a str,
}

impl Event<'_> {
    /// The upstream's time stamp, if this is the `n`-th event of call `id`.
    fn sent(&self, id: u64, n: u64) -> Option<u64> {
        let params = self.params.as_ref().filter(|p| p.token == id && p.n == n)?;
        params.message.parse().ok()
    }
}

#[derive(Deserialize)]
struct Reply {
    id: u64,
}

/// As much of SSE as the peers write: the `data` of each event.
#[derive(Default)]
pub(super) struct Events {
    buf: Vec<u8>,
    pos: usize,
    data: Vec<u8>,
}

impl Events {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buf.drain(..self.pos);
        self.pos = 0;
        self.buf.extend_from_slice(bytes);
    }

    /// The data of the next whole event; comments and events without data are skipped.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = self.buf.get(self.pos..)?;
            let end = memchr::memchr(b'\n', rest)?;
            let line = rest.get(..end)?;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.pos += end + 1;
            if let Some(data) = line.strip_prefix(b"data:") {
                self.data
                    .extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            } else if line.is_empty() && !self.data.is_empty() {
                return Some(std::mem::take(&mut self.data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_in_any_split() {
        let all = b": comment\n\nid: 1\ndata: one\r\n\r\ndata:two\n\nretry: 1\n\n";
        for split in 0..all.len() {
            let mut events = Events::default();
            let mut got = Vec::new();
            for part in [&all[..split], &all[split..]] {
                events.push(part);
                got.extend(std::iter::from_fn(|| events.next()));
            }
            assert_eq!(got, [b"one".to_vec(), b"two".to_vec()], "split at {split}");
        }
    }

    #[test]
    fn only_the_next_event_of_the_own_call_counts() {
        let event = mcp::progress("7", 2, 99);
        let event: Event<'_> = serde_json::from_str(&event).unwrap();
        assert_eq!(event.sent(7, 2), Some(99));
        assert_eq!(event.sent(8, 2), None);
        assert_eq!(event.sent(7, 1), None);
    }
}
