//! The real disk: a state directory that one process holds, with a directory for each queue.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::fence::{Fence, Holding, Lock};
use super::segment::DiskFile;
use event_manager_core::log::Directory;
use event_manager_wire::model::ServiceName;

/// The name, before a number, of files that were segments. No segment's name begins with it.
const SPARE: &str = "spare-";
/// What the name of a file ends with that has a segment's name and is not one of the queue's.
const REFUSED: &str = ".refused";
/// The file that has space for the settlements of a full disk.
const RESERVE: &str = "reserve";
/// The most files of a queue that are kept for reuse.
const SPARES_MAX: usize = 2;
/// The name of an ended queue's directory until it is deleted. No queue's name begins with it.
const REMOVED: &str = ".removed-";

/// Why a state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process uses it. Nothing was changed.
    #[error("{} is in use by process {pid}", directory.display())]
    InUse {
        /// The state directory.
        directory: PathBuf,
        /// The process, as it wrote itself into the lock file.
        pid: String,
    },
    /// Somebody has said that another machine may have it, while this daemon started. Nothing was changed.
    #[error(
        "{}: another machine was promoted while this daemon started; started again, it stands by",
        .0.display()
    )]
    PromotedMeanwhile(PathBuf),
    /// It can't be created, locked or read; says what was being done.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// A state directory, locked as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    queues: PathBuf,
    lock: Lock,
}

impl StateDir {
    /// Creates the directory where it is missing, and locks it.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn lock(path: &Path) -> Result<Self, StateDirError> {
        Self::lock_for(path, None)
    }

    /// The same for the holder of a lease, as long as it has that: it takes the directory from who had the
    /// lease before.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn lock_for(path: &Path, holding: Option<&Holding>) -> Result<Self, StateDirError> {
        let queues = path.join("queues");
        create_directory(path)?;
        let lock = Lock::take(path, holding)?;
        create_directory(&queues)?;
        let state = Self {
            path: path.into(),
            queues,
            lock,
        };
        for name in state.names()?.iter().filter(|name| is_removed(name)) {
            remove_remains(&state.queues.join(name));
        }
        Ok(state)
    }

    /// Whether the directory that its path leads to is still the one that is locked.
    pub fn is_held(&self) -> bool {
        self.lock.is_held()
    }

    /// Higher than that of all who had the directory before; 0 if none of them had a lease.
    pub fn epoch(&self) -> u64 {
        self.lock.epoch
    }

    /// Says whether anything may still be written, if that depends on a lease.
    pub fn fence(&self) -> Option<&Fence> {
        self.lock.fence.as_ref()
    }

    fn check(&self) -> io::Result<()> {
        self.fence().map_or(Ok(()), Fence::check)
    }

    /// Creates and locks the directory again, when it isn't [held](Self::is_held) any more.
    ///
    /// # Errors
    /// [`StateDirError`]; nothing may be written there then. It may be another's who has the lease now.
    pub fn lock_again(&mut self) -> Result<(), StateDirError> {
        self.check()?;
        create_directory(&self.path)?;
        self.lock = Lock::take(&self.path, None)?;
        create_directory(&self.queues)?;
        Ok(())
    }

    /// The existing queues.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn queues(&self) -> io::Result<Vec<ServiceName>> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| decode(name)).collect())
    }

    /// A queue's directory, which is created where it is missing.
    ///
    /// # Errors
    /// It can't be created, or its name is too long for a file system.
    pub fn queue(&self, queue: &ServiceName) -> io::Result<DiskDirectory> {
        self.check()?;
        let path = self.queues.join(encode(queue)?);
        create_directory(&path)?;
        DiskDirectory::at(path, &self.lock)
    }

    /// Deletes a queue and its events. After a crash it is there as before, or, once this is done, not at
    /// all.
    ///
    /// # Errors
    /// The disk's; the queue may still be there.
    pub fn remove(&self, queue: &ServiceName) -> io::Result<()> {
        self.check()?;
        let path = self.queues.join(encode(queue)?);
        let removed = (0..)
            .map(|n: u32| self.queues.join(format!("{REMOVED}{n}")))
            .find(|path| !path.exists())
            .unwrap_or_default();
        match fs::rename(&path, &removed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(while_doing("removing", &path))?,
        }
        sync_directory(&self.queues)?;
        remove_remains(&removed);
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        names(&self.queues)
    }
}

/// Removes the directory of a queue that was ended. What can't be removed is in nobody's way, and may be
/// somebody else's.
fn remove_remains(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(target: "em.store", path = %path.display(), "a queue that was ended can't be removed: {error}");
    }
}

