//! Opens what a configuration only names: files and variables become cells that are re-read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::auth::{SecretCell, StaticCredential, Watch};
use crate::config::model::{Auth, AuthKind, SecretSource, Value};
use crate::config::{Environment, FileWatch};
use crate::error::BoxError;
use crate::session::{SessionKey, SessionKeys};

/// How often a secret's file is read without a hint.
const REREAD: Duration = Duration::from_secs(30);

/// Opens secrets, and keeps what follows their files.
///
/// A file that cannot be read at start is no error: the credential is then missing, calls say so, and the file is looked
/// for again. A variable that is not set is one, since nothing can set it later, and so is a user's name, which is read
/// once.
pub(super) struct Secrets<'a> {
    environment: &'a dyn Environment,
    /// What was opened by the configuration before, whose values may be the same.
    before: &'a [Opened],
    opened: Vec<Opened>,
    followed: Vec<Followed>,
}

/// A secret that was opened, and where the configuration names it (`servers.github.auth`).
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) at: String,
    pub(super) cell: SecretCell,
}

/// Follows one file for as long as it is held: by the file system's hints, and by reading it every so often.
#[derive(Debug)]
pub(super) struct Followed {
    _rereads: Watch,
    _hints: FileWatch,
    following: JoinHandle<()>,
}

impl Followed {
    fn start(cell: &SecretCell, path: &Path) -> Self {
        let hints = FileWatch::new(path);
        let mut changes = hints.receiver();
        let poked = cell.clone();
        let following = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                poked.poke();
            }
        });
        Self {
            _rereads: cell.watch(REREAD),
            _hints: hints,
            following,
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl<'a> Secrets<'a> {
    pub(super) fn new(environment: &'a dyn Environment, before: &'a [Opened]) -> Self {
        Self {
            environment,
            before,
            opened: Vec::new(),
            followed: Vec::new(),
        }
    }

    /// What was opened, and what must live as long as the cells are to follow their files.
    pub(super) fn into_parts(self) -> (Vec<Opened>, Vec<Followed>) {
        (self.opened, self.followed)
    }

    /// Opens what the configuration names at that place.
    pub(super) fn open(
        &mut self,
        at: String,
        source: &SecretSource,
    ) -> Result<SecretCell, BoxError> {
        let cell = self.cell(source, SecretCell::from_file)?;
        Ok(self.keep(at, cell))
    }

    /// The same for a key that callers show: it is nobody's once its file is gone.
    pub(super) fn open_key(
        &mut self,
        at: String,
        source: &SecretSource,
    ) -> Result<SecretCell, BoxError> {
        let cell = self.cell(source, SecretCell::revocable)?;
        Ok(self.keep(at, cell))
    }

    fn keep(&mut self, at: String, cell: SecretCell) -> SecretCell {
        if let Some(before) = self.before.iter().find(|before| before.at == at) {
            cell.continues(&before.cell);
        }
        let opened = cell.clone();
        self.opened.push(Opened { at, cell: opened });
        cell
    }

    fn cell(
        &mut self,
        source: &SecretSource,
        from_file: fn(PathBuf) -> SecretCell,
    ) -> Result<SecretCell, BoxError> {
        match source {
            SecretSource::File(path) => {
                let cell = from_file(path.clone());
                match cell.reread() {
                    Err(error) => {
                        tracing::warn!(%error, "a secret cannot be read yet; it is looked for again");
                    }
                    Ok(_) => cell.warn_if_empty(),
                }
                self.followed.push(Followed::start(&cell, path));
                Ok(cell)
            }
            SecretSource::Env(name) => {
                let value = self
                    .environment
                    .variable(name)
                    .ok_or_else(|| format!("variable {name} is not set"))?;
                Ok(SecretCell::new(value.into()))
            }
            SecretSource::Literal(secret) => Ok(SecretCell::new(secret.clone())),
        }
    }

    /// The credential that the server of that name sends.
    pub(super) fn credential(
        &mut self,
        server: &str,
        auth: &Auth,
    ) -> Result<StaticCredential, BoxError> {
        let at = format!("servers.{server}.auth");
        let credential = match &auth.kind {
            AuthKind::None => StaticCredential::none(),
            AuthKind::Bearer { token } => StaticCredential::bearer(self.open(at, token)?),
            AuthKind::ApiKey { key } => StaticCredential::api_key(self.open(at, key)?),
            AuthKind::Basic { username, password } => {
                let username = match username {
                    Value::Plain(name) => name.clone(),
                    Value::Secret(source) => {
                        // It is read once: a name that is not there now would stay nobody's.
                        let name = self.cell(source, SecretCell::from_file)?.current();
                        let name = name.ok_or("the user's name (auth.username) cannot be read")?;
                        name.expose_secret().to_owned()
                    }
                };
                StaticCredential::basic(&username, self.open(at, password)?)?
            }
            AuthKind::Passthrough => {
                let anonymous = auth.anonymous.as_deref().map(|anonymous| &anonymous.kind);
                StaticCredential::passthrough(match anonymous {
                    Some(AuthKind::Bearer { token }) => {
                        Some(self.open(format!("{at}.anonymous"), token)?)
                    }
                    _ => None,
                })
            }
        };
        let credential = if auth.kind == AuthKind::None {
            credential
        } else {
            credential.with_header(auth.header_name.as_str())?
        };
        match &auth.value_template {
            Some(template) => Ok(credential.with_template(template)?),
            None => Ok(credential),
        }
    }
}

/// The keys of session ids: from where the configuration says, else one that ends with the process.
pub(super) fn session_keys(
    source: Option<&SecretSource>,
    environment: &dyn Environment,
) -> Result<(SessionKeys, Vec<Opened>), BoxError> {
    let Some(source) = source else {
        return Ok((SessionKeys::new(SessionKey::random()?), Vec::new()));
    };
    let mut secrets = Secrets::new(environment, &[]);
    let named = |error: BoxError| format!("sessions.key: {error}");
    let cell = secrets.open("sessions.key".to_owned(), source);
    let key = cell.map_err(named)?.current();
    let key = key.ok_or_else(|| match source {
        SecretSource::File(path) => {
            format!(
                "sessions.key: {} cannot be read, or is empty",
                path.display()
            )
        }
        SecretSource::Env(name) => format!("sessions.key: variable {name} is empty"),
        SecretSource::Literal(_) => "sessions.key: it is empty".to_owned(),
    })?;
    let key = SessionKey::parse(&key).map_err(|error| named(error.into()))?;
    // It is read once: its file is not followed.
    Ok((SessionKeys::new(key), secrets.into_parts().0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    #[tokio::test]
    async fn a_users_name_that_cannot_be_read_is_an_error_and_not_an_empty_name() {
        let environment: BTreeMap<String, String> = BTreeMap::new();
        let nowhere = SecretSource::File(PathBuf::from("/nowhere/username"));
        let auth = Auth::new(AuthKind::Basic {
            username: Value::Secret(nowhere),
            password: SecretSource::Literal("p".to_owned().into()),
        });
        let error = Secrets::new(&environment, &[])
            .credential("wiki", &auth)
            .unwrap_err();
        assert!(error.to_string().contains("auth.username"), "{error}");
    }
}
