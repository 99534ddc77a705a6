//! What one peer is still to be sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use event_manager_zmtp::FrameHeader;
use event_manager_zmtp::curve::Sealer;

/// Runs shorter than this are copied: cheaper than a reference count and a slice of their own.
const COPY_BELOW_BYTES: usize = 2048;
/// Copies are collected up to this size in one buffer.
const TAIL_BYTES_MAX: usize = 64 << 10;
/// An empty outbox keeps no larger buffer than this: most of a thousand peers are idle.
const IDLE_BYTES_MAX: usize = 4 << 10;
/// With more than this waiting, a peer is slow rather than busy.
const LONG_BYTES: usize = 1 << 20;
/// How much is sealed for one write. A single message may be more.
const SEALED_BYTES: usize = 64 << 10;
/// How many slices one vectored write takes.
const SLICES_MAX: usize = 64;

/// Whether bytes that may wait for long are to be copied, because a reference to them would keep
/// more memory alive than budgets count.
pub(crate) fn outweighs(backing_bytes: usize, bytes: usize) -> bool {
    backing_bytes > bytes + bytes / 16
}

/// A message that was not written whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unwritten {
    /// An event is as it was before it was [put behind](Outbox::push_behind) something.
    pub(crate) message: Bytes,
    /// It was pushed as an event.
    pub(crate) is_event: bool,
}

/// What messages are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    /// No events.
    #[default]
    Others,
    /// Events, as they came.
    Events,
    /// Events, each behind so many bytes that only their receiver wants.
    EventsBehind(u8),
}

impl Kind {
    /// Of messages among which there are so many events: all of them, or none.
    fn of(events: u64) -> Self {
        match events {
            0 => Self::Others,
            _ => Self::Events,
        }
    }

    fn prefix_bytes(self) -> usize {
        match self {
            Self::EventsBehind(bytes) => bytes.into(),
            _ => 0,
        }
    }
}

/// Whole messages of one kind, in one piece of memory.
#[derive(Debug)]
struct Segment {
    bytes: Bytes,
    events: u64,
    kind: Kind,
    /// The size of the memory that `bytes` keeps alive.
    backing_bytes: usize,
}

impl Segment {
    /// Whether it keeps much more memory alive than its own bytes.
    fn pins(&self) -> bool {
        self.bytes.len() * 2 < self.backing_bytes
    }
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Written {
    /// Events whose last byte is written.
    pub(crate) events: u64,
    /// Messages are among it, events or others: whoever gets them may be busy with them.
    pub(crate) has_messages: bool,
    /// The socket takes no more for now.
    pub(crate) blocked: bool,
}

/// A queue of bytes for one peer. What goes out is what came in, so nothing is encoded again: short
/// runs of messages are copied, long ones shared by reference count. It never splits a message, so
/// each segment begins at a border.
///
/// It does not bound itself: its owner looks at [`bytes`](Self::bytes) after each push and applies
/// the policy of the peer's kind.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// How much of the first segment is written.
    written: usize,
    /// Copies, behind all segments.
    tail: BytesMut,
    tail_events: u64,
    /// What the messages in the tail are, if there are some.
    tail_kind: Kind,
    bytes: usize,
    events: u64,
    /// More than commands is among them.
    has_messages: bool,
    /// The socket took no more at the last write: nothing pins shared memory until it does.
    blocked: bool,
    sealing: Option<Box<Sealing>>,
}

/// How a connection with CURVE is written to: messages are sealed when the socket takes more, so that
/// those that are dropped cost nothing.
#[derive(Debug)]
struct Sealing {
    sealer: Sealer,
    /// Boxes that the socket did not take yet. The messages in them count as written.
    sealed: BytesMut,
}

