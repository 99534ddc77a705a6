//! Runs of whole messages that have the same receivers.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use event_manager_core::broker::{Route, SubjectIndex};

/// A run of whole messages.
pub(crate) struct Run<'a> {
    pub(crate) bytes: Bytes,
    /// Where each message ends, relative to `bytes`.
    pub(crate) ends: &'a [usize],
    /// The size of the memory that a reference to the bytes keeps alive.
    pub(crate) backing_bytes: usize,
}

impl<'a> Run<'a> {
    /// A single event in memory of its own; `end` is its length.
    pub(crate) fn of_one(event: Bytes, end: &'a [usize; 1]) -> Self {
        Self {
            ends: end,
            backing_bytes: event.len(),
            bytes: event,
        }
    }

    pub(crate) fn events(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Where these messages lie in `bytes`.
    pub(crate) fn part(&self, events: Range<usize>) -> Range<usize> {
        let border = |event: usize| if event == 0 { 0 } else { self.ends[event - 1] };
        border(events.start)..border(events.end)
    }
}

/// A stretch of whole messages with one route.
struct Stretch {
    bytes: Range<usize>,
    route: Rc<Route>,
    /// Where its messages' ends begin in [`Runs::ends`].
    first_end: usize,
}

/// The runs found in one read; kept between reads for their memory.
#[derive(Default)]
pub(crate) struct Runs {
    stretches: Vec<Stretch>,
    /// The end of each message, relative to its stretch.
    ends: Vec<usize>,
    /// Events with the subject that was looked up last, and where they are to be counted.
    alike: Option<(SubjectIndex, u64)>,
}

impl Runs {
    /// Adds a message behind the others: to the last stretch if that has the same route and ends
    /// where the message begins.
    #[inline]
    pub(crate) fn push(&mut self, message: Range<usize>, route: &Rc<Route>) {
        match self.stretches.last_mut() {
            Some(last) if last.bytes.end == message.start && Rc::ptr_eq(&last.route, route) => {
                last.bytes.end = message.end;
                self.ends.push(message.end - last.bytes.start);
            }
            _ => {
                let first_end = self.ends.len();
                self.ends.push(message.len());
                self.stretches.push(Stretch {
                    bytes: message,
                    route: Rc::clone(route),
                    first_end,
                });
            }
        }
    }

    /// Adds messages of the same length to the last stretch, which they follow.
    #[inline]
    pub(crate) fn push_alike(&mut self, messages: usize, bytes: usize) {
        let Some(last) = self.stretches.last_mut() else {
            return;
        };
        let begin = last.bytes.len();
        last.bytes.end += messages * bytes;
        self.ends.extend((1..=messages).map(|n| begin + n * bytes));
    }

    /// A subject was looked up: the events that are counted from now on have it.
    #[inline]
    pub(crate) fn begin_alike(&mut self, subject: SubjectIndex) {
        self.alike = Some((subject, 0));
    }

    /// So many more events have that subject.
    #[inline]
    pub(crate) fn count_alike(&mut self, events: u64) {
        if let Some((_, counted)) = &mut self.alike {
            *counted += events;
        }
    }

    /// The last subject, and how many events had it.
    pub(crate) fn take_alike(&mut self) -> Option<(SubjectIndex, u64)> {
        self.alike.take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// Each stretch's route, its position in what was read, and where its messages end in it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Rc<Route>, Range<usize>, &[usize])> {
        let ends = |at: usize| {
            let next = self.stretches.get(at + 1);
            &self.ends
                [self.stretches[at].first_end..next.map_or(self.ends.len(), |next| next.first_end)]
        };
        let all = self.stretches.iter().enumerate();
        all.map(move |(at, stretch)| (&stretch.route, stretch.bytes.clone(), ends(at)))
    }

    pub(crate) fn clear(&mut self) {
        self.stretches.clear();
        self.ends.clear();
        // One read of the smallest events should not hold its memory for ever.
        self.ends.shrink_to(16 << 10);
    }
}
