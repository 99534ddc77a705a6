//! The events of a durable queue that are not in its backlog: on their way to the disk, or on it alone.

mod timed;

use std::collections::BTreeSet;
use std::time::Instant;

use super::backlog::{Backlog, ClockChange, Item, Lost};
use crate::seq::Seq;
use timed::Timed;
pub use timed::Times;

/// A backlog of which fewer events may go than this takes more from the disk.
const LOW_EVENTS: usize = if cfg!(test) { 4 } else { 1024 };
/// What is read at once, at most.
const READ_EVENTS: usize = 1024;
const READ_BYTES: u64 = 4 << 20;

/// What should be read from the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// What comes in the order of the queue.
    InOrder {
        /// The lowest sequence number.
        from: Seq,
        /// The most events.
        events_max: usize,
        /// The most bytes.
        bytes_max: u64,
    },
    /// Single events whose time has come.
    These {
        /// Their sequence numbers, the lowest first.
        seqs: Vec<Seq>,
        /// The most bytes.
        bytes_max: u64,
    },
}

/// What was on disk and is not in the backlog, though it was read.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "each event that is lost is counted"]
pub struct ReadLoss {
    /// Larger than all that may wait.
    pub too_large: Lost,
    /// What should have been there, and wasn't.
    pub missing: u64,
}

/// What the disk is asked for just now.
#[derive(Debug)]
enum Reading {
    InOrder,
    These(Vec<Seq>),
}

/// Whether the log has recorded that events are being delivered. None is before that, so that after a crash
/// each event that may have been delivered is known to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum HandingOut {
    #[default]
    No,
    Asked,
    Yes,
}

/// Where a durable queue's events are beside its backlog.
///
/// An event is *pending* from when it came until it is durable. Then it goes to the backlog, if that
/// has room and nothing before it is on disk alone; else its body is forgotten, and it is on disk alone
/// until it is read again: in the order of the queue when few events of the backlog may go, or, if it
/// has to wait for a time, when that has come. What waits for a time, in the backlog too, makes room for
/// what may go. So memory is bounded but for some 100 bytes for each event with a time, and as many more if
/// others with its key wait for it; and nothing that may go waits behind what may not, unless memory is full
/// of events that wait for their keys. Even then those that workers had before are read, one by one: they are
/// the ones for which others wait.
///
/// [`handle_timeout`](Self::handle_timeout) and [`wants`](Self::wants) should be called after each
/// change, and when [`poll_timeout`](Self::poll_timeout) says so.
#[derive(Debug, Default)]
pub struct Spill {
    pending: usize,
    /// From this sequence number on events are on disk alone.
    from: Option<Seq>,
    /// How many those are, but for parked ones.
    in_order: u64,
    timed: Timed,
    reading: Option<Reading>,
    /// Events that left the disk while it is read: they may be among what is read.
    gone: BTreeSet<Seq>,
    /// Events from `from` on that are done with, as they had ended or are too large. The log may give them
    /// up before it is told so.
    done: BTreeSet<Seq>,
    /// Events came while the disk is read: it may have been read before.
    has_news: bool,
    /// What the queue holds on disk is known.
    is_open: bool,
    /// Events below this number may have been given to workers by an earlier run, unless that is noted.
    given_below: Seq,
    handing_out: HandingOut,
    /// What could not be taken from the disk because the backlog had no room for so many bytes.
    lacks_bytes: usize,
}

impl Spill {
    /// What was found on disk: the first event, how many there are, below which number they may have been
    /// given to workers without a note of it, and the times of those that have some.
    pub fn found(
        &mut self,
        first: Option<Seq>,
        events: u64,
        given_below: Seq,
        timed: impl IntoIterator<Item = (Seq, Times)>,
    ) {
        timed
            .into_iter()
            .for_each(|(seq, times)| self.timed.add(seq, times));
        self.given_below = given_below;
        self.is_open = true;
        self.in_order = events.saturating_sub(self.timed.parked());
        self.from = first.filter(|_| self.in_order > 0);
    }

    /// Whether it is known what the queue holds on disk.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether events may be given to workers.
    pub fn may_hand_out(&self) -> bool {
        self.handing_out == HandingOut::Yes
    }

