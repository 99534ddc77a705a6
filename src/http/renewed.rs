//! What is made of files that change while the daemon runs.

use std::fmt;
use std::time::{Duration, Instant};

use crate::ambient::now;
use crate::keys::{ConfiguredFile, FileVersion, KeysError};

/// Between two looks at the files.
const LOOKS: Duration = Duration::from_millis(500);

/// What was made of some files, and is made again when they are others.
pub(super) struct Renewed<T, const N: usize> {
    files: [ConfiguredFile; N],
    make: fn(&[ConfiguredFile; N]) -> Result<T, KeysError>,
    made: T,
    versions: [Option<FileVersion>; N],
    looked: Instant,
}

impl<T, const N: usize> fmt::Debug for Renewed<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was made of them may be a secret.
        f.debug_tuple("Renewed").field(&self.files).finish()
    }
}

impl<T, const N: usize> Renewed<T, N> {
    /// # Errors
    /// A file can't be used.
    pub(super) fn load(
        files: [ConfiguredFile; N],
        make: fn(&[ConfiguredFile; N]) -> Result<T, KeysError>,
    ) -> Result<Self, KeysError> {
        Ok(Self {
            versions: versions(&files),
            made: make(&files)?,
            looked: now(),
            files,
            make,
        })
    }

    /// What the files have, seen at most half a second ago.
    ///
    /// # Errors
    /// They are others now, and can't be used. It is said once; what was made before stays.
    pub(super) fn look(&mut self) -> Result<(), KeysError> {
        let now = now();
        if now.duration_since(self.looked) < LOOKS {
            return Ok(());
        }
        self.looked = now;
        let versions = versions(&self.files);
        if versions != self.versions {
            self.versions = versions;
            self.made = (self.make)(&self.files)?;
        }
        Ok(())
    }

    /// What was made of them.
    pub(super) fn made(&mut self) -> &mut T {
        &mut self.made
    }
}

fn versions<const N: usize>(files: &[ConfiguredFile; N]) -> [Option<FileVersion>; N] {
    files.each_ref().map(ConfiguredFile::version)
}