impl Outbox {
    /// Bytes not yet written.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events not yet written whole.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && !self.has_boxes()
    }

    fn has_boxes(&self) -> bool {
        self.sealing
            .as_ref()
            .is_some_and(|sealing| !sealing.sealed.is_empty())
    }

    /// An outbox whose messages are sealed, if there is something to seal them with.
    pub(crate) fn sealing(sealer: Option<Sealer>) -> Self {
        let sealing = sealer.map(|sealer| {
            Box::new(Sealing {
                sealer,
                sealed: BytesMut::new(),
            })
        });
        Self {
            sealing,
            ..Self::default()
        }
    }

    /// Whether the last write found the socket full.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Appends commands, by copy.
    pub(crate) fn push_commands(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.tail.extend_from_slice(bytes);
        self.bytes += bytes.len();
    }

    /// Appends whole messages, by copy: so many events, or, with 0, other messages.
    pub(crate) fn push_copy(&mut self, bytes: &[u8], events: u64) {
        self.begin_in_tail(Kind::of(events));
        self.push_commands(bytes);
        self.tail_events += events;
        self.events += events;
        self.has_messages = true;
    }

    /// Appends one event, by copy, and before it what only its receiver wants there.
    pub(crate) fn push_behind<const N: usize>(&mut self, prefix: [u8; N], event: &[u8]) {
        self.begin_in_tail(Kind::EventsBehind(const { N as u8 }));
        // For both, lest one segment ends between them.
        self.make_room(prefix.len() + event.len());
        self.push_commands(&prefix);
        self.push_commands(event);
        self.tail_events += 1;
        self.events += 1;
        self.has_messages = true;
    }

    /// Messages of this kind are about to be appended to the tail.
    #[inline]
    fn begin_in_tail(&mut self, kind: Kind) {
        if self.tail_kind != kind {
            self.end_tail();
            self.tail_kind = kind;
        }
    }

    /// Appends one message that is in pieces, by copy, and counts it as no event.
    pub(crate) fn push_joined(&mut self, parts: [&[u8]; 4]) {
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.has_messages = true;
        if bytes < COPY_BELOW_BYTES {
            self.begin_in_tail(Kind::Others);
            self.make_room(bytes);
            parts
                .iter()
                .for_each(|part| self.tail.extend_from_slice(part));
            self.bytes += bytes;
        } else {
            self.push(&parts.concat().into(), 0..bytes, 0, bytes);
        }
    }

    /// Makes room for so many bytes in the tail.
    fn make_room(&mut self, bytes: usize) {
        if !self.tail.is_empty() && self.tail.len() + bytes > TAIL_BYTES_MAX {
            self.end_tail();
        }
        if self.tail.len() + bytes > self.tail.capacity() {
            // In few steps, because each copies what is there.
            let wanted = (self.tail.len() * 8).min(TAIL_BYTES_MAX);
            self.tail
                .reserve(bytes.max(wanted - self.tail.len().min(wanted)));
        }
    }

    /// Appends whole messages, so many events, or, with 0, others: a part of `all`, whose memory a
    /// reference to them keeps alive, `backing_bytes` of it.
    pub(crate) fn push(
        &mut self,
        all: &Bytes,
        part: Range<usize>,
        events: u64,
        backing_bytes: usize,
    ) {
        let pins = match self.bytes > LONG_BYTES {
            true => outweighs(backing_bytes, part.len()),
            false => part.len() * 2 < backing_bytes,
        };
        if part.len() < COPY_BELOW_BYTES || (self.blocked && pins) {
            return self.push_copy(&all[part], events);
        }
        self.end_tail();
        self.bytes += part.len();
        self.events += events;
        self.has_messages = true;
        self.segments.push_back(Segment {
            bytes: all.slice(part),
            events,
            kind: Kind::of(events),
            backing_bytes,
        });
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            // A tail that ends early has room for much that will not come.
            if self.tail.len() * 2 < self.tail.capacity() {
                self.tail = BytesMut::from(&self.tail[..]);
            }
            let backing_bytes = self.tail.capacity();
            let bytes = self.tail.split().freeze();
            let events = std::mem::take(&mut self.tail_events);
            self.segments.push_back(Segment {
                bytes,
                events,
                kind: self.tail_kind,
                backing_bytes,
            });
            self.tail = BytesMut::new();
        }
    }

    /// Writes with `write` until nothing is left or it would block.
    ///
    /// # Errors
    /// Those of `write`, but for `WouldBlock`. What was written before counts as not yet reported:
    /// [`take_unwritten`](Self::take_unwritten) tells of it.
    pub(crate) fn write_to(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Written> {
        let (events_before, bytes_before) = (self.events, self.bytes);
        self.blocked = false;
        while !self.is_empty() {
            let result = match self.sealing.take() {
                None => write(&self.slices()[..self.slice_count()]),
                Some(mut sealing) => {
                    let result = self.write_sealed(&mut sealing, &mut write);
                    self.sealing = Some(sealing);
                    result
                }
            };
            let error = match result {
                Ok(0) if self.sealing.is_none() => io::ErrorKind::WriteZero.into(),
                Ok(n) => {
                    self.advance(n);
                    continue;
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::WouldBlock => {
                    self.block();
                    break;
                }
                io::ErrorKind::Interrupted => {}
                _ => {
                    self.events = events_before;
                    return Err(error);
                }
            }
        }
        let has_messages = self.has_messages && self.bytes < bytes_before;
        self.has_messages &= self.bytes > 0;
        Ok(Written {
            events: events_before - self.events,
            has_messages,
            blocked: self.blocked,
        })
    }

    /// Writes the boxes that wait, and when there are none, seals the next messages and writes those; how
    /// many bytes of messages were sealed.
    fn write_sealed(
        &self,
        sealing: &mut Sealing,
        write: &mut impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let Sealing { sealer, sealed } = sealing;
        let mut taken = 0;
        if sealed.is_empty() {
            for slice in &self.slices()[..self.slice_count()] {
                let n = sealer
                    .seal(slice, sealed, SEALED_BYTES)
                    .map_err(io::Error::other)?;
                taken += n;
                if n < slice.len() {
                    break;
                }
            }
        }
        match write(&[IoSlice::new(sealed)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => sealed.advance(n),
            // What was sealed waits: it can't be sealed again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => {}
            Err(error) => return Err(error),
        }
        if sealed.is_empty() && sealed.capacity() > IDLE_BYTES_MAX && self.bytes == taken {
            *sealed = BytesMut::new();
        }
        Ok(taken)
    }

    fn slice_count(&self) -> usize {
        (self.segments.len() + usize::from(!self.tail.is_empty())).min(SLICES_MAX)
    }

    fn slices(&self) -> [IoSlice<'_>; SLICES_MAX] {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let segments = self.segments.iter().map(|segment| &segment.bytes[..]);
        let all = segments.chain([&self.tail[..]]).enumerate();
        for (slot, (i, bytes)) in slices.iter_mut().zip(all) {
            *slot = IoSlice::new(if i == 0 {
                &bytes[self.written..]
            } else {
                bytes
            });
        }
        slices
    }

    fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(front) = self.segments.front() {
            let left = front.bytes.len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            self.events -= front.events;
            self.segments.pop_front();
        }
        if n + self.written == self.tail.len() {
            self.written = 0;
            self.events -= std::mem::take(&mut self.tail_events);
            self.tail.clear();
            if self.tail.capacity() > IDLE_BYTES_MAX {
                self.tail = BytesMut::new();
            }
        } else {
            self.written += n;
            self.end_tail();
        }
    }

    /// The socket is full, maybe for long: a slice of a large chunk would keep all of it.
    fn block(&mut self) {
        self.blocked = true;
        for segment in self.segments.iter_mut().filter(|segment| segment.pins()) {
            segment.bytes = Bytes::copy_from_slice(&segment.bytes);
            segment.backing_bytes = segment.bytes.len();
        }
    }

    /// Gives up the oldest messages, of which nothing is written, until at most `bytes_max` are
    /// left; how many events that were.
    pub(crate) fn shed(&mut self, bytes_max: usize) -> u64 {
        let before = self.events;
        self.end_tail();
        let keep = usize::from(self.written > 0);
        while self.bytes > bytes_max && self.segments.len() > keep + 1 {
            if let Some(segment) = self.segments.remove(keep) {
                self.bytes -= segment.bytes.len();
                self.events -= segment.events;
            }
        }
        before - self.events
    }

    /// Empties it: the messages that are not written whole, without commands, each preceded by
    /// nothing but its own frames, and how many events are written of those not yet reported.
    pub(crate) fn take_unwritten(&mut self) -> (Vec<Unwritten>, u64) {
        self.end_tail();
        let mut unwritten = Vec::new();
        let mut written_events = std::mem::take(&mut self.events);
        for (i, segment) in self.segments.drain(..).enumerate() {
            let written = if i == 0 { self.written } else { 0 };
            let is_event = segment.kind != Kind::Others;
            for_each_message(&segment.bytes, |mut message, end| {
                if end > written {
                    if is_event {
                        message.advance(segment.kind.prefix_bytes());
                    }
                    unwritten.push(Unwritten { message, is_event });
                    written_events = written_events.saturating_sub(is_event.into());
                }
            });
        }
        self.written = 0;
        self.bytes = 0;
        (unwritten, written_events)
    }
}

/// Calls `found` with each message of a segment, and where it ends.
fn for_each_message(bytes: &Bytes, mut found: impl FnMut(Bytes, usize)) {
    let (mut start, mut at) = (0, 0);
    while let Ok(Some(header)) = FrameHeader::parse(&bytes[at..]) {
        at += header.header_bytes + header.body_bytes as usize;
        if header.command() {
            start = at;
        } else if !header.more() {
            found(bytes.slice(start..at), at);
            start = at;
        }
    }
}

#[cfg(test)]
mod tests;
