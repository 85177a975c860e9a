use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const ONE: &str = "servers: [{name: a, endpoints: [{url: https://e.example/mcp}]}]\n";
const TWO: &str = "servers: [{name: b, endpoints: [{url: https://e.example/mcp}]}]\n";

/// A directory that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("outrigger-watch-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// What a kubelet does: a new directory, and one rename over the link to it.
    #[cfg(unix)]
    fn swap(&self, version: &str, name: &str, text: &str) {
        self.write(&format!("..{version}/{name}"), text);
        let link = self.0.join("..data_tmp");
        std::os::unix::fs::symlink(format!("..{version}"), &link).unwrap();
        fs::rename(link, self.0.join("..data")).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn next<T: Clone>(receiver: &mut watch::Receiver<T>) -> T {
    let changed = time::timeout(Duration::from_secs(20), receiver.changed());
    changed
        .await
        .expect("no news in time")
        .expect("the follower has ended");
    receiver.borrow_and_update().clone()
}

fn server(reload: Reload) -> String {
    match reload {
        Reload::Good(loaded) => loaded.config.servers[0].name.clone(),
        Reload::Bad(report) => panic!("{report}"),
    }
}

#[tokio::test]
async fn a_changed_file_is_read_anew() {
    let folder = Folder::new();
    let path = folder.write("outrigger.yaml", ONE);
    let (first, follower) = ConfigWatch::start(&path, Overrides::default()).unwrap();
    assert_eq!(first.config.servers[0].name, "a");
    let mut receiver = follower.receiver();
    assert!(!receiver.has_changed().unwrap());
    folder.write("outrigger.yaml", TWO);
    assert_eq!(server(next(&mut receiver).await), "b");
}

#[tokio::test]
async fn a_file_that_is_renamed_into_place_is_read_anew() {
    let folder = Folder::new();
    let path = folder.write("outrigger.yaml", ONE);
    let (_, follower) = ConfigWatch::start(&path, Overrides::default()).unwrap();
    let mut receiver = follower.receiver();
    let new = folder.write("outrigger.yaml.new", TWO);
    fs::rename(new, &path).unwrap();
    assert_eq!(server(next(&mut receiver).await), "b");
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_directory_is_followed_over_two_swaps() {
    let folder = Folder::new();
    folder.swap("1", "outrigger.yaml", ONE);
    let path = folder.0.join("outrigger.yaml");
    std::os::unix::fs::symlink("..data/outrigger.yaml", &path).unwrap();
    let (first, follower) = ConfigWatch::start(&path, Overrides::default()).unwrap();
    assert_eq!(first.config.servers[0].name, "a");
    let mut receiver = follower.receiver();
    folder.swap("2", "outrigger.yaml", TWO);
    assert_eq!(server(next(&mut receiver).await), "b");
    folder.swap("3", "outrigger.yaml", ONE);
    assert_eq!(server(next(&mut receiver).await), "a");
}

#[tokio::test]
async fn a_bad_file_is_reported_and_a_good_one_follows() {
    let folder = Folder::new();
    let path = folder.write("outrigger.yaml", ONE);
    let (_, follower) = ConfigWatch::start(&path, Overrides::default()).unwrap();
    let mut receiver = follower.receiver();
    folder.write("outrigger.yaml", "servers: [{name: a, retries: 1}]");
    match next(&mut receiver).await {
        Reload::Bad(report) => assert_eq!(report.errors(), 2, "{report}"),
        Reload::Good(loaded) => panic!("{loaded:?}"),
    }
    folder.write("outrigger.yaml", TWO);
    assert_eq!(server(next(&mut receiver).await), "b");
}

#[tokio::test]
async fn a_bad_file_at_start_is_an_error() {
    let folder = Folder::new();
    let path = folder.write("outrigger.yaml", "server: 1");
    assert_eq!(
        ConfigWatch::start(&path, Overrides::default())
            .unwrap_err()
            .errors(),
        2
    );
    assert!(ConfigWatch::start(folder.0.join("none"), Overrides::default()).is_err());
}

#[tokio::test]
async fn an_override_outlives_a_reload() {
    let folder = Folder::new();
    let path = folder.write("outrigger.yaml", ONE);
    let listen = "127.0.0.1:1".parse().unwrap();
    let (_, follower) = ConfigWatch::start(&path, Overrides::default().listen(listen)).unwrap();
    let mut receiver = follower.receiver();
    folder.write("outrigger.yaml", TWO);
    let Reload::Good(loaded) = next(&mut receiver).await else {
        panic!("bad")
    };
    assert_eq!(loaded.config.listeners[0].listen, listen);
}

#[tokio::test]
async fn a_secret_keeps_its_last_content_while_it_cannot_be_read() {
    let folder = Folder::new();
    let path = folder.write("token", "hunter2");
    let follower = FileWatch::new(&path);
    let mut receiver = follower.receiver();
    assert_eq!(
        receiver.borrow_and_update().bytes.as_deref(),
        Some(&b"hunter2"[..])
    );
    assert!(!format!("{:?}", *receiver.borrow()).contains("hunter2"));
    fs::remove_file(&path).unwrap();
    let state = next(&mut receiver).await;
    assert_eq!(state.bytes.as_deref(), Some(&b"hunter2"[..]));
    assert!(state.error.is_some());
    folder.write("token", "hunter3");
    let state = next(&mut receiver).await;
    assert_eq!(
        (state.bytes.as_deref(), state.error),
        (Some(&b"hunter3"[..]), None)
    );
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_waited_for() {
    let folder = Folder::new();
    let follower = FileWatch::new(folder.0.join("token"));
    let mut receiver = follower.receiver();
    assert!(receiver.borrow_and_update().error.is_some());
    folder.write("token", "hunter2");
    assert_eq!(
        next(&mut receiver).await.bytes.as_deref(),
        Some(&b"hunter2"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn without_hints_a_file_is_read_by_the_clock() {
    let folder = Folder::new();
    let path = folder.write("token", "one");
    let follower = FileWatch::with_hints(path, Hints::None);
    let mut receiver = follower.receiver();
    folder.write("token", "two");
    // The first look is at once and sees it; the second content needs the clock.
    assert_eq!(
        next(&mut receiver).await.bytes.as_deref(),
        Some(&b"two"[..])
    );
    folder.write("token", "three");
    let before = time::Instant::now();
    let changed = time::timeout(REREAD * 2, receiver.changed());
    changed
        .await
        .expect("no news in time")
        .expect("the follower has ended");
    assert_eq!(receiver.borrow().bytes.as_deref(), Some(&b"three"[..]));
    assert!(before.elapsed() <= REREAD + DEBOUNCE);
}

#[tokio::test(start_paused = true)]
async fn a_reread_needs_no_hint() {
    let folder = Folder::new();
    let path = folder.write("token", "one");
    let follower = FileWatch::with_hints(path, Hints::None);
    let mut receiver = follower.receiver();
    folder.write("token", "two");
    next(&mut receiver).await;
    folder.write("token", "three");
    let before = time::Instant::now();
    follower.reread();
    assert_eq!(
        next(&mut receiver).await.bytes.as_deref(),
        Some(&b"three"[..])
    );
    assert!(before.elapsed() < REREAD);
}

#[tokio::test]
async fn the_task_ends_with_its_handle() {
    let folder = Folder::new();
    let follower = FileWatch::new(folder.write("token", "one"));
    let mut receiver = follower.receiver();
    drop(follower);
    let ended = time::timeout(Duration::from_secs(20), receiver.changed()).await;
    assert!(ended.expect("the task lives on").is_err());
}

#[test]
fn reading_is_no_reason_to_read() {
    assert!(!is_change(EventKind::Access(AccessKind::Open(
        AccessMode::Any
    ))));
    assert!(!is_change(EventKind::Access(AccessKind::Read)));
    assert!(is_change(EventKind::Access(AccessKind::Close(
        AccessMode::Write
    ))));
    assert!(is_change(EventKind::Any));
    assert!(watch_directory(Path::new("/nonexistent/file"), &mpsc::channel(1).0).is_err());
}
