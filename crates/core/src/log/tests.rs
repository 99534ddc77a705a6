//! The log, one case after the other; and a second reading of its format.

use super::sim_disk::SimDisk;
use super::*;

/// What a record is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Event(u64),
    Settled(Vec<(u64, u64)>),
    Attempts(Vec<u64>),
    Later(Vec<(u64, u64)>),
    Id(u64),
}

#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) offset: usize,
    pub(super) bytes: usize,
    pub(super) kind: Kind,
}

/// The records of a segment, read from docs/log-format.md and not with the code under test.
/// What isn't whole is skipped.
pub(super) fn parse(file: &[u8], number: u64) -> Vec<Parsed> {
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let mut records = vec![];
    let mut at = 64;
    while at + 20 <= file.len() {
        let position = [number.to_le_bytes(), (at as u64).to_le_bytes()].concat();
        let check = crc32fast::hash(&[&position, &file[at..at + 12]].concat());
        let bytes = 20 + u32_at(at + 4) as usize;
        if check != u32_at(at + 12) || at + bytes > file.len() {
            at += 1;
            continue;
        }
        let payload = at + 20;
        let check = crc32fast::hash(&[&file[at..at + 16], &file[payload..at + bytes]].concat());
        if check != u32_at(at + 16) {
            at += bytes;
            continue;
        }
        let kind = match file[at] {
            0xE1 | 0xE2 => Kind::Event(u64_at(payload)),
            0xE3 => Kind::Settled(
                (payload..at + bytes)
                    .step_by(16)
                    .map(|at| (u64_at(at), u64_at(at + 8)))
                    .collect(),
            ),
            0xE4 => Kind::Attempts((payload..at + bytes).step_by(12).map(u64_at).collect()),
            0xE5 => Kind::Id(u64_at(payload)),
            0xE7 => Kind::Later(
                (payload..at + bytes)
                    .step_by(16)
                    .map(|at| (u64_at(at), u64_at(at + 8)))
                    .collect(),
            ),
            kind => panic!("kind {kind}"),
        };
        records.push(Parsed {
            offset: at,
            bytes,
            kind,
        });
        at += bytes;
    }
    records
}

pub(super) const NOW_MS: u64 = 1_700_000_000_000;

pub(super) fn limits() -> LogLimits {
    LogLimits {
        segment_bytes: 2000,
        event_bytes_max: 10_000,
        reserve_bytes: 2000,
        ..LogLimits::default()
    }
}

pub(super) fn open(disk: &SimDisk) -> (QueueLog<SimDisk>, Recovered) {
    QueueLog::open(disk.clone(), "Billing", limits(), NOW_MS).unwrap()
}

pub(super) fn append(log: &mut QueueLog<SimDisk>, id: Option<&[u8]>, body: &[u8]) -> Seq {
    let event = NewEvent {
        id,
        attributes: b"a",
        body,
    };
    let seq = log.append(event, NOW_MS).unwrap();
    log.commit(NOW_MS).unwrap();
    seq
}

pub(super) fn seqs(log: &mut QueueLog<SimDisk>) -> Vec<u64> {
    let events = log
        .read(Seq::ZERO, usize::MAX, u64::MAX)
        .unwrap_or_default();
    events.iter().map(|event| event.seq.0).collect()
}

pub(super) fn files(disk: &SimDisk) -> Vec<String> {
    let mut names = disk.names().unwrap();
    names.sort();
    names
}

