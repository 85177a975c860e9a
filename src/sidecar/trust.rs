//! Follows the CA file of a server: authorities are exchanged while calls go on.
//!
//! 1. Another content is trusted for connections that are made from then on; those that exist serve what they have begun.
//! 2. A file that cannot be read, or that holds no certificate or one that cannot be used, changes nothing but a log line:
//!    the authorities of before stay trusted.
//! 3. It follows until it is dropped, which is when the last generation of the server that uses these connections ends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::FileWatch;
use crate::error::BoxError;
use crate::transport::connector::Connector;

/// Hands each new content of a CA file to the connectors of one server.
#[derive(Debug)]
pub(super) struct Trusted {
    _hints: FileWatch,
    following: JoinHandle<()>,
    /// Seconds since 1970.
    changed_at: Arc<AtomicU64>,
}

impl Trusted {
    /// Makes connectors that trust `file`, and follows it for them.
    pub(super) fn follow(
        file: &Path,
        server: &str,
        connectors: impl FnOnce() -> Result<Vec<Connector>, BoxError>,
    ) -> Result<(Self, Vec<Connector>), BoxError> {
        // Read before the connectors read it: what changes in between is seen as a change.
        let hints = FileWatch::new(file);
        let connectors = connectors()?;
        let mut changes = hints.receiver();
        let (following, file, server) = (connectors.clone(), file.to_owned(), server.to_owned());
        let changed_at = Arc::new(AtomicU64::new(Clock::system().unix_seconds()));
        let since = changed_at.clone();
        let following = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let state = changes.borrow_and_update().clone();
                let trusted = match (&state.bytes, &state.error) {
                    (Some(pem), None) => exchange(&following, pem),
                    (_, error) => Err(error.as_deref().unwrap_or_default().into()),
                };
                match trusted {
                    // No endpoint asks for a certificate.
                    Ok(false) => {}
                    Ok(true) => {
                        since.store(Clock::system().unix_seconds(), Ordering::Relaxed);
                        tracing::info!(
                            server, file = %file.display(),
                            "the CA file has changed: new connections trust what it says now"
                        );
                    }
                    Err(error) => tracing::warn!(
                        server, file = %file.display(), error,
                        "the CA file cannot be used; what it said before stays trusted"
                    ),
                }
            }
        });
        let trusted = Self {
            _hints: hints,
            following,
            changed_at,
        };
        Ok((trusted, connectors))
    }

    /// When what is trusted was read first, in seconds since 1970.
    pub(super) fn changed_at(&self) -> u64 {
        self.changed_at.load(Ordering::Relaxed)
    }
}

impl Drop for Trusted {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// All or, as they are given the same, none.
fn exchange(connectors: &[Connector], pem: &[u8]) -> Result<bool, BoxError> {
    let mut changes = false;
    for connector in connectors {
        changes |= connector.trust(pem)?;
    }
    Ok(changes)
}
