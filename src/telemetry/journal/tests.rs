use std::collections::{BTreeSet, VecDeque};
use std::fs;

use proptest::prelude::*;

use super::file::{Lines, TORN};
use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

fn rotation(bytes_max: u64, keep: u64) -> Rotation {
    Rotation { bytes_max, keep }
}

fn failed(queue: &str) -> Notable<'_> {
    Notable::StoreFailed {
        queue,
        reason: "no space",
    }
}

fn events(path: &Path) -> Vec<NotableEvent> {
    let mut events = vec![];
    read_events(path, |event| {
        events.push(event);
        Ok(())
    })
    .unwrap();
    events
}

fn queues(path: &Path) -> Vec<String> {
    let queue = |event: NotableEvent| event.text("queue").unwrap().to_owned();
    events(path).into_iter().map(queue).collect()
}

#[test]
fn codes_and_names_are_unique_and_sorted_and_no_field_hides_another() {
    let codes: Vec<_> = KINDS.iter().map(|kind| kind.code).collect();
    assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
    let names: BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(names.len(), KINDS.len());
    for kind in KINDS {
        let digits = kind.code.strip_prefix("EM-").unwrap();
        assert!(digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit()));
        let is_kebab = |byte| matches!(byte, b'a'..=b'z' | b'-');
        assert!(kind.name.bytes().all(is_kebab), "{}", kind.name);
    }
    // A field of one of these names would stand in a line twice.
    let own = [
        "ts", "code", "type", "level", "instance", "seq", "message", "lost",
    ];
    let fields = KINDS.iter().flat_map(|kind| kind.fields);
    assert!(
        !own.iter()
            .any(|name| fields.clone().any(|field| field == name))
    );
}

#[test]
fn a_record_has_its_fields_in_an_order_for_people() {
    let dead = Notable::DeadLetter {
        service: "Billing",
        reason: "terminated",
        detail: None,
        attempts: 1,
        subject: "a\u{1b}b",
        suppressed: 0,
    };
    let record = record(&dead, 7, 1_763_739_844_123, "EventManager@host/1");
    let line = String::from_utf8(line_of(&record)).unwrap();
    let expected = "{\"ts\":\"2025-11-21T15:44:04.123Z\",\"code\":\"EM-0302\",\"type\":\"dead-letter\",\
        \"level\":\"warn\",\"instance\":\"EventManager@host/1\",\"seq\":7,\
        \"message\":\"an event became a dead letter: no worker could process it\",\"attempts\":1,\"reason\":\"terminated\",\
        \"service\":\"Billing\",\"subject\":\"a\\u001bb\",\"suppressed\":0}\n";
    assert_eq!(line, expected);
}

#[test]
fn a_long_text_is_cut() {
    let long = "ä".repeat(5000);
    let record = record(&failed(&long), 1, 0, "");
    let queue = record.text("queue").unwrap();
    assert!(
        queue.len() < 1100 && queue.ends_with("ä…"),
        "{}",
        queue.len()
    );
}

/// A calendar that counts day by day.
fn slow_date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    for (month, length) in (1..).zip(DAYS) {
        let length = length + u64::from(month == 2 && is_leap(year));
        if days < length {
            return (year, month, days + 1);
        }
        days -= length;
    }
    unreachable!()
}

proptest! {
    #[test]
    fn times_are_those_of_the_calendar(ms in 0..4_102_444_800_000u64 * 4) {
        let (year, month, day) = slow_date(ms / 86_400_000);
        let date = format!("{year:04}-{month:02}-{day:02}T");
        prop_assert!(rfc3339(ms).starts_with(&date), "{} is not {date}", rfc3339(ms));
    }

    /// The ring, against all that was ever noted.
    #[test]
    fn pages_follow_one_another_without_a_gap_or_a_double(
        noted in 0..1200u64,
        after in 0..1300u64,
        max in 1..600usize,
    ) {
        let journal = Journal::default();
        (0..noted).for_each(|_| journal.note(&Notable::Stopping {}));
        let seqs = |page: &EventsPage| page.events.iter().map(|event| event.seq).collect::<Vec<_>>();
        let held = noted.saturating_sub(RING_MAX as u64) + 1..=noted;
        let page = journal.page(Some(after), max);
        let expected: Vec<u64> = held.clone().filter(|seq| *seq > after).take(max).collect();
        prop_assert_eq!(seqs(&page), expected.clone());
        prop_assert_eq!(page.events_after, expected.last().copied().unwrap_or(noted));
        prop_assert_eq!(page.missed, held.start().saturating_sub(1).saturating_sub(after));
        let latest = seqs(&journal.page(None, max));
        let all: Vec<u64> = held.collect();
        prop_assert_eq!(&latest[..], &all[all.len().saturating_sub(max)..]);
    }
}

#[test]
fn lines_are_written_in_order_and_files_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/events.jsonl");
    let journal = Journal::start("me".into(), path.clone(), rotation(4096, 2)).unwrap();
    let names: Vec<_> = (0..200).map(|n| format!("Queue{n}")).collect();
    names.iter().for_each(|name| journal.note(&failed(name)));
    assert!(journal.close(PATIENCE));
    let kept = queues(&path);
    assert!(
        kept.len() > 20 && kept[..] == names[names.len() - kept.len()..],
        "{kept:?}"
    );
    let mut files: Vec<_> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    files.sort_by_key(fs::DirEntry::file_name);
    assert_eq!(files.len(), 3);
    assert!(
        files
            .iter()
            .all(|file| file.metadata().unwrap().len() <= 4096)
    );
    let seqs: Vec<_> = events(&path).iter().map(|event| event.seq).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