/// Whether a directory was a queue that was ended.
fn is_removed(name: &str) -> bool {
    let number = name.strip_prefix(REMOVED);
    number.is_some_and(|number| number.parse().is_ok_and(|n: u32| n.to_string() == number))
}

/// A queue's name as a file name, if that isn't too long.
fn encode(queue: &ServiceName) -> io::Result<String> {
    let (name, longest) = (queue.file_name(), ServiceName::FILE_NAME_BYTES_MAX);
    if name.len() > longest {
        let bytes = name.len();
        return Err(io::Error::new(
            io::ErrorKind::InvalidFilename,
            format!("{name}: a file name of {bytes} bytes; the limit is {longest}"),
        ));
    }
    Ok(name)
}

/// The queue whose directory this is.
pub(crate) fn decode(name: &str) -> Option<ServiceName> {
    let queue = name
        .replace("%2E", ".")
        .replace("%2F", "/")
        .replace("%25", "%");
    let queue = ServiceName::new(&queue).ok()?;
    (encode(&queue).ok()? == name).then_some(queue)
}

/// Adds to an error what was being done, and where.
pub(super) fn while_doing(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    let created = match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.ok_or_else(|| while_doing("creating", path)(error))?;
            create_directory(parent)?;
            // Once: there are file systems, such as /proc, that say so of a parent that is there.
            fs::create_dir(path)
        }
        created => created,
    };
    match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => {
            created.map_err(while_doing("creating", path))?;
            match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
                _ => sync_directory(Path::new(".")),
            }
        }
    }
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(while_doing("syncing", path))
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path).map_err(while_doing("listing", path))?;
    let mut names = vec![];
    for entry in entries {
        let name = entry.map_err(while_doing("listing", path))?.file_name();
        // What isn't UTF-8 is not ours.
        names.extend(name.into_string());
    }
    Ok(names)
}

/// Files that were removed, for reuse.
#[derive(Debug, Default)]
struct Spares {
    /// A crash can't bring them back under the names that they had.
    ready: Vec<String>,
    /// The directory was not synced since.
    renamed: Vec<String>,
    last: u32,
}

/// A queue's directory on the disk.
///
/// A file that is removed is kept for the next that is created: to write where blocks are allocated
/// and pages cached takes about half the time, and a sync has no metadata to write.
#[derive(Debug)]
pub struct DiskDirectory {
    path: PathBuf,
    spares: RefCell<Spares>,
    epoch: u64,
    fence: Option<Fence>,
}

impl Directory for DiskDirectory {
    type File = DiskFile;

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = names(&self.path)?;
        names.retain(|name| spare_number(name).is_none() && !is_reserve(name));
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<DiskFile> {
        self.check()?;
        if let Some(spare) = self.spares.borrow_mut().ready.pop()
            && let Some(file) = self.reuse(&spare, name)
        {
            return Ok(file);
        }
        self.opened(
            "creating",
            name,
            OpenOptions::new().create_new(true).mode(0o600),
        )
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let path = self.path.join(self.reserve_name());
        if fs::symlink_metadata(&path).is_ok_and(|found| found.len() >= bytes) {
            return Ok(());
        }
        self.check()?;
        // It goes on where somebody removed it.
        create_directory(&self.path)?;
        let made = write_zeros(&path, bytes);
        if made.is_err() {
            // Half of it helps nobody.
            let _ = fs::remove_file(&path);
        }
        made.map_err(while_doing("reserving space in", &path))
    }