#[test]
fn a_segment_is_what_the_documentation_says() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    append(&mut log, Some(b"id"), b"body");
    log.note_attempts(Seq(1), 7);
    log.commit(NOW_MS).unwrap();
    log.settle(Seq(1));
    log.commit(NOW_MS).unwrap();
    assert_eq!(files(&disk), ["0000000000000001-0000000000000001.log"]);
    let file = disk
        .content("0000000000000001-0000000000000001.log")
        .unwrap();
    assert_eq!(&file[..12], b"EVMGRLOG\x02\0\0\0");
    let crc = crc32fast::hash(&[&file[..12], &file[16..64]].concat());
    assert_eq!(file[12..16], crc.to_le_bytes());
    let fields: [u64; 6] = [1, 1, NOW_MS, 0, 0, 1];
    let fields: Vec<u8> = fields
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect();
    assert_eq!(
        file[16..64],
        fields[..40]
            .iter()
            .copied()
            .chain([0; 8])
            .collect::<Vec<_>>()
    );
    let event = [
        &1u64.to_le_bytes()[..],
        &NOW_MS.to_le_bytes(),
        &0u32.to_le_bytes(),
        &1u32.to_le_bytes(),
        &2u16.to_le_bytes(),
        b"idabody",
    ];
    let crc = crc32fast::hash(&file[68..512]);
    assert_eq!(file[64..68], crc.to_le_bytes());
    assert_eq!(&file[68..78], b"\x07\0Billing\0");
    assert!(file[77..504].iter().all(|byte| *byte == 0));
    assert_eq!(file[504..512], NOW_MS.to_le_bytes());
    assert_eq!(file[532..565], event.concat());
    let kinds: Vec<Kind> = parse(&file, 1).into_iter().map(|r| r.kind).collect();
    let expected = [
        Kind::Event(1),
        Kind::Attempts(vec![1]),
        Kind::Settled(vec![(1, 1)]),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn a_newer_format_is_left_alone() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    append(&mut log, None, b"body");
    let name = files(&disk).remove(0);
    let file = disk.open(&name).unwrap();
    file.write_at(8, &3u32.to_le_bytes()).unwrap();
    let (_, recovered) = open(&disk);
    assert_eq!(
        recovered.damage[0].why, "its header is damaged",
        "its check is wrong"
    );

    let content = disk.content(&name).unwrap();
    let crc = crc32fast::hash(&[&content[..12], &content[16..64]].concat());
    file.write_at(12, &crc.to_le_bytes()).unwrap();
    let content = disk.content(&name);
    let error = QueueLog::open(disk.clone(), "Billing", limits(), NOW_MS).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("format version 3, and this release reads up to 2"),
        "{error}"
    );
    assert_eq!(disk.content(&name), content);
}

#[test]
fn what_can_not_be_read_waits_with_what_is_behind_it() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    for _ in 0..6 {
        append(&mut log, None, &[7; 200]);
    }
    disk.make_unreadable(&files(&disk)[0], 512 + 2 * 247 + 100);
    assert_eq!(seqs(&mut log), [1, 2]);
    assert!(log.read(Seq(3), 10, u64::MAX).is_err());
    assert_eq!((log.unsettled_events(), log.is_dirty()), (6, false));
    assert!(log.failed().is_none() && log.take_damage().is_empty());
    disk.make_readable();
    assert_eq!(seqs(&mut log), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_bad_sector_costs_its_events_only_after_a_restart() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    for _ in 0..6 {
        append(&mut log, None, &[7; 200]);
    }
    disk.make_unreadable(&files(&disk)[0], 512 + 2 * 247 + 100);
    let (mut log, recovered) = open(&disk);
    assert_eq!(
        recovered
            .damage
            .iter()
            .map(|damage| damage.seqs.len() as u64)
            .sum::<u64>(),
        1
    );
    assert_eq!(seqs(&mut log), [1, 2, 4, 5, 6]);
    log.commit(NOW_MS).unwrap();
    let (_, recovered) = open(&disk);
    assert_eq!(
        (recovered.damage.len(), recovered.damage[0].seqs.len()),
        (1, 0)
    );
}

