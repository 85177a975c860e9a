//! One exchange: request and answer over a connection, a redirect followed, a request handed back sent again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use pin_project_lite::pin_project;

use super::body::{ConnectionBody, broken};
use super::pool::{Lane, Lease, Taken};
use super::{ResponseFuture, Shared};
use crate::body::said_length;
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::facts::Facts;

/// Whether the upstream redirects, as far as it is known. Only if it may is a request copied before it is sent, which
/// costs as much as a layer.
#[derive(Default)]
pub(super) struct Redirects(AtomicU8);

impl Redirects {
    /// Nothing has come yet.
    const UNKNOWN: u8 = 0;
    /// It has answered by itself.
    const NO: u8 = 1;
    /// It has redirected, which it may do again.
    const YES: u8 = 2;

    fn may_come(&self) -> bool {
        self.0.load(Ordering::Relaxed) != Self::NO
    }

    /// An upstream that has answered by itself once is taken to do so always.
    fn note(&self, status: StatusCode) {
        if status.is_success() && self.0.load(Ordering::Relaxed) == Self::UNKNOWN {
            // Fails if a redirect came meanwhile, which counts more.
            let _ = self.0.compare_exchange(
                Self::UNKNOWN,
                Self::NO,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    fn expect(&self) {
        self.0.store(Self::YES, Ordering::Relaxed);
    }
}

/// Sends the request, at once if a connection is ready.
pub(super) fn begin(shared: &Arc<Shared>, mut request: Request<Full<Bytes>>) -> ResponseFuture {
    prepare(shared, &mut request);
    let lane = Lane::of(&request);
    let exchange = Exchange {
        shared: Arc::clone(shared),
        lane,
        copy: shared
            .redirects
            .may_come()
            .then(|| Box::new(request.clone())),
    };
    let mut lease = match shared.take(lane) {
        Taken::Lease(lease) => lease,
        other => return ResponseFuture(Box::pin(exchange.connect(other, request))),
    };
    let Some(sender) = lease.ready() else {
        let taken = Taken::Lease(lease);
        return ResponseFuture(Box::pin(exchange.connect(taken, request)));
    };
    count(&request);
    let answer = sender.try_send_request(request);
    ResponseFuture(Box::pin(Awaited {
        answer,
        waiting: Some((exchange, lease)),
        rest: None,
    }))
}

/// What is known of an exchange while its answer is awaited.
struct Exchange {
    shared: Arc<Shared>,
    lane: Lane,
    /// In case that the upstream redirects.
    copy: Option<Box<Request<Full<Bytes>>>>,
}

impl Exchange {
    /// Sends a request for which no connection is ready.
    async fn connect(
        self,
        taken: Taken,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<ConnectionBody>, BoxError> {
        let result = match self.shared.wait(taken).await {
            Ok(lease) => Box::pin(send(lease, request, true)).await,
            Err(failure) => Err(failure),
        };
        self.finish(result).await
    }

    /// Sends a request that its connection has handed back over another.
    async fn repeat(
        self,
        mut lease: Lease,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<ConnectionBody>, BoxError> {
        lease.disconnect();
        let result = send(lease, request, false).await;
        self.finish(result).await
    }

    /// Follows a redirect, and says of a failure where it was.
    async fn finish(
        self,
        result: Result<Response<ConnectionBody>, Failure>,
    ) -> Result<Response<ConnectionBody>, BoxError> {
        let result = match result {
            Ok(response) if self.is_led_on(&response) => {
                Box::pin(follow(&self.shared, self.lane, self.copy, response)).await
            }
            result => result,
        };
        result.map_err(|failure| locate(failure, &self.shared))
    }

    /// Whether the answer is a redirect. If not, the upstream is taken to answer by itself always.
    fn is_led_on<B>(&self, response: &Response<B>) -> bool {
        self.shared.redirects.note(response.status());
        is_redirect(response.status())
    }
}

fn locate(failure: Failure, shared: &Shared) -> BoxError {
    failure.at(shared.endpoint.origin().clone()).into()
}

pin_project! {
    /// The hot path: the request is with a connection, and an answer that is no redirect is all that is awaited.
    struct Awaited<F> {
        #[pin]
        answer: F,
        // Both are there until the answer has come.
        waiting: Option<(Exchange, Lease)>,
        // What is left to do after that, if there is more.
        rest: Option<ResponseFuture>,
    }
}

impl<F> Future for Awaited<F>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>>,
{
    type Output = Result<Response<ConnectionBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.waiting.is_some() {
            let answer = ready!(this.answer.as_mut().poll(cx));
            let Some((exchange, lease)) = this.waiting.take() else {
                return Poll::Pending;
            };
            match answer {
                Ok(response) if exchange.is_led_on(&response) => {
                    let result = accept(lease, response);
                    *this.rest = Some(ResponseFuture(Box::pin(exchange.finish(result))));
                }
                Ok(response) => {
                    let result = accept(lease, response);
                    return Poll::Ready(result.map_err(|f| locate(f, &exchange.shared)));
                }
                Err(error) => match handed_back(error) {
                    Ok(request) => {
                        let repeated = exchange.repeat(lease, request);
                        *this.rest = Some(ResponseFuture(Box::pin(repeated)));
                    }
                    Err(failure) => return Poll::Ready(Err(locate(failure, &exchange.shared))),
                },
            }
        }
        match this.rest {
            Some(rest) => Pin::new(rest).poll(cx),
            // Polled again after it was ready, which futures need not bear.
            None => Poll::Pending,
        }
    }
}

/// What HTTP/1.1 needs, and what would make the length of the body ambiguous.
fn prepare(shared: &Shared, request: &mut Request<Full<Bytes>>) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| shared.endpoint.uri().clone(), Into::into);
    }
    let length = request.body().size_hint().exact();
    let headers = request.headers_mut();
    let found = Found::among(headers, length);
    // Said once and rightly, it need not be written anew.
    if found.lengths > 1 || found.has_wrong_length {
        headers.remove(header::CONTENT_LENGTH);
    }
    if found.has_coding {
        headers.remove(header::TRANSFER_ENCODING);
    }
    if !found.has_host {
        headers.insert(header::HOST, shared.endpoint.host_header().clone());
    }
}

/// What of a request's headers is of the connection: by one look at each, which costs less than to look up three.
#[derive(Default)]
struct Found {
    lengths: usize,
    has_wrong_length: bool,
    has_coding: bool,
    has_host: bool,
}

impl Found {
    fn among(headers: &HeaderMap, length: Option<u64>) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            if *name == header::CONTENT_LENGTH {
                let said = said_length(value);
                found.lengths += 1;
                found.has_wrong_length |= said.is_none() || said != length;
            }
            found.has_coding |= *name == header::TRANSFER_ENCODING;
            found.has_host |= *name == header::HOST;
        }
        found
    }
}

