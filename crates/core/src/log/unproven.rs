//! A last commit that was found and may be in the kernel's memory only.

use super::NewEvent;
use super::directory::{Directory, SegmentFile};
use super::sim_disk::SimDisk;
use super::tests::{NOW_MS, append, files, open, seqs};

#[test]
fn what_was_carried_to_an_unproven_commit_keeps_its_old_place() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk);
        append(&mut log, None, b"stuck");
        for _ in 0..40 {
            let seq = append(&mut log, None, &[7; 200]);
            log.settle(seq);
        }
        log.commit(NOW_MS).unwrap();
        // The directory is synced, and what is carried is not.
        disk.fail_syncs_after(0);
        log.owes_sync = false;
        log.trim(NOW_MS).unwrap_err();
        let (mut log, _) = open(&disk);
        disk.fail_one_in(0);
        assert!(log.failed().is_some());
        assert_eq!(seqs(&mut log), [1]);
        log.trim(NOW_MS).unwrap();
        disk.crash();
        let (mut log, _) = open(&disk);
        assert_eq!(seqs(&mut log), [1], "seed {seed}");
    }
}

#[test]
fn a_last_commit_that_can_not_be_read_for_a_while_is_not_proven() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk);
        append(&mut log, None, b"told");
        let name = files(&disk).remove(0);
        disk.fail_syncs_after(0);
        let (mut log, _) = open(&disk);
        assert!(log.failed().is_some());
        disk.fail_one_in(0);
        disk.make_unreadable(&name, 520);
        log.try_recover(NOW_MS).unwrap_err();
        disk.make_readable();
        log.try_recover(NOW_MS).unwrap();
        disk.crash();
        let (mut log, _) = open(&disk);
        assert_eq!(seqs(&mut log), [1], "seed {seed}");
    }
}

/// A log that only reads what is in the kernel's memory doesn't say that it is on the disk.
#[test]
fn a_settlement_that_was_found_and_not_proven_may_be_lost() {
    let found_again = |is_proven: bool, seed: u64| {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk);
        let seq = append(&mut log, None, b"done");
        log.settle(seq);
        disk.fail_syncs_after(0);
        log.commit(NOW_MS).unwrap_err();
        let (mut log, _) = open(&disk);
        assert!(log.failed().is_some());
        assert!(seqs(&mut log).is_empty(), "seed {seed}");
        log.commit_settled(NOW_MS);
        assert!(!log.owes_no_settlement(), "seed {seed}");
        disk.fail_one_in(0);
        if is_proven {
            log.try_recover(NOW_MS).unwrap();
            assert!(log.owes_no_settlement());
        }
        disk.crash();
        let (mut log, _) = open(&disk);
        !seqs(&mut log).is_empty()
    };
    assert!((0..20).any(|seed| found_again(false, seed)));
    assert!(!(0..20).any(|seed| found_again(true, seed)));
}

/// Where a damaged header hides that a segment ended before what is found in it.
#[test]
fn what_is_found_again_because_a_header_is_damaged_is_proven_too() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk);
        append(&mut log, None, b"kept");
        disk.fail_syncs_after(0);
        let lost = NewEvent {
            id: None,
            attributes: b"",
            body: b"lost",
        };
        log.append(lost, NOW_MS).unwrap();
        log.commit(NOW_MS).unwrap_err();
        disk.fail_one_in(0);
        log.try_recover(NOW_MS).unwrap();
        append(&mut log, None, b"new");
        disk.flip(&files(&disk)[1], 20, 0);
        let (mut log, _) = open(&disk);
        assert!(log.failed().is_none());
        let found = seqs(&mut log);
        assert_eq!(found.len(), 3, "seed {seed}");
        disk.crash();
        let (mut log, _) = open(&disk);
        assert_eq!(seqs(&mut log), found, "seed {seed}");
    }
}

/// Of a file that looks like one whose creation failed the disk may have more than the kernel shows.
#[test]
fn what_is_taken_for_an_interrupted_creation_brings_nothing_back() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk);
        let seq = append(&mut log, None, b"kept");
        disk.fail_syncs_after(0);
        log.set_handing_out(true);
        log.commit(NOW_MS).unwrap_err();
        disk.fail_one_in(0);
        log.try_recover(NOW_MS).unwrap();
        // A commit to the second segment fails, and is cut off, which is not synced.
        log.settle(seq);
        disk.fail_syncs_after(0);
        log.commit(NOW_MS).unwrap_err();
        disk.fail_one_in(0);
        let newest = files(&disk).pop().unwrap();
        disk.open(&newest).unwrap().truncate(512).unwrap();
        disk.flip(&newest, 20, 0);
        let (mut log, _) = open(&disk);
        assert!(log.failed().is_none());
        assert_eq!(seqs(&mut log), [1], "seed {seed}");
        disk.crash();
        let (mut log, _) = open(&disk);
        assert_eq!(seqs(&mut log), [1], "seed {seed}");
    }
}
