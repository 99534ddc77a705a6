//! Space in a state directory for whoever takes it over, also when the disk is full.
//!
//! To take over means to write: a new lock, and a copy of the state database. On a full disk that can't be done,
//! and as long as nobody serves, nobody takes from the queues that fill it. So who serves keeps a file in that
//! space, and whoever comes next removes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// The file.
const ROOM: &str = "room";
/// What is written beside the copy: a lock, a first segment, the journal of a small commit.
const BESIDE_BYTES: u64 = 256 << 10;
/// What `promote` may need before.
const PROMOTION_BYTES: u64 = 64 << 10;

/// Whether a disk, or a quota, has no more space.
pub(super) fn is_full(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Makes room for taking this directory over, if there is something to take.
///
/// # Errors
/// The disk is full, and nothing is left to give away. Any other error is told by who writes.
pub fn make_room(directory: &Path) -> io::Result<()> {
    let wanted = copies_bytes(directory) + BESIDE_BYTES;
    let path = directory.join(ROOM);
    let has_room = bytes_of(&path) >= wanted;
    let made = match has_room || !directory.is_dir() {
        true => Ok(()),
        // Whether there is space is known when it was had.
        false => take(&path, wanted),
    };
    let _ = fs::remove_file(&path);
    made.or_else(|error| match is_full(&error) {
        true => Err(error),
        false => Ok(()),
    })
}

/// Gives away what is kept for a take-over, for somebody who comes before that; whether there was anything.
pub(super) fn spend_room(directory: &Path) -> bool {
    fs::remove_file(directory.join(ROOM)).is_ok()
}

/// Keeps room for who takes over next. On a disk without space there is none, until it is asked for again.
pub fn keep_room(directory: &Path) {
    let wanted = copies_bytes(directory) + BESIDE_BYTES + PROMOTION_BYTES;
    let path = directory.join(ROOM);
    let had = bytes_of(&path);
    if had < wanted && take(&path, wanted).is_err() {
        // Less than that is better than nothing, and a part of what is left for events is not.
        let file = OpenOptions::new().write(true).open(&path);
        let kept = file.and_then(|file| file.set_len(had));
        if had == 0 || kept.is_err() {
            let _ = fs::remove_file(&path);
        }
    }
}

/// For a copy of the largest database, and as much for the journal of a commit of all of it.
fn copies_bytes(directory: &Path) -> u64 {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let databases = names.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("state") && name.ends_with(".db")
    });
    let sizes = databases.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    2 * sizes.max().unwrap_or_default()
}

fn bytes_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Makes a file have so many bytes, and their space.
fn take(path: &Path, bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => fill(&file, bytes),
        taken => taken,
    }
}

/// The same where a file system has no other way.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    let zeros = [0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let some = left.min(zeros.len() as u64);
        file.write_all(&zeros[..some as usize])?;
        left -= some;
    }
    // Some say it only now.
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_for_a_copy_and_given_away_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for (name, bytes) in [("state.db", 10), ("state-7.db", 5000), ("other.db", 90_000)] {
            fs::write(path.join(name), vec![0; bytes]).unwrap();
        }
        keep_room(path);
        let kept = bytes_of(&path.join(ROOM));
        assert_eq!(kept, 10_000 + BESIDE_BYTES + PROMOTION_BYTES);
        make_room(path).unwrap();
        assert!(!path.join(ROOM).exists() && !spend_room(path));
        // Without it, whether there is space is tried.
        make_room(path).unwrap();
        assert!(!path.join(ROOM).exists());
        fill(&File::create(path.join(ROOM)).unwrap(), 100_000).unwrap();
        assert_eq!(bytes_of(&path.join(ROOM)), 100_000);
        assert!(spend_room(path));
        // Where nothing is yet, nothing has to be copied.
        make_room(&path.join("missing")).unwrap();
        assert!(!path.join("missing").exists());
    }
}
