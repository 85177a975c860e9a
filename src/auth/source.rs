//! Where a credential's text comes from: a value, an environment variable or a file that is read again when it changes.
//!
//! Contract:
//!
//! 1. A [`SecretCell`] holds the present value and a *generation*: a number that no other value of this process has.
//!    A new generation means a new value; setting or reading the same value again changes nothing.
//! 2. A file that vanishes or cannot be read leaves the last value in place: a mount that is being swapped is no loss.
//!    A file that is there and empty is no value. Who takes a key away from callers means it, though: a cell that is
//!    [`revocable`](SecretCell::revocable) has no value once its file is gone.
//! 3. Files are at most 64 KiB of UTF-8. White space around the value is dropped.
//! 4. [`SecretCell::changed_at`] is when the present value was read first: what proves that a rotation has arrived.
//! 5. [`SecretCell::watch`] reads the file at an interval and when [`poke`](SecretCell::poke)d, until its [`Watch`] is
//!    dropped. A change is logged without the value.
//!
//! It deliberately does not watch directories: whoever does (the configuration's watcher) pokes.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::auth::template::Template;
use crate::clock::Clock;
use crate::secret::Secret;

/// The longest file that is taken for a credential.
const MAX_FILE: u64 = 64 * 1024;

/// The present value of a credential, shared by all its clones.
#[derive(Clone)]
pub struct SecretCell(Arc<Cell>);

struct Cell {
    file: Option<PathBuf>,
    gone: Gone,
    generation: AtomicU64,
    value: RwLock<Option<Secret>>,
    /// Seconds since 1970; 0 while there is no value.
    changed_at: AtomicU64,
    poked: Notify,
}

/// What a file that is gone does to the value that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// It stays: the file may come back.
    Keeps,
    /// It goes, too.
    Revokes,
}

impl SecretCell {
    /// A value that is known. An empty one is no value.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        let cell = Self::empty(None, Gone::Keeps);
        cell.set(Some(secret));
        cell
    }

    /// The value of an environment variable.
    ///
    /// # Errors
    ///
    /// Fails if it is not set, or not UTF-8. The error names the variable.
    pub fn from_env(name: &str) -> Result<Self, SourceError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "one of the two places that read the environment"
        )]
        let value = std::env::var(name);
        match value {
            Ok(value) => Ok(Self::new(Secret::new(value))),
            Err(std::env::VarError::NotPresent) => {
                Err(SourceError::new(format!("variable {name} is not set")))
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(SourceError::new(format!("variable {name} is not UTF-8")))
            }
        }
    }

    /// The content of a file, not read yet: [`reread`](Self::reread) does that.
    #[must_use]
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self::empty(Some(path.into()), Gone::Keeps)
    }

    /// The same, but a file that is gone takes the value with it: for keys of callers, who must be kept out then. A
    /// kubelet swaps a Secret's files as a whole, and never takes one away that is still in it.
    #[must_use]
    pub fn revocable(path: impl Into<PathBuf>) -> Self {
        Self::empty(Some(path.into()), Gone::Revokes)
    }

    /// The value, if there is one.
    #[must_use]
    pub fn current(&self) -> Option<Secret> {
        self.0
            .value
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The number of the present value; 0 if there never was one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// When the present value was read first, in seconds since 1970; nothing if there is no value.
    #[must_use]
    pub fn changed_at(&self) -> Option<u64> {
        let seconds = self.0.changed_at.load(Ordering::Relaxed);
        (seconds > 0).then_some(seconds)
    }

    /// Takes over when the value was read first from a cell that had the same: reading it elsewhere is no change.
    pub fn continues(&self, before: &Self) {
        if let (Some(seconds), true) = (before.changed_at(), self.current() == before.current()) {
            self.0.changed_at.store(seconds, Ordering::Relaxed);
        }
    }

    /// The file it comes from.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// Sets the value and says whether it is another one than before.
    pub fn set(&self, secret: Option<Secret>) -> bool {
        let secret = secret.filter(|secret| !secret.is_empty());
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        if *value == secret {
            return false;
        }
        let now = secret
            .as_ref()
            .map_or(0, |_| Clock::system().unix_seconds());
        self.0.changed_at.store(now, Ordering::Relaxed);
        *value = secret;
        // Inside the lock, so that a reader never sees the new generation before the new value.
        self.0
            .generation
            .store(next_generation(), Ordering::Release);
        true
    }

    /// Reads the file again and says whether the value changed. Without a file it stays as it is.
    ///
    /// This blocks on the file system: call it off the runtime's threads, or at start.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read; the last value stays, unless the file is gone and the cell revocable. The error
    /// names the file, never what is in it.
    pub fn reread(&self) -> Result<bool, SourceError> {
        let Some(path) = self.file() else {
            return Ok(false);
        };
        match read(path) {
            Err(_) if self.0.gone == Gone::Revokes && self.current().is_some() && is_gone(path) => {
                Ok(self.set(None))
            }
            read => Ok(self.set(Some(read?))),
        }
    }

    /// Says so if its file was read and there is no value: who emptied it hears of it before the callers do.
    pub(crate) fn warn_if_empty(&self) {
        let (Some(file), None) = (self.file(), self.current()) else {
            return;
        };
        let file = file.display();
        if self.0.gone == Gone::Revokes {
            tracing::warn!(%file, "the file is empty or gone; nobody has this key until it is filled");
        } else {
            tracing::warn!(%file, "the file is empty; calls fail as credential_missing until it is filled");
        }
    }

    /// Asks the watching task to read the file now.
    pub fn poke(&self) {
        self.0.poked.notify_one();
    }

    /// Reads the file again every so often, and when poked, for as long as the [`Watch`] lives.
    ///
    /// Must be called on a tokio runtime. A cell without a file has nothing to watch: its watch is empty.
    pub fn watch(&self, every: Duration) -> Watch {
        Watch(
            self.file()
                .is_some()
                .then(|| tokio::spawn(watch(self.clone(), every))),
        )
    }

    fn empty(file: Option<PathBuf>, gone: Gone) -> Self {
        Self(Arc::new(Cell {
            file,
            gone,
            generation: AtomicU64::new(0),
            value: RwLock::new(None),
            changed_at: AtomicU64::new(0),
            poked: Notify::new(),
        }))
    }
}

