//! The lock of a state directory, and what keeps a daemon from it that has lost its lease.
//!
//! Without a lease the lock is a file lock, as long as the process lives. A daemon that has the lease may
//! come to a directory whose former holder is stopped, or on another machine: it replaces the file, with
//! a higher epoch, and whoever finds another file there than its own writes no more.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::disk::{StateDirError, create_directory, sync_directory, while_doing};
use super::room::{is_full, spend_room};
use crate::ambient::now;
use event_manager_core::leases::candidate::Term;

/// The file that the process using the directory has locked.
const LOCK: &str = "lock";
/// The file that who changes the lock by hand has locked meanwhile: two that do it at the same time would not
/// know of each other.
const CHANGING: &str = "lock.changing";
/// How long another may take to change it.
const CHANGING_MAX: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);
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
    let path = directory.join(LOCK);
    let mut file = File::open(&path).map_err(while_doing("opening", &path))?;
    let Written { pid, epoch, by } = Written::read(&mut file, directory);
    Ok(Holder { pid, epoch, by })
}

/// Says that this machine may have a directory, which is created where it is missing, and nobody who had it
/// before. The new epoch.
///
/// # Errors
/// [`StateDirError`]; also if a daemon has it that would not hear of it.
pub fn promote(directory: &Path, host: &str) -> Result<u64, StateDirError> {
    match promote_once(directory, host) {
        // Who serves then has what is left of it.
        Err(StateDirError::Disk(error)) if is_full(&error) && spend_room(directory) => {
            promote_once(directory, host)
        }
        done => done,
    }
}

fn promote_once(directory: &Path, host: &str) -> Result<u64, StateDirError> {
    create_owned(directory)?;
    let owner = owner_of(directory)?;
    let _changing = changing(directory, owner)?;
    let path = directory.join(LOCK);
    // One that is made here would be this user's, if the rest fails.
    let mut former = match OpenOptions::new().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        former => Some(former.map_err(while_doing("opening", &path))?),
    };
    let before = match &mut former {
        Some(file) => Written::read(file, directory),
        None => Written::read(&mut io::empty(), directory),
    };
    if let (Some(former), By::Finding) = (&former, &before.by) {
        locked(former, directory, &path, &before)?;
    }
    let epoch = before.epoch + 1;
    let text = format!("-\n{EPOCH}{epoch}{BY_HAND}{host}\n");
    let beside = Beside::make(directory, epoch)?;
    let written = (&beside.file)
        .write_all(text.as_bytes())
        .and_then(|()| beside.file.sync_all());
    written.map_err(while_doing("replacing", &path))?;
    give(&beside.file, &path, owner)?;
    let _ = beside.take_place(&path)?;
    Ok(epoch)
}

/// The user and the group whose a state directory is, and so the daemon's.
type Owner = (u32, u32);

/// Creates a directory where it is missing, as one of the owner of the directory that it is in.
fn create_owned(directory: &Path) -> Result<(), StateDirError> {
    if directory.is_dir() {
        return Ok(());
    }
    create_directory(directory)?;
    let parent = directory
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let owner = owner_of(parent.unwrap_or(Path::new(".")))?;
    let made = File::open(directory).map_err(while_doing("opening", directory))?;
    Ok(give(&made, directory, owner)?)
}

fn owner_of(directory: &Path) -> io::Result<Owner> {
    let found = fs::metadata(directory).map_err(while_doing("looking at", directory))?;
    Ok((found.uid(), found.gid()))
}

/// Makes a file the daemon's, whoever has made it: the daemon could not open it else.
fn give(file: &File, path: &Path, (user, group): Owner) -> io::Result<()> {
    let own = file.metadata()?.uid();
    if own == user {
        return Ok(());
    }
    fchown(file, Some(user), Some(group)).map_err(|error| {
        let path = path.display();
        let why = format!(
            "{path} has to be the daemon's: the directory is of the user with the id {user}, and this is run by {own} ({error}); run it as that user, as with sudo -u '#{user}'"
        );
        io::Error::new(error.kind(), why)
    })
}