    /// Events should be given to workers: whether the log is to be told so now.
    pub fn wants_to_hand_out(&mut self) -> bool {
        let is_asked = self.handing_out != HandingOut::No;
        if !is_asked {
            self.handing_out = HandingOut::Asked;
        }
        !is_asked
    }

    /// The log knows that events are given to workers.
    pub fn hands_out(&mut self) {
        if self.handing_out == HandingOut::Asked {
            self.handing_out = HandingOut::Yes;
        }
    }

    /// No worker holds an event, and none will get one, for now, or as the daemon stops: whether the log is to be
    /// told so now.
    pub fn stops_handing_out(&mut self, is_stopping: bool) -> bool {
        let is_known = match self.handing_out {
            HandingOut::No => false,
            // Some worker waits for the answer.
            HandingOut::Asked => is_stopping,
            HandingOut::Yes => true,
        };
        if is_known {
            self.handing_out = HandingOut::No;
        }
        is_known
    }

    /// So many events came, and are on their way to the disk. Each is [committed](Self::committed) later,
    /// or [failed](Self::failed).
    pub fn came(&mut self, events: usize) {
        self.pending += events;
    }

    /// These events are durable; `seqs` has the sequence number of each, or none for one that was known
    /// already. What the backlog gave up, which is nothing unless an event is larger than all of it.
    pub fn committed(
        &mut self,
        items: Vec<Item>,
        seqs: &[Option<Seq>],
        backlog: &mut Backlog,
    ) -> Lost {
        self.pending -= items.len();
        let mut lost = Lost::default();
        for (mut item, seq) in items.into_iter().zip(seqs) {
            let Some(seq) = *seq else { continue };
            item.seq = Some(seq);
            if !backlog.fits(&item) {
                self.set_done(seq);
                lost.events += 1;
                lost.seqs.push(seq);
            } else if self.from.is_none() && self.make_room(&item, backlog) {
                add(backlog, item, &mut lost);
            } else {
                self.keep_on_disk(seq, Times::of(&item));
            }
        }
        lost
    }

    /// The event is done with, though it is on disk until the log is told so.
    fn set_done(&mut self, seq: Seq) {
        if self.from.is_some_and(|from| seq >= from) {
            self.done.insert(seq);
        }
    }

    fn keep_on_disk(&mut self, seq: Seq, times: Times) {
        if times.not_before.is_none() {
            self.from.get_or_insert(seq);
            self.in_order += 1;
        }
        self.timed.add(seq, times);
        self.has_news |= self.reading.is_some();
    }

    /// So many events could not be made durable, and are lost.
    pub fn failed(&mut self, events: usize) {
        self.pending -= events;
    }

    /// Whether the backlog has room, if what waits for its time there makes way: it waits on disk.
    fn make_room(&mut self, item: &Item, backlog: &mut Backlog) -> bool {
        while !backlog.has_room(item) {
            // An event that goes later than all of these would be the one to make way.
            let latest = backlog.latest_due();
            if latest.is_none() || item.not_before >= latest {
                return false;
            }
            let Some((due, later)) = backlog.take_latest_due() else {
                return false;
            };
            let Some(seq) = later.seq else { return false };
            self.park(seq, &later, due);
        }
        true
    }

    /// The event waits for its time on disk.
    fn park(&mut self, seq: Seq, item: &Item, due: Instant) {
        let times = Times {
            not_before: Some(due),
            ..Times::of(item)
        };
        self.timed.remove(seq);
        self.timed.add(seq, times);
    }

    /// Whether the backlog takes an event from disk: it has room, or only what others there wait for can
    /// make some.
    pub fn may_read_into(&self, backlog: &Backlog) -> bool {
        self.has_room_in(backlog) || self.needed_by(backlog).is_some()
    }

    /// An event that goes again, while none of the backlog can go: without it they may not go on at all.
    fn needed_by(&self, backlog: &Backlog) -> Option<Seq> {
        let again = self.timed.first_again();
        again.filter(|_| backlog.ready() == 0)
    }

