//! What is known of an endpoint: its load, and whether connections to it can be made.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{EndpointState, LastFailure};
use crate::error::{BoxError, Cause, Failure};

const FIRST_ASIDE: u64 = 1_000;
const LONGEST_ASIDE: u64 = 30_000;

pub(super) type Endpoints = Arc<[Endpoint]>;

/// What is known of an endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// From when on time is counted.
    start: Instant,
    in_flight: AtomicU64,
    failures: AtomicU32,
    /// Until when it is aside, in milliseconds since then; 0 if it is not.
    aside_until: AtomicU64,
    /// Whose origin it is, once a failure has said so.
    origin: OnceLock<Arc<str>>,
    last_failure: Mutex<Option<(Cause, Instant)>>,
}

impl Endpoint {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            in_flight: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            aside_until: AtomicU64::new(0),
            origin: OnceLock::new(),
            last_failure: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    pub(super) fn state(&self) -> EndpointState {
        let aside = match self.aside_until.load(Ordering::Relaxed) {
            0 => None,
            until => Some(Duration::from_millis(until.saturating_sub(self.now()))),
        };
        EndpointState {
            in_flight: self.in_flight(),
            failures: self.failures.load(Ordering::Relaxed),
            aside,
            last_failure: self.last_failure().map(|(cause, at)| LastFailure {
                cause,
                ago: at.elapsed(),
            }),
        }
    }

    fn last_failure(&self) -> MutexGuard<'_, Option<(Cause, Instant)>> {
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether a call may go there, or may once its time aside has passed.
    pub(super) fn may_open(&self) -> bool {
        let until = self.aside_until.load(Ordering::Relaxed);
        until == 0 || self.now() >= until
    }

    /// Takes the permission to send a call there. When its time aside has passed, the first who asks may; for the others it is
    /// aside for another such span, unless that call ends it.
    pub(super) fn open(&self) -> bool {
        let until = self.aside_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let now = self.now();
        let next = now + span_after(self.failures.load(Ordering::Relaxed));
        now >= until
            && self
                .aside_until
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn works(&self) {
        // A load is cheaper than a store that all cores see.
        if self.failures.load(Ordering::Relaxed) > 0 {
            let failures = self.failures.swap(0, Ordering::Relaxed);
            self.aside_until.store(0, Ordering::Relaxed);
            // Of several calls that find it well, one says so.
            if failures > 0 {
                let origin = self.origin.get().map(AsRef::as_ref);
                tracing::info!(endpoint = origin, failures, "an endpoint is back");
            }
        }
    }

    fn fails(&self, failure: &Failure) {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if failures == 1 {
            let origin = failure.origin().map(|origin| {
                let origin = self.origin.get_or_init(|| origin.clone());
                origin.as_ref()
            });
            let cause = failure.cause().as_str();
            tracing::warn!(endpoint = origin, cause, "an endpoint is put aside");
        }
        self.aside_until
            .store(self.now() + span_after(failures), Ordering::Relaxed);
    }
}

fn span_after(failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_ASIDE << doublings).min(LONGEST_ASIDE)
}

/// A call at an endpoint, to the end of its body.
#[derive(Debug)]
pub(super) struct Load {
    endpoints: Endpoints,
    at: usize,
    is_counted: bool,
}

impl Load {
    pub(super) fn of(endpoints: Endpoints, at: usize, is_counted: bool) -> Self {
        let load = Self {
            endpoints,
            at,
            is_counted,
        };
        if let Some(endpoint) = load.endpoint().filter(|_| is_counted) {
            endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        load
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.get(self.at)
    }

    /// The endpoint answered.
    pub(super) fn answered(&self) {
        if let Some(endpoint) = self.endpoint() {
            endpoint.works();
        }
    }

    /// The endpoint failed.
    pub(super) fn failed(&self, error: &BoxError) {
        let (Some(endpoint), Some(failure)) = (self.endpoint(), Failure::of(error)) else {
            return;
        };
        *endpoint.last_failure() = Some((failure.cause(), Instant::now()));
        match failure.cause() {
            Cause::Dns
            | Cause::ConnectionRefused
            | Cause::Unreachable
            | Cause::ConnectTimeout
            | Cause::TlsCertificate
            | Cause::TlsHandshake => endpoint.fails(failure),
            // It could be connected to. Silence says neither.
            Cause::ConnectionLost | Cause::BadResponse => endpoint.works(),
            _ => {}
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(endpoint) = self.endpoint().filter(|_| self.is_counted) {
            endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