impl fmt::Debug for SecretCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretCell")
            .field("file", &self.0.file)
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// A task that reads a file again; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the watch ends when it is dropped"]
pub struct Watch(Option<JoinHandle<()>>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Why a credential could not be read. It shows where from, never what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    text: String,
}

impl SourceError {
    pub(crate) fn new(text: String) -> Self {
        Self { text }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SourceError {}

/// A cell's value as the header value it becomes, built once per generation.
#[derive(Debug)]
pub(crate) struct Rendered {
    cell: SecretCell,
    template: Template,
    built: RwLock<Option<(u64, Option<HeaderValue>)>>,
}

impl Rendered {
    pub(crate) fn new(cell: SecretCell, template: Template) -> Self {
        Self {
            cell,
            template,
            built: RwLock::new(None),
        }
    }

    pub(crate) fn cell(&self) -> &SecretCell {
        &self.cell
    }

    /// The header value and its generation; nothing if there is no value, or one that no header can carry.
    pub(crate) fn value(&self) -> Option<(HeaderValue, u64)> {
        let generation = self.cell.generation();
        {
            let built = self.built.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((of, value)) = &*built
                && *of == generation
            {
                return value.clone().map(|value| (value, generation));
            }
        }
        let value = self
            .cell
            .current()
            .and_then(|secret| self.template.render(&secret).ok());
        // A value set between the two reads above is built anew at the next call, since its generation is another.
        *self.built.write().unwrap_or_else(PoisonError::into_inner) =
            Some((generation, value.clone()));
        value.map(|value| (value, generation))
    }
}

async fn watch(cell: SecretCell, every: Duration) {
    let mut was_readable = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = cell.0.poked.notified() => {}
        }
        let reading = cell.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || reading.reread()).await else {
            continue;
        };
        match &read {
            Ok(true) if cell.current().is_none() => cell.warn_if_empty(),
            Ok(true) => {
                let file = cell.file().map(|file| file.display().to_string());
                tracing::info!(file, "credential changed");
            }
            // What has no value has been told of: at the start, or when it was taken away.
            Err(error) if was_readable && cell.current().is_some() => {
                tracing::warn!(%error, "credential cannot be read, the last one stays");
            }
            Ok(false) | Err(_) => {}
        }
        was_readable = read.is_ok();
    }
}

