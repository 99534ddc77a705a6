//! Which files of a directory may be segments of its log. Names and contents are input: anybody can put
//! a file there, and the wrong one must cost nothing of the queue's own.

use std::cmp::{Ordering, Reverse};
use std::io::{self, ErrorKind};

use super::LogError;
use super::directory::{Directory, SegmentFile};
use super::format::{
    self, HEADER_BYTES, HEADER_BYTES_MIN, HeaderError, NUMBER_MAX, Record, SegmentHeader,
};
use super::scan::{Item, scan};
use crate::seq::Seq;

/// A number further than this from those of the other segments was not assigned by this log.
const NUMBERS_APART_MAX: u64 = 1 << 32;

/// A file with a segment's name.
pub(super) struct Candidate {
    pub(super) number: u64,
    pub(super) first_seq: Seq,
    pub(super) name: String,
    pub(super) file_bytes: u64,
    pub(super) header: Option<SegmentHeader>,
    /// Whether the disk let its header be read.
    pub(super) is_readable: bool,
    evidence: Evidence,
}

/// What speaks for a file being the segment that its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// Nothing but its name: a creation that was interrupted leaves such a file.
    Name,
    /// It has a record that is valid in a segment of that number.
    Record,
    /// And the first event among them has the number that its name says.
    FirstEvent,
    /// It has the header, of the version that doesn't name the queue.
    NamelessHeader,
    Header,
}

impl Candidate {
    /// Where its records begin; if that isn't known, they are looked for from here.
    pub(super) fn start(&self) -> u64 {
        let header = self.header.as_ref();
        header.map_or(HEADER_BYTES_MIN as u64, SegmentHeader::bytes)
    }

    /// Whether it is what a creation leaves that failed or was interrupted.
    pub(super) fn is_stillborn(&self) -> bool {
        self.evidence == Evidence::Name
    }

    /// Of who wrote it, as far as its header says so.
    pub(super) fn epoch(&self) -> u64 {
        self.header.as_ref().map_or(0, |header| header.epoch)
    }

    fn is_nameless(&self) -> bool {
        self.evidence == Evidence::NamelessHeader
    }
}

/// The files of a directory that have a segment's name.
#[derive(Default)]
pub(super) struct Candidates {
    /// Those that may be segments, by number.
    pub(super) taken: Vec<Candidate>,
    /// Those that are none, and why not.
    pub(super) refused: Vec<(String, String)>,
}

/// Looks at all files.
///
/// # Errors
/// The disk's, or a file has a newer format. Nothing was changed.
pub(super) fn candidates<D: Directory>(directory: &D, queue: &str) -> Result<Candidates, LogError> {
    let mut found = Candidates::default();
    for name in directory.names()? {
        let Some((number, first_seq)) = format::parse_segment_name(&name) else {
            continue;
        };
        if number.max(first_seq.0) > NUMBER_MAX {
            found.refuse(name, "no segment has such a number");
            continue;
        }
        match look(directory, &name, queue, (number, first_seq))? {
            Ok(candidate) => found.taken.push(candidate),
            Err(why) => found.refuse(name, &why),
        }
    }
    found.taken.sort_by_key(|candidate| candidate.number);
    // First: what can't be a segment must not push one aside.
    found.refuse_shut_out();
    found.refuse_implausible();
    found.refuse_doubles();
    found.refuse_unordered();
    Ok(found)
}

/// One file, or why it isn't a segment of this queue.
fn look<D: Directory>(
    directory: &D,
    name: &str,
    queue: &str,
    (number, first_seq): (u64, Seq),
) -> Result<Result<Candidate, String>, LogError> {
    let file = match directory.open(name) {
        Err(error) if is_no_file(&error) => return Ok(Err(error.to_string())),
        opened => opened?,
    };
    // Offsets have 32 bits; no segment that was written is longer.
    let file_bytes = file.bytes()?.min(u64::from(u32::MAX));
    let mut head = vec![0; file_bytes.min(HEADER_BYTES as u64) as usize];
    let is_readable = file.read_at(0, &mut head).is_ok();
    let header = match SegmentHeader::decode(&head) {
        Err(HeaderError::Newer(version)) => {
            let name = name.to_owned();
            return Err(LogError::Newer { name, version });
        }
        Err(HeaderError::Damaged) => None,
        Ok(header) => Some(header),
    };
    if let Some(SegmentHeader {
        queue: Some(named), ..
    }) = &header
        && named != queue
    {
        return Ok(Err(format!("it is a segment of the queue {named:?}")));
    }
    if let Some(header) = &header
        && header.number == number
        && header.first_seq != first_seq
    {
        return Ok(Err(
            "it was renamed: its header has another number of its first event".into(),
        ));
    }
    // A reused file whose creation was interrupted may still have the header of its earlier use.
    let header = header.filter(|header| (header.number, header.first_seq) == (number, first_seq));
    let evidence = match &header {
        Some(header) if header.queue.is_some() => Evidence::Header,
        Some(_) => Evidence::NamelessHeader,
        None => evidence_of_records(&file, (number, first_seq), file_bytes),
    };
    Ok(Ok(Candidate {
        number,
        first_seq,
        name: name.to_owned(),
        file_bytes,
        header,
        is_readable,
        evidence,
    }))
}

