//! Sessions that do nothing but hold a GET stream open, for the memory they cost.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Kind, Options, Report,
    http::Conn,
    session::{self, Session, Unexpected},
};
use crate::{Result, mcp::Era};

/// Opens `--in-flight` sessions, prints `OPEN`, and holds them for `--seconds`.
///
/// The handshakes go over one connection, so that each session costs its stream and nothing else.
pub(super) async fn hold(options: &Options) -> Result<Report> {
    if options.era == Era::Modern {
        return Err("idle sessions are of the legacy era: the modern one has none".into());
    }
    let (address, path) = session::split(&options.url)?;
    let mut shared = Conn::open(address).await?;
    let begin = Instant::now();
    let mut streams = Vec::with_capacity(options.in_flight);
    for _ in 0..options.in_flight {
        let session = Session::open_on(&mut shared, address, path, options.era).await?;
        let mut stream = Conn::open(address).await?;
        stream.send(&session.get()).await?;
        let head = stream.head().await?;
        if head.status != 200 || !head.event_stream {
            let body = stream.body(head.framing).await?;
            return Err(Unexpected::new("GET", head.status, body).into());
        }
        streams.push((session, stream, head.framing));
    }
    drop(shared);
    println!("OPEN {}", streams.len());
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    let mut closed = 0;
    for (_, stream, framing) in &mut streams {
        let mut part = Vec::new();
        // A stream that has nothing to read is open; one that has a comment is too.
        let read = tokio::time::timeout(Duration::ZERO, stream.part(framing, &mut part)).await;
        closed += u64::from(matches!(read, Ok(Ok(false) | Err(_))));
    }
    Ok(Report {
        kind: Kind::Idle,
        seconds: begin.elapsed().as_secs_f64(),
        requests: streams.len() as u64 - closed,
        errors: closed,
        first_error: (closed > 0).then(|| "a GET stream was closed".to_owned()),
        rps: 0.0,
        p50_us: 0.0,
        p99_us: 0.0,
        events: 0,
        events_lost: 0,
        delay_p50_us: 0.0,
        delay_p99_us: 0.0,
    })
}
