//! What the log asks of a disk.

use std::io;

/// A directory that holds one log's segments and nothing else.
pub trait Directory {
    /// An open segment.
    type File: SegmentFile;

    /// The epoch of who has the directory now, which is higher than that of all before; 0 if it was never
    /// taken from anybody who may still write there.
    fn epoch(&self) -> u64 {
        0
    }

    /// The names of all files in it, in any order.
    ///
    /// # Errors
    /// The disk's, saying what was being done and where.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Creates a file that doesn't exist; [`AlreadyExists`](io::ErrorKind::AlreadyExists) if it does. It is sure to be found after a crash only when both it and
    /// the directory were synced. It may hold anything: what was in a file that was removed before.
    ///
    /// # Errors
    /// The disk's; a file of that name may be there afterwards.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Takes this much space for a file that [`Self::create_reserved`] makes a segment of, unless it is
    /// taken already.
    ///
    /// # Errors
    /// The disk's; nothing is taken then.
    fn reserve(&self, bytes: u64) -> io::Result<()>;

    /// Creates a file as [`Self::create`] does, in the space that was reserved: up to that many bytes
    /// can be written though the disk is full. [`NotFound`](io::ErrorKind::NotFound) if there is none.
    ///
    /// # Errors
    /// The disk's; a file of that name may be there afterwards.
    fn create_reserved(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// The disk's; [`InvalidInput`](io::ErrorKind::InvalidInput) if it is something else than a file.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Removes a file; sure only when the directory was synced. No file that was opened by this name is
    /// used again.
    ///
    /// # Errors
    /// What the disk reports.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file that is not one of the log's to a name that no segment has and that is free; returns
    /// that name. A crash doesn't take that back.
    ///
    /// # Errors
    /// The disk's; it is called as before.
    fn set_aside(&self, name: &str) -> io::Result<String>;

    /// Gives back the space that is kept of removed files, as far as the disk lets it.
    fn give_back(&self);

    /// Makes what was created and removed durable.
    ///
    /// # Errors
    /// The disk's; what was created and removed may or may not be durable then.
    fn sync(&self) -> io::Result<()>;
}

/// An open file of a log.
pub trait SegmentFile {
    /// How long it is.
    ///
    /// # Errors
    /// What the disk reports.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `into` with what is at this offset.
    ///
    /// # Errors
    /// The disk's, or that the file ends before.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at this offset.
    ///
    /// # Errors
    /// The disk's; some of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Gives back the space behind this offset, where zeros are read then; the length stays.
    ///
    /// # Errors
    /// The disk's, or its file system can't.
    fn hollow(&self, from: u64) -> io::Result<()>;

    /// Cuts the file to this length.
    ///
    /// # Errors
    /// What the disk reports.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The disk's. What was written since the last success may be lost then, though it can still be
    /// read, and even if a later call succeeds.
    fn sync(&self) -> io::Result<()>;
}
