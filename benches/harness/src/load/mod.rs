//! The generator: a closed loop on one thread that checks every reply.
//!
//! 1. The era's handshake comes first and is not counted.
//! 2. `--in-flight` connections each send the next request when the last one is answered.
//! 3. A reply counts only if its id and its text are the ones asked for; an SSE reply only as whole.
//! 4. The last thing printed is one line of JSON, a [`Report`].
//!
//! It has its own few lines of HTTP/1.1, so that the generator costs little beside what it loads.

use std::{cell::RefCell, rc::Rc, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{Result, mcp::Era, stats};

mod call;
mod http;
mod idle;
mod session;
mod stream;

use session::Session;

/// More errors than this end a run: it measures nothing any more.
const MAX_ERRORS: u64 = 1_000;

/// Load one endpoint.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The endpoint, `http://ADDRESS/PATH`.
    #[arg(long)]
    url: String,
    /// The generation of the protocol.
    #[arg(long, value_enum, default_value_t = Era::Legacy)]
    era: Era,
    /// What to do: calls, streamed calls, or sessions that only hold a GET stream open.
    #[arg(long, value_enum, default_value_t = Kind::Call)]
    kind: Kind,
    /// Requests under way at a time; for `idle` the number of sessions.
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Bytes of text that a call carries, each way.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// How long to go on.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many requests to send in all, instead of `--seconds`.
    #[arg(long)]
    requests: Option<u64>,
    /// Events of one stream.
    #[arg(long, default_value_t = 50)]
    events: u32,
    /// Milliseconds between two events of a stream.
    #[arg(long, default_value_t = 50)]
    interval_ms: u64,
}

/// What a run does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// `tools/call` of `echo`.
    Call,
    /// `tools/call` of `stream`.
    Stream,
    /// Sessions with an open GET stream and nothing else.
    Idle,
}

/// The outcome of a run, one line of JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// What was done.
    pub kind: Kind,
    /// Seconds it took, the handshake left out.
    pub seconds: f64,
    /// Requests that were answered rightly.
    pub requests: u64,
    /// Requests that were not.
    pub errors: u64,
    /// The first thing that went wrong.
    pub first_error: Option<String>,
    /// Right answers a second.
    pub rps: f64,
    /// Microseconds from the write of a request to its whole answer.
    pub p50_us: f64,
    /// The same, 99th percentile.
    pub p99_us: f64,
    /// Streamed events received.
    pub events: u64,
    /// Streamed events that never came.
    pub events_lost: u64,
    /// Microseconds from the upstream's time stamp to the read of an event.
    pub delay_p50_us: f64,
    /// The same, 99th percentile.
    pub delay_p99_us: f64,
}

/// Loads the endpoint and prints the report.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, load(options))?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn load(options: &Options) -> Result<Report> {
    if options.kind == Kind::Idle {
        return idle::hold(options).await;
    }
    let session = Rc::new(Session::open(&options.url, options.era).await?);
    let run = Rc::new(Run::new(options));
    let workers: Vec<_> = (0..options.in_flight)
        .map(|worker| {
            let (session, run, options) = (session.clone(), run.clone(), options.clone());
            tokio::task::spawn_local(async move {
                match options.kind {
                    Kind::Stream => stream::work(worker, &options, &session, &run).await,
                    Kind::Call | Kind::Idle => call::work(worker, &options, &session, &run).await,
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await?;
    }
    Ok(run.report(options.kind))
}

/// What the workers of one run share.
struct Run {
    begin: Instant,
    end: Instant,
    tally: RefCell<Tally>,
}

#[derive(Default)]
struct Tally {
    /// Requests that may still be started.
    left: u64,
    latencies: Vec<u64>,
    delays: Vec<u64>,
    lost: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Run {
    fn new(options: &Options) -> Self {
        let begin = Instant::now();
        // A count alone ends a run that has one, but a run that hangs ends all the same.
        let seconds = if options.requests.is_some() {
            600.0
        } else {
            options.seconds
        };
        let left = options.requests.unwrap_or(u64::MAX);
        Self {
            begin,
            end: begin + Duration::from_secs_f64(seconds),
            tally: RefCell::new(Tally {
                left,
                ..Tally::default()
            }),
        }
    }

    /// Whether a worker may start one more request.
    fn take(&self) -> bool {
        let over = self.is_over();
        if !over {
            self.tally.borrow_mut().left -= 1;
        }
        !over
    }

    fn is_over(&self) -> bool {
        let tally = self.tally.borrow();
        tally.left == 0 || tally.errors > MAX_ERRORS || Instant::now() >= self.end
    }

    fn answered(&self, after: Duration) {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.tally.borrow_mut().latencies.push(nanos);
    }

    fn event(&self, delay_nanos: u64) {
        self.tally.borrow_mut().delays.push(delay_nanos);
    }

    fn lost(&self, events: u64) {
        self.tally.borrow_mut().lost += events;
    }

    fn failed(&self, error: &dyn std::error::Error) {
        let mut tally = self.tally.borrow_mut();
        tally.errors += 1;
        tally.first_error.get_or_insert_with(|| error.to_string());
    }

    fn report(&self, kind: Kind) -> Report {
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut tally = self.tally.take();
        let requests = tally.latencies.len() as u64;
        let micros = |values: &mut [u64], p| stats::percentile(values, p) as f64 / 1e3;
        Report {
            kind,
            seconds,
            requests,
            errors: tally.errors,
            first_error: tally.first_error,
            rps: requests as f64 / seconds,
            p50_us: micros(&mut tally.latencies, 50.0),
            p99_us: micros(&mut tally.latencies, 99.0),
            events: tally.delays.len() as u64,
            events_lost: tally.lost,
            delay_p50_us: micros(&mut tally.delays, 50.0),
            delay_p99_us: micros(&mut tally.delays, 99.0),
        }
    }
}
