use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use redb::{Builder, TableDefinition};
use rusqlite::Connection;
use tempfile::TempDir;

use super::file::{Guard, StateError, VERSION, open_or_set_aside};
use super::former;
use super::*;

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("below").join(FILE_NAME);
    (directory, path)
}

fn subscription(service: &str, expires_at_ms: u64) -> KeptSubscription {
    KeptSubscription {
        service: service.into(),
        subjects: vec!["Order".into(), "glob:a.*".into(), String::new()],
        expires_at_ms,
        told_port: None,
        owner: Some("client:billing".into()),
    }
}

fn service(port: u16) -> KeptService {
    KeptService {
        port,
        ready: Some(KeptReady {
            delimiter: true,
            credit: Some(7),
            ids: true,
            marks: None,
        }),
        subjects: vec!["exact:Order".into()],
        durable: Some(true),
        ..KeptService::default()
    }
}

fn instance(pid: i64) -> KeptInstance {
    KeptInstance {
        pid: Some(pid),
        address: Some("tcp://h:1".into()),
        ..KeptInstance::default()
    }
}

fn turn(at_ms: u64) -> KeptTurn {
    KeptTurn {
        at_ms,
        ..KeptTurn::default()
    }
}

fn lease(token: u64) -> KeptLease {
    KeptLease {
        token,
        holder: Some("a".into()),
        ..KeptLease::default()
    }
}

/// So many subscriptions, each with a service of its own.
fn all(whole: bool, count: u16) -> Changes {
    let numbers = || (0..count).map(|n| (n.to_string(), n));
    Changes {
        whole,
        subscriptions: numbers()
            .map(|(id, n)| (id.clone(), Some(subscription(&id, n.into()))))
            .collect(),
        services: numbers().map(|(id, n)| (id, Some(service(n)))).collect(),
        subscribers: numbers().map(|(id, n)| (id, Some(n.into()))).collect(),
        instances: numbers()
            .map(|(id, n)| (id, Some(instance(n.into()))))
            .collect(),
        turns: [("1".into(), Some(turn(count.into())))].into(),
        leases: [("lease".into(), Some(lease(count.into())))].into(),
    }
}

fn kept(changes: &Changes) -> Kept {
    let mut kept = Kept::default();
    for (id, record) in &changes.subscriptions {
        kept.subscriptions
            .extend(record.clone().map(|record| (id.clone(), record)));
    }
    for (name, record) in &changes.services {
        kept.services
            .extend(record.clone().map(|record| (name.clone(), record)));
    }
    for (prefix, count) in &changes.subscribers {
        kept.subscribers
            .extend(count.map(|count| (prefix.clone(), count)));
    }
    fn there<T: Clone>(all: &BTreeMap<String, Option<T>>) -> BTreeMap<String, T> {
        let all = all.iter();
        all.filter_map(|(name, record)| Some((name.clone(), record.clone()?)))
            .collect()
    }
    kept.instances = there(&changes.instances);
    kept.turns = there(&changes.turns);
    kept.leases = there(&changes.leases);
    kept
}

fn others_in(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let mut others: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    let is_lock = |other: &Path| other.extension().is_some_and(|end| end == "lock");
    others.retain(|other| other != path && !is_lock(other));
    others
}

