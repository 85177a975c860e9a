//! The way in and the way out: the listener, connections to upstreams and the Streamable HTTP dialect.
//!
//! | Module | Holds |
//! | --- | --- |
//! | [`listener`] | accepts connections within limits, and drains them |
//! | [`connector`] | the service that owns the connections of one endpoint |
//! | [`dialect`] | the layer right above it, which makes a request good Streamable HTTP and cancels what is dropped |

#[cfg(feature = "client")]
pub mod connector;
#[cfg(feature = "client")]
pub mod dialect;
#[cfg(feature = "server")]
mod drain;
#[cfg(feature = "server")]
pub mod listener;

#[cfg(feature = "client")]
pub use connector::{
    ConnectionBody, Connector, ConnectorParams, ConnectorStats, Endpoint, PlaintextPolicy,
    TlsParams,
};
#[cfg(feature = "client")]
pub use dialect::{Dialect, DialectLayer};