#[test]
fn what_looks_like_records_within_an_event_is_not_taken_for_them() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    append(&mut log, None, b"one");
    log.settle(Seq(1));
    append(&mut log, None, b"two");
    let name = files(&disk).remove(0);
    let whole = disk.content(&name).unwrap();
    append(&mut log, None, &whole);
    append(&mut log, None, b"four");
    // The length of the event that holds the copy.
    disk.flip(&name, whole.len() + 4, 0);
    let (mut log, recovered) = open(&disk);
    assert_eq!(seqs(&mut log), [2, 4]);
    assert_eq!(
        (recovered.damage.len(), recovered.damage[0].seqs.len()),
        (1, 1)
    );
    assert_eq!(recovered.damage[0].bytes as usize, 47 + whole.len());
}

#[test]
fn a_few_old_events_do_not_hold_a_segment() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    append(&mut log, Some(b"stuck"), b"stuck");
    log.note_attempts(Seq(1), 3);
    for _ in 0..40 {
        let seq = append(&mut log, None, &[7; 200]);
        log.settle(seq);
    }
    assert!(files(&disk).len() > 4);
    log.trim(NOW_MS).unwrap();
    disk.crash();
    assert!(files(&disk).len() <= 2, "{:?}", files(&disk));
    let (mut log, recovered) = open(&disk);
    assert_eq!(recovered.lowest_unsettled, Some(Seq(1)));
    let stuck = &log.read(Seq::ZERO, 1, 0).unwrap()[0];
    assert_eq!(
        (stuck.seq, stuck.attempts, &stuck.body[..]),
        (Seq(1), 3, &b"stuck"[..])
    );
    assert_eq!(
        (stuck.time_ms, log.seen(b"stuck", NOW_MS)),
        (NOW_MS, Some(Seq(1)))
    );
}

#[test]
fn when_an_event_may_go_again_is_remembered_until_then() {
    const LATER_MS: u64 = NOW_MS + 60_000;
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    for _ in 0..4 {
        append(&mut log, None, b"waits");
    }
    // An event that has not been committed yet, one that is done, and one of which nobody knows.
    let event = NewEvent {
        id: None,
        attributes: b"a",
        body: b"waits",
    };
    let last = log.append(event, NOW_MS).unwrap();
    for seq in [Seq(1), Seq(2), Seq(3), last, Seq(99)] {
        log.note_later(seq, LATER_MS + seq.0);
    }
    log.note_later(Seq(4), NOW_MS - 1);
    log.settle(Seq(2));
    log.commit(NOW_MS).unwrap();
    log.settle(Seq(3));
    log.commit(NOW_MS).unwrap();
    disk.crash();
    let expected = vec![(Seq(1), LATER_MS + 1), (last, LATER_MS + last.0)];
    let (mut log, recovered) = open(&disk);
    assert_eq!(recovered.later, expected);
    let file = disk
        .content("0000000000000001-0000000000000001.log")
        .unwrap();
    let said = parse(&file, 1)
        .into_iter()
        .filter_map(|record| match record.kind {
            Kind::Later(later) => Some(later),
            _ => None,
        });
    assert_eq!(said.flatten().count(), 4);

    // Its segment goes, and the record with it.
    for _ in 0..40 {
        let seq = append(&mut log, None, &[7; 200]);
        log.settle(seq);
    }
    log.trim(NOW_MS).unwrap();
    assert!(
        files(&disk)
            .iter()
            .all(|name| !name.starts_with("0000000000000001-"))
    );
    disk.crash();
    assert_eq!(open(&disk).1.later, expected);
    // A later word goes before an earlier one.
    let (mut log, _) = open(&disk);
    log.note_later(Seq(1), LATER_MS + 500);
    log.commit(NOW_MS).unwrap();
    disk.crash();
    let (_, recovered) = open(&disk);
    assert_eq!(recovered.later[0], (Seq(1), LATER_MS + 500));
    let (_, recovered) = QueueLog::open(disk, "Billing", limits(), LATER_MS + 400).unwrap();
    assert_eq!(recovered.later, [(Seq(1), LATER_MS + 500)]);
}

