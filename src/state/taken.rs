//! The database of a state directory that is taken from another daemon, which may still write to its own.
//!
//! Each epoch has a database of its own, made from the newest that is there. Nothing is shared: neither the
//! file nor the journal, by which a commit that was interrupted is undone.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::FILE_NAME;
use super::file::journal_of;

/// How often a copy is made anew, while the one that is copied changes.
const TRIES: u32 = 20;

/// The database of this epoch, which is made if it isn't there; without an epoch, the one of all.
///
/// # Errors
/// What the disk reports.
pub(super) fn database_of(directory: &Path, epoch: u64) -> io::Result<PathBuf> {
    let path = directory.join(name_of(epoch));
    if epoch == 0 || path.try_exists()? {
        return Ok(path);
    }
    let entries = fs::read_dir(directory)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut former: Vec<_> = names.filter_map(|name| epoch_of(&name)).collect();
    former.retain(|former| *former < epoch);
    former.sort_unstable();
    let Some(newest) = former.pop() else {
        return Ok(path);
    };
    copy(&directory.join(name_of(newest)), &path)?;
    // Those before it are nobody's any more.
    for old in former.into_iter().filter(|old| *old > 0) {
        let old = directory.join(name_of(old));
        let _ = fs::remove_file(journal_of(&old)).and_then(|()| fs::remove_file(&old));
        let _ = fs::remove_file(&old);
    }
    Ok(path)
}

fn name_of(epoch: u64) -> String {
    match epoch {
        0 => FILE_NAME.into(),
        epoch => format!("state-{epoch}.db"),
    }
}

fn epoch_of(name: &str) -> Option<u64> {
    if name == FILE_NAME {
        return Some(0);
    }
    let epoch = name.strip_prefix("state-")?.strip_suffix(".db")?;
    let epoch = epoch.parse().ok()?;
    (name_of(epoch) == name).then_some(epoch)
}

/// First the journal, then the rest: whatever was written meanwhile, the journal undoes it. The copy has its
/// name when it is whole.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let beside = to.with_extension("new");
    let mut tries = 0;
    loop {
        tries += 1;
        let before = marks(from);
        match fs::copy(journal_of(from), journal_of(to)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _ = fs::remove_file(journal_of(to));
            }
            copied => drop(copied?),
        }
        fs::copy(from, &beside)?;
        // Its checksums tell if it changed to the end.
        if marks(from) == before || tries == TRIES {
            break;
        }
    }
    if let Ok(journal) = File::open(journal_of(to)) {
        journal.sync_all()?;
    }
    File::open(&beside)?.sync_all()?;
    fs::rename(&beside, to)?;
    match to.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// By which a change is seen.
fn marks(database: &Path) -> [Option<(u64, Option<std::time::SystemTime>)>; 2] {
    let mark = |metadata: Metadata| (metadata.len(), metadata.modified().ok());
    [database.to_owned(), journal_of(database)].map(|path| fs::metadata(path).ok().map(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_has_one_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = |epoch| directory.path().join(name_of(epoch));
        let of = |epoch| database_of(directory.path(), epoch).unwrap();
        assert_eq!(of(0), directory.path().join("state.db"));
        // There is none, and nothing is made.
        assert_eq!((of(5), of(5).exists()), (path(5), false));
        fs::write(path(0), "zero").unwrap();
        fs::write(journal_of(&path(0)), "its journal").unwrap();
        assert_eq!(fs::read_to_string(of(5)).unwrap(), "zero");
        let journal = fs::read_to_string(journal_of(&path(5))).unwrap();
        assert_eq!(journal, "its journal");
        fs::remove_file(journal_of(&path(5))).unwrap();
        fs::write(path(5), "five").unwrap();
        for strange in ["state-x.db", "state-007.db", "state-99.db-journal"] {
            fs::write(directory.path().join(strange), "strange").unwrap();
        }
        assert_eq!(fs::read_to_string(of(9)).unwrap(), "five");
        assert!(!journal_of(&path(9)).exists());
        assert_eq!(fs::read_to_string(of(12)).unwrap(), "five");
        assert!(!path(5).exists() && path(9).exists() && path(0).exists());
    }
}
