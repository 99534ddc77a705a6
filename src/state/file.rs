//! The database's file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Error, ErrorCode, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::former::{self, read_former};
use super::kept::{Changes, Kept};
use crate::ambient::wall_clock_ms;
use crate::telemetry::{Journal, Notable};

/// The version of the record format.
pub(super) const VERSION: u32 = 2;
const TABLES: [&str; 3] = ["subscriptions", "services", "subscribers"];
/// Tables that came later: with a checksum of their own, so that a release that doesn't know them takes the
/// file for whole, and leaves them alone.
const LATER_TABLES: [&str; 3] = ["instances", "turns", "leases"];
/// Has the version, and the checksum of all records of [`TABLES`]; and the one of [`LATER_TABLES`].
const FORMAT: &str = "format";
/// See [`FORMAT`].
const LATER: &str = "later";
/// A commit is on disk when it returns, and leaves one file. A damaged write-ahead log would be
/// ignored silently, which would revert the state.
const SETTINGS: &str = "
    PRAGMA journal_mode = DELETE;
    PRAGMA synchronous = FULL;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;
";

/// Why a database can't be used; the text says what can be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// The content is not what we wrote.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Written by a later version of this program.
    #[error(
        "it was written by another version (format {0}, ours is {VERSION}); run that version, or move the file away"
    )]
    OtherVersion(u32),
    /// Another process holds the lock.
    #[error("another process has it open; give each daemon a stateDir of its own")]
    InUse,
    /// An error of the system.
    #[error(
        "{0}; stateDir has to be a directory that this user may write to, with some free space"
    )]
    System(io::Error),
}

fn from_sqlite(error: Error) -> StateError {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => return StateError::InUse,
        Some(ErrorCode::DiskFull) => io::ErrorKind::StorageFull,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => io::ErrorKind::PermissionDenied,
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => {
            io::ErrorKind::Other
        }
        _ => return StateError::Damaged(error.to_string()),
    };
    StateError::System(io::Error::new(kind, error.to_string()))
}

/// What keeps other daemons from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// A lock, as long as it is open. `sqlite3` may read it.
    Lock,
    /// The lease by which this daemon has the directory: none but it has a database of its epoch.
    Lease,
}

#[derive(Debug)]
pub(super) struct StateFile {
    database: Connection,
    identity: Option<Identity>,
    /// Of a file beside it: on storage of other machines, such as NFS, any lock of the database itself would
    /// keep SQLite from it.
    _lock: Option<File>,
}

/// The file that a path leads to.
type Identity = (u64, u64);

/// Opens the database, and imports that of an earlier release. A damaged one is moved aside under
/// another name, and an empty one created.
pub(super) fn open_or_set_aside(
    path: &Path,
    guard: Guard,
    journal: &Journal,
) -> Result<(StateFile, Kept), StateError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(StateError::System)?;
    }
    let lock = match guard {
        Guard::Lock => Some(locked(&with_suffix(path, ".lock"))?),
        Guard::Lease => None,
    };
    take_over(path, journal)?;
    let (mut file, kept) = match open(path) {
        Err(StateError::Damaged(error)) => {
            set_aside(path, &error, journal)?;
            open(path)
        }
        opened => opened,
    }?;
    file._lock = lock;
    Ok((file, kept))
}

/// Writes what a database of an earlier release has, unless there is one of ours. Whenever it is cut
/// short, it is done again.
fn take_over(path: &Path, journal: &Journal) -> Result<(), StateError> {
    let former = path.with_file_name(former::FILE_NAME);
    if is_there(path)? || !is_there(&former)? {
        return Ok(());
    }
    let kept = match read_former(&former) {
        Err(StateError::Damaged(error)) => return set_aside(&former, &error, journal),
        kept => kept?,
    };
    let new = with_suffix(path, ".new");
    for leftover in [&new, &journal_of(&new)] {
        match std::fs::remove_file(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StateError::System(error));
            }
            _ => {}
        }
    }
    let (mut file, _) = open(&new)?;
    file.write(&Changes::all_of(kept))?;
    drop(file);
    let moved = std::fs::rename(&new, path).and_then(|()| sync_directory_of(path));
    moved.map_err(StateError::System)?;
    // It is kept for going back to the earlier release.
    let _ = std::fs::rename(&former, with_suffix(&former, ".former"));
    tracing::info!(target: "em.state", path = %path.display(), "the state database was converted to the new format");
    Ok(())
}

