//! Files that somebody else put into the directory, and segments of the first version, which don't say
//! whose they are.

use super::format::{self, EventRecord};
use super::sim_disk::SimDisk;
use super::tests::{NOW_MS, append, files, open, seqs};
use super::*;

/// A segment of the first version, as docs/log-format.md says: its name and content.
fn nameless(
    number: u64,
    first_seq: u64,
    previous: (u64, u64, u64),
    body: &[u8],
) -> (String, Vec<u8>) {
    let mut file = b"EVMGRLOG\x01\0\0\0\0\0\0\0".to_vec();
    for field in [
        number, first_seq, NOW_MS, previous.0, previous.1, previous.2,
    ] {
        file.extend(field.to_le_bytes());
    }
    let crc = crc32fast::hash(&[&file[..12], &file[16..64]].concat());
    file[12..16].copy_from_slice(&crc.to_le_bytes());
    let mut records = vec![];
    for seq in Seq(first_seq).until(Seq(first_seq + 3)) {
        let event = EventRecord {
            seq,
            time_ms: NOW_MS,
            attempts: 0,
            id: None,
            attributes: b"",
            body,
        };
        format::put_event(&mut records, &event, false);
    }
    format::seal(&mut records, number, 64);
    file.extend(records);
    (format::segment_name(number, Seq(first_seq)), file)
}

fn put(disk: &SimDisk, (name, content): &(String, Vec<u8>)) {
    assert!(disk.put(name, content), "{name}");
}

#[test]
fn segments_of_the_first_version_are_served_and_go_on() {
    let disk = SimDisk::new(1);
    let first = nameless(1, 1, (0, 0, 0), b"old");
    put(&disk, &first);
    put(&disk, &nameless(2, 4, (1, first.1.len() as u64, 4), b"old"));
    let (mut log, recovered) = open(&disk);
    assert!(recovered.damage.is_empty(), "{recovered:?}");
    assert_eq!(
        (recovered.next_seq.0, seqs(&mut log)),
        (7, (1..7).collect())
    );
    log.settle(Seq(2));
    assert_eq!(append(&mut log, None, b"new"), Seq(7));
    disk.crash();
    let (mut log, recovered) = open(&disk);
    assert!(recovered.damage.is_empty(), "{recovered:?}");
    assert_eq!(seqs(&mut log), [1, 3, 4, 5, 6, 7]);
    assert_eq!(log.take_refused(), []);
    for seq in seqs(&mut log) {
        log.settle(Seq(seq));
    }
    append(&mut log, None, b"newer");
    log.trim(NOW_MS).unwrap();
    assert_eq!(files(&disk).len(), 1);
}

#[test]
fn a_segment_of_the_first_version_can_not_be_newer_than_one_of_the_second() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    append(&mut log, None, b"ours");
    let stray = nameless(9, 40, (8, 100, 40), b"foreign");
    put(&disk, &stray);
    let (mut log, recovered) = open(&disk);
    assert_eq!((recovered.next_seq.0, seqs(&mut log)), (2, vec![1]));
    let refused = log.take_refused();
    assert_eq!(refused[0].file, stray.0);
    assert_eq!(disk.content(&refused[0].now), Some(stray.1));
}

#[test]
fn segments_of_the_first_version_have_their_events_in_order() {
    let disk = SimDisk::new(1);
    put(&disk, &nameless(5, 40, (4, 100, 40), b"ours"));
    put(&disk, &nameless(9, 7, (8, 100, 7), b"foreign"));
    let (mut log, recovered) = open(&disk);
    assert_eq!(
        (recovered.next_seq.0, seqs(&mut log)),
        (43, vec![40, 41, 42])
    );
    assert_eq!(log.take_refused().len(), 1);
}

#[test]
fn a_file_that_is_in_the_way_of_a_new_segment_is_set_aside() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    let name = format::segment_name(1, Seq(1));
    assert!(disk.put(&name, b"somebody's"));
    append(&mut log, None, b"one");
    let refused = log.take_refused();
    assert_eq!((refused.len(), &refused[0].file), (1, &name));
    assert_eq!(
        disk.content(&refused[0].now).as_deref(),
        Some(&b"somebody's"[..])
    );
    let (mut log, _) = open(&disk);
    assert_eq!(seqs(&mut log), [1]);
}

/// A segment whose header is damaged, and that has no record yet, is known by its name alone: it is the
/// last that tells which numbers were used, and a file beside it must not push it aside.
#[test]
fn a_file_of_the_same_number_does_not_bring_back_used_numbers() {
    for first_seq in [1, 2, 7, 1 << 40, u64::MAX] {
        let disk = SimDisk::new(1);
        let (mut log, _) = open(&disk);
        let seq = append(&mut log, None, b"done");
        log.settle(seq);
        log.commit(NOW_MS).unwrap();
        disk.fail_syncs_after(0);
        log.set_handing_out(true);
        log.commit(NOW_MS).unwrap_err();
        disk.fail_one_in(0);
        log.try_recover(NOW_MS).unwrap();
        log.trim(NOW_MS).unwrap();
        let blank = format::segment_name(2, Seq(2));
        assert_eq!(files(&disk), [&*blank]);
        disk.flip(&blank, 20, 0);
        disk.put(&format::segment_name(2, Seq(first_seq)), b"somebody's");
        let (mut log, recovered) = open(&disk);
        assert!(recovered.next_seq > seq, "{first_seq}: {recovered:?}");
        assert!(append(&mut log, None, b"new") > seq);
    }
}

#[test]
fn numbers_above_all_bounds_do_not_become_the_next() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    append(&mut log, None, b"one");
    // What a record says may be as wrong as a name.
    for seq in [u64::MAX, u64::MAX - 1, (1 << 62) + 1].map(Seq) {
        let mut records = vec![];
        format::put_id(&mut records, seq, NOW_MS, b"id");
        let event = EventRecord {
            seq,
            time_ms: NOW_MS,
            attempts: 0,
            id: Some(b"id"),
            attributes: b"",
            body: b"",
        };
        format::put_event(&mut records, &event, true);
        format::put_event(&mut records, &event, false);
        format::put_settled(&mut records, &[seq]);
        let name = files(&disk).pop().unwrap();
        let end = disk.content(&name).unwrap().len() as u64;
        format::seal(
            &mut records,
            format::parse_segment_name(&name).unwrap().0,
            end,
        );
        disk.open(&name).unwrap().write_at(end, &records).unwrap();
        let (mut log, _) = open(&disk);
        assert!(log.next_seq.0 < 1000, "{}", log.next_seq);
        append(&mut log, None, b"more");
        assert!(seqs(&mut log).starts_with(&[1]));
    }
}
