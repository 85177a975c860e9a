//! Files that are read anew when they change: the configuration, and secrets.
//!
//! 1. The file's **directory** is watched, not the file: a mounted volume changes by a swap of its
//!    `..data` link, and a watch on the file would die at the first one.
//! 2. An event is a hint only. Each hint waits 100 ms for those behind it, then the file is read
//!    and its hash compared; only another content is news. Every 30 s it is read without a hint,
//!    as some file systems give none.
//! 3. A configuration is read and checked whole. What comes out is [`Reload::Good`] or
//!    [`Reload::Bad`]; whoever holds a good one keeps it.
//! 4. A secret's file keeps its last good content while it cannot be read, and says so.
//! 5. The task ends when its handle is dropped.
//!
//! `subPath` mounts never change, whoever watches; mount the directory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{self, JoinHandle};
use tokio::time;

use super::node::MAX_BYTES;
use super::problem::Report;
use super::source::{Loaded, Overrides, digest, from_text, read_bounded, unreadable};

/// How long a hint waits for those behind it: one save is several events.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// How often a file is read without a hint.
const REREAD: Duration = Duration::from_secs(30);

/// What a changed file turned out to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reload {
    /// A configuration to go over to.
    Good(Arc<Loaded>),
    /// Everything that is wrong with the file; the configuration in use stays.
    Bad(Arc<Report>),
}

/// Follows a configuration file for as long as it is held.
#[derive(Debug)]
#[must_use = "the file is followed only while this is held"]
pub struct ConfigWatch {
    receiver: watch::Receiver<Reload>,
    follower: Follower,
}

impl ConfigWatch {
    /// Reads the file once, then follows it. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The problems of the file as it is; nothing is followed then.
    pub fn start(
        path: impl Into<PathBuf>,
        overrides: Overrides,
    ) -> Result<(Arc<Loaded>, Self), Report> {
        let path = path.into();
        let subject = path.display().to_string();
        let bytes = read_bounded(&path).map_err(|error| unreadable(&subject, &error))?;
        let first = Arc::new(from_text(&subject, &bytes, &overrides)?);
        let (sender, receiver) = watch::channel(Reload::Good(Arc::clone(&first)));
        let changed = move |content: io::Result<Vec<u8>>| {
            let loaded = content
                .map_err(|error| unreadable(&subject, &error))
                .and_then(|bytes| from_text(&subject, &bytes, &overrides));
            sender.send_replace(match loaded {
                Ok(loaded) => Reload::Good(Arc::new(loaded)),
                Err(report) => Reload::Bad(Arc::new(report)),
            });
        };
        let follower = Follower::start(path, Ok(digest(&bytes)), Hints::FileSystem, changed);
        Ok((first, Self { receiver, follower }))
    }

    /// What the file turned out to be, each time that it changes. The first value is the one
    /// that [`start`](Self::start) gave, already seen.
    #[must_use]
    pub fn receiver(&self) -> watch::Receiver<Reload> {
        let mut receiver = self.receiver.clone();
        receiver.mark_unchanged();
        receiver
    }

    /// Reads the file now, as if there had been a hint (SIGHUP).
    pub fn reread(&self) {
        self.follower.again.notify_one();
    }
}

/// What is known of a watched file.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileState {
    /// Its content, when it could last be read.
    pub bytes: Option<Bytes>,
    /// Why it cannot be read at present, if so.
    pub error: Option<Arc<str>>,
}

impl fmt::Debug for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The file may be a secret; not even its length is shown.
        f.debug_struct("FileState")
            .field("read", &self.bytes.is_some())
            .field("error", &self.error)
            .finish()
    }
}

impl FileState {
    fn take(&mut self, content: io::Result<Vec<u8>>) {
        match content {
            Ok(bytes) if bytes.len() <= MAX_BYTES => {
                *self = Self {
                    bytes: Some(Bytes::from(bytes)),
                    error: None,
                };
            }
            Ok(_) => self.error = Some(format!("larger than {MAX_BYTES} bytes").into()),
            Err(error) => self.error = Some(error.to_string().into()),
        }
    }
}

