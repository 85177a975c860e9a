//! What belongs to one listener, whatever server stands behind it.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

use crate::config::Environment;
use crate::config::model::{Listener, Network};
use crate::error::BoxError;
use crate::facts::Caller;
use crate::layer::authenticate::{Anyone, ApiKeys, AuthenticateLayer, Authenticator, Challenge};
use crate::layer::guard::{self, GuardLayer, Names, Reach};
use crate::layer::inspect::{self, ByteBudget};
use crate::layer::log_bodies::BodyLog;
use crate::layer::wind_down::Signal;
use crate::sidecar::router::Peer;
use crate::sidecar::secrets::{Followed, Opened, Secrets};
use crate::transport::listener::Drain;

/// The layers that a listener puts in front of every server.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) config: Listener,
    pub(super) guard: GuardLayer,
    pub(super) authenticate: AuthenticateLayer<Inbound>,
    pub(super) inspect: inspect::Params,
    pub(super) wind_down: Signal,
    pub(super) bodies: BodyLog,
    pub(super) peer: Peer,
    pub(super) secrets: Vec<Opened>,
    /// Follows the files of its keys.
    _followed: Vec<Followed>,
}

impl Front {
    pub(super) fn build(
        listener: &Listener,
        environment: &dyn Environment,
        budget: &ByteBudget,
        drain: &Drain,
        bodies: &BodyLog,
        before: &[Opened],
    ) -> Result<Self, BoxError> {
        let mut secrets = Secrets::new(environment, before);
        let authenticate = AuthenticateLayer::new(Inbound::build(listener, &mut secrets)?);
        let (secrets, followed) = secrets.into_parts();
        let inspect = inspect::Params {
            max_body: listener.max_body_bytes,
            budget: budget.clone(),
            ..inspect::Params::default()
        };
        let guard = guard_params(listener)?;
        let peer = if guard.allow_from.is_empty() {
            Peer::Untold
        } else {
            Peer::Told
        };
        Ok(Self {
            config: listener.clone(),
            guard: GuardLayer::new(guard),
            authenticate,
            inspect,
            wind_down: drain.subscribe(),
            bodies: bodies.clone(),
            peer,
            secrets,
            _followed: followed,
        })
    }
}

fn guard_params(listener: &Listener) -> Result<guard::Params, BoxError> {
    let is_loopback = listener.listen.ip().is_loopback();
    Ok(guard::Params {
        reach: if is_loopback {
            Reach::Loopback
        } else {
            Reach::Others
        },
        allowed_origins: Names::of(&listener.allowed_origins),
        allowed_hosts: Names::of(&listener.allowed_hosts),
        allow_from: listener
            .allow_from
            .iter()
            .map(network)
            .collect::<Result<_, _>>()?,
        max_body: listener.max_body_bytes.try_into().unwrap_or(u64::MAX),
        ..guard::Params::default()
    })
}

fn network(configured: &Network) -> Result<guard::Network, BoxError> {
    Ok(format!("{}/{}", configured.address, configured.prefix).parse()?)
}

/// How callers prove who they are, as configured.
#[derive(Debug)]
pub(super) enum Inbound {
    Anyone(Anyone),
    Keys(ApiKeys),
}

impl Inbound {
    fn build(listener: &Listener, secrets: &mut Secrets<'_>) -> Result<Self, BoxError> {
        let configured = &listener.inbound_auth;
        if configured.is_open() {
            return Ok(Self::Anyone(Anyone));
        }
        let mut keys = ApiKeys::new();
        for key in &configured.api_keys {
            let at = format!("listeners.{}.inboundAuth.{}", listener.name, key.name);
            let cell = secrets.open_key(at, &key.value)?;
            keys = if key.header == "x-api-key" || key.header == AUTHORIZATION {
                // The two usual headers: the key may come in either, as a bearer token in the second.
                keys.with(&key.name, cell)
            } else {
                keys.with_header(&key.name, cell, key.header.clone())
            };
        }
        Ok(Self::Keys(keys))
    }
}

impl Authenticator for Inbound {
    fn authenticate(&self, headers: &mut HeaderMap) -> Result<Caller, Challenge> {
        match self {
            Self::Anyone(anyone) => anyone.authenticate(headers),
            Self::Keys(keys) => keys.authenticate(headers),
        }
    }

    fn headers(&self) -> Vec<HeaderName> {
        match self {
            Self::Anyone(anyone) => anyone.headers(),
            Self::Keys(keys) => keys.headers(),
        }
    }
}
