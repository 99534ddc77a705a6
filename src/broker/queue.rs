//! Events that wait for a worker.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bounds of one service's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Bytes of all waiting events together, each with [`EventQueue::EVENT_OVERHEAD_BYTES`].
    pub bytes_max: usize,
    /// How many events may wait.
    pub events_max: usize,
}

/// A bounded queue of events; when it is full the oldest make room.
#[derive(Debug)]
pub struct EventQueue {
    events: VecDeque<Bytes>,
    bytes: usize,
    limits: QueueLimits,
}

impl EventQueue {
    /// What an event costs beside its own bytes.
    pub const EVENT_OVERHEAD_BYTES: usize = 64;

    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            limits,
        }
    }

    /// Whether an event of this size could ever wait here.
    pub fn fits(&self, event_bytes: usize) -> bool {
        cost(event_bytes) <= self.limits.bytes_max && self.limits.events_max > 0
    }

    /// Appends an event; returns how many of the oldest were given up for it (itself among them if
    /// it doesn't [fit](Self::fits)).
    pub fn push_back(&mut self, event: Bytes) -> u64 {
        self.bytes += cost(event.len());
        self.events.push_back(event);
        self.shrink()
    }

    /// Puts an event back to where it was taken from; returns how many were given up for it.
    pub fn push_front(&mut self, event: Bytes) -> u64 {
        self.bytes += cost(event.len());
        self.events.push_front(event);
        self.shrink()
    }

    fn shrink(&mut self) -> u64 {
        let before = self.events.len();
        while self.bytes > self.limits.bytes_max || self.events.len() > self.limits.events_max {
            self.pop_front();
        }
        (before - self.events.len()) as u64
    }

    /// The next event.
    pub fn pop_front(&mut self) -> Option<Bytes> {
        let event = self.events.pop_front()?;
        self.bytes -= cost(event.len());
        if self.events.is_empty() {
            // A burst that once filled the queue should not hold its memory for ever.
            self.events.shrink_to(1024);
        }
        Some(event)
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// What the waiting events cost, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(event_bytes: usize) -> usize {
    event_bytes + EventQueue::EVENT_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_oldest_make_room(sizes in proptest::collection::vec(0usize..300, 1..60)) {
            let limits = QueueLimits { bytes_max: 1000, events_max: 5 };
            let mut queue = EventQueue::new(limits);
            let mut dropped = 0;
            for (n, size) in sizes.iter().enumerate() {
                let mut event = vec![0; *size];
                event.push(n as u8);
                dropped += queue.push_back(event.into());
                prop_assert!(queue.bytes() <= limits.bytes_max && queue.len() <= limits.events_max);
            }
            prop_assert_eq!(dropped as usize + queue.len(), sizes.len());
            let mut expected = dropped as u8;
            while let Some(event) = queue.pop_front() {
                prop_assert_eq!(event.last(), Some(&expected));
                expected += 1;
            }
            prop_assert_eq!(queue.bytes(), 0);
        }
    }

    #[test]
    fn what_never_fits_is_given_up() {
        let mut queue = EventQueue::new(QueueLimits {
            bytes_max: 100,
            events_max: 9,
        });
        assert!(!queue.fits(37));
        assert_eq!(queue.push_back(Bytes::from_static(&[0; 37])), 1);
        assert!(queue.is_empty());
    }
}
