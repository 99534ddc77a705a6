use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use proptest::prelude::*;
use redb::backends::InMemoryBackend;
use redb::{Builder, StorageBackend};
use tempfile::TempDir;

use super::file::{FORMAT, StateError, StateFile, VERSION, open_or_set_aside};
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
    }
}

fn service(port: u16) -> KeptService {
    KeptService {
        port,
        ready: Some(KeptReady {
            delimiter: true,
            credit: Some(7),
            marks: None,
        }),
        subjects: vec!["exact:Order".into()],
        durable: Some(true),
        ..KeptService::default()
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
    kept
}

fn others_in(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let mut others: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    others.retain(|other| other != path);
    others
}

#[test]
fn what_was_written_is_there_again() {
    let (_directory, path) = directory();
    let (mut file, found) = open_or_set_aside(&path, &Journal::default()).unwrap();
    assert_eq!(found, Kept::default());
    file.write(&all(false, 3)).unwrap();
    let gone = Changes {
        subscriptions: [("1".into(), None), ("unknown".into(), None)].into(),
        services: [("1".into(), None), ("2".into(), Some(service(9)))].into(),
        ..Changes::default()
    };
    file.write(&gone).unwrap();
    drop(file);
    let (mut file, found) = open_or_set_aside(&path, &Journal::default()).unwrap();
    let mut together = all(false, 3);
    together.add(gone);
    assert_eq!(found, kept(&together));
    file.write(&all(true, 1)).unwrap();
    drop(file);
    let (_file, found) = open_or_set_aside(&path, &Journal::default()).unwrap();
    assert_eq!(found, kept(&all(true, 1)));
    assert!(others_in(&path).is_empty());
}

#[test]
fn what_was_written_is_there_though_the_file_was_never_closed() {
    let (_directory, path) = directory();
    let (mut file, _) = open_or_set_aside(&path, &Journal::default()).unwrap();
    for count in 1..6 {
        file.write(&all(false, count)).unwrap();
        let copy = path.with_file_name("copy.redb");
        std::fs::copy(&path, &copy).unwrap();
        let (_copy, found) = open_or_set_aside(&copy, &Journal::default()).unwrap();
        assert_eq!(found, kept(&all(false, count)));
    }
    assert_eq!(others_in(&path).len(), 1);
}

/// Of a file with 50 subscriptions, as a process leaves it that is killed, and one that ends well.
static IMAGES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let (_directory, path) = directory();
    let (mut file, _) = open_or_set_aside(&path, &Journal::default()).unwrap();
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
        places in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..20),
        near_the_start: bool,
        closed: bool,
        kept_part in prop_oneof![4 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut bytes = IMAGES[usize::from(closed)].clone();
        let span = if near_the_start { 400 } else { bytes.len() };
        for (place, flipped) in &places {
            bytes[place.index(span)] ^= flipped;
        }
        if let Some(len) = kept_part {
            bytes.truncate(len.index(bytes.len()));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        std::fs::write(&path, &bytes).unwrap();
        let (mut file, found) = open_or_set_aside(&path, &Journal::default()).unwrap();
        match &others_in(&path)[..] {
            // The database may go back by one commit, as after a write that was torn.
            [] => prop_assert!(found == kept(&all(false, 50)) || found == Kept::default()),
            [aside] => {
                prop_assert!(aside.to_str().unwrap().contains("state.redb.damaged-"));
                prop_assert_eq!(found, Kept::default());
            }
            more => prop_assert!(false, "{:?}", more),
        }
        file.write(&all(false, 2)).unwrap();
    }
}

#[test]
fn a_file_that_is_no_database_keeps_its_bytes_and_each_gets_a_name() {
    let (_directory, path) = directory();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for text in ["first", "second", "third"] {
        std::fs::write(&path, text).unwrap();
        open_or_set_aside(&path, &Journal::default()).unwrap();
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
    let (file, _) = open_or_set_aside(&path, &Journal::default()).unwrap();
    assert!(matches!(
        open_or_set_aside(&path, &Journal::default()),
        Err(StateError::InUse)
    ));
    drop(file);

    let database = Builder::new().open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(FORMAT)
        .unwrap()
        .insert((), VERSION + 1)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = open_or_set_aside(&path, &Journal::default()).unwrap_err();
    assert!(matches!(error, StateError::OtherVersion(_)), "{error}");

    let in_a_file = directory.path().join("file");
    std::fs::write(&in_a_file, "").unwrap();
    let error = open_or_set_aside(&in_a_file.join(FILE_NAME), &Journal::default()).unwrap_err();
    assert!(matches!(error, StateError::System(_)), "{error}");
    assert!(others_in(&path).is_empty());
}

/// A disk that fails while it is told to.
#[derive(Debug)]
struct Disk {
    memory: InMemoryBackend,
    fails: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.memory.read(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.memory.set_len(len)
    }

    fn sync_data(&self, eventual: bool) -> io::Result<()> {
        self.check()?;
        self.memory.sync_data(eventual)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.memory.write(offset, data)
    }
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
    let fails = Arc::<AtomicBool>::default();
    let disk = Disk {
        memory: InMemoryBackend::new(),
        fails: Arc::clone(&fails),
    };
    let journal = Journal::default();
    let (mut writer, thread) =
        Writer::start(path.clone(), StateFile::on(disk), journal.clone()).unwrap();
    assert!(writer.take(all(false, 1)));
    wait_until("the first write", || writer.is_idle());
    fails.store(true, Ordering::Relaxed);
    assert!(writer.take(all(false, 2)));
    wait_until("the error", || writer.wants_whole());
    assert!(!writer.wants_whole(), "once for each error");
    // It is in the whole state anyway, and must not count as all that there is.
    assert!(writer.take(all(false, 3)));
    assert!(writer.take(all(true, 4)));
    assert!(writer.take(all(false, 5)));
    drop(writer);
    assert!(thread.join(Duration::from_secs(20)));
    let (_file, found) = open_or_set_aside(&path, &Journal::default()).unwrap();
    assert_eq!(found, kept(&all(true, 5)));
    let noted = journal.page(None, 10).events;
    let codes: Vec<_> = noted.iter().map(|event| event.code).collect();
    assert_eq!(codes, ["EM-0511", "EM-0512"]);
}

#[test]
fn a_writer_that_is_behind_has_no_room_and_loses_nothing_that_it_took() {
    let (_directory, path) = directory();
    let (file, _) = open_or_set_aside(&path, &Journal::default()).unwrap();
    let (mut writer, thread) = Writer::start(path.clone(), file, Journal::default()).unwrap();
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
    let (_file, found) = open_or_set_aside(&path, &Journal::default()).unwrap();
    assert_eq!(found.subscriptions.len(), taken);
}
