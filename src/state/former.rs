//! The database of earlier releases, in another format: read once, when there is no newer one.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Builder, Error, ReadableTable, TableDefinition, TableError};
use serde::de::DeserializeOwned;

use super::file::StateError;
use super::kept::Kept;

type Records = TableDefinition<'static, &'static str, &'static [u8]>;

/// The name of its file.
pub(super) const FILE_NAME: &str = "state.redb";
/// The version of the records' form that it has.
pub(super) const VERSION: u32 = 1;
/// One entry: that version.
pub(super) const FORMAT: TableDefinition<'static, (), u32> = TableDefinition::new("format");
/// Large enough for any real database, many times over.
const CACHE_BYTES: usize = 4 << 20;

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

/// Reads it. The library panics on some kinds of damage: that counts as damage, nothing worse.
pub(super) fn read_former(path: &Path) -> Result<Kept, StateError> {
    catch_unwind(AssertUnwindSafe(|| read(path))).unwrap_or_else(|_| {
        let error = "the database's code panicked; the message is on standard error";
        Err(StateError::Damaged(error.into()))
    })
}

fn read(path: &Path) -> Result<Kept, StateError> {
    let mut database = Builder::new().set_cache_size(CACHE_BYTES).open(path)?;
    database.check_integrity()?;
    let transaction = database.begin_read()?;
    let version = match transaction.open_table(FORMAT) {
        Ok(format) => format.get(())?.map_or(VERSION, |version| version.value()),
        Err(TableError::TableDoesNotExist(_)) => VERSION,
        Err(error) => return Err(error.into()),
    };
    if version != VERSION {
        return Err(StateError::OtherVersion(version));
    }
    Ok(Kept {
        subscriptions: records(&transaction, "subscriptions")?,
        services: records(&transaction, "services")?,
        subscribers: records(&transaction, "subscribers")?,
        ..Kept::default()
    })
}

fn records<T: DeserializeOwned>(
    transaction: &redb::ReadTransaction,
    name: &'static str,
) -> Result<BTreeMap<String, T>, StateError> {
    let table = match transaction.open_table(Records::new(name)) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        table => table?,
    };
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