fn is_there(path: &Path) -> Result<bool, StateError> {
    path.try_exists().map_err(StateError::System)
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// SQLite's journal of a commit that a crash interrupted.
pub(super) fn journal_of(path: &Path) -> PathBuf {
    with_suffix(path, "-journal")
}

/// Gives a damaged file, and its journal, a name that no other has.
fn set_aside(path: &Path, why: &str, journal: &Journal) -> Result<(), StateError> {
    let mut at = wall_clock_ms() / 1000;
    let aside = loop {
        let aside = with_suffix(path, &format!(".damaged-{at}"));
        if !is_there(&aside)? {
            break aside;
        }
        at += 1;
    };
    // A journal left behind would be taken for the next file's.
    let moved = match std::fs::rename(journal_of(path), journal_of(&aside)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::rename(path, &aside),
    };
    moved.map_err(StateError::System)?;
    journal.note(&Notable::StateDamaged {
        path: &path.display().to_string(),
        aside: &aside.display().to_string(),
        why,
    });
    Ok(())
}

/// Created where it is missing, for nobody else to read.
fn opened(path: &Path) -> Result<File, StateError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    options.mode(0o600).open(path).map_err(StateError::System)
}

fn locked(path: &Path) -> Result<File, StateError> {
    let file = opened(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateError::InUse),
        Err(TryLockError::Error(error)) => Err(StateError::System(error)),
    }
}

fn open(path: &Path) -> Result<(StateFile, Kept), StateError> {
    // SQLite would give it the mode that the umask allows.
    opened(path)?;
    let database = Connection::open(path).map_err(from_sqlite)?;
    let mut file = StateFile {
        database,
        identity: identity(path),
        _lock: None,
    };
    let kept = file.read()?;
    Ok((file, kept))
}

fn identity(path: &Path) -> Option<Identity> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

impl StateFile {
    /// Checks and reads everything; initialises an empty database.
    fn read(&mut self) -> Result<Kept, StateError> {
        self.database.execute_batch(SETTINGS).map_err(from_sqlite)?;
        let check = "PRAGMA integrity_check(1)";
        let found: String = self
            .database
            .query_row(check, [], |row| row.get(0))
            .map_err(from_sqlite)?;
        if found != "ok" {
            return Err(StateError::Damaged(found));
        }
        // The file itself was opened to be written, so only what it says of its format can forbid that.
        if self.database.is_readonly("main").map_err(from_sqlite)? {
            let why = "its header names a format that can only be read";
            return Err(StateError::Damaged(why.into()));
        }
        let transaction = self.database.transaction().map_err(from_sqlite)?;
        let version = version_of(&transaction).map_err(from_sqlite)?;
        match version {
            None => begin(&transaction).map_err(from_sqlite)?,
            Some(VERSION) => {}
            Some(version) => return Err(StateError::OtherVersion(version)),
        }
        begin_later(&transaction).map_err(from_sqlite)?;
        let (mut sum, mut later_sum) = (0, 0);
        let [subscriptions, services, subscribers] = TABLES;
        let [instances, turns, leases] = LATER_TABLES;
        let kept = Kept {
            subscriptions: records(&transaction, subscriptions, &mut sum)?,
            services: records(&transaction, services, &mut sum)?,
            subscribers: records(&transaction, subscribers, &mut sum)?,
            instances: records(&transaction, instances, &mut later_sum)?,
            turns: records(&transaction, turns, &mut later_sum)?,
            leases: records(&transaction, leases, &mut later_sum)?,
        };
        let sums = [FORMAT, LATER].map(|table| total(&transaction, table));
        for (total, sum) in sums.into_iter().zip([sum, later_sum]) {
            if total.map_err(from_sqlite)? != sum {
                return Err(StateError::Damaged("records are missing".into()));
            }
        }
        transaction.commit().map_err(from_sqlite)?;
        Ok(kept)
    }

    /// Whether its path now leads to another file, or to none.
    pub(super) fn is_gone(&self, path: &Path) -> bool {
        identity(path) != self.identity
    }

    /// Writes all changes in one commit; when it returns, they are on disk.
    pub(super) fn write(&mut self, changes: &Changes) -> Result<(), StateError> {
        let transaction = self.database.transaction().map_err(from_sqlite)?;
        let begun = |table| match changes.whole {
            true => Ok(0),
            false => total(&transaction, table).map_err(from_sqlite),
        };
        let (mut sum, mut later_sum) = (begun(FORMAT)?, begun(LATER)?);
        if changes.whole {
            for table in TABLES.into_iter().chain(LATER_TABLES) {
                let emptied = transaction.execute(&format!("DELETE FROM {table}"), []);
                emptied.map_err(from_sqlite)?;
            }
        }
        let [subscriptions, services, subscribers] = TABLES;
        put(
            &transaction,
            subscriptions,
            &changes.subscriptions,
            &mut sum,
        )?;
        put(&transaction, services, &changes.services, &mut sum)?;
        put(&transaction, subscribers, &changes.subscribers, &mut sum)?;
        let [instances, turns, leases] = LATER_TABLES;
        put(&transaction, instances, &changes.instances, &mut later_sum)?;
        put(&transaction, turns, &changes.turns, &mut later_sum)?;
        put(&transaction, leases, &changes.leases, &mut later_sum)?;
        for (table, sum) in [(FORMAT, sum), (LATER, later_sum)] {
            let noted = transaction.execute(&format!("UPDATE {table} SET total = ?1"), [sum]);
            noted.map_err(from_sqlite)?;
        }
        transaction.commit().map_err(from_sqlite)
    }
}

