//! The ways to workers that share a connection: by which frames each is reached, and whose the messages
//! are that wait in the outbox.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::runs::Run;
use crate::reactor::io::outbox::{Outbox, Unwritten};
use event_manager_core::broker::{Delivery, DeliveryId, WorkerKey};
use event_manager_wire::messagebus::{EventWord, event_id};
use event_manager_zmtp::{encode_frame, frames, last_frame_at, short_header};

/// A REQ socket with `ZMQ_REQ_CORRELATE` numbers its requests with so many bytes.
const REQUEST_ID_BYTES: usize = 4;

/// What stands before a word, as ZMTP has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    /// All frames before the word.
    pub(crate) prefix: &'a [u8],
    /// The same without the empty frame that ends it, if there is one.
    pub(crate) route: &'a [u8],
    /// There is one.
    pub(crate) delimiter: bool,
}

impl<'a> Said<'a> {
    /// Splits a message into what stands before the word, and the word.
    pub(crate) fn split(message: &'a [u8]) -> (Self, &'a [u8]) {
        let (prefix, last) = message.split_at(last_frame_at(message));
        let (route, before) = prefix.split_at(last_frame_at(prefix));
        let delimiter = frames(before).next().is_some_and(<[u8]>::is_empty);
        let said = Self {
            prefix,
            route: if delimiter { route } else { prefix },
            delimiter,
        };
        (said, frames(last).next().unwrap_or_default())
    }

    /// Whether no proxy and no request's number stands there.
    pub(crate) fn is_direct(&self) -> bool {
        self.route.is_empty()
    }

    /// What is wrong with it, if it can be no way: proxies have no empty routing ids, so an empty frame
    /// is its end.
    pub(crate) fn fault(&self) -> Option<String> {
        let has_more = frames(self.route).any(<[u8]>::is_empty);
        has_more.then(|| "behind an empty frame comes one frame, the word".to_owned())
    }

    /// The way without the number of the request, if there is more than that.
    pub(crate) fn stem(&self) -> Option<&'a [u8]> {
        let (stem, last) = self.route.split_at(last_frame_at(self.route));
        let is_number = frames(last).next()?.len() == REQUEST_ID_BYTES;
        (is_number && !stem.is_empty()).then_some(stem)
    }
}

/// How a worker is reached.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) prefix: Bytes,
    /// What tells it from others of its connection.
    pub(crate) route: Box<[u8]>,
    pub(crate) acknowledges: bool,
    /// It may be a REQ socket, which throws away what it has not asked for.
    pub(crate) lockstep: bool,
    /// When it last said something, counted in words.
    pub(crate) heard: u64,
}

/// A message in the outbox.
#[derive(Debug)]
pub(crate) struct UnderWay {
    /// Where it ends among all bytes that were ever written to the connection.
    pub(crate) end: u64,
    pub(crate) worker: WorkerKey,
    pub(crate) prefix_bytes: usize,
    /// The outbox counts it as an event.
    pub(crate) is_event: bool,
}

/// A worker whose messages were in the outbox before those that are under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) worker: WorkerKey,
    /// Where the last of them ends.
    pub(crate) end: u64,
    /// How many of them are events that are not reported as written.
    pub(crate) events: u64,
}

/// The workers of one connection.
#[derive(Debug, Default)]
pub(crate) struct Proxied {
    pub(crate) paths: BTreeMap<WorkerKey, Path>,
    pub(crate) by_route: HashMap<Box<[u8]>, WorkerKey>,
    /// The worker whose socket it is, if it had its turn before there were others.
    pub(crate) own: Option<Own>,
    pub(crate) under_way: VecDeque<UnderWay>,
    pub(crate) written: u64,
    pub(crate) heard: u64,
}

/// What became of the messages of a connection that ended.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Events that were written, and not yet reported.
    pub(crate) written: BTreeMap<WorkerKey, u64>,
    /// Deliveries that were not.
    pub(crate) held: BTreeMap<WorkerKey, Vec<DeliveryId>>,
    /// Events that were not, as they were before.
    pub(crate) events: Vec<(WorkerKey, Bytes)>,
}

/// The frame before an event whose worker wants its id.
pub(super) fn named_word(delivery: &Delivery, event_id: &str) -> BytesMut {
    let word = EventWord::with_event_id(delivery.id.0, delivery.attempt, event_id);
    let mut frame = BytesMut::with_capacity(word.len() + 9);
    encode_frame(&mut frame, word.as_bytes(), true);
    frame
}

/// Which delivery a message is that was not written, if it is one.
pub(super) fn delivery_of(message: &[u8]) -> Option<DeliveryId> {
    let first = frames(message).find(|frame| !frame.is_empty())?;
    event_id(first).map(DeliveryId)
}

impl Proxied {
    pub(crate) fn workers(&self) -> impl Iterator<Item = WorkerKey> {
        self.paths.keys().copied()
    }

