//! Messages of instances that pass, on their way to who keeps the registry of them.
//!
//! They are copied, at most so many bytes at a time, and nobody waits: what there is no room for is counted.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use event_manager_core::broker::{PeerId, Route};

/// Messages that wait at most, and their bytes.
const WAITING_MAX: usize = 4096;
/// See [`WAITING_MAX`].
const WAITING_BYTES_MAX: usize = 4 << 20;
/// A longer message is not looked at: more than its frames may have, as there are headers, too.
const MESSAGE_BYTES_MAX: usize = 17 << 10;
/// Between two looks at who subscribes to heartbeats.
const LISTENERS_INTERVAL: Duration = Duration::from_millis(500);

/// Stands for the registry among those who get events. No connection has this slot.
pub(crate) const OBSERVER: PeerId = PeerId {
    slot: u32::MAX,
    serial: 0,
};

/// By what way a message came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A publisher's connection: its number, which no other has, and where it comes from.
    Link(u64, String),
    /// A request, or a bridge.
    Unlinked,
    /// Another event manager.
    Hub,
}

/// What the registry is told.
#[derive(Debug)]
pub enum Sighting {
    /// A message passed.
    Message(Origin, Bytes),
    /// The connection with this number has ended, which had brought some.
    Ended(u64),
    /// Who subscribes to heartbeats connects from these addresses.
    Listeners(BTreeSet<String>),
}

/// What was left out.
#[derive(Debug, Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    too_large: AtomicU64,
    no_room: AtomicU64,
}

/// The registry's end.
#[derive(Debug)]
pub struct Sightings {
    channel: mpsc::Receiver<Sighting>,
    shared: Arc<Shared>,
}

impl Sightings {
    /// Waits for the next; `None` if there will be none any more.
    pub async fn next(&mut self) -> Option<Sighting> {
        let sighting = self.channel.recv().await?;
        if let Sighting::Message(_, message) = &sighting {
            let waiting = &self.shared.waiting_bytes;
            waiting.fetch_sub(message.len(), Ordering::Relaxed);
        }
        Some(sighting)
    }

    /// How many messages were too large, and for how many there was no room.
    pub fn left_out(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.shared.too_large), read(&self.shared.no_room))
    }
}

/// The reactor's end.
#[derive(Debug)]
pub struct Observer {
    channel: mpsc::Sender<Sighting>,
    shared: Arc<Shared>,
    /// What heartbeats begin with.
    heartbeat: Box<[u8]>,
    /// All that is observed.
    prefixes: Vec<Box<[u8]>>,
    /// Connections that brought something.
    links: HashSet<PeerId>,
    /// Those of them that have ended, while there was no room to say so.
    ended: Vec<u64>,
    told_at: Option<Instant>,
}

impl Observer {
    /// For messages that begin so; the first prefix is that of heartbeats. An empty one is none.
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> (Self, Sightings) {
        let (sender, channel) = mpsc::channel(WAITING_MAX);
        let shared = Arc::<Shared>::default();
        let prefixes = prefixes.into_iter().filter(|prefix| !prefix.is_empty());
        let prefixes: Vec<Box<[u8]>> = prefixes.map(|prefix| prefix.as_bytes().into()).collect();
        let sightings = Sightings {
            channel,
            shared: Arc::clone(&shared),
        };
        let observer = Self {
            channel: sender,
            shared,
            heartbeat: prefixes.first().cloned().unwrap_or_default(),
            prefixes,
            links: HashSet::new(),
            ended: vec![],
            told_at: None,
        };
        (observer, sightings)
    }

    /// What is observed.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &[u8]> {
        self.prefixes.iter().map(|prefix| &**prefix)
    }

    /// What heartbeats begin with.
    pub(crate) fn heartbeat(&self) -> &[u8] {
        &self.heartbeat
    }

    /// A whole message of a publisher passes, or one that came otherwise.
    pub(crate) fn message(
        &mut self,
        from: Option<PeerId>,
        origin: impl FnOnce() -> Origin,
        message: &[u8],
    ) {
        if message.len() > MESSAGE_BYTES_MAX {
            self.shared.too_large.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed);
        let has_room = waiting + message.len() <= WAITING_BYTES_MAX && self.channel.capacity() > 0;
        if !has_room {
            self.shared.no_room.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let waiting = &self.shared.waiting_bytes;
        waiting.fetch_add(message.len(), Ordering::Relaxed);
        let sighting = Sighting::Message(origin(), Bytes::copy_from_slice(message));
        // It has room, unless it has ended: then nobody counts any more.
        if self.channel.try_send(sighting).is_ok() {
            self.links.extend(from);
        }
    }

    /// A connection has ended.
    pub(crate) fn ended(&mut self, id: PeerId) {
        if self.links.remove(&id) {
            self.ended.push(number_of(id));
            self.tell_ended();
        }
    }

    /// Says what there was no room for.
    pub(crate) fn tell_ended(&mut self) {
        while let Some(number) = self.ended.last() {
            if self.channel.try_send(Sighting::Ended(*number)).is_err() {
                return;
            }
            self.ended.pop();
        }
    }

    /// Whether it is time to say who subscribes.
    pub(crate) fn wants_listeners(&mut self, now: Instant) -> bool {
        let is_time = self
            .told_at
            .is_none_or(|at| now.saturating_duration_since(at) >= LISTENERS_INTERVAL);
        if is_time {
            self.told_at = Some(now);
        }
        is_time
    }

    /// They connect from there.
    pub(crate) fn listeners(&mut self, addresses: BTreeSet<String>) {
        // The next look is as good.
        let _ = self.channel.try_send(Sighting::Listeners(addresses));
    }
}

/// Whether events with this route are observed. It is the last, as no slot is higher.
#[inline]
pub(crate) fn is_observed(route: &Route) -> bool {
    route.subscribers.last() == Some(&OBSERVER)
}

/// A number that no other connection of this run has.
pub(crate) fn number_of(id: PeerId) -> u64 {
    u64::from(id.serial) << 32 | u64::from(id.slot)
}