fn version_of(transaction: &Transaction<'_>) -> Result<Option<u32>, Error> {
    let tables = "SELECT count(*) FROM sqlite_master";
    let tables: i64 = transaction.query_row(tables, [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(None);
    }
    let version = "SELECT version FROM format";
    transaction
        .query_row(version, [], |row| row.get(0))
        .map(Some)
}

fn begin(transaction: &Transaction<'_>) -> Result<(), Error> {
    for table in TABLES {
        transaction.execute_batch(&format!(
            "CREATE TABLE {table} (name TEXT PRIMARY KEY, record TEXT NOT NULL, sum INTEGER NOT NULL)
             WITHOUT ROWID"
        ))?;
    }
    transaction
        .execute_batch("CREATE TABLE format (version INTEGER NOT NULL, total INTEGER NOT NULL)")?;
    let values = params![VERSION, 0];
    transaction.execute("INSERT INTO format VALUES (?1, ?2)", values)?;
    Ok(())
}

/// Tables that an earlier release didn't make.
fn begin_later(transaction: &Transaction<'_>) -> Result<(), Error> {
    for table in LATER_TABLES {
        transaction.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {table} (name TEXT PRIMARY KEY, record TEXT NOT NULL, sum INTEGER NOT NULL)
             WITHOUT ROWID"
        ))?;
    }
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS later (total INTEGER NOT NULL);
         INSERT INTO later SELECT 0 WHERE NOT EXISTS (SELECT * FROM later);",
    )
}

/// The checksum of all checksums: SQLite's own check doesn't notice every missing record.
fn total(transaction: &Transaction<'_>, table: &str) -> Result<i64, Error> {
    let query = format!("SELECT total FROM {table}");
    transaction.query_row(&query, [], |row| row.get(0))
}

/// A record's checksum: SQLite has none of its own.
fn sum_of(table: &str, name: &str, record: &str) -> i64 {
    let mut crc = crc32fast::Hasher::new();
    for part in [table, name, record] {
        crc.update(part.as_bytes());
        crc.update(b"\0");
    }
    i64::from(crc.finalize())
}

fn records<T: DeserializeOwned>(
    transaction: &Transaction<'_>,
    table: &str,
    total: &mut i64,
) -> Result<BTreeMap<String, T>, StateError> {
    let query = format!("SELECT name, record, sum FROM {table}");
    let mut query = transaction.prepare(&query).map_err(from_sqlite)?;
    let mut rows = query.query([]).map_err(from_sqlite)?;
    let mut all = BTreeMap::new();
    while let Some(row) = rows.next().map_err(from_sqlite)? {
        let columns = || Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (name, record, sum): (String, String, i64) = columns().map_err(from_sqlite)?;
        let damaged = |why: &str| StateError::Damaged(format!("the record of {name:?}: {why}"));
        if sum != sum_of(table, &name, &record) {
            return Err(damaged("its checksum is wrong"));
        }
        *total ^= sum;
        let record = serde_json::from_str(&record).map_err(|error| damaged(&error.to_string()))?;
        all.insert(name, record);
    }
    Ok(all)
}

fn put<T: Serialize>(
    transaction: &Transaction<'_>,
    table: &str,
    changes: &BTreeMap<String, Option<T>>,
    total: &mut i64,
) -> Result<(), StateError> {
    let prepare = |query: &str| transaction.prepare(&query.replace("TABLE", table));
    let statements = || {
        Ok((
            prepare("SELECT sum FROM TABLE WHERE name = ?1")?,
            prepare("DELETE FROM TABLE WHERE name = ?1")?,
            prepare("INSERT INTO TABLE VALUES (?1, ?2, ?3)")?,
        ))
    };
    let (mut find, mut delete, mut insert) = statements().map_err(from_sqlite)?;
    for (name, record) in changes {
        let mut replace = |record: Option<String>| {
            let before: Option<i64> = find.query_row([name], |row| row.get(0)).optional()?;
            if let Some(before) = before {
                *total ^= before;
                delete.execute([name])?;
            }
            if let Some(record) = record {
                let sum = sum_of(table, name, &record);
                *total ^= sum;
                insert.execute(params![name, record, sum])?;
            }
            Ok(())
        };
        let record = record.as_ref().map(serde_json::to_string).transpose();
        let record = record.map_err(|error| StateError::System(error.into()))?;
        replace(record).map_err(from_sqlite)?;
    }
    Ok(())
}
