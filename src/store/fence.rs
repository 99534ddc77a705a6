//! The lock of a state directory, and what keeps a daemon from it that has lost its lease.
//!
//! Without a lease the lock is a file lock, as long as the process lives. A daemon that has the lease may
//! come to a directory whose former holder is stopped, or on another machine: it replaces the file, with
//! a higher epoch, and whoever finds another file there than its own writes no more.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{StateDirError, create_directory, sync_directory, while_doing};
use crate::ambient::now;
use event_manager_core::leases::candidate::Term;

/// The file that the process using the directory has locked.
const LOCK: &str = "lock";
/// Stands before the epoch in it.
const EPOCH: &str = "epoch ";
/// Stands behind the epoch of who has a lease.
const BY_LEASE: &str = " by lease";
/// Stands behind the epoch, and before the machine that somebody has said may have the directory.
const BY_HAND: &str = " by hand for ";

/// Keeps who has lost a lease from writing.
#[derive(Debug, Clone)]
pub struct Fence {
    term: Arc<Term>,
    lock: Arc<PathBuf>,
    identity: (u64, u64),
}

impl Fence {
    /// Whether anything may still be written.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> io::Result<()> {
        let is_over = self.term.is_over(now());
        if is_over
            || !fs::metadata(&*self.lock).is_ok_and(|there| identity(&there) == self.identity)
        {
            // Another has the directory, whatever the lease's source says.
            self.term.end();
            return Err(io::Error::other(
                "the lease is over: another daemon may have the state directory",
            ));
        }
        Ok(())
    }
}

/// The lock of a directory, which is held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
    /// Higher than that of all who had the directory before; 0 if none of them had a lease.
    pub(super) epoch: u64,
    pub(super) fence: Option<Fence>,
}

/// What the file says.
#[derive(Debug, Default)]
struct Written {
    pid: String,
    epoch: u64,
    by: By,
}

/// By what right a directory is had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum By {
    /// It was there, and nobody had it.
    #[default]
    Finding,
    /// A lease.
    Lease,
    /// Somebody has said that this machine may have it.
    Hand(String),
}

/// What a holder of a directory has: until when, and by what right.
#[derive(Debug, Clone)]
pub struct Holding {
    pub term: Arc<Term>,
    pub by: By,
}

/// Who has a directory, as its lock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process, on its machine.
    pub pid: String,
    pub epoch: u64,
    pub by: By,
}

/// Who has a directory, or had it last.
///
/// # Errors
/// There is no lock, or it can't be read.
pub fn holder(directory: &Path) -> io::Result<Holder> {
    let mut file = File::open(directory.join(LOCK))?;
    let Written { pid, epoch, by } = Written::read(&mut file, directory);
    Ok(Holder { pid, epoch, by })
}

/// Says that this machine may have a directory, which is created where it is missing, and nobody who had it
/// before. The new epoch.
///
/// # Errors
/// [`StateDirError`]; also if a daemon has it that would not hear of it.
pub fn promote(directory: &Path, host: &str) -> Result<u64, StateDirError> {
    create_directory(directory)?;
    let path = directory.join(LOCK);
    let mut former = opened(&path)?;
    let before = Written::read(&mut former, directory);
    if before.by == By::Finding {
        locked(&former, directory, &path, &before)?;
    }
    let epoch = before.epoch + 1;
    let (mut file, beside) = beside(directory, epoch)?;
    let by = format!("{BY_HAND}{host}");
    let written = writeln!(file, "-\n{EPOCH}{epoch}{by}").and_then(|()| file.sync_all());
    written
        .and_then(|()| fs::rename(&beside, &path))
        .and_then(|()| sync_directory(directory))
        .map_err(while_doing("replacing", &path))?;
    Ok(epoch)
}

