//! A segment on the disk.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::disk::while_doing;
use super::fence::Fence;
use event_manager_core::log::SegmentFile;

/// So much is taken ahead of what is written: a quarter of that, but no less and no more.
const AHEAD_BYTES_MIN: u64 = 16 << 10;
const AHEAD_BYTES_MAX: u64 = 1 << 20;

/// A segment on the disk.
///
/// Where it grows, more space is taken than what is written: as long as its length stays, a sync has no
/// metadata to write. What is behind the last record means nothing to who reads it, zeros or not.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: PathBuf,
    epoch: u64,
    fence: Option<Fence>,
    /// How long it is, as far as this knows; the greatest number if it can't take space ahead.
    bytes: Cell<u64>,
}

impl DiskFile {
    pub(super) fn new(
        file: File,
        path: PathBuf,
        epoch: u64,
        fence: Option<Fence>,
    ) -> io::Result<Self> {
        let opened = Self {
            file,
            path,
            epoch,
            fence,
            bytes: Cell::new(0),
        };
        opened.bytes.set(opened.bytes()?);
        Ok(opened)
    }

    fn check(&self) -> io::Result<()> {
        self.fence.as_ref().map_or(Ok(()), Fence::check)
    }

    /// Takes space for what is about to be written, and some ahead. A disk that has no more says so when it
    /// is written to.
    fn grow(&self, end: u64) {
        let bytes = self.bytes.get();
        if end <= bytes {
            return;
        }
        let ahead = end + (end / 4).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        let grown = fallocate(&self.file, FallocateFlags::empty(), bytes, ahead - bytes);
        self.bytes.set(match grown {
            Ok(()) => ahead,
            // Its file system can't, and need not be asked again.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => u64::MAX,
            Err(_) => end,
        });
    }
}

impl SegmentFile for DiskFile {
    fn bytes(&self) -> io::Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata
            .map_err(while_doing("looking at", &self.path))?
            .len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_exact_at(into, offset);
        read.map_err(while_doing("reading", &self.path))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        self.grow(offset + bytes.len() as u64);
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(while_doing("writing", &self.path))
    }

    fn hollow(&self, from: u64) -> io::Result<()> {
        let bytes = self.bytes()?.saturating_sub(from);
        if bytes == 0 || self.epoch > 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let hollowed = fallocate(&self.file, flags, from, bytes).map_err(io::Error::from);
        hollowed.map_err(while_doing("giving back space of", &self.path))
    }

    /// Where another may take over, it is left as it is: what that one found behind the end, and kept, must
    /// not be cut off by us. Nothing depends on it.
    fn truncate(&self, bytes: u64) -> io::Result<()> {
        if self.epoch > 0 {
            return Ok(());
        }
        self.bytes.set(bytes);
        let cut = self.file.set_len(bytes);
        cut.map_err(while_doing("cutting", &self.path))
    }

    fn sync(&self) -> io::Result<()> {
        self.check()?;
        let synced = self.file.sync_data();
        synced.map_err(while_doing("syncing", &self.path))?;
        // What is synced by now counts only if nobody had taken over before: it would not have been found.
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn it_is_longer_than_what_is_written_and_as_long_again_when_it_was_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1.log");
        let mut options = OpenOptions::new();
        let file = options.create_new(true).read(true).write(true).open(&path);
        let segment = DiskFile::new(file.unwrap(), path, 0, None).unwrap();
        segment.write_at(0, b"abc").unwrap();
        let bytes = segment.bytes().unwrap();
        // Where the file system can't, it is no longer than that.
        assert!(bytes == 3 || bytes == 3 + AHEAD_BYTES_MIN);
        segment.write_at(3, b"def").unwrap();
        assert!(segment.bytes().unwrap() <= bytes.max(6));
        segment.truncate(6).unwrap();
        assert_eq!(segment.bytes().unwrap(), 6);
        segment.write_at(6, b"g").unwrap();
        let mut read = [0; 7];
        segment.read_at(0, &mut read).unwrap();
        assert_eq!(&read, b"abcdefg");
        assert!(segment.bytes().unwrap() >= bytes.min(7));
    }
}