/// Follows any file, such as a secret's, for as long as it is held.
#[derive(Debug)]
#[must_use = "the file is followed only while this is held"]
pub struct FileWatch {
    receiver: watch::Receiver<FileState>,
    follower: Follower,
}

impl FileWatch {
    /// Reads the file once, then follows it. A file that is not there yet is waited for. Must be
    /// called within a tokio runtime.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_hints(path.into(), Hints::FileSystem)
    }

    fn with_hints(path: PathBuf, hints: Hints) -> Self {
        let content = read_bounded(&path);
        let known = fingerprint(&content);
        let mut state = FileState::default();
        state.take(content);
        let (sender, receiver) = watch::channel(state);
        let changed =
            move |content: io::Result<Vec<u8>>| sender.send_modify(|state| state.take(content));
        let follower = Follower::start(path, known, hints, changed);
        Self { receiver, follower }
    }

    /// The state of the file: the present one, and each one after it.
    #[must_use]
    pub fn receiver(&self) -> watch::Receiver<FileState> {
        self.receiver.clone()
    }

    /// Reads the file now, as if there had been a hint.
    pub fn reread(&self) {
        self.follower.again.notify_one();
    }
}

/// The hash of a content, or the kind of failure: what is compared.
type Fingerprint = Result<u64, io::ErrorKind>;

fn fingerprint(content: &io::Result<Vec<u8>>) -> Fingerprint {
    content
        .as_ref()
        .map(|bytes| digest(bytes))
        .map_err(io::Error::kind)
}

/// Where hints come from.
#[derive(Clone, Copy, Debug)]
enum Hints {
    FileSystem,
    #[cfg(test)]
    None,
}

impl Hints {
    /// Watches the directory of a file. Without a watch the file is still read from time to time.
    fn watch(self, path: &Path, hints: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
        match self {
            Self::FileSystem => watch_directory(path, hints)
                .inspect_err(|error| {
                    tracing::warn!(%error, path = %path.display(), "a directory cannot be watched");
                })
                .ok(),
            #[cfg(test)]
            Self::None => None,
        }
    }
}

fn watch_directory(path: &Path, hints: &mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let hints = hints.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading must not be a hint to read. A full channel holds a hint already.
        if event.map_or(true, |event| is_change(event.kind)) {
            let _ = hints.try_send(());
        }
    })?;
    watcher.watch(
        directory.unwrap_or_else(|| Path::new(".")),
        RecursiveMode::NonRecursive,
    )?;
    Ok(watcher)
}

fn is_change(kind: EventKind) -> bool {
    !kind.is_access() || kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}

/// The task that reads a file whenever there is reason to.
#[derive(Debug)]
struct Follower {
    again: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Follower {
    fn start(
        path: PathBuf,
        known: Fingerprint,
        hints: Hints,
        changed: impl FnMut(io::Result<Vec<u8>>) + Send + 'static,
    ) -> Self {
        let again = Arc::new(Notify::new());
        let task = task::spawn(follow(path, known, hints, Arc::clone(&again), changed));
        Self { again, task }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    path: PathBuf,
    mut known: Fingerprint,
    hints: Hints,
    again: Arc<Notify>,
    mut changed: impl FnMut(io::Result<Vec<u8>>),
) {
    let (sender, mut hinted) = mpsc::channel(1);
    let mut watcher = hints.watch(&path, &sender);
    loop {
        // Read before the first wait: the file may have changed before the watch was there.
        let content = read(path.clone()).await;
        let found = fingerprint(&content);
        if found != known {
            known = found;
            changed(content);
        }
        let by_timer = tokio::select! {
            _ = hinted.recv() => false,
            () = again.notified() => false,
            () = time::sleep(REREAD) => true,
        };
        if by_timer {
            // A directory that was replaced is watched no more; a new watch costs little.
            watcher = hints.watch(&path, &sender).or(watcher);
        } else {
            time::sleep(DEBOUNCE).await;
            while hinted.try_recv().is_ok() {}
        }
    }
}

async fn read(path: PathBuf) -> io::Result<Vec<u8>> {
    let content = task::spawn_blocking(move || read_bounded(&path)).await;
    content.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests;