impl Written {
    /// What the file says, and the directory: a file that somebody has removed or damaged must not make the
    /// epochs begin again, as the state of the last one would count for nothing then.
    fn read(file: &mut impl Read, directory: &Path) -> Self {
        let mut text = String::new();
        let _ = file.take(1024).read_to_string(&mut text);
        let mut lines = text.lines();
        let pid = lines.next().unwrap_or_default().trim().to_owned();
        let epoch = lines.next().and_then(|line| line.strip_prefix(EPOCH));
        let epoch = epoch.unwrap_or_default();
        let (number, by) = match (epoch.strip_suffix(BY_LEASE), epoch.split_once(BY_HAND)) {
            (Some(number), _) => (number, By::Lease),
            (None, Some((number, host))) => (number, By::Hand(host.to_owned())),
            (None, None) => (epoch, By::Finding),
        };
        let said: u64 = number.parse().unwrap_or_default();
        let epoch = said.max(known_by_state(directory));
        Self { pid, epoch, by }
    }
}

/// The highest epoch that has a state database in this directory, or 0.
fn known_by_state(directory: &Path) -> u64 {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let epochs = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let epoch = name.strip_prefix("state-")?.strip_suffix(".db")?;
        epoch.parse().ok()
    });
    epochs.max().unwrap_or_default()
}

impl Lock {
    /// Locks a directory that is there.
    pub(super) fn take(directory: &Path, holding: Option<&Holding>) -> Result<Self, StateDirError> {
        match holding {
            Some(holding) => Self::replace(directory, holding),
            None => Self::wait_for_none(directory),
        }
    }

    /// Whether the file that is there is still the one that is locked.
    pub(super) fn is_held(&self) -> bool {
        let (there, held) = (fs::metadata(&self.path), self.file.metadata());
        let (Ok(there), Ok(held)) = (there, held) else {
            return false;
        };
        identity(&there) == identity(&held)
    }

    fn wait_for_none(directory: &Path) -> Result<Self, StateDirError> {
        let path = directory.join(LOCK);
        let mut file = opened(&path)?;
        let before = Written::read(&mut file, directory);
        locked(&file, directory, &path, &before)?;
        // Who had a lease may still write.
        let epoch = match before.epoch {
            0 => 0,
            before => before + 1,
        };
        file.set_len(0)
            .and_then(|()| io::Seek::rewind(&mut file))
            .and_then(|()| write_into(&mut file, epoch, ""))
            .map_err(while_doing("writing", &path))?;
        Ok(Self {
            path,
            file,
            epoch,
            fence: None,
        })
    }

    /// Puts another file in its place. Who has the lease needs nobody's consent, but for a daemon that never
    /// had one.
    fn replace(directory: &Path, holding: &Holding) -> Result<Self, StateDirError> {
        let Holding { term, by } = holding;
        let path = directory.join(LOCK);
        let mut former = opened(&path)?;
        let before = Written::read(&mut former, directory);
        if before.by != By::Lease {
            locked(&former, directory, &path, &before)?;
        }
        let epoch = term.token().max(before.epoch + 1);
        let (mut file, beside) = beside(directory, epoch)?;
        locked(&file, directory, &beside, &Written::default())?;
        let by = match by {
            By::Hand(host) => format!("{BY_HAND}{host}"),
            By::Lease | By::Finding => BY_LEASE.to_owned(),
        };
        let placed = write_into(&mut file, epoch, &by)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| sync_directory(directory))
            .and_then(|()| file.metadata());
        let metadata = placed.map_err(while_doing("replacing", &path))?;
        let fence = Fence {
            term: Arc::clone(term),
            lock: Arc::new(path.clone()),
            identity: identity(&metadata),
        };
        fence.check()?;
        Ok(Self {
            path,
            file,
            epoch,
            fence: Some(fence),
        })
    }
}

/// A file that is to take the lock's place.
fn beside(directory: &Path, epoch: u64) -> io::Result<(File, PathBuf)> {
    let beside = directory.join(format!("{LOCK}.{epoch}.{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    Ok((opened(&beside)?, beside))
}

fn identity(of: &Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

fn opened(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path);
    opened.map_err(while_doing("opening", path))
}

fn locked(file: &File, directory: &Path, path: &Path, said: &Written) -> Result<(), StateDirError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StateDirError::InUse {
            directory: directory.into(),
            pid: said.pid.clone(),
        }),
        Err(TryLockError::Error(error)) => Err(while_doing("locking", path)(error).into()),
    }
}

