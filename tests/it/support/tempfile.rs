//! A folder of its own for each test, gone afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder that is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A new folder.
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where a file of it is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, and gives its path as text.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Puts that content in place as a mounted volume does: a new folder, and a swap of the `..data` link.
    pub(crate) fn swap_data(&self, version: &str, name: &str, content: &str) {
        fs::create_dir(self.path(version)).unwrap();
        fs::write(self.path(version).join(name), content).unwrap();
        let link = |target: &str, at: &str| {
            std::os::unix::fs::symlink(target, self.path(at)).unwrap();
        };
        link(version, "..data_tmp");
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        if !self.path(name).exists() {
            link(&format!("..data/{name}"), name);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