#[test]
fn settling_gives_a_full_disk_its_room_back() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    disk.leave_room(16_000);
    let full = loop {
        let event = NewEvent {
            id: Some(&log.next_seq.0.to_le_bytes()),
            attributes: b"",
            body: &[7; 300],
        };
        log.append(event, NOW_MS).unwrap();
        if let Err(error) = log.commit(NOW_MS) {
            break error.to_string();
        }
    };
    assert!(full.starts_with("the log has failed: "), "{full}");
    disk.leave_room(0);
    let found = seqs(&mut log);
    assert!(found.len() > 20);
    assert!(log.try_recover(NOW_MS).is_err());
    found.iter().for_each(|seq| log.settle(Seq(*seq)));
    log.trim(NOW_MS).unwrap();
    log.try_recover(NOW_MS).unwrap();
    log.commit(NOW_MS).unwrap();
    let is_known = |log: &QueueLog<SimDisk>, seq: u64| {
        let seen = log.seen(&seq.to_le_bytes(), NOW_MS);
        seen.map(|seq| seq.0)
    };
    assert_eq!(is_known(&log, 1), Some(1), "though its segment is gone");
    disk.crash();
    let (mut log, recovered) = open(&disk);
    assert!(seqs(&mut log).is_empty());
    assert!(recovered.next_seq.0 > *found.last().unwrap());
    assert!(found.iter().all(|seq| is_known(&log, *seq) == Some(*seq)));
}

#[test]
fn a_disk_that_stays_full_does_not_fill_with_empty_segments() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    append(&mut log, None, b"one");
    for _ in 0..20 {
        disk.leave_room(700);
        let event = NewEvent {
            id: None,
            attributes: b"",
            body: &[7; 900],
        };
        log.append(event, NOW_MS).unwrap();
        log.commit(NOW_MS).unwrap_err();
        log.try_recover(NOW_MS).unwrap();
    }
    assert_eq!(files(&disk).len(), 2);
    assert_eq!(seqs(&mut log), [1]);
}

#[test]
fn a_million_events_are_known_by_little_memory() {
    // A vector that grows holds at most twice its length.
    assert!(2 * 1_000_000 * size_of::<Slot>() <= 32_000_000);
}

#[test]
fn events_have_their_bounds() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    let event = |id, body| NewEvent {
        id: Some(id),
        attributes: b"",
        body,
    };
    let (long, large) = (vec![0; 65535], vec![0; 10_000]);
    assert!(log.append(event(&[], &large), NOW_MS).is_ok());
    for (id, body) in [(&long[..], &[][..]), (&[0], &large)] {
        let error = log.append(event(id, body), NOW_MS).unwrap_err();
        assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
    }
    log.commit(NOW_MS).unwrap();
    assert_eq!(seqs(&mut log), [1]);
    assert_eq!(log.seen(b"", NOW_MS), Some(Seq(1)), "an empty id is one");
}

#[test]
fn what_was_not_committed_is_never_found_again() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk);
        // Without a committed record the failed segment is left out, else it ends before the tail.
        let committed: Vec<u64> = (0..seed % 3)
            .map(|_| append(&mut log, None, b"kept").0)
            .collect();
        for _ in 0..1 + seed % 2 {
            for _ in 0..3 {
                let event = NewEvent {
                    id: None,
                    attributes: b"",
                    body: b"lost",
                };
                log.append(event, NOW_MS).unwrap();
            }
            // A new segment takes two, for its header and the directory.
            disk.fail_syncs_after(if log.active.is_none() { 2 } else { 0 });
            log.commit(NOW_MS).unwrap_err();
            disk.fail_one_in(0);
            log.try_recover(NOW_MS).unwrap();
        }
        disk.crash();
        let (mut log, recovered) = open(&disk);
        assert_eq!(seqs(&mut log), committed, "seed {seed}");
        assert!(recovered.damage.is_empty(), "seed {seed}: {recovered:?}");
    }
}