    /// Whether the backlog has room for the next event from disk, as far as its size is known.
    fn has_room_in(&self, backlog: &Backlog) -> bool {
        // Fewer may wait since then; what is larger than all of it is dropped when it is read.
        let lacks_bytes = self.lacks_bytes.min(backlog.limits().bytes_max);
        backlog.any_waits_for_time() || backlog.has_bytes(lacks_bytes)
    }

    /// What to read: if few events of the backlog may go, it has room, and the last reading is done.
    pub fn wants(&mut self, backlog: &Backlog) -> Option<Wanted> {
        if self.reading.is_some() || backlog.ready() >= LOW_EVENTS {
            return None;
        }
        let bytes_max = READ_BYTES;
        let seqs: Vec<_> = match self.has_room_in(backlog) {
            true => self.timed.ready().take(READ_EVENTS).collect(),
            false => vec![self.needed_by(backlog)?],
        };
        if !seqs.is_empty() {
            self.reading = Some(Reading::These(seqs.clone()));
            return Some(Wanted::These { seqs, bytes_max });
        }
        let from = self.from?;
        self.reading = Some(Reading::InOrder);
        Some(Wanted::InOrder {
            from,
            events_max: READ_EVENTS,
            bytes_max,
        })
    }

    /// What was read, in the order of sequence numbers; what there is no room for is read again. What
    /// the backlog gave up, and what should have been there.
    pub fn read(&mut self, items: Vec<Item>, backlog: &mut Backlog) -> ReadLoss {
        let mut loss = ReadLoss::default();
        match self.reading.take() {
            Some(Reading::InOrder) => self.read_in_order(items, backlog, &mut loss),
            Some(Reading::These(seqs)) => self.read_these(&seqs, items, backlog, &mut loss),
            None => {}
        }
        self.reading_is_over();
        loss
    }

    fn read_in_order(&mut self, items: Vec<Item>, backlog: &mut Backlog, loss: &mut ReadLoss) {
        if items.is_empty() && !self.has_news {
            loss.missing += std::mem::take(&mut self.in_order);
            if let Some(from) = self.from {
                self.timed.forget_from(from);
            }
        }
        for item in items {
            let seq = item.seq.unwrap_or_default();
            let is_gone = self.gone.contains(&seq) || self.done.contains(&seq);
            let is_on_disk_alone = !is_gone && !self.timed.is_parked(seq);
            if is_on_disk_alone {
                if !self.take_in(item, backlog, &mut loss.too_large) {
                    break;
                }
                self.in_order = self.in_order.saturating_sub(1);
            }
            self.from = Some(seq.next());
        }
        if let Some(from) = self.from {
            self.done = self.done.split_off(&from);
        }
    }

    fn read_these(
        &mut self,
        seqs: &[Seq],
        items: Vec<Item>,
        backlog: &mut Backlog,
        loss: &mut ReadLoss,
    ) {
        let last = items.last().map(|item| item.seq.unwrap_or_default());
        let found: BTreeSet<_> = items.iter().filter_map(|item| item.seq).collect();
        for item in items {
            let is_wanted = item.seq.is_some_and(|seq| self.timed.is_ready(seq));
            if is_wanted && !self.take_in(item, backlog, &mut loss.too_large) {
                break;
            }
        }
        // Others before the last one that was found are not there; what comes after it was too much.
        let missing = seqs
            .iter()
            .filter(|seq| last.is_none_or(|last| **seq < last));
        for seq in missing.filter(|seq| !found.contains(seq)) {
            loss.missing += u64::from(self.timed.remove(*seq).is_some());
            backlog.give_up_turn(*seq);
        }
    }

    /// Takes an event that was read into the backlog; false if that has no room.
    fn take_in(&mut self, mut item: Item, backlog: &mut Backlog, lost: &mut Lost) -> bool {
        let seq = item.seq.unwrap_or_default();
        if let Some(times) = self.timed.get(seq) {
            times.restore(&mut item);
        }
        if !backlog.fits(&item) {
            self.timed.remove(seq);
            backlog.give_up_turn(seq);
            lost.add(&item);
            return true;
        }
        item.given_before = seq < self.given_below && item.attempt == 0;
        if !self.make_room(&item, backlog) {
            if let Some(due) = item.not_before {
                // It goes later than all that could make way, or nothing can.
                backlog.keep_turn(&item);
                self.park(seq, &item, due);
                return true;
            }
            if !self.timed.is_again(seq) || backlog.ready() > 0 {
                self.lacks_bytes = item.cost();
                return false;
            }
        }
        self.lacks_bytes = 0;
        self.timed.remove(seq);
        add(backlog, item, lost);
        true
    }