/// Held while the lock is changed by hand.
fn changing(directory: &Path, owner: Owner) -> Result<File, StateDirError> {
    let path = directory.join(CHANGING);
    let file = opened(&path)?;
    if let Err(error) = give(&file, &path, owner) {
        // Nobody else could open it.
        let _ = fs::remove_file(&path);
        return Err(error.into());
    }
    let until = now() + CHANGING_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if now() < until => pause(),
            Err(TryLockError::WouldBlock) => {
                let why = format!(
                    "{}: another process says at the moment who may have the directory, and has not ended; try again, or end it",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why).into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(while_doing("locking", &path)(error).into());
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "another is about to be done")]
fn pause() {
    std::thread::sleep(LOOK);
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
        let _changing = match by {
            By::Hand(_) => Some(changing(directory, owner_of(directory)?)?),
            By::Lease | By::Finding => None,
        };
        let mut former = opened(&path)?;
        let before = Written::read(&mut former, directory);
        if let (By::Hand(ours), now) = (by, &before.by)
            && ours_no_more(ours, now)
        {
            term.end();
            return Err(StateDirError::PromotedMeanwhile(directory.into()));
        }
        if before.by != By::Lease {
            locked(&former, directory, &path, &before)?;
        }
        let epoch = term.token().max(before.epoch + 1);
        let mut beside = Beside::make(directory, epoch)?;
        locked(&beside.file, directory, &beside.path, &Written::default())?;
        let by = match by {
            By::Hand(host) => format!("{BY_HAND}{host}"),
            By::Lease | By::Finding => BY_LEASE.to_owned(),
        };
        write_into(&mut beside.file, epoch, &by)
            .and_then(|()| beside.file.sync_all())
            .map_err(while_doing("replacing", &path))?;
        let (file, metadata) = beside.take_place(&path)?;
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

/// Whether somebody has said that another machine than ours may have the directory, since it was said of ours.
fn ours_no_more(ours: &str, now: &By) -> bool {
    matches!(now, By::Hand(other) if other != ours)
}

/// A file that is to take the lock's place, and is removed if it doesn't come to that.
#[derive(Debug)]
struct Beside {
    file: File,
    path: PathBuf,
}

impl Beside {
    fn make(directory: &Path, epoch: u64) -> io::Result<Self> {
        let path = directory.join(format!("{LOCK}.{epoch}.{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let file = opened(&path)?;
        Ok(Self { file, path })
    }

    fn take_place(self, of: &Path) -> io::Result<(File, Metadata)> {
        let directory = of.parent().unwrap_or(Path::new("."));
        let placed = fs::rename(&self.path, of)
            .and_then(|()| sync_directory(directory))
            .and_then(|()| Ok((self.file.try_clone()?, self.file.metadata()?)));
        placed.map_err(while_doing("replacing", of))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It has another name if all went well.
        let _ = fs::remove_file(&self.path);
    }
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

    /// Its daemon had read that it may have the directory, and was about to take it.
    #[test]
    fn a_promotion_is_not_undone_by_a_daemon_that_is_just_starting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        promote(path, "a").unwrap();
        let starting = Holding {
            by: By::Hand("a".into()),
            ..term(holder(path).unwrap().epoch + 1)
        };
        assert_eq!(promote(path, "b").unwrap(), 2);
        let refused = Lock::take(path, Some(&starting)).unwrap_err().to_string();
        assert!(
            refused.contains("another machine was promoted"),
            "{refused}"
        );
        assert!(starting.term.is_over(now()));
        assert_eq!(holder(path).unwrap().by, By::Hand("b".into()));
        // Nothing of it is left.
        let names = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, [LOCK, CHANGING]);
        // At the same moment: one after the other, or not at all.
        let held = changing(path, owner_of(path).unwrap()).unwrap();
        let refused = promote(path, "a").unwrap_err().to_string();
        assert!(refused.contains("try again"), "{refused}");
        drop(held);
        assert_eq!(promote(path, "a").unwrap(), 3);
    }

    /// As the directory's owner is who runs the daemon.
    #[test]
    fn what_root_makes_is_the_daemons() {
        use std::os::unix::fs::chown;
        let parent = tempfile::tempdir().unwrap();
        // Only root may.
        if chown(parent.path(), Some(4711), Some(4712)).is_err() {
            return;
        }
        let directory = parent.path().join("state");
        for epoch in 1..=2 {
            assert_eq!(promote(&directory, "a").unwrap(), epoch);
            for name in ["", LOCK, CHANGING] {
                let found = fs::metadata(directory.join(name)).unwrap();
                assert_eq!((found.uid(), found.gid()), (4711, 4712), "{name}");
            }
        }
        chown(directory.join(LOCK), Some(0), Some(0)).unwrap();
        promote(&directory, "a").unwrap();
        assert_eq!(fs::metadata(directory.join(LOCK)).unwrap().uid(), 4711);
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