/// What a kill leaves, at each byte of a line.
#[test]
fn a_torn_line_spoils_neither_readers_nor_the_next_line() {
    let dir = tempfile::tempdir().unwrap();
    let line = line_of(&record(&failed("Torn"), 1, 0, "me"));
    for end in 0..=line.len() {
        let path = dir.path().join(end.to_string());
        let whole = line_of(&record(&failed("Before"), 1, 0, "me"));
        fs::write(&path, [&whole, &line[..end]].concat()).unwrap();
        let read = queues(&path);
        assert_eq!(read.len(), 1 + usize::from(end == line.len()));
        let mut lines = file::open(&path, rotation(1 << 20, 1)).unwrap();
        let after = line_of(&record(&failed("After"), 1, 0, "me"));
        lines.append(&after).unwrap();
        let read = queues(&path);
        assert_eq!(
            (&*read[0], &**read.last().unwrap()),
            ("Before", "After"),
            "{end}"
        );
        let is_whole = end == line.len();
        assert_eq!(read.len(), 2 + usize::from(is_whole), "{end}: {read:?}");
    }
}

/// A disk that takes so many bytes more, and all that it took.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

impl Lines for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = lock(&self.0);
        let fits = disk.0.min(bytes.len());
        disk.0 -= fits;
        disk.1.extend_from_slice(&bytes[..fits]);
        match fits == bytes.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl Disk {
    /// As the file is opened: what is torn gets its end.
    fn open(&self) -> io::Result<Self> {
        let mut disk = self.clone();
        let is_torn = lock(&self.0).1.last().is_some_and(|last| *last != b'\n');
        if is_torn {
            disk.append(TORN)?;
        }
        Ok(disk)
    }
}

proptest! {
    /// Space comes and goes: each line is there whole, or counted as lost by the next that is.
    #[test]
    fn what_a_full_disk_costs_is_counted(
        steps in prop::collection::vec((any::<bool>(), 0..700usize), 1..40),
    ) {
        let disk = Disk::default();
        let mut writer = Writer::new(|| disk.open(), Arc::default());
        let mut told = 0;
        for (seq, (makes_space, bytes)) in (1..).zip(&steps) {
            if *makes_space {
                lock(&disk.0).0 += bytes;
            }
            let failed_first = writer.write(&line_of(&record(&failed("Full"), seq, 0, "me")));
            told += usize::from(failed_first.is_some());
        }
        let written = lock(&disk.0).1.clone();
        let mut expected_next = 1;
        let mut episodes = 0;
        for line in written.split_inclusive(|byte| *byte == b'\n') {
            let Ok(event) = serde_json::from_slice::<NotableEvent>(line) else { continue };
            if !line.ends_with(b"\n") { continue }
            let lost = event.number("lost").unwrap_or(0);
            prop_assert_eq!(event.seq, expected_next + lost);
            expected_next += lost + 1;
            episodes += usize::from(lost > 0);
        }
        let is_failing = expected_next <= steps.len() as u64;
        prop_assert_eq!(told, episodes + usize::from(is_failing));
    }
}

#[test]
fn a_disk_that_is_full_is_noted_once_and_holds_nobody_up() {
    let journal = Journal::start("me".into(), "/dev/full".into(), rotation(1 << 20, 1)).unwrap();
    (0..50).for_each(|_| journal.note(&failed("Full")));
    assert!(journal.close(PATIENCE));
    let page = journal.page(None, RING_MAX);
    let complaints: Vec<_> = page
        .events
        .iter()
        .filter(|event| event.code == "EM-0011")
        .collect();
    assert_eq!(complaints.len(), 1);
    assert_eq!(complaints[0].text("path"), Some("/dev/full"));
    assert!(page.lost_lines >= 50, "{}", page.lost_lines);
}

#[test]
fn lines_that_come_too_fast_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let queue = LineQueue::default();
    let journal = Journal::new("me".into(), Some(queue.clone()));
    let long = "x".repeat(1000);
    let mut noted = 0;
    // Nobody writes yet, so at some time the queue is full.
    while journal.page(None, 1).latest < 8000 {
        journal.note(&failed(&long));
        noted += 1;
    }
    let thread = std::thread::spawn({
        let (journal, path) = (journal.clone(), path.clone());
        move || journal.write_lines(&queue, &path, rotation(1 << 30, 1))
    });
    let mut followed = VecDeque::new();
    while followed.is_empty() {
        journal.note(&failed("After"));
        noted += 1;
        std::thread::yield_now();
        let read = if path.exists() { events(&path) } else { vec![] };
        followed.extend(
            read.into_iter()
                .filter(|event| event.fields.contains_key("lost")),
        );
    }
    assert!(journal.close(PATIENCE));
    thread.join().unwrap();
    let all = events(&path);
    let lost: u64 = all.iter().filter_map(|event| event.number("lost")).sum();
    assert!(lost > 0);
    assert_eq!(all.len() as u64 + lost, noted);
}

#[test]
fn a_file_that_was_moved_is_begun_anew_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let mut writer = Writer::new(|| file::open(&path, rotation(1 << 20, 1)), Arc::default());
    assert!(
        writer
            .write(&line_of(&record(&failed("Old"), 1, 0, "me")))
            .is_none()
    );
    fs::rename(&path, dir.path().join("moved")).unwrap();
    writer.reopen();
    assert!(
        writer
            .write(&line_of(&record(&failed("New"), 2, 0, "me")))
            .is_none()
    );
    assert_eq!(queues(&path), ["New"]);
    assert_eq!(queues(&dir.path().join("moved")), ["Old"]);
}
