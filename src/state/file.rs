//! The database's file.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, Error, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kept::{Changes, Kept};
use crate::ambient::wall_clock_ms;
use crate::telemetry::{Journal, Notable};

type Records = TableDefinition<'static, &'static str, &'static [u8]>;

const SUBSCRIPTIONS: Records = TableDefinition::new("subscriptions");
const SERVICES: Records = TableDefinition::new("services");
const SUBSCRIBERS: Records = TableDefinition::new("subscribers");
/// One entry: the version of the records' form.
pub(super) const FORMAT: TableDefinition<'static, (), u32> = TableDefinition::new("format");
pub(super) const VERSION: u32 = 1;
/// All that is kept fits many times.
const CACHE_BYTES: usize = 4 << 20;

/// Why a database can't be used; the text says what can be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// It is not what we wrote.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Written by a later version of this program.
    #[error(
        "it was written by another version (form {0}, ours is {VERSION}); run that version, or move the file away"
    )]
    OtherVersion(u32),
    /// Its lock is held.
    #[error("another process has it open; give each daemon a stateDir of its own")]
    InUse,
    /// The system.
    #[error("{0}; stateDir has to be a directory that this user may write to, with some room")]
    System(io::Error),
}

impl<E: Into<Error>> From<E> for StateError {
    fn from(error: E) -> Self {
        match error.into() {
            Error::DatabaseAlreadyOpen => Self::InUse,
            Error::Io(error) if !is_about_content(&error) => Self::System(error),
            error => Self::Damaged(error.to_string()),
        }
    }
}

fn is_about_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// An open database. Closing it may take a write, and is as safe as [`guarded`] makes it.
#[derive(Debug)]
pub(super) struct StateFile {
    database: Option<Database>,
    /// Device and number of the file.
    identity: Option<(u64, u64)>,
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Drop for StateFile {
    fn drop(&mut self) {
        let database = self.database.take();
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

/// The database's code panics on some damage that its checksums don't cover. That costs us the file,
/// and nothing else.
fn guarded<T>(work: impl FnOnce() -> Result<T, StateError>) -> Result<T, StateError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let error = "the database's code panicked; the message is on standard error";
        Err(StateError::Damaged(error.into()))
    })
}

/// Opens the database. A damaged one is moved aside under another name, and an empty one begun.
pub(super) fn open_or_set_aside(
    path: &Path,
    journal: &Journal,
) -> Result<(StateFile, Kept), StateError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(StateError::System)?;
    }
    let error = match guarded(|| open(path)) {
        Err(StateError::Damaged(error)) => error,
        result => return result,
    };
    let aside = set_aside(path).map_err(StateError::System)?;
    journal.note(&Notable::StateDamaged {
        path: &path.display().to_string(),
        aside: &aside.display().to_string(),
        why: &error,
    });
    guarded(|| open(path))
}

/// Gives the file a name that no other has.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut at = wall_clock_ms() / 1000;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{at}"));
        let aside = PathBuf::from(name);
        if !aside.try_exists()? {
            return std::fs::rename(path, &aside).map(|()| aside);
        }
        at += 1;
    }
}

fn open(path: &Path) -> Result<(StateFile, Kept), StateError> {
    let mut database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_file_format_v3(true)
        .create(path)?;
    // The file is small, and what was damaged while nobody looked is found only so.
    database.check_integrity()?;
    let transaction = database.begin_write()?;
    let version = {
        let mut format = transaction.open_table(FORMAT)?;
        let found = format.get(())?.map(|version| version.value());
        if found.is_none() {
            format.insert((), VERSION)?;
        }
        found.unwrap_or(VERSION)
    };
    if version != VERSION {
        return Err(StateError::OtherVersion(version));
    }
    let kept = Kept {
        subscriptions: read(&transaction, SUBSCRIPTIONS)?,
        services: read(&transaction, SERVICES)?,
        subscribers: read(&transaction, SUBSCRIBERS)?,
    };
    transaction.commit()?;
    let file = StateFile {
        database: Some(database),
        identity: identity(path),
    };
    Ok((file, kept))
}

fn read<T: DeserializeOwned>(
    transaction: &WriteTransaction,
    records: Records,
) -> Result<BTreeMap<String, T>, StateError> {
    let table = transaction.open_table(records)?;
    let mut all = BTreeMap::new();
    for entry in table.iter()? {
        let (name, record) = entry?;
        let name = name.value().to_owned();
        let record = serde_json::from_slice(record.value())
            .map_err(|error| StateError::Damaged(format!("the record of {name:?}: {error}")))?;
        all.insert(name, record);
    }
    Ok(all)
}

impl StateFile {
    #[cfg(test)]
    pub(super) fn on(backend: impl redb::StorageBackend) -> Self {
        Self {
            database: Some(Builder::new().create_with_backend(backend).unwrap()),
            identity: None,
        }
    }

    /// Whether its path leads to another file, or to none.
    pub(super) fn is_gone(&self, path: &Path) -> bool {
        self.identity.is_some() && identity(path) != self.identity
    }

    /// Writes changes all together; when it returns, they are on disk.
    pub(super) fn write(&mut self, changes: &Changes) -> Result<(), StateError> {
        let Some(database) = &self.database else {
            return Ok(());
        };
        guarded(|| {
            let transaction = database.begin_write()?;
            if changes.whole {
                transaction.delete_table(SUBSCRIPTIONS)?;
                transaction.delete_table(SERVICES)?;
                transaction.delete_table(SUBSCRIBERS)?;
            }
            put(&transaction, SUBSCRIPTIONS, &changes.subscriptions)?;
            put(&transaction, SERVICES, &changes.services)?;
            put(&transaction, SUBSCRIBERS, &changes.subscribers)?;
            transaction.commit()?;
            Ok(())
        })
    }
}

fn put<T: Serialize>(
    transaction: &WriteTransaction,
    records: Records,
    changes: &BTreeMap<String, Option<T>>,
) -> Result<(), StateError> {
    let mut table = transaction.open_table(records)?;
    for (name, record) in changes {
        match record {
            Some(record) => {
                let record =
                    serde_json::to_vec(record).map_err(|error| StateError::System(error.into()))?;
                table.insert(name.as_str(), record.as_slice())?;
            }
            None => drop(table.remove(name.as_str())?),
        }
    }
    Ok(())
}
