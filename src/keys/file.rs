//! A file that the configuration names: whether it is another than before, and its text.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;

use super::KeysError;
use crate::config::SecurityConfig;

/// No certificate is nearly as large.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What tells whether a file is another than before.
pub type FileVersion = (Option<SystemTime>, u64, u64);

/// A file that the configuration names.
#[derive(Debug)]
pub struct ConfiguredFile {
    key: &'static str,
    path: PathBuf,
    mode_matters: bool,
    is_secret: bool,
}

impl ConfiguredFile {
    /// One that nobody but its owner may read, or a group if it is root's. Its path is the value of this
    /// key of the configuration.
    pub fn secret(key: &'static str, path: PathBuf, security: &SecurityConfig) -> Self {
        Self {
            key,
            path,
            mode_matters: security.secret_file_mode_matters(),
            is_secret: true,
        }
    }

    /// One that anybody may read.
    pub fn public(key: &'static str, path: PathBuf) -> Self {
        Self {
            key,
            path,
            mode_matters: false,
            is_secret: false,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// What tells whether it is another than before; `None` if it isn't there.
    pub fn version(&self) -> Option<FileVersion> {
        fs::metadata(&self.path).ok().as_ref().map(version_of)
    }

    /// Its text.
    ///
    /// # Errors
    /// It can't be read, or others can read it too.
    pub fn read(&self) -> Result<(FileVersion, String), KeysError> {
        let unreadable = |error| KeysError::Unreadable {
            key: self.key,
            path: self.path.clone(),
            error,
        };
        if self.is_secret && may_be_the_secret(&self.path) {
            return Err(KeysError::NoFile { key: self.key });
        }
        let metadata = fs::metadata(&self.path).map_err(unreadable)?;
        let mode = metadata.mode() & 0o777;
        let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
        if self.mode_matters && mode & forbidden != 0 {
            return Err(KeysError::Mode {
                key: self.key,
                path: self.path.clone(),
                mode,
            });
        }
        let text = read_bounded(&self.path, &metadata).map_err(unreadable)?;
        Ok((version_of(&metadata), text))
    }

    /// It was read, and is of no use.
    pub fn unfit(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> KeysError {
        KeysError::Unreadable {
            key: self.key,
            path: self.path.clone(),
            error: io::Error::other(why),
        }
    }
}

/// No key or token is shorter.
const SECRET_BYTES_MIN: usize = 16;

/// Whether a path leads nowhere, and looks less like one than like a key or a token.
fn may_be_the_secret(path: &Path) -> bool {
    let has_place = path.parent().is_some_and(|parent| parent.is_dir());
    let text = path.to_string_lossy();
    !has_place && text.len() >= SECRET_BYTES_MIN && !text.contains(".key") && !path.exists()
}

pub(super) fn version_of(metadata: &fs::Metadata) -> FileVersion {
    (
        metadata.modified().ok(),
        metadata.ino(),
        metadata.ctime_nsec().unsigned_abs() ^ metadata.len(),
    )
}

/// The text of a regular file. Others may have no end, or wait for ever when they are opened.
pub(super) fn read_bounded(path: &Path, metadata: &fs::Metadata) -> io::Result<String> {
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    // It may be another by now: a FIFO would wait for who writes to it.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it has more than {FILE_BYTES_MAX} bytes, so it is no certificate");
        return Err(io::Error::other(why));
    }
    Ok(text)
}