fn write_into(file: &mut File, epoch: u64, by: &str) -> io::Result<()> {
    let pid = std::process::id();
    match epoch {
        0 => writeln!(file, "{pid}"),
        epoch => writeln!(file, "{pid}\n{EPOCH}{epoch}{by}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use event_manager_core::leases::candidate::Held;

    fn term(token: u64) -> Holding {
        let until = now() + Duration::from_secs(60);
        Holding {
            term: Arc::new(Term::new(Held { token, until }, now())),
            by: By::Lease,
        }
    }

    fn text(directory: &Path) -> String {
        fs::read_to_string(directory.join(LOCK)).unwrap()
    }

    #[test]
    fn who_has_the_lease_takes_it_from_who_had_it_and_from_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (first, second) = (term(5), term(5));
        let without = Lock::take(path, None).unwrap();
        assert_eq!((without.epoch, without.is_held()), (0, true));
        assert_eq!(text(path), format!("{}\n", std::process::id()));
        let refused = Lock::take(path, Some(&first)).unwrap_err().to_string();
        assert!(refused.contains("in use by process"), "{refused}");
        drop(without);
        let held = Lock::take(path, Some(&first)).unwrap();
        assert_eq!(held.epoch, 5);
        assert!(held.fence.as_ref().unwrap().check().is_ok() && held.is_held());
        // A source that has lost what it knew gives a token again.
        let next = Lock::take(path, Some(&second)).unwrap();
        assert_eq!(next.epoch, 6);
        assert!(!held.is_held() && held.fence.unwrap().check().is_err());
        assert!(
            first.term.is_over(now()),
            "the first may do nothing any more"
        );
        let fence = next.fence.clone().unwrap();
        assert!(fence.check().is_ok() && Lock::take(path, None).is_err());
        second.term.end();
        assert!(fence.check().is_err());
        drop(next);
        let without = Lock::take(path, None).unwrap();
        assert_eq!((without.epoch, without.fence.is_none()), (7, true));
        drop(without);
        assert_eq!(Lock::take(path, Some(&term(3))).unwrap().epoch, 8);
        assert!(
            text(path).ends_with("\nepoch 8 by lease\n"),
            "{}",
            text(path)
        );
    }

    #[test]
    fn a_lock_that_is_lost_doesnt_make_the_epochs_begin_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["state-9.db", "state-x.db", "state-12.db-journal"] {
            fs::write(path.join(name), "").unwrap();
        }
        assert_eq!(promote(path, "a").unwrap(), 10);
        fs::write(path.join(LOCK), "something\n").unwrap();
        assert_eq!(holder(path).unwrap().epoch, 9);
        assert_eq!(Lock::take(path, Some(&term(3))).unwrap().epoch, 10);
        fs::remove_file(path.join(LOCK)).unwrap();
        assert_eq!(Lock::take(path, None).unwrap().epoch, 10);
    }

    #[test]
    fn who_is_promoted_by_hand_has_it_and_who_had_it_has_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let by_hand = |host: &str, token| Holding {
            by: By::Hand(host.into()),
            ..term(token)
        };
        assert_eq!(promote(path, "a").unwrap(), 1);
        assert_eq!(holder(path).unwrap().by, By::Hand("a".into()));
        let at_a = by_hand("a", 2);
        let first = Lock::take(path, Some(&at_a)).unwrap();
        assert_eq!((first.epoch, holder(path).unwrap().epoch), (2, 2));
        // Not twice on one machine.
        assert!(Lock::take(path, Some(&by_hand("a", 3))).is_err());
        assert_eq!(promote(path, "b").unwrap(), 3);
        assert!(first.fence.unwrap().check().is_err() && at_a.term.is_over(now()));
        let second = Lock::take(path, Some(&by_hand("b", 4))).unwrap();
        assert_eq!(second.epoch, 4);
        assert_eq!(holder(path).unwrap().by, By::Hand("b".into()));
        drop(second);
        // A daemon that never heard of promotions would not hear of this one either.
        let without = Lock::take(path, None).unwrap();
        assert!(
            promote(path, "a")
                .unwrap_err()
                .to_string()
                .contains("in use")
        );
        drop(without);
    }
}
