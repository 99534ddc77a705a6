//! Files that are made, and never overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Whoever may read a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum For {
    /// Nobody but its owner.
    Owner,
    Everybody,
}

/// Files that are made together: what there is of them goes if one of them can't be made.
#[derive(Debug, Default)]
pub(super) struct Files {
    made: Vec<PathBuf>,
}

impl Files {
    /// Fails if one of these is there.
    pub(super) fn refuse_existing<'a>(
        paths: impl IntoIterator<Item = &'a Path>,
    ) -> anyhow::Result<()> {
        for path in paths {
            if path.symlink_metadata().is_ok() {
                bail!("{} is there already; nothing was changed", path.display());
            }
        }
        Ok(())
    }

    /// Makes a file, which appears whole.
    pub(super) fn make(&mut self, path: &Path, text: &str, who: For) -> anyhow::Result<()> {
        let made = make(path, text, who);
        made.with_context(|| format!("{} can't be made", path.display()))?;
        self.made.push(path.to_owned());
        Ok(())
    }

    /// All are made.
    pub(super) fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = fs::remove_file(path);
        }
    }
}

fn make(path: &Path, text: &str, who: For) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The daemon doesn't look at such names.
    let partial = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mode = match who {
        For::Owner => 0o600,
        For::Everybody => 0o644,
    };
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode);
    let linked = file.open(&partial).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, it replaces nothing.
        fs::hard_link(&partial, path)
    });
    let _ = fs::remove_file(&partial);
    linked
}
