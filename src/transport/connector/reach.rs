//! The first steps of a connection by themselves, for whoever wants to know which of them fails.

use std::net::SocketAddr;

use bytes::Bytes;

use super::Connector;
use super::dial::{race, resolve};
use crate::error::{Cause, Failure};

/// What a TLS handshake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsSession {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The upstream's own certificate (DER).
    pub certificate: Option<Bytes>,
}

impl Connector {
    /// The addresses of the upstream's name, in the order in which they would be tried.
    ///
    /// # Errors
    ///
    /// [`Cause::Dns`], or [`Cause::ConnectTimeout`].
    pub async fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let endpoint = self.endpoint();
        self.within(resolve(endpoint.host(), endpoint.port())).await
    }

    /// Opens a connection, closes it again, and tells what TLS came to; nothing for an upstream without TLS.
    ///
    /// # Errors
    ///
    /// What a call would fail with before it is sent.
    pub async fn tls_session(&self) -> Result<Option<TlsSession>, Failure> {
        let endpoint = self.endpoint();
        let open = async {
            let tcp = race(resolve(endpoint.host(), endpoint.port()).await?).await?;
            let Some(tls) = &self.shared.tls else {
                return Ok(None);
            };
            let stream = tls.handshake(tcp).await?;
            let (_, session) = stream.get_ref();
            let certificate = session.peer_certificates().and_then(<[_]>::first);
            Ok(Some(TlsSession {
                version: match session.protocol_version() {
                    Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
                    _ => "1.3",
                },
                certificate: certificate.map(|der| Bytes::copy_from_slice(der)),
            }))
        };
        self.within(open).await
    }

    async fn within<T>(
        &self,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let result = match tokio::time::timeout(self.shared.params.connect, step).await {
            Ok(result) => result,
            Err(_) => Err(Failure::unsent(Cause::ConnectTimeout)),
        };
        result.map_err(|failure| failure.at(self.endpoint().origin().clone()))
    }
}