/// Sends over the connection of the lease, dialled if there is none; and, if that hands the request back, over another.
async fn send(
    mut lease: Lease,
    mut request: Request<Full<Bytes>>,
    mut may_repeat: bool,
) -> Result<Response<ConnectionBody>, Failure> {
    loop {
        let sender = lease.connected().await?;
        count(&request);
        request = match sender.try_send_request(request).await {
            Ok(response) => return accept(lease, response),
            Err(error) => handed_back(error)?,
        };
        if !std::mem::take(&mut may_repeat) {
            return Err(Failure::unsent(Cause::ConnectionLost));
        }
        lease.disconnect();
    }
}

/// Notes that the request may reach the upstream from here on.
fn count(request: &Request<Full<Bytes>>) {
    if let Some(facts) = Facts::get(request) {
        facts.count_sent();
    }
}

/// The request, if its connection was closed before a byte of it was written.
fn handed_back(
    mut error: TrySendError<Request<Full<Bytes>>>,
) -> Result<Request<Full<Bytes>>, Failure> {
    match error.take_message() {
        Some(request) => Ok(request),
        None => Err(broken(error.into_error())),
    }
}

fn accept(
    mut lease: Lease,
    mut response: Response<Incoming>,
) -> Result<Response<ConnectionBody>, Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::new(Cause::BadResponse, Phase::Sent));
    }
    lease.note_keep_alive(response.headers());
    // hyper keeps the upstream's reason phrase there, and would write it to the caller.
    response.extensions_mut().clear();
    Ok(response.map(|body| ConnectionBody::new(body, lease)))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Sends the copy to where a redirect leads. The upstream that redirects has not executed the call.
async fn follow(
    shared: &Arc<Shared>,
    lane: Lane,
    copy: Option<Box<Request<Full<Bytes>>>>,
    response: Response<ConnectionBody>,
) -> Result<Response<ConnectionBody>, Failure> {
    let keeps_method = matches!(response.status().as_u16(), 307 | 308);
    let target = response
        .headers()
        .get(header::LOCATION)
        .and_then(|location| location.to_str().ok())
        .and_then(|location| shared.endpoint.same_origin(location));
    let Some(target) = target.filter(|_| keeps_method) else {
        return Err(Failure::new(Cause::Redirected, Phase::Answered));
    };
    shared.redirects.expect();
    let Some(mut request) = copy else {
        // It had answered by itself so far, so there is no copy: who repeats the call will be led on.
        return Err(Failure::unsent(Cause::Redirected));
    };
    drop(response);
    *request.uri_mut() = target;
    let lease = shared.wait(shared.take(lane)).await?;
    let response = send(lease, *request, true).await?;
    if is_redirect(response.status()) {
        return Err(Failure::new(Cause::Redirected, Phase::Answered));
    }
    Ok(response)
}