fn evidence_of_records<F: SegmentFile>(
    file: &F,
    (number, first_seq): (u64, Seq),
    file_bytes: u64,
) -> Evidence {
    let start = HEADER_BYTES_MIN as u64;
    let mut first_event = None;
    let scanned = scan(file, number, start..file_bytes, |item| {
        if let Item::Record {
            record: Record::Event(event),
            ..
        } = item
        {
            first_event.get_or_insert(event.seq);
        }
    });
    match first_event == Some(first_seq) {
        true => Evidence::FirstEvent,
        false if scanned.end > start => Evidence::Record,
        false => Evidence::Name,
    }
}

/// A directory, a link that leads nowhere: not what an error of the disk looks like.
fn is_no_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::InvalidInput
    )
}

impl Candidates {
    fn refuse(&mut self, name: String, why: &str) {
        self.refused.push((name, why.to_owned()));
    }

    fn refuse_those(&mut self, why: &str, which: impl Fn(&Candidate) -> bool) {
        for candidate in self.taken.extract_if(.., |candidate| which(candidate)) {
            self.refused.push((candidate.name, why.to_owned()));
        }
    }

    /// Epochs go up with segments. A file of a lower one than is found before it was begun by who had lost
    /// the directory already, and didn't know.
    fn refuse_shut_out(&mut self) {
        self.taken
            .sort_by_key(|candidate| (candidate.number, Reverse(candidate.epoch())));
        let mut highest = 0;
        let late = self.taken.extract_if(.., |candidate| {
            let is_late = candidate.header.is_some() && candidate.epoch() < highest;
            highest = highest.max(candidate.epoch());
            is_late
        });
        let why = "it was begun by a daemon from which another had taken over";
        let late: Vec<_> = late.map(|late| (late.name, why.to_owned())).collect();
        self.refused.extend(late);
    }

    /// Of several files with one number the most evident one counts; of those that nothing but their names
    /// speaks for, the one that says that most numbers were used: to pass some over does no harm.
    fn refuse_doubles(&mut self) {
        self.taken.sort_by(|one, other| {
            let order = one.number.cmp(&other.number);
            let order = order.then(other.evidence.cmp(&one.evidence));
            order.then(other.first_seq.cmp(&one.first_seq))
        });
        let mut last = 0;
        let doubles = self.taken.extract_if(.., |candidate| {
            let is_double = candidate.number == last;
            last = candidate.number;
            is_double
        });
        let why = "another file is the segment of this number";
        let doubles: Vec<_> = doubles
            .map(|double| (double.name, why.to_owned()))
            .collect();
        self.refused.extend(doubles);
    }

    fn refuse_implausible(&mut self) {
        let named = |candidate: &&Candidate| candidate.evidence == Evidence::Header;
        if let Some(first_named) = self.taken.iter().find(named).map(|found| found.number) {
            let why = "its header doesn't name its queue, but those of older segments do";
            self.refuse_those(why, |candidate| {
                candidate.is_nameless() && candidate.number > first_named
            });
        }
        let evident = self
            .taken
            .iter()
            .filter(|candidate| !candidate.is_stillborn())
            .max_by_key(|candidate| (candidate.number, candidate.evidence));
        let newest = evident.map_or((0, 0), |newest| (newest.number, newest.first_seq.0));
        let is_far = |number: u64, from: u64| number > from + NUMBERS_APART_MAX;
        let why = "it contains no segment data, and its numbers are far from those of the segments";
        self.refuse_those(why, |candidate| {
            let numbers = (candidate.number, candidate.first_seq.0);
            let is_far = is_far(numbers.0, newest.0) || is_far(numbers.1, newest.1);
            candidate.is_stillborn() && is_far
        });
        let why = "it can't be read";
        self.refuse_those(why, |found| found.is_stillborn() && !found.is_readable);
    }

    /// Sequence numbers go up with those of the segments: where they don't, the less evident file is
    /// none of them.
    fn refuse_unordered(&mut self) {
        let why = "its events don't fit between those of the segments beside it";
        let mut at = self.taken.len();
        while at > 1 {
            at -= 1;
            let (older, newer) = (&self.taken[at - 1], &self.taken[at]);
            // Of files that hold nothing both may tell how far the numbers had come.
            let hold_nothing = older.is_stillborn() && newer.is_stillborn();
            if older.first_seq <= newer.first_seq || hold_nothing {
                continue;
            }
            let previous = newer.header.as_ref().map(|header| header.previous.number);
            let is_newer = match newer.evidence.cmp(&older.evidence) {
                Ordering::Less => true,
                Ordering::Equal => previous != Some(older.number),
                Ordering::Greater => false,
            };
            let outlier = self.taken.remove(if is_newer { at } else { at - 1 });
            self.refuse(outlier.name, why);
            at = self.taken.len();
        }
    }
}