#[test]
fn what_was_written_is_there_again() {
    let (_directory, path) = directory();
    let (mut file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!(found, Kept::default());
    file.write(&all(false, 3)).unwrap();
    let gone = Changes {
        subscriptions: [("1".into(), None), ("unknown".into(), None)].into(),
        services: [("1".into(), None), ("2".into(), Some(service(9)))].into(),
        ..Changes::default()
    };
    file.write(&gone).unwrap();
    drop(file);
    let (mut file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    let mut together = all(false, 3);
    together.add(gone);
    assert_eq!(found, kept(&together));
    file.write(&all(true, 1)).unwrap();
    drop(file);
    let (_file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!(found, kept(&all(true, 1)));
    assert!(others_in(&path).is_empty());
}

#[test]
fn what_was_written_is_there_though_the_file_was_never_closed() {
    let (_directory, path) = directory();
    let (mut file, _) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    for count in 1..6 {
        file.write(&all(false, count)).unwrap();
        let copy = path.with_file_name("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        let (_copy, found) = open_or_set_aside(&copy, Guard::Lock, &Journal::default()).unwrap();
        assert_eq!(found, kept(&all(false, count)));
    }
    assert_eq!(others_in(&path).len(), 1);
}

/// Of a file with 50 subscriptions, as a process leaves it that is killed, and one that ends well.
static IMAGES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let (_directory, path) = directory();
    let (mut file, _) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    file.write(&all(false, 50)).unwrap();
    let open = std::fs::read(&path).unwrap();
    drop(file);
    [open, std::fs::read(&path).unwrap()]
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever happens to the file, it is read right or moved aside as it is.
    #[test]
    fn damage_is_found_and_set_aside(
        positions in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..20),
        near_the_start: bool,
        closed: bool,
        kept_part in prop_oneof![4 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut bytes = IMAGES[usize::from(closed)].clone();
        let span = if near_the_start { 400 } else { bytes.len() };
        for (position, flipped) in &positions {
            bytes[position.index(span)] ^= flipped;
        }
        if let Some(len) = kept_part {
            bytes.truncate(len.index(bytes.len()));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        std::fs::write(&path, &bytes).unwrap();
        let (mut file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
        match &others_in(&path)[..] {
            // What was flipped means nothing.
            [] => prop_assert!(found == kept(&all(false, 50)) || bytes.is_empty()),
            [aside] => {
                prop_assert!(aside.to_str().unwrap().contains("state.db.damaged-"));
                prop_assert_eq!(found, Kept::default());
            }
            more => prop_assert!(false, "{:?}", more),
        }
        file.write(&all(false, 2)).unwrap();
    }
}

/// SQLite opens it, and refuses each write.
#[test]
fn a_header_that_forbids_to_write_is_damage() {
    let mut bytes = IMAGES[1].clone();
    // The file format write version: above 2, a database is read-only.
    assert_eq!(bytes[18], 1);
    bytes[18] = 3;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    std::fs::write(&path, &bytes).unwrap();
    let (mut file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!(found, Kept::default());
    assert_eq!(std::fs::read(&others_in(&path)[0]).unwrap(), bytes);
    file.write(&all(false, 2)).unwrap();
}

#[test]
fn a_file_that_is_no_database_keeps_its_bytes_and_each_gets_a_name() {
    let (_directory, path) = directory();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for text in ["first", "second", "third"] {
        std::fs::write(&path, text).unwrap();
        open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    }
    let mut texts: Vec<_> = others_in(&path)
        .iter()
        .map(|other| std::fs::read_to_string(other).unwrap())
        .collect();
    texts.sort();
    assert_eq!(texts, ["first", "second", "third"]);
}

#[test]
fn what_is_not_ours_to_mend_stays_as_it_is() {
    let (directory, path) = directory();
    let (file, _) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert!(matches!(
        open_or_set_aside(&path, Guard::Lock, &Journal::default()),
        Err(StateError::InUse)
    ));
    drop(file);
    // SQLite's locks and those of whole files are one kind on NFS and other file systems of several machines.
    let (file, _) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    let itself = std::fs::File::open(&path).unwrap();
    assert!(itself.try_lock().is_ok(), "the database itself is locked");
    drop((file, itself));

    let database = Connection::open(&path).unwrap();
    let newer = "UPDATE format SET version = ?1";
    database.execute(newer, [VERSION + 1]).unwrap();
    drop(database);
    let error = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap_err();
    assert!(matches!(error, StateError::OtherVersion(_)), "{error}");

    let in_a_file = directory.path().join("file");
    std::fs::write(&in_a_file, "").unwrap();
    let error = open_or_set_aside(&in_a_file.join(FILE_NAME), Guard::Lock, &Journal::default())
        .unwrap_err();
    assert!(matches!(error, StateError::System(_)), "{error}");
    assert!(others_in(&path).is_empty());
}

fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let deadline = crate::ambient::now() + Duration::from_secs(20);
    while !reached() {
        assert!(crate::ambient::now() < deadline, "{what} did not come");
        std::thread::yield_now();
    }
}

#[test]
fn after_an_error_the_whole_state_is_wanted_and_written() {
    let (_directory, path) = directory();
    let journal = Journal::default();
    let (file, _) = open_or_set_aside(&path, Guard::Lock, &journal).unwrap();
    let (mut writer, thread) =
        Writer::start(path.clone(), (file, Guard::Lock), None, journal.clone()).unwrap();
    assert!(writer.take(all(false, 1)));
    wait_until("the first write", || writer.is_idle());
    let mark = writer.mark();
    assert!(writer.has_written(mark));
    // No commit without its journal.
    let in_the_way = path.with_file_name(format!("{FILE_NAME}-journal"));
    let _ = std::fs::remove_file(&in_the_way);
    std::fs::create_dir(&in_the_way).unwrap();
    assert!(writer.take(all(false, 2)));
    wait_until("the error", || writer.is_failing());
    assert!(!writer.has_written(writer.mark()));
    wait_until("what is wanted", || writer.wants_whole());
    assert!(!writer.wants_whole(), "once for each error");
    std::fs::remove_dir(&in_the_way).unwrap();
    // It is in the whole state anyway, and must not count as all that there is.
    assert!(writer.take(all(false, 3)));
    assert!(writer.take(all(true, 4)));
    assert!(writer.take(all(false, 5)));
    let mark = writer.mark();
    wait_until("all is written", || writer.has_written(mark));
    drop(writer);
    assert!(thread.join(Duration::from_secs(20)));
    let (_file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!(found, kept(&all(true, 5)));
    let noted = journal.page(None, 10).events;
    let codes: Vec<_> = noted.iter().map(|event| &*event.code).collect();
    assert_eq!(codes, ["EM-0511", "EM-0512"]);
}

#[test]
fn a_writer_that_is_behind_has_no_room_and_loses_nothing_that_it_took() {
    let (_directory, path) = directory();
    let (file, _) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    let (mut writer, thread) =
        Writer::start(path.clone(), (file, Guard::Lock), None, Journal::default()).unwrap();
    let one = |n: usize| Changes {
        subscriptions: [(n.to_string(), Some(subscription("Billing", 1)))].into(),
        ..Changes::default()
    };
    let mut taken = 0;
    while writer.has_room() {
        assert!(writer.take(one(taken)));
        taken += 1;
    }
    drop(writer);
    assert!(thread.join(Duration::from_secs(20)));
    let (_file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!(found.subscriptions.len(), taken);
}

/// Writes what an earlier release kept as it did.
fn write_former(path: &Path, kept: &Changes) {
    let builder = Builder::new().create_with_file_format_v3(true).create(path);
    let transaction = builder.as_ref().unwrap().begin_write().unwrap();
    let format = transaction.open_table(former::FORMAT);
    format.unwrap().insert((), former::VERSION).unwrap();
    type Records = TableDefinition<'static, &'static str, &'static [u8]>;
    let put = |table: &'static str, name: &str, record: Vec<u8>| {
        let mut table = transaction.open_table(Records::new(table)).unwrap();
        table.insert(name, &*record).unwrap();
    };
    for (name, record) in &kept.subscriptions {
        put("subscriptions", name, serde_json::to_vec(record).unwrap());
    }
    for (name, record) in &kept.services {
        put("services", name, serde_json::to_vec(record).unwrap());
    }
    transaction.commit().unwrap();
}

#[test]
fn what_an_earlier_release_kept_is_taken_over_once() {
    let (_directory, path) = directory();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let former = path.with_file_name(former::FILE_NAME);
    let mut before = all(true, 3);
    before.subscribers.clear();
    before.instances.clear();
    before.turns.clear();
    before.leases.clear();
    write_former(&former, &before);
    // An earlier try was interrupted.
    std::fs::write(path.with_file_name(format!("{FILE_NAME}.new")), "half").unwrap();
    let (mut file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!(found, kept(&before));
    let aside = path.with_file_name(format!("{}.former", former::FILE_NAME));
    assert_eq!(others_in(&path), std::slice::from_ref(&aside));
    file.write(&all(true, 1)).unwrap();
    drop(file);
    // Should it come back, ours is newer.
    std::fs::rename(&aside, &former).unwrap();
    let (_file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!(found, kept(&all(true, 1)));
}

#[test]
fn a_damaged_database_of_an_earlier_release_is_set_aside() {
    let (_directory, path) = directory();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path.with_file_name(former::FILE_NAME), "damaged").unwrap();
    let journal = Journal::default();
    let (_file, found) = open_or_set_aside(&path, Guard::Lock, &journal).unwrap();
    assert_eq!(found, Kept::default());
    assert_eq!(journal.page(None, 10).events[0].code, "EM-0513");
    let aside: Vec<_> = others_in(&path);
    assert!(
        aside[0].to_str().unwrap().contains("state.redb.damaged-"),
        "{aside:?}"
    );
}

/// Whatever an operator asks it, the daemon goes on writing.
#[test]
fn it_can_be_read_while_it_is_used() {
    let (_directory, path) = directory();
    let (mut file, _) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    file.write(&all(false, 3)).unwrap();
    let reader = Connection::open(&path).unwrap();
    let query = "SELECT json_extract(record, '$.port') FROM services WHERE name = '2'";
    let port: u16 = reader.query_row(query, [], |row| row.get(0)).unwrap();
    assert_eq!(port, 2);
    file.write(&all(false, 4)).unwrap();
}

/// What a release writes that has no tables of instances and leases.
#[test]
fn a_file_without_the_later_tables_gets_them_and_one_with_them_is_whole_without() {
    let (_directory, path) = directory();
    let (mut file, _) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    file.write(&all(false, 3)).unwrap();
    drop(file);
    // The earlier release knows the checksum of its own tables.
    let database = Connection::open(&path).unwrap();
    let query = "SELECT sum FROM subscriptions UNION ALL SELECT sum FROM services UNION ALL SELECT sum FROM subscribers";
    let mut query = database.prepare(query).unwrap();
    let sums = query.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    let sum = sums.fold(0, |all, sum| all ^ sum.unwrap());
    let total: i64 = database
        .query_row("SELECT total FROM format", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sum, total);
    for table in ["instances", "turns", "leases", "later"] {
        database
            .execute(&format!("DROP TABLE {table}"), [])
            .unwrap();
    }
    drop(query);
    drop(database);
    let (mut file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!((found.services.len(), found.leases.len()), (3, 0));
    file.write(&all(false, 3)).unwrap();
    drop(file);
    let (_file, found) = open_or_set_aside(&path, Guard::Lock, &Journal::default()).unwrap();
    assert_eq!(found, kept(&all(false, 3)));
    assert!(others_in(&path).is_empty());
}
