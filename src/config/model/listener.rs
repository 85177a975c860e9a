//! Where agents connect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;

use super::SecretSource;

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listener {
    /// A DNS label, for logs and metrics. Default: `default`.
    pub name: String,
    /// Address and port. Default: `127.0.0.1:8000`. A change: *restart*.
    pub listen: SocketAddr,
    /// What all paths of this listener start with; empty, or `/a/b`. Default: empty.
    /// A change: *next call*.
    pub base_path: String,
    /// The largest request body, in bytes. Default: 10 MiB. A change: *next call*.
    pub max_body_bytes: usize,
    /// How many calls one caller may make in a time. Default: any number. A change: *next call*.
    pub rate_limit: Option<Rate>,
    /// Bounds on what runs at the same time.
    pub limits: ListenerLimits,
    /// Networks that may connect. Default: all. A change: *next call*.
    pub allow_from: Vec<Network>,
    /// Values of `Origin` that are let in besides the listener's own. Default: none.
    /// A change: *next call*.
    pub allowed_origins: Vec<String>,
    /// Values of `Host` that are let in, as `name` or `name:port`. Default: the listener's own.
    /// A change: *next call*.
    pub allowed_hosts: Vec<String>,
    /// Who may call. Default: everyone who can connect. A change: *next call*.
    pub inbound_auth: InboundAuth,
    /// Says that everyone who can connect may use our credentials. Default: no.
    /// A change: *next call*.
    pub allow_unauthenticated: bool,
}

impl Listener {
    pub(crate) fn new(listen: SocketAddr) -> Self {
        Self {
            name: "default".to_owned(),
            listen,
            base_path: String::new(),
            max_body_bytes: 10 * 1024 * 1024,
            rate_limit: None,
            limits: ListenerLimits::default(),
            allow_from: Vec::new(),
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            inbound_auth: InboundAuth::default(),
            allow_unauthenticated: false,
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))
    }
}

/// `listeners[].limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerLimits {
    /// How many calls of one caller may run at the same time, and beside them how many of its GET and listen streams
    /// may be open. Default: any number.
    /// A change: *next call*.
    pub concurrency: Option<usize>,
}

/// So many calls in such a time, such as `50/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rate {
    /// How many.
    pub calls: NonZeroU32,
    /// In what time: a second, a minute or an hour.
    pub per: Duration,
}

impl Rate {
    pub(crate) fn new(calls: NonZeroU32, per: Duration) -> Self {
        Self { calls, per }
    }
}

/// A network in CIDR notation; a single address is the network of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Network {
    /// Any address in it.
    pub address: IpAddr,
    /// How many leading bits count: at most 32 or 128.
    pub prefix: u8,
}

impl Network {
    pub(crate) fn new(address: IpAddr, prefix: u8) -> Self {
        Self { address, prefix }
    }
}

/// `listeners[].inboundAuth`: who may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboundAuth {
    /// API keys; any one of them lets in.
    pub api_keys: Vec<ApiKey>,
}

impl InboundAuth {
    /// Whether everyone may call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.api_keys.is_empty()
    }
}

/// One caller's key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiKey {
    /// Whose it is: the principal, in logs and limits. Default: `key-1`, `key-2` and so on.
    pub name: String,
    /// The header it comes in. Default: `X-API-Key`.
    pub header: HeaderName,
    /// The key.
    pub value: SecretSource,
}

impl ApiKey {
    pub(crate) fn new(name: String, header: HeaderName, value: SecretSource) -> Self {
        Self {
            name,
            header,
            value,
        }
    }
}
