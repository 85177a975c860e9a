//! TLS to an upstream: which authorities are trusted, and the handshake.
//!
//! Order of trust: the configured CA file alone; else the system's certificates; else, where there are none (an image
//! without files), Mozilla's as they were when this program was built. Whoever follows the CA file hands over what it
//! says now; a handshake that has begun keeps to what was trusted before.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::Endpoint;
use crate::error::{BoxError, Cause, Failure};

/// How the certificate of an upstream is judged.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsParams {
    /// A PEM file with the authorities to trust *instead of* the system's. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Takes any certificate: whoever can reach the connection can read and change it. For development only; a warning
    /// is logged. Default: false.
    pub insecure_skip_verify: bool,
}

impl TlsParams {
    /// Trusts the authorities in `file` instead of the system's.
    #[must_use]
    pub fn with_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// Takes any certificate.
    #[must_use]
    pub fn with_insecure_skip_verify(mut self, skip: bool) -> Self {
        self.insecure_skip_verify = skip;
        self
    }
}

impl fmt::Debug for TlsParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsParams");
        debug.field("ca_file", &self.ca_file);
        if self.insecure_skip_verify {
            debug.field("INSECURE", &"certificates are not verified");
        }
        debug.finish()
    }
}

/// Why TLS could not be set up.
#[derive(Debug)]
pub struct TlsError {
    file: Option<PathBuf>,
    source: BoxError,
}

impl TlsError {
    fn new(file: Option<&Path>, source: impl Into<BoxError>) -> Self {
        Self {
            file: file.map(Into::into),
            source: source.into(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "cannot use the CA file {}", file.display()),
            None => f.write_str("cannot set up TLS"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// What it takes to open TLS to one upstream.
pub(super) struct Tls {
    /// Behind a lock that only a handshake and a change of the CA file take.
    connector: RwLock<TlsConnector>,
    name: ServerName<'static>,
    /// Takes any certificate, so that it does not matter who is trusted.
    is_insecure: bool,
}

impl Tls {
    pub(super) fn new(endpoint: &Endpoint, params: &TlsParams) -> Result<Self, TlsError> {
        let name = ServerName::try_from(endpoint.host().to_owned())
            .map_err(|error| TlsError::new(None, error))?;
        let trust = if params.insecure_skip_verify {
            tracing::warn!(
                upstream = %endpoint.origin(),
                "INSECURE: the certificate of this upstream is not verified; anybody on the way can read and change its traffic"
            );
            Trust::Anybody
        } else {
            Trust::Roots(roots(params.ca_file.as_deref())?)
        };
        Ok(Self {
            connector: RwLock::new(connector(trust)?),
            name,
            is_insecure: params.insecure_skip_verify,
        })
    }

    /// Trusts the authorities in `pem` from the next handshake on. Says whether that can make a difference.
    pub(super) fn trust(&self, pem: &[u8], file: Option<&Path>) -> Result<bool, TlsError> {
        if self.is_insecure {
            return Ok(false);
        }
        let roots = from_pem(CertificateDer::pem_slice_iter(pem), file)?;
        let next = connector(Trust::Roots(Arc::new(roots)))?;
        *self
            .connector
            .write()
            .unwrap_or_else(PoisonError::into_inner) = next;
        Ok(true)
    }

    pub(super) async fn handshake(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let connector = self
            .connector
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        connector
            .connect(self.name.clone(), tcp)
            .await
            .map_err(failure)
    }
}

/// Whose certificates count.
enum Trust {
    Roots(Arc<RootCertStore>),
    Anybody,
}

fn connector(trust: Trust) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new(None, error))?;
    let mut config = match trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
    };
    // Streams of MCP would share one HTTP/2 connection and block each other.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn failure(error: io::Error) -> Failure {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let cause = match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Cause::TlsCertificate
        }
        _ => Cause::TlsHandshake,
    };
    Failure::unsent(cause).with_source(error)
}

fn roots(ca_file: Option<&Path>) -> Result<Arc<RootCertStore>, TlsError> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    match ca_file {
        Some(file) => from_file(file).map(Arc::new),
        None => Ok(Arc::clone(SYSTEM.get_or_init(|| Arc::new(of_system())))),
    }
}

fn from_file(file: &Path) -> Result<RootCertStore, TlsError> {
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| TlsError::new(Some(file), error))?;
    from_pem(certificates, Some(file))
}

/// The authorities of `file`; each has to be one, and there has to be one.
fn from_pem(
    certificates: impl Iterator<Item = Result<CertificateDer<'static>, pem::Error>>,
    file: Option<&Path>,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| TlsError::new(file, error))?;
        roots
            .add(certificate)
            .map_err(|error| TlsError::new(file, error))?;
    }
    if roots.is_empty() {
        return Err(TlsError::new(file, "no certificate in it"));
    }
    Ok(roots)
}

fn of_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Systems ship a few certificates that cannot be parsed; the others count.
    let found = rustls_native_certs::load_native_certs();
    let (_, _) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        for error in found.errors {
            tracing::warn!(%error, "the system's certificates cannot be read; built-in ones are trusted instead");
        }
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Takes any certificate, but holds the peer to the key in it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
