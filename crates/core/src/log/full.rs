//! A disk on which not a byte is left, and events that are done.

use super::sim_disk::SimDisk;
use super::tests::{NOW_MS, files, seqs};
use super::*;

/// One segment takes all.
fn limits() -> LogLimits {
    LogLimits {
        segment_bytes: 1 << 20,
        reserve_bytes: 4096,
        ..LogLimits::default()
    }
}

fn open(disk: &SimDisk) -> (QueueLog<SimDisk>, Recovered) {
    QueueLog::open(disk.clone(), "Billing", limits(), NOW_MS).unwrap()
}

fn append(log: &mut QueueLog<SimDisk>, body: &[u8]) -> Result<(), LogError> {
    let event = NewEvent {
        id: None,
        attributes: b"",
        body,
    };
    log.append(event, NOW_MS)?;
    log.commit(NOW_MS)
}

/// A log that has filled the disk with so many events, and more.
fn full(disk: &SimDisk, events: u64) -> QueueLog<SimDisk> {
    let (mut log, _) = open(disk);
    (0..events).for_each(|_| append(&mut log, b"x").unwrap());
    disk.leave_room(0);
    append(&mut log, b"y").unwrap_err();
    assert!(log.lacks_space());
    log
}

#[test]
fn what_is_settled_on_a_full_disk_stays_so() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let mut log = full(&disk, 400);
        for seq in (1..=400).filter(|seq| seq % 4 != 0) {
            log.settle(Seq(seq));
            if seq % 50 == 0 {
                log.commit_settled(NOW_MS);
            }
        }
        log.commit_settled(NOW_MS);
        assert!(log.try_recover(NOW_MS).is_err(), "there is no room");
        disk.crash();
        let (mut log, recovered) = open(&disk);
        assert!(recovered.damage.is_empty(), "{recovered:?}");
        let left: Vec<u64> = (1..=100).map(|n| 4 * n).collect();
        assert_eq!(seqs(&mut log), left, "seed {seed}");
        // What was reserved is used up: with these all are settled, and there is room.
        left.iter().for_each(|seq| log.settle(Seq(*seq)));
        assert!(log.commit(NOW_MS).is_err());
        log.commit_settled(NOW_MS);
        log.trim(NOW_MS).unwrap();
        assert_eq!(files(&disk).len(), 1);
        log.give_back();
        log.try_recover(NOW_MS).unwrap();
    }
}

/// However they come: one after the other uses up what is reserved, long before the last.
#[test]
fn a_full_disk_drains() {
    for step in [1, 7] {
        let disk = SimDisk::new(1);
        let mut log = full(&disk, 400);
        for first in 0..step {
            for seq in (1..=400).filter(|seq| seq % step == first) {
                log.settle(Seq(seq));
                log.commit_settled(NOW_MS);
            }
        }
        assert_eq!(log.settled, [], "the last settlement has its room");
        log.trim(NOW_MS).unwrap();
        assert_eq!(files(&disk).len(), 1);
        log.give_back();
        log.try_recover(NOW_MS).unwrap();
        append(&mut log, b"new").unwrap();
        disk.crash();
        let (mut log, recovered) = open(&disk);
        assert!(recovered.damage.is_empty(), "{recovered:?}");
        assert_eq!(seqs(&mut log), [402]);
    }
}
