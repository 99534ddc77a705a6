//! A directory that is taken from a daemon that goes on for a moment, and doesn't know.

use super::sim_disk::{SimDisk, SimFile};
use super::tests::{NOW_MS, limits};
use super::*;

/// The directory as one holder sees it. Nothing but its epoch keeps others from writing.
struct Held(SimDisk, u64);

impl Directory for Held {
    type File = SimFile;

    fn epoch(&self) -> u64 {
        self.1
    }
    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }
    fn create(&self, name: &str) -> io::Result<SimFile> {
        self.0.create(name)
    }
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.0.reserve(bytes)
    }
    fn create_reserved(&self, name: &str) -> io::Result<SimFile> {
        self.0.create_reserved(name)
    }
    fn open(&self, name: &str) -> io::Result<SimFile> {
        self.0.open(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn set_aside(&self, name: &str) -> io::Result<String> {
        self.0.set_aside(name)
    }
    fn give_back(&self) {
        self.0.give_back();
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

fn taken(disk: &SimDisk, epoch: u64) -> QueueLog<Held> {
    let directory = Held(disk.clone(), epoch);
    let (log, recovered) = QueueLog::open(directory, "Billing", limits(), NOW_MS).unwrap();
    assert!(recovered.damage.is_empty(), "{recovered:?}");
    log
}

fn append(log: &mut QueueLog<Held>, body: &[u8]) {
    let event = NewEvent {
        id: None,
        attributes: b"",
        body,
    };
    log.append(event, NOW_MS).unwrap();
    log.commit(NOW_MS).unwrap();
}

fn bodies(log: &mut QueueLog<Held>) -> Vec<String> {
    let events = log.read(Seq::ZERO, usize::MAX, u64::MAX).unwrap();
    let body = |event: &StoredEvent| String::from_utf8_lossy(&event.body[..2]).into_owned();
    events.iter().map(body).collect()
}

#[test]
fn what_a_former_holder_appends_is_dead_even_if_nothing_else_was_written() {
    let disk = SimDisk::new(1);
    let mut former = taken(&disk, 3);
    append(&mut former, b"a1");
    append(&mut former, b"a2");
    let mut next = taken(&disk, 9);
    append(&mut former, b"a3");
    assert_eq!(bodies(&mut next), ["a1", "a2"]);
    drop(next);
    let mut third = taken(&disk, 12);
    assert_eq!(bodies(&mut third), ["a1", "a2"]);
    append(&mut former, b"a4");
    append(&mut third, b"c1");
    let mut fourth = taken(&disk, 13);
    assert_eq!(bodies(&mut fourth), ["a1", "a2", "c1"]);
}

#[test]
fn a_segment_that_a_former_holder_begins_pushes_none_aside() {
    // The one that is begun late has the same number, or a higher one.
    for failed in 0..3 {
        let disk = SimDisk::new(1);
        let mut former = taken(&disk, 3);
        append(&mut former, b"a1");
        former.last_number += failed;
        let mut next = taken(&disk, 9);
        append(&mut next, b"b1");
        append(&mut former, b"a2");
        append(&mut former, &[b'a'; 3000]);
        append(&mut former, b"a3");
        append(&mut next, b"b2");
        let mut third = taken(&disk, 10);
        assert_eq!(bodies(&mut third), ["a1", "b1", "b2"]);
        assert!(!third.take_refused().is_empty());
        append(&mut third, b"c1");
        assert_eq!(bodies(&mut taken(&disk, 11)), ["a1", "b1", "b2", "c1"]);
    }
}

#[test]
fn epochs_go_on_where_the_directory_does_not_know_its_own_any_more() {
    let disk = SimDisk::new(1);
    append(&mut taken(&disk, 7), b"a1");
    append(&mut taken(&disk, 0), b"b1");
    append(&mut taken(&disk, 8), b"c1");
    assert_eq!(bodies(&mut taken(&disk, 0)), ["a1", "b1", "c1"]);
}

#[test]
fn a_segment_without_an_epoch_is_as_it_was() {
    let disk = SimDisk::new(1);
    append(&mut taken(&disk, 0), b"a1");
    let name = format::segment_name(1, Seq(1));
    let file = disk.content(&name).unwrap();
    assert!(file[496..504].iter().all(|byte| *byte == 0));
    append(&mut taken(&disk, 0x0102_0304), b"b1");
    let name = format::segment_name(2, Seq(2));
    let file = disk.content(&name).unwrap();
    assert_eq!(file[496..504], 0x0102_0304u64.to_le_bytes());
}