    fn reading_is_over(&mut self) {
        self.reading = None;
        self.gone.clear();
        self.has_news = false;
        self.forget_order_if_empty();
    }

    fn forget_order_if_empty(&mut self) {
        if self.in_order == 0 && self.reading.is_none() {
            self.from = None;
            self.done.clear();
        }
    }

    /// The disk was not asked, or could not answer: it is asked again when more is [wanted](Self::wants).
    pub fn not_read(&mut self) {
        self.reading_is_over();
    }

    /// These were given up on the disk, or are damaged there; how many of them were on it alone.
    pub fn gave_up(&mut self, seqs: impl IntoIterator<Item = Seq>, backlog: &mut Backlog) -> u64 {
        seqs.into_iter()
            .map(|seq| u64::from(!self.done.remove(&seq) && self.leave_disk(seq, backlog)))
            .sum()
    }

    /// The event leaves the disk; whether it was there alone.
    fn leave_disk(&mut self, seq: Seq, backlog: &mut Backlog) -> bool {
        let is_parked = self.timed.is_parked(seq);
        let is_in_order = self.from.is_some_and(|from| seq >= from)
            && self.in_order > 0
            && !self.gone.contains(&seq);
        if !is_parked && !is_in_order {
            return false;
        }
        self.timed.remove(seq);
        backlog.give_up_turn(seq);
        // It may be the one that lacked them.
        self.lacks_bytes = 0;
        if self.reading.is_some() {
            self.gone.insert(seq);
        }
        if !is_parked {
            self.in_order -= 1;
            self.forget_order_if_empty();
        }
        true
    }

    /// Does what the time asks for: what is past its end leaves, and is to be settled; what should not go
    /// before now is to be read.
    pub fn handle_timeout(&mut self, now: Instant, backlog: &mut Backlog) -> Lost {
        let mut expired = Lost::default();
        while let Some(seq) = self.timed.ended(now) {
            if !self.leave_disk(seq, backlog) {
                // It would be found again and again.
                self.timed.remove(seq);
                continue;
            }
            self.set_done(seq);
            expired.events += 1;
            expired.seqs.push(seq);
        }
        let from = self.from;
        let was_passed = |seq| from.is_none_or(|from| seq < from);
        while let Some(seq) = self.timed.wake(now, was_passed) {
            if !was_passed(seq) {
                self.in_order += 1;
                self.has_news |= self.reading.is_some();
                self.timed.forget_if_timeless(seq);
            }
        }
        expired
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timed.first_deadline()
    }

    /// The wall clock was set.
    pub fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        self.timed.clock_was_set(change, now);
    }

    /// Events that are pending or on disk alone.
    pub fn len(&self) -> u64 {
        self.pending as u64 + self.on_disk_alone()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Events that are not durable yet.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Events that are on disk alone.
    pub fn on_disk_alone(&self) -> u64 {
        self.in_order + self.timed.parked()
    }

    /// Those of them that could go if they were read.
    pub fn due(&self) -> u64 {
        self.in_order + self.timed.ready().count() as u64
    }

    /// Whether the disk was asked for events, or told that they are given out, and has not answered.
    pub fn waits_for_disk(&self) -> bool {
        self.reading.is_some() || self.handing_out == HandingOut::Asked
    }
}

fn add(backlog: &mut Backlog, item: Item, lost: &mut Lost) {
    match backlog.push(item) {
        Ok(more) => {
            lost.events += more.events;
            lost.seqs.extend(more.seqs);
        }
        Err(item) => {
            lost.events += 1;
            lost.seqs.extend(item.seq);
        }
    }
}

#[cfg(test)]
mod tests;
