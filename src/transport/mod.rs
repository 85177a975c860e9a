//! The way to an upstream: connections and the Streamable HTTP dialect.
//!
//! | Module | Holds |
//! | --- | --- |
//! | [`connector`] | the service that owns the connections of one endpoint |
//! | [`dialect`] | the layer right above it, which makes a request good Streamable HTTP and cancels what is dropped |

pub mod connector;
pub mod dialect;

pub use connector::{
    ConnectionBody, Connector, ConnectorParams, ConnectorStats, Endpoint, PlaintextPolicy,
    TlsParams,
};
pub use dialect::{Dialect, DialectLayer};
