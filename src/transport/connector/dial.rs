//! A fresh connection: names, addresses raced (RFC 8305), TCP, TLS, HTTP/1.1.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Sleep, sleep};

use super::Shared;
use crate::error::{Cause, Failure};

/// How long an address may take before the next is tried beside it (RFC 8305, section 8).
const HEAD_START: Duration = Duration::from_millis(250);
/// When TCP asks a silent peer whether it is still there: streams are silent for hours.
const KEEPALIVE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Opens a connection, within the connect timeout.
pub(super) async fn dial(shared: &Shared) -> Result<SendRequest<Full<Bytes>>, Failure> {
    tokio::time::timeout(shared.params.connect, open(shared))
        .await
        .unwrap_or_else(|_| Err(Failure::unsent(Cause::ConnectTimeout)))
}

async fn open(shared: &Shared) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let endpoint = &shared.endpoint;
    let addresses = resolve(endpoint.host(), endpoint.port()).await?;
    let tcp = race(addresses).await?;
    prepare(&tcp);
    match &shared.tls {
        Some(tls) => speak(shared, tls.handshake(tcp).await?).await,
        None => speak(shared, tcp).await,
    }
}

pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let found = lookup_host((host, port))
        .await
        .map_err(|error| Failure::unsent(Cause::Dns).with_source(error))?;
    let addresses = interleave(found);
    if addresses.is_empty() {
        return Err(Failure::unsent(Cause::Dns));
    }
    Ok(addresses)
}

/// The two families by turns, beginning with the one that the system prefers.
fn interleave(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let found: Vec<_> = found.collect();
    let v6_first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|a| a.is_ipv6() == v6_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut addresses = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return addresses;
        }
        addresses.extend(pair.0.into_iter().chain(pair.1));
    }
}

/// The first address that answers; each has a head start before the next.
pub(super) async fn race(addresses: Vec<SocketAddr>) -> Result<TcpStream, Failure> {
    let mut race = Race {
        waiting: addresses.into_iter(),
        running: Vec::new(),
        head_start: Box::pin(sleep(Duration::ZERO)),
        errors: Vec::new(),
    };
    poll_fn(|cx| race.poll(cx)).await
}

type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

struct Race {
    waiting: std::vec::IntoIter<SocketAddr>,
    running: Vec<Attempt>,
    head_start: Pin<Box<Sleep>>,
    errors: Vec<io::Error>,
}

impl Race {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<TcpStream, Failure>> {
        if self.running.is_empty() {
            self.start_next();
        }
        loop {
            let mut winner = None;
            let errors = &mut self.errors;
            let had = errors.len();
            self.running
                .retain_mut(|attempt| match attempt.as_mut().poll(cx) {
                    Poll::Pending => true,
                    Poll::Ready(Ok(stream)) => {
                        winner.get_or_insert(stream);
                        false
                    }
                    Poll::Ready(Err(error)) => {
                        errors.push(error);
                        false
                    }
                });
            if let Some(stream) = winner {
                return Poll::Ready(Ok(stream));
            }
            let has_failed = self.errors.len() > had;
            let is_slow = self.head_start.as_mut().poll(cx).is_ready();
            if (has_failed || is_slow) && self.start_next() {
                continue;
            }
            if self.running.is_empty() {
                return Poll::Ready(Err(connect_failure(std::mem::take(&mut self.errors))));
            }
            return Poll::Pending;
        }
    }

    /// Whether there was one more to start.
    fn start_next(&mut self) -> bool {
        let Some(address) = self.waiting.next() else {
            return false;
        };
        self.running.push(Box::pin(TcpStream::connect(address)));
        self.head_start
            .as_mut()
            .reset(tokio::time::Instant::now() + HEAD_START);
        true
    }
}

/// The error that says most: a refusal comes from the host itself.
fn connect_failure(mut errors: Vec<io::Error>) -> Failure {
    errors.sort_by_key(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => 0,
        io::ErrorKind::TimedOut => 1,
        _ => 2,
    });
    let error = errors.into_iter().next();
    let cause = match error.as_ref().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => Cause::ConnectionRefused,
        Some(io::ErrorKind::TimedOut) => Cause::ConnectTimeout,
        _ => Cause::Unreachable,
    };
    let failure = Failure::unsent(cause);
    match error {
        Some(error) => failure.with_source(error),
        None => failure,
    }
}

/// Options of the socket; a socket that refuses them still works.
fn prepare(tcp: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL);
    let set = tcp
        .set_nodelay(true)
        .and_then(|()| SockRef::from(tcp).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set socket options");
    }
}

/// Speaks HTTP/1.1 over `io`. The task that drives the connection ends with it: when the peer closes, or when the
/// sender is dropped.
async fn speak<T>(shared: &Shared, io: T) -> Result<SendRequest<Full<Bytes>>, Failure>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    TokioIo<T>: Read + Write,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(shared.params.buffer_bytes())
        .max_header_size(shared.params.max_header_bytes)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| Failure::unsent(Cause::Unreachable).with_source(error))?;
    tokio::spawn(async move {
        // The call that is on the connection learns of the error itself.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to an upstream ended");
        }
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let list = |text: &[&str]| -> Vec<SocketAddr> {
            text.iter().map(|a| a.parse().unwrap()).collect()
        };
        let found = list(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        assert_eq!(
            interleave(found.into_iter()),
            list(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"])
        );
        assert!(interleave([].into_iter()).is_empty());
    }

    #[test]
    fn a_refusal_says_more_than_no_route() {
        let errors = vec![
            io::ErrorKind::NetworkUnreachable.into(),
            io::ErrorKind::ConnectionRefused.into(),
        ];
        assert_eq!(connect_failure(errors).cause(), Cause::ConnectionRefused);
        let errors = vec![io::ErrorKind::NetworkUnreachable.into()];
        assert_eq!(connect_failure(errors).cause(), Cause::Unreachable);
        assert_eq!(connect_failure(Vec::new()).cause(), Cause::Unreachable);
    }
}
