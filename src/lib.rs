//! Outrigger: composable Tower layers, and a sidecar made of them, in front of remote MCP servers.
//!
//! Inside the process all MCP traffic is Streamable HTTP, so a *server* is a
//! [`tower::Service`](tower_service::Service) of `http::Request` and `http::Response`, and each concern is one
//! [`Layer`](tower_layer::Layer) around it. The layers take their own small parameters, know no configuration and no
//! other layer, and go together with those of `tower-http`, with axum, hyper and reqwest.
//!
//! # A stack
//!
//! ```
//! use outrigger::Secret;
//! use outrigger::auth::{SecretCell, StaticCredential};
//! use outrigger::layer::{BoxBodyLayer, credential, deadline, inspect, rescue, retry, timeouts::Timeouts};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use tower::{Service, ServiceExt, service_fn};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! # let client = service_fn(async |request: Request<Full<Bytes>>| {
//! #     assert_eq!(request.headers()["authorization"], "Bearer t0ken");
//! #     let answer = Response::builder().header("content-type", "application/json");
//! #     Ok::<_, outrigger::BoxError>(answer.body(Full::new(Bytes::from_static(b"{}")))?)
//! # });
//!
//! let token = StaticCredential::bearer(SecretCell::new(Secret::new("t0ken")));
//! let server = tower::ServiceBuilder::new()
//!     .layer(inspect::InspectLayer::new(inspect::Params::default())) // says what each request is
//!     .layer(rescue::RescueLayer::new())                             // makes an answer of each failure
//!     .layer(retry::RetryLayer::new(retry::Params::default()))       // repeats what is safe to repeat
//!     .layer(BoxBodyLayer::new())                                    // the seam to the client's body
//!     .layer(deadline::DeadlineLayer::new(Timeouts::default()))      // bounds each attempt in time
//!     .layer(credential::InjectCredentialLayer::new(token))          // last of all headers
//!     .service(client);                                              // any Service<http::Request<Full<Bytes>>>
//! # let request = Request::post("/mcp").body(Full::new(Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)))?;
//! # assert_eq!(server.oneshot(request).await?.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! Order matters: [`inspect`](layer::inspect) leaves the [`Call`] that the layers inside it act on. Without one a layer
//! passes a request on, and never repeats it. Outside [`rescue`](layer::rescue) a layer answers for itself, inside it
//! fails with a [`Failure`]. Whole programs (an axum server; hyper, reqwest and rmcp clients) are in the repository's
//! `examples` folder, and why each layer stands where it stands is in its `ARCHITECTURE.md`.
//!
//! # The map
//!
//! | Module | Holds | With feature |
//! | --- | --- | --- |
//! | [`layer`] | each concern as one layer, outermost first | `balance`, `metrics` for those two |
//! | [`call`], [`facts`], [`exchange`], [`error`], [`body`] | what holds a stack together: what a request is, what is known of the exchange, who is told of it, why it failed, its bytes | |
//! | [`secret`], [`clock`] | values that are never shown; time that can be set | |
//! | [`mcp`], [`codec`] | the protocol as data, bytes to frames; no I/O | |
//! | [`auth`] | where credentials for upstreams come from | |
//! | [`session`] | what a legacy session is to us: sealed ids, and the store for what changes | |
#![cfg_attr(
    all(feature = "client", feature = "server"),
    doc = "| [`transport`] | the way in and the way out: listener, connections, the Streamable HTTP dialect | `server`, `client` |"
)]
#![cfg_attr(
    feature = "sidecar",
    doc = "| [`config`] | one model, from a file, the environment or a URL | `sidecar` |\n| [`admin`] | health, metrics, status, control | `sidecar` |\n| [`sidecar`] | the whole stack behind listeners; reload, drain | `sidecar` |"
)]
#![cfg_attr(
    feature = "metrics",
    doc = "| [`convention`] | what OpenTelemetry's conventions for MCP count, and call an error | `metrics` |"
)]
#![cfg_attr(
    feature = "otel",
    doc = "| [`telemetry`] | traces and metrics by OTLP | `otel` |"
)]
#![cfg_attr(feature = "cli", doc = "| [`cli`] | the program's commands | `cli` |")]
//!
//! # Features
//!
//! Features only add. With none of them the crate is the protocol and the layers, and brings no HTTP implementation, no
//! TLS and no runtime but tokio's timers and channels.
//!
//! | Feature | Adds |
//! | --- | --- |
//! | `balance` | the layer that spreads calls over the endpoints of one server |
//! | `client` | the way out: connection lists, TLS by rustls, the Streamable HTTP dialect |
//! | `server` | the way in: the HTTP/1.1 listener |
//! | `metrics` | the layer that counts, and its Prometheus text |
//! | `otel` | traces and the metrics of OpenTelemetry's conventions, by OTLP over HTTP (and `client`, `metrics`) |
//! | `sidecar` | configuration, the whole stack, reload, drain, admin endpoints (and `balance`, `client`, `metrics`, `server`) |
//! | `cli` | the command line (and `sidecar`) |
//! | `full` | all of them but `jemalloc`; the default |
//! | `jemalloc` | the allocator of the binary that is shipped; nothing in the library |
//!
//! The oldest Rust it compiles with is 1.95; raising that is a minor release.

#[cfg(feature = "sidecar")]
pub mod admin;
pub mod auth;
pub mod body;
pub mod call;
pub mod catalog;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod codec;
#[cfg(feature = "sidecar")]
pub mod config;
#[cfg(feature = "metrics")]
pub mod convention;
pub mod error;
pub mod exchange;
pub mod facts;
mod head;
pub mod layer;
pub mod mcp;
pub mod secret;
pub mod session;
mod short;
#[cfg(feature = "sidecar")]
pub mod sidecar;
#[cfg(feature = "otel")]
pub mod telemetry;
#[cfg(any(feature = "client", feature = "server"))]
pub mod transport;

pub use body::Body;
pub use call::Call;
pub use clock::Clock;
pub use error::{BoxError, Failure};
pub use facts::{Caller, Facts};
pub use secret::Secret;

/// The Rust code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