    pub(crate) fn insert(
        &mut self,
        worker: WorkerKey,
        said: Said<'_>,
        acknowledges: bool,
        lockstep: bool,
    ) {
        let path = Path {
            prefix: Bytes::copy_from_slice(said.prefix),
            route: said.route.into(),
            acknowledges,
            lockstep,
            heard: self.heard,
        };
        self.by_route.insert(path.route.clone(), worker);
        self.paths.insert(worker, path);
    }

    pub(crate) fn forget(&mut self, worker: WorkerKey) -> Option<Path> {
        let path = self.paths.remove(&worker)?;
        self.by_route.remove(&path.route);
        Some(path)
    }

    /// The worker that says this. A REQ socket is one, whatever number its request has.
    pub(crate) fn speaker(&self, said: Said<'_>, is_req: bool) -> Option<WorkerKey> {
        match is_req {
            true => self.paths.keys().next().copied(),
            false => self.by_route.get(said.route).copied(),
        }
    }

    /// It says something: what is sent to it from now on goes this way.
    pub(crate) fn heard_from(&mut self, worker: WorkerKey, said: Said<'_>) {
        self.heard += 1;
        if let Some(path) = self.paths.get_mut(&worker) {
            path.heard = self.heard;
            if path.prefix != said.prefix {
                self.by_route.remove(&path.route);
                path.prefix = Bytes::copy_from_slice(said.prefix);
                path.route = said.route.into();
                self.by_route.insert(path.route.clone(), worker);
            }
        }
    }

    pub(crate) fn push(
        &mut self,
        outbox: &mut Outbox,
        worker: WorkerKey,
        body: &[&[u8]],
        is_event: bool,
    ) {
        let Some(path) = self.paths.get(&worker) else {
            return;
        };
        let message = [&[&path.prefix[..]], body].concat().concat();
        let (len, prefix_bytes) = (message.len(), path.prefix.len());
        outbox.push(&message.into(), 0..len, is_event.into(), len);
        self.under_way.push_back(UnderWay {
            end: self.written + outbox.bytes() as u64,
            worker,
            prefix_bytes,
            is_event,
        });
    }

    /// Appends events to the outbox for a worker that doesn't acknowledge.
    pub(crate) fn push_events(
        &mut self,
        outbox: &mut Outbox,
        worker: WorkerKey,
        run: &Run<'_>,
        events: Range<usize>,
    ) {
        for event in events {
            let body = &run.bytes[run.part(event..event + 1)];
            self.push(outbox, worker, &[body], true);
        }
    }

    /// Appends an event for a worker that acknowledges.
    pub(crate) fn push_held(
        &mut self,
        outbox: &mut Outbox,
        worker: WorkerKey,
        delivery: &Delivery,
        event_id: Option<&str>,
    ) {
        if let Some(event_id) = event_id {
            let word = named_word(delivery, event_id);
            return self.push(outbox, worker, &[&word, &delivery.body], false);
        }
        let word = EventWord::new(delivery.id.0, delivery.attempt);
        let header = short_header(word.len(), true);
        let body = [&header, word.as_ref(), &delivery.body];
        self.push(outbox, worker, &body, false);
    }

    /// So many bytes were written: whose events are written whole by now.
    pub(crate) fn wrote(&mut self, bytes: usize) -> Vec<(WorkerKey, u64)> {
        self.written += bytes as u64;
        let mut shares = BTreeMap::<_, u64>::new();
        if let Some(own) = &mut self.own
            && own.end <= self.written
            && own.events > 0
        {
            shares.insert(own.worker, std::mem::take(&mut own.events));
        }
        while let Some(first) = self.under_way.front()
            && first.end <= self.written
        {
            if first.is_event {
                *shares.entry(first.worker).or_default() += 1;
            }
            self.under_way.pop_front();
        }
        shares.into_iter().collect()
    }