fn read(path: &Path) -> Result<Secret, SourceError> {
    let failed = |why: &dyn fmt::Display| SourceError::new(format!("{}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(&error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed(&"longer than 64 KiB, which no credential is"));
    }
    Ok(Secret::new(text.as_str()))
}

/// Whether there is no such file, for sure.
fn is_gone(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of its own in the temporary directory, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(content: &str) -> Self {
            let name = format!("outrigger-{}-{}", std::process::id(), next_generation());
            let scratch = Self(std::env::temp_dir().join(name));
            scratch.write(content);
            scratch
        }

        fn write(&self, content: &str) {
            std::fs::write(&self.0, content).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn text(cell: &SecretCell) -> Option<String> {
        cell.current()
            .map(|secret| secret.expose_secret().to_owned())
    }

    #[test]
    fn rule_1_a_generation_is_one_value() {
        let cell = SecretCell::new(Secret::new("a"));
        let first = cell.generation();
        assert!(!cell.set(Some(Secret::new("a"))));
        assert_eq!(cell.generation(), first);
        assert!(cell.set(Some(Secret::new("b"))));
        assert_ne!(cell.generation(), first);
        assert_ne!(
            SecretCell::new(Secret::new("a")).generation(),
            SecretCell::new(Secret::new("a")).generation()
        );
    }

    #[test]
    fn rule_2_a_file_that_vanishes_leaves_the_last_value() {
        let file = Scratch::new("token\n");
        let cell = SecretCell::from_file(&file.0);
        assert_eq!(text(&cell), None);
        assert_eq!(cell.reread(), Ok(true));
        assert_eq!(text(&cell).as_deref(), Some("token"));
        std::fs::remove_file(&file.0).unwrap();
        assert!(cell.reread().is_err());
        assert_eq!(text(&cell).as_deref(), Some("token"));
        file.write("\n");
        assert_eq!(cell.reread(), Ok(true));
        assert_eq!(text(&cell), None);
    }

    #[test]
    fn rule_2_a_key_of_callers_goes_with_its_file() {
        let file = Scratch::new("key\n");
        let cell = SecretCell::revocable(&file.0);
        assert_eq!(cell.reread(), Ok(true));
        std::fs::remove_file(&file.0).unwrap();
        assert_eq!(cell.reread(), Ok(true));
        assert_eq!(text(&cell), None);
        assert_eq!(cell.changed_at(), None);
        assert!(cell.reread().is_err(), "it is told each time");
        // What is there and cannot be read is not gone.
        file.write("key");
        assert_eq!(cell.reread(), Ok(true));
        file.write(&"x".repeat(64 * 1024 + 1));
        assert!(cell.reread().is_err());
        assert_eq!(text(&cell).as_deref(), Some("key"));
    }

    #[test]
    fn rule_3_a_large_file_is_no_credential() {
        let file = Scratch::new(&"x".repeat(64 * 1024 + 1));
        let error = SecretCell::from_file(&file.0).reread().unwrap_err();
        assert!(error.to_string().contains("64 KiB"));
        assert!(!error.to_string().contains("xxx"));
    }

    #[test]
    fn rule_4_the_time_is_that_of_the_value() {
        let cell = SecretCell::new(Secret::new("a"));
        cell.0.changed_at.store(7, Ordering::Relaxed);
        assert!(!cell.set(Some(Secret::new("a"))));
        assert_eq!(cell.changed_at(), Some(7), "the same value again");
        let same = SecretCell::new(Secret::new("a"));
        same.continues(&cell);
        assert_eq!(same.changed_at(), Some(7));
        let other = SecretCell::new(Secret::new("b"));
        other.continues(&cell);
        assert_ne!(other.changed_at(), Some(7));
        assert!(cell.set(Some(Secret::new("b"))));
        assert!(cell.changed_at() > Some(7));
        cell.set(None);
        assert_eq!(cell.changed_at(), None);
    }

    #[tokio::test]
    async fn rule_5_a_poke_reads_the_file_and_a_dropped_watch_ends() {
        let file = Scratch::new("old");
        let cell = SecretCell::from_file(&file.0);
        cell.reread().unwrap();
        let watch = cell.watch(Duration::from_hours(1));
        file.write("new");
        cell.poke();
        while text(&cell).as_deref() != Some("new") {
            tokio::task::yield_now().await;
        }
        drop(watch);
        while Arc::strong_count(&cell.0) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let error = SecretCell::from_env("OUTRIGGER_NO_SUCH_VARIABLE").unwrap_err();
        assert_eq!(
            error.to_string(),
            "variable OUTRIGGER_NO_SUCH_VARIABLE is not set"
        );
        let set = SecretCell::from_env("CARGO_PKG_NAME").unwrap();
        assert_eq!(text(&set).as_deref(), Some("outrigger"));
    }

    #[test]
    fn a_header_value_follows_its_cell_and_is_sensitive() {
        let cell = SecretCell::new(Secret::new("a"));
        let rendered = Rendered::new(cell.clone(), Template::token_only());
        let (value, first) = rendered.value().unwrap();
        assert_eq!(value, "a");
        assert!(value.is_sensitive());
        cell.set(Some(Secret::new("b")));
        let (value, second) = rendered.value().unwrap();
        assert_eq!(value, "b");
        assert_ne!(first, second);
        cell.set(Some(Secret::new("b\nb")));
        assert_eq!(rendered.value(), None);
        cell.set(None);
        assert_eq!(rendered.value(), None);
    }

    #[test]
    fn s0_26_debug_shows_no_value() {
        let cell = SecretCell::new(Secret::new("hunter2"));
        let rendered = Rendered::new(cell, Template::token_only());
        let _ = rendered.value();
        assert!(!format!("{rendered:?}").contains("hunter2"));
    }
}