    fn create_reserved(&self, name: &str) -> io::Result<DiskFile> {
        self.check()?;
        let reserve = self.path.join(self.reserve_name());
        let path = self.path.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(while_doing("creating", &path)(
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let created = match self.epoch {
            0 => fs::rename(&reserve, &path),
            // Unlike a rename, a link never takes the place of another's file.
            _ => fs::hard_link(&reserve, &path).and_then(|()| fs::remove_file(&reserve)),
        };
        created.map_err(while_doing("creating", &path))?;
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        let path = self.path.join(name);
        let metadata = fs::metadata(&path).map_err(while_doing("opening", &path))?;
        if !metadata.is_file() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
            return Err(while_doing("opening", &path)(error));
        }
        self.opened("opening", name, &mut OpenOptions::new())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check()?;
        let path = self.path.join(name);
        let mut spares = self.spares.borrow_mut();
        if self.epoch == 0 && spares.ready.len() + spares.renamed.len() < SPARES_MAX {
            let spare = self.free_name(&mut spares.last);
            if fs::rename(&path, self.path.join(&spare)).is_ok() {
                spares.renamed.push(spare);
                return Ok(());
            }
        }
        fs::remove_file(&path).map_err(while_doing("removing", &path))
    }

    fn set_aside(&self, name: &str) -> io::Result<String> {
        self.check()?;
        let path = self.path.join(name);
        let taken = |aside: &String| fs::symlink_metadata(self.path.join(aside)).is_ok();
        let mut names = (1..).map(|n: u32| match n {
            1 => format!("{name}{REFUSED}"),
            n => format!("{name}{REFUSED}-{n}"),
        });
        let aside = names.find(|aside| !taken(aside)).unwrap_or_default();
        let renamed = fs::rename(&path, self.path.join(&aside));
        renamed.map_err(while_doing("renaming", &path))?;
        // Its old name may be a segment's soon. A disk that can't sync won't let one begin either.
        let _ = sync_directory(&self.path);
        Ok(aside)
    }

    fn give_back(&self) {
        let Spares { ready, renamed, .. } = &mut *self.spares.borrow_mut();
        for spares in [ready, renamed] {
            spares.retain(|spare| fs::remove_file(self.path.join(spare)).is_err());
        }
    }

    fn sync(&self) -> io::Result<()> {
        sync_directory(&self.path)?;
        self.check()?;
        let Spares { ready, renamed, .. } = &mut *self.spares.borrow_mut();
        ready.append(renamed);
        Ok(())
    }
}

/// Zeros that were written take space wherever a file system keeps them; a length alone doesn't.
fn write_zeros(path: &Path, bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.open(path)?;
    io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
    file.sync_all()
}

fn is_reserve(name: &str) -> bool {
    let epoch = name.strip_prefix(RESERVE);
    epoch.is_some_and(|epoch| epoch.is_empty() || epoch.starts_with('-'))
}

/// The number of a file that was a segment and is for reuse.
fn spare_number(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix(SPARE)?.parse().ok()?;
    (name == format!("{SPARE}{number}")).then_some(number)
}

impl DiskDirectory {
    /// Takes over the spares that are there, if there are segments, and nobody may still write into them who
    /// had the directory before: where somebody removed these, their
    /// numbers are given again, and what a spare still holds could be taken for theirs.
    fn at(path: PathBuf, lock: &Lock) -> io::Result<Self> {
        let mut spares = Spares::default();
        let names = names(&path)?;
        let is_spare = |name: &&String| {
            let number = spare_number(name);
            number.is_some() && fs::symlink_metadata(path.join(name)).is_ok_and(|m| m.is_file())
        };
        spares.renamed = names.iter().filter(is_spare).cloned().collect();
        spares.last = names
            .iter()
            .filter_map(|name| spare_number(name))
            .max()
            .unwrap_or(0);
        let has_segments = names.iter().any(|name| name.ends_with(".log"));
        let kept = match has_segments && lock.epoch == 0 {
            true => SPARES_MAX,
            false => 0,
        };
        if lock.epoch > 0 {
            let former = names.iter().filter(|name| is_reserve(name));
            former.for_each(|name| drop(fs::remove_file(path.join(name))));
        }
        for name in spares.renamed.split_off(kept.min(spares.renamed.len())) {
            let path = path.join(name);
            fs::remove_file(&path).map_err(while_doing("removing", &path))?;
        }
        Ok(Self {
            path,
            spares: RefCell::new(spares),
            epoch: lock.epoch,
            fence: lock.fence.clone(),
        })
    }

    fn check(&self) -> io::Result<()> {
        self.fence.as_ref().map_or(Ok(()), Fence::check)
    }

    /// Each epoch has its own: who had the directory before may still make a segment of its one.
    fn reserve_name(&self) -> String {
        match self.epoch {
            0 => RESERVE.into(),
            epoch => format!("{RESERVE}-{epoch}"),
        }
    }

    /// What a spare may be called: the next number, or another if somebody has a file of that name.
    fn free_name(&self, last: &mut u32) -> String {
        loop {
            *last = last.wrapping_add(1);
            let name = format!("{SPARE}{last}");
            if fs::symlink_metadata(self.path.join(&name)).is_err() {
                return name;
            }
        }
    }

    /// None if it can't be had, or that name is taken.
    fn reuse(&self, spare: &str, name: &str) -> Option<DiskFile> {
        let path = self.path.join(name);
        // A link that leads nowhere is there, too.
        let is_free = fs::symlink_metadata(&path).is_err();
        if !is_free || fs::rename(self.path.join(spare), &path).is_err() {
            return None;
        }
        self.open(name).ok()
    }

    fn opened(&self, what: &str, name: &str, options: &mut OpenOptions) -> io::Result<DiskFile> {
        let path = self.path.join(name);
        let opened = options.read(true).write(true).open(&path);
        let file = opened.map_err(while_doing(what, &path))?;
        DiskFile::new(file, path, self.epoch, self.fence.clone())
    }
}

#[cfg(test)]
mod tests;