    /// The connection ended with these messages in its outbox.
    pub(crate) fn sort_out(&self, unwritten: Vec<Unwritten>) -> Left {
        let known = self.under_way.len().min(unwritten.len());
        let before = unwritten.len() - known;
        let written = self.under_way.len() - known;
        let mut left = Left::default();
        for message in self.under_way.iter().take(written) {
            *left.written.entry(message.worker).or_default() += u64::from(message.is_event);
        }
        if let Some(own) = self.own {
            let reported = left.written.entry(own.worker).or_default();
            let events = unwritten[..before].iter().filter(|one| one.is_event);
            *reported += own.events.saturating_sub(events.count() as u64);
        }
        // Before there were others, somebody may have been told something who was no worker.
        let own = self.own.map(|own| (own.worker, 0));
        let others = self.under_way.iter().skip(written);
        let others = others.map(|message| Some((message.worker, message.prefix_bytes)));
        let owners = std::iter::repeat_n(own, before).chain(others);
        for (one, owner) in unwritten.into_iter().zip(owners) {
            let Some((worker, prefix_bytes)) = owner else {
                continue;
            };
            let body = one.message.slice(prefix_bytes..);
            match one.is_event {
                true => left.events.push((worker, body)),
                false => left
                    .held
                    .entry(worker)
                    .or_default()
                    .extend(delivery_of(&body)),
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;

    use super::*;
    use event_manager_core::broker::PeerId;
    use event_manager_zmtp::encode_message;

    #[test]
    fn what_stands_before_a_word_is_told_from_it() {
        for (parts, route, delimiter, is_direct) in [
            (&["READY"][..], &[][..], false, true),
            (&["", "READY"], &[], true, true),
            (&["id", "READY"], &["id"], false, false),
            (
                &["outer", "inner", "", "READY"],
                &["outer", "inner"],
                true,
                false,
            ),
            (&["id", "numb", "", "READY"], &["id", "numb"], true, false),
        ] {
            let message = encode_message(parts);
            let (said, word) = Said::split(&message);
            assert_eq!(word, b"READY");
            let names: Vec<&[u8]> = route.iter().map(|name: &&str| name.as_bytes()).collect();
            assert_eq!(frames(said.route).collect::<Vec<_>>(), names);
            assert_eq!((said.delimiter, said.is_direct()), (delimiter, is_direct));
            assert_eq!(
                said.stem().is_some(),
                names.len() == 2 && names[1] == b"numb"
            );
            assert!(said.fault().is_none());
        }
        for wrong in [
            &["", "", "READY"][..],
            &["", "id", "READY"],
            &["id", "", "x", "READY"],
        ] {
            let message = encode_message(wrong);
            assert!(Said::split(&message).0.fault().is_some(), "{wrong:?}");
        }
        assert_eq!(Said::split(b"").1, b"");
    }

    /// What is pushed: by whom, and how many bytes its body has.
    fn pushes() -> impl Strategy<Value = Vec<(usize, usize, bool)>> {
        prop::collection::vec((0..4usize, 0..3000usize, any::<bool>()), 0..60)
    }

    proptest! {
        /// Each event is written to its worker, or comes back as it was; deliveries come back by their ids.
        #[test]
        fn nothing_is_lost_and_each_knows_its_own(
            own in 0..5usize,
            pushes in pushes(),
            rooms in prop::collection::vec(0..9000usize, 60),
            acks in prop::collection::vec(any::<bool>(), 4),
        ) {
            let keys: Vec<WorkerKey> = {
                let mut workers = event_manager_core::broker::Workers::default();
                let peer = PeerId { slot: 0, serial: 0 };
                (0..4).map(|_| workers.join(peer, false)).collect()
            };
            let (mut outbox, mut proxied) = (Outbox::default(), Proxied::default());
            let ways: [&[&str]; 4] = [&[], &["a"], &["bb", ""], &["c", "numb", ""]];
            let mut given: Vec<Vec<Bytes>> = vec![vec![]; 4];
            let mut delivered = [0usize; 4];
            // The connection's own worker had events before there were others.
            for n in 0..own {
                outbox.push_copy(&encode_message(&["ERROR what it said"]), 0);
                let event = encode_message(&[format!("own {n}")]);
                outbox.push_copy(&event, u64::from(!acks[0]));
                if !acks[0] { given[0].push(event); }
            }
            for (n, way) in ways.iter().enumerate() {
                let message = encode_message(&[*way, &["READY"]].concat());
                proxied.insert(keys[n], Said::split(&message).0, acks[n], false);
            }
            let (end, events) = (outbox.bytes() as u64, outbox.events());
            proxied.own = Some(Own { worker: keys[0], end, events });
            for (n, ((who, size, is_word), room)) in pushes.into_iter().zip(rooms).enumerate() {
                let is_event = !acks[who] && !is_word;
                let body = encode_message(&[vec![n as u8; size]]);
                proxied.push(&mut outbox, keys[who], &[&body], is_event);
                if is_event { given[who].push(body); }
                let (before, mut room) = (outbox.bytes(), room);
                outbox.write_to(|slices| {
                    let n = slices.iter().map(|slice| slice.len()).sum::<usize>().min(room);
                    room -= n;
                    if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
                }).unwrap();
                for (worker, events) in proxied.wrote(before - outbox.bytes()) {
                    let who = keys.iter().position(|key| *key == worker).unwrap();
                    delivered[who] += events as usize;
                }
            }
            let (unwritten, _) = outbox.take_unwritten();
            let left = proxied.sort_out(unwritten);
            for (who, key) in keys.iter().enumerate() {
                let written = left.written.get(key).copied().unwrap_or_default() as usize;
                let back: Vec<_> = left.events.iter().filter(|(whose, _)| whose == key).map(|(_, event)| event.clone()).collect();
                let done = delivered[who] + written;
                prop_assert_eq!(done + back.len(), given[who].len(), "worker {}", who);
                prop_assert_eq!(&back[..], &given[who][done..]);
            }
        }
    }
}