#[test]
fn what_was_settled_before_it_was_damaged_is_not_missed() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    append(&mut log, None, b"one");
    append(&mut log, None, b"two");
    log.settle(Seq(2));
    log.commit(NOW_MS).unwrap();
    append(&mut log, None, b"three");
    let name = files(&disk).remove(0);
    disk.flip(&name, 512 + 50 + 10, 0);
    let (mut log, recovered) = open(&disk);
    assert_eq!(seqs(&mut log), [1, 3]);
    assert_eq!(
        (recovered.damage.len(), recovered.damage[0].seqs.len()),
        (1, 0)
    );
}

#[test]
fn a_leftover_goes_before_the_segment_that_knows_it() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    for segments in 1..=2 {
        let event = NewEvent {
            id: None,
            attributes: b"",
            body: b"lost",
        };
        log.append(event, NOW_MS).unwrap();
        disk.fail_syncs_after(if log.active.is_none() { 2 } else { 0 });
        log.commit(NOW_MS).unwrap_err();
        // The next segment can be created, and the blank one not removed.
        disk.fail_syncs_after(2);
        log.try_recover(NOW_MS).unwrap();
        disk.fail_one_in(0);
        assert_eq!(files(&disk).len(), 1 + segments);
        let seq = append(&mut log, None, b"kept");
        log.settle(seq);
    }
    log.commit(NOW_MS).unwrap();
    log.trim(NOW_MS).unwrap();
    assert_eq!(files(&disk).len(), 1);
    let (mut log, recovered) = open(&disk);
    assert!(recovered.damage.is_empty(), "{recovered:?}");
    assert!(seqs(&mut log).is_empty());
}

/// The disk may have made the file, and fail all the same.
#[test]
fn a_file_whose_creation_failed_is_removed_later() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    let seq = append(&mut log, None, b"done");
    log.settle(seq);
    disk.fail_one_in(1);
    log.commit(NOW_MS).unwrap_err();
    log.try_recover(NOW_MS).unwrap_err();
    disk.fail_one_in(0);
    assert_eq!(files(&disk).len(), 2, "there is a file that can't be begun");
    log.try_recover(NOW_MS).unwrap();
    log.commit(NOW_MS).unwrap();
    log.trim(NOW_MS).unwrap();
    assert_eq!(files(&disk).len(), 1);
    let (_, recovered) = open(&disk);
    assert!(recovered.damage.is_empty(), "{recovered:?}");
}

#[test]
fn a_segment_of_ids_is_not_copied_again_and_again() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    for n in 0..100u64 {
        append(&mut log, Some(&n.to_le_bytes()), b"");
    }
    (1..=100).for_each(|seq| log.settle(Seq(seq)));
    log.commit(NOW_MS).unwrap();
    let before = files(&disk);
    assert!(before.len() > 2);
    log.trim(NOW_MS).unwrap();
    assert_eq!(files(&disk), before);
    log.trim(NOW_MS + limits().dedup_window_ms).unwrap();
    assert_eq!(files(&disk).len(), 1);
}

#[test]
fn what_is_carried_does_not_say_that_nothing_was_given() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    log.set_handing_out(true);
    append(&mut log, None, b"stuck");
    for _ in 0..40 {
        let seq = append(&mut log, None, &[7; 200]);
        log.settle(seq);
    }
    let tried = append(&mut log, None, b"tried");
    log.note_attempts(tried, 1);
    log.set_handing_out(false);
    let before = files(&disk).len();
    log.trim(NOW_MS).unwrap();
    assert!(files(&disk).len() < before, "nothing was carried");

    // The process is killed before the attempt is committed.
    drop(log);
    let (mut log, recovered) = open(&disk);
    let events = log.read(Seq::ZERO, 9, u64::MAX).unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.seq, last.attempts), (tried, 0));
    assert!(recovered.given_below > tried, "{recovered:?}");
}
