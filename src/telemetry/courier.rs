//! Carries what the SDK's threads have to send over a connection of ours.
//!
//! Those threads block, and know no runtime. They hand a request over a bounded channel to a task, and wait for what it
//! brings back.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::sync::{mpsc, oneshot};
use tower_service::Service as _;

use crate::error::{BoxError, Failure};
use crate::telemetry::Target;
use crate::transport::connector::{
    Connector, ConnectorParams, Endpoint, PlaintextPolicy, TlsParams,
};

/// How many requests wait at most. The SDK sends one after the other.
const WAITING: usize = 4;
/// The most bytes of an answer.
const ANSWER: usize = 64 * 1024;

struct Letter {
    request: Request<Bytes>,
    answer: oneshot::Sender<Result<Response<Bytes>, HttpError>>,
}

/// Where the SDK drops its requests.
pub(super) struct Courier(mpsc::Sender<Letter>);

impl Courier {
    /// Starts the task that carries to `target`. It ends with the courier.
    pub(super) fn start(signal: &'static str, target: &Target) -> Result<Self, BoxError> {
        // Whoever names a collector trusts the network in between.
        let endpoint = Endpoint::new(&target.url, PlaintextPolicy::Allow)?;
        let mut tls = TlsParams::default();
        if let Some(file) = &target.ca_file {
            tls = tls.with_ca_file(file);
        }
        let params = ConnectorParams {
            max: 1,
            connect: target.timeout,
            tls,
            ..ConnectorParams::default()
        };
        let mut headers = Vec::new();
        for (name, value) in &target.headers {
            let mut value = HeaderValue::from_str(value.expose_secret())?;
            value.set_sensitive(true);
            headers.push((name.clone(), value));
        }
        let route = Route {
            signal,
            connector: Connector::new(endpoint, params)?,
            headers,
            timeout: target.timeout,
            is_lost: false,
        };
        let (sender, letters) = mpsc::channel(WAITING);
        tokio::spawn(route.carry(letters));
        Ok(Self(sender))
    }
}

type Brought<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Courier {
    fn send_bytes<'life, 'a>(&'life self, request: Request<Bytes>) -> Brought<'a>
    where
        'life: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let (answer, brought) = oneshot::channel();
            self.0
                .try_send(Letter { request, answer })
                .map_err(|_| "the courier is gone or has too much to carry")?;
            brought.await.map_err(|_| "the courier is gone")?
        })
    }
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Courier").finish_non_exhaustive()
    }
}

/// The way to one collector.
struct Route {
    signal: &'static str,
    connector: Connector,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
    /// Whether the last request failed: said when it begins and when it ends, not each time.
    is_lost: bool,
}

impl Route {
    async fn carry(mut self, mut letters: mpsc::Receiver<Letter>) {
        while let Some(letter) = letters.recv().await {
            let result = self.send(letter.request).await;
            self.note(&result);
            // Whoever does not wait any more has given up.
            let _ = letter.answer.send(result);
        }
    }

    async fn send(&mut self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut request = request.map(Full::new);
        // The SDK reads headers from the environment by itself. Ours are the whole truth, and marked as sensitive.
        let said = std::mem::take(request.headers_mut());
        for name in [
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
            header::USER_AGENT,
        ] {
            if let Some(value) = said.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        let answer = async {
            let response = self.connector.call(request).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        tokio::time::timeout(self.timeout, answer)
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
    }

    fn note(&mut self, result: &Result<Response<Bytes>, HttpError>) {
        let why = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("HTTP {}", response.status().as_u16())),
            Err(error) => Some(match Failure::of(error) {
                Some(failure) => failure.cause().as_str().to_owned(),
                None => error.to_string(),
            }),
        };
        let was_lost = std::mem::replace(&mut self.is_lost, why.is_some());
        let collector = self.connector.endpoint().origin();
        match why {
            Some(why) if !was_lost => tracing::warn!(
                signal = self.signal,
                %collector,
                why,
                "telemetry is not delivered; calls go on, and what does not fit into the queue is lost"
            ),
            None if was_lost => {
                tracing::info!(signal = self.signal, %collector, "telemetry is delivered again");
            }
            _ => {}
        }
    }
}
