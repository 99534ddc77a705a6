//! A directory that several machines have: on one file system, or on storage that is mounted for each of them.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// Where storage is mounted, once for each machine: paths with `:` between them.
const MOUNTS: &str = "EVENT_MANAGER_SHARED";

pub struct SharedDirectory {
    directory: TempDir,
    /// The same, as each machine sees it.
    seen: Vec<PathBuf>,
    machines: AtomicUsize,
}

impl SharedDirectory {
    pub fn new() -> Self {
        let mounts: Vec<_> = env::var_os(MOUNTS)
            .map(|mounts| env::split_paths(&mounts).collect())
            .unwrap_or_default();
        let directory = match mounts.first() {
            Some(first) => TempDir::new_in(first),
            None => TempDir::new(),
        };
        let directory = directory.unwrap_or_else(|error| panic!("{MOUNTS}, {mounts:?}: {error}"));
        let name = directory.path().file_name().expect("a name");
        let seen = mounts.iter().map(|mount| mount.join(name)).collect();
        Self {
            directory,
            seen,
            machines: AtomicUsize::new(0),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// As one machine more sees it.
    pub fn of_next_machine(&self) -> &Path {
        let machine = self.machines.fetch_add(1, Ordering::Relaxed);
        match self.seen.len() {
            0 => self.path(),
            mounts => &self.seen[machine % mounts],
        }
    }
}
