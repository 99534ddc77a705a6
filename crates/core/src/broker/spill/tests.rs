#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

use super::*;
use crate::broker::dispatch::Workers;
use crate::broker::{DropReason, OrderKey, PeerId};
use crate::broker::{Policy, QueueLimits, WhenFull, WorkerKey};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

const EVENTS_MAX: usize = 7;

/// An event that is durable and not done, as the disk has it.
#[derive(Debug, Clone, Copy)]
struct Kept {
    number: u64,
    times: Times,
    key: Option<u64>,
    /// It was given back, and goes again then.
    again_at: Option<Instant>,
}

impl Kept {
    /// Others with its key that came later have to wait for it.
    fn holds_up(&self, now: Instant) -> bool {
        let has_turn = self.again_at.is_some() || self.times.not_before.is_none();
        has_turn && self.times.expires_at.is_none_or(|at| at > now)
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut times = [self.times.not_before, self.again_at].into_iter().flatten();
        times.all(|at| at <= now) && self.times.expires_at.is_none_or(|at| at > now)
    }

    fn item(self, seq: Option<Seq>) -> Item {
        let mut item = Item::new(Bytes::copy_from_slice(&self.number.to_be_bytes()));
        item.seq = seq;
        item.not_before = self.times.not_before;
        item.expires_at = self.times.expires_at;
        item.key = self.key.map(|key| OrderKey::from_hash(key + 1));
        item.attempt = self.again_at.is_some().into();
        item
    }
}

#[derive(Debug, Clone)]
enum Act {
    /// Events with a delay, a time to live and a key.
    Append(Vec<(Option<u64>, Option<u64>, Option<u64>)>),
    Report(bool),
    /// The disk is asked, and what it is asked for is read; its answer comes later.
    Ask,
    Answer,
    /// Events that a worker does at once.
    Take(usize),
    /// Whatever may go now is done, in memory or on disk.
    Work,
    /// One that it gives back, to be tried again after this time.
    GiveBack(u64),
    Wait(u64),
    /// So many of the first are too many, or too old.
    Expel(usize),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let event = (
        prop::option::weighted(0.3, 1u64..2000),
        prop::option::weighted(0.3, 1u64..2000),
        prop::option::weighted(0.3, 0u64..3),
    );
    prop_oneof![
        6 => prop::collection::vec(event, 1..6).prop_map(Act::Append),
        6 => prop::bool::weighted(0.9).prop_map(Act::Report),
        5 => Just(Act::Ask),
        5 => Just(Act::Answer),
        4 => (1usize..9).prop_map(Act::Take),
        1 => Just(Act::Work),
        4 => (1u64..2000).prop_map(Act::GiveBack),
        3 => (1u64..1000).prop_map(Act::Wait),
        1 => (1usize..6).prop_map(Act::Expel),
        1 => Just(Act::Restart),
    ]
}

struct Site {
    now: Instant,
    spill: Spill,
    backlog: Backlog,
    worker: WorkerKey,
    disk: BTreeMap<Seq, Kept>,
    next_seq: Seq,
    number: u64,
    on_the_way: VecDeque<Vec<Kept>>,
    answer: Option<Vec<Item>>,
    /// What became of each that was durable.
    ended: BTreeMap<u64, &'static str>,
    durable: u64,
}

fn backlog() -> Backlog {
    Backlog::new(Rc::new(Policy {
        when_full: WhenFull::Spill,
        ..Policy::live(QueueLimits {
            bytes_max: 1 << 20,
            events_max: EVENTS_MAX,
        })
    }))
}

impl Site {
    fn new() -> Self {
        let peer = PeerId { slot: 0, serial: 0 };
        Self {
            now: Instant::now(),
            spill: Spill::default(),
            backlog: backlog(),
            worker: Workers::default().join(peer, false),
            disk: BTreeMap::new(),
            next_seq: Seq::FIRST,
            number: 0,
            on_the_way: VecDeque::new(),
            answer: None,
            ended: BTreeMap::new(),
            durable: 0,
        }
    }

    fn end(&mut self, seq: Seq, how: &'static str) {
        let kept = self.disk.remove(&seq);
        let kept = kept.unwrap_or_else(|| panic!("{seq} {how}, and was done before"));
        assert_eq!(self.ended.insert(kept.number, how), None);
        let expires_at = kept.times.expires_at;
        if how == "served" {
            assert_eq!(self.held_up_by(seq, kept), None, "{seq} overtakes it");
            assert!(kept.times.not_before.is_none_or(|at| at <= self.now));
            assert!(expires_at.is_none_or(|at| at > self.now));
        } else if how == "expired" {
            assert!(expires_at.is_some_and(|at| at <= self.now));
        }
    }

    /// The first with its key that came before it and has to go before it.
    fn held_up_by(&self, seq: Seq, kept: Kept) -> Option<Seq> {
        let before = self.disk.range(..seq).find(|(_, other)| {
            kept.key.is_some() && other.key == kept.key && other.holds_up(self.now)
        });
        before.map(|(seq, _)| *seq)
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Append(events) => self.append(events),
            Act::Report(well) => self.report(well),
            Act::Ask => self.ask(),
            Act::Answer => self.hear_answer(),
            Act::Take(events) => {
                for _ in 0..events {
                    let Some(item) = self.backlog.next(self.now) else {
                        break;
                    };
                    self.end(item.seq.unwrap(), "served");
                }
            }
            Act::Work => self.work(),
            Act::GiveBack(ms) => {
                if let Some(delivery) = self.backlog.hold_next(self.worker, self.now) {
                    let seq = delivery.seq.unwrap();
                    assert_eq!(self.held_up_by(seq, self.disk[&seq]), None);
                    let again_at = self.now + Duration::from_millis(ms);
                    self.disk.get_mut(&seq).unwrap().again_at = Some(again_at);
                    let delay = Some(Duration::from_millis(ms));
                    let nak = self
                        .backlog
                        .nak(self.worker, delivery.id, delay, "", self.now, 0.0);
                    self.book(nak.unwrap());
                }
            }
            Act::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                let expired = self.spill.handle_timeout(self.now, &mut self.backlog);
                expired
                    .seqs
                    .into_iter()
                    .for_each(|seq| self.end(seq, "expired"));
                let outcome = self.backlog.handle_timeout(self.now, || 0.0);
                self.book(outcome);
            }
            Act::Expel(events) => {
                let seqs: BTreeSet<_> = self.disk.keys().copied().take(events).collect();
                let here = self.backlog.give_up(&seqs, DropReason::RetentionAge);
                let on_disk = self.spill.gave_up(seqs.iter().copied(), &mut self.backlog);
                assert_eq!(here.events + on_disk, seqs.len() as u64);
                seqs.into_iter().for_each(|seq| self.end(seq, "expelled"));
            }
            Act::Restart => self.restart(),
        }
        let pending: usize = self.on_the_way.iter().map(Vec::len).sum();
        assert_eq!(self.spill.pending(), pending);
        let known = self.spill.on_disk_alone() + self.backlog.len() as u64;
        assert_eq!(known, self.disk.len() as u64);
        // One for which the others wait may be too many.
        assert!(self.backlog.len() <= EVENTS_MAX + 1);
        self.assert_nothing_waits_in_vain();
    }

    fn book(&mut self, outcome: crate::broker::Outcome) {
        for seq in outcome.expired.seqs {
            self.end(seq, "expired");
        }
        for letter in outcome.dead {
            self.end(letter.item.seq.unwrap(), "dead");
        }
    }

    fn work(&mut self) {
        for _ in 0..self.disk.len() + 3 {
            self.act(Act::Wait(0));
            self.act(Act::Ask);
            self.act(Act::Answer);
            self.act(Act::Take(9));
        }
        assert!(!self.backlog.has_next(self.now));
        let mut due = self.disk.iter().filter(|(_, kept)| kept.is_due(self.now));
        let waits = due.find(|(seq, kept)| {
            let is_excused = self.is_blocked() && kept.again_at.is_none();
            self.held_up_by(**seq, **kept).is_none() && !is_excused
        });
        assert!(
            waits.is_none(),
            "{waits:?} is due, and was not given to who works"
        );
    }

    /// Memory is full of events whose key's turn it isn't.
    fn is_blocked(&self) -> bool {
        self.backlog.len() >= EVENTS_MAX && !self.backlog.any_waits_for_time()
    }

    fn append(&mut self, events: Vec<(Option<u64>, Option<u64>, Option<u64>)>) {
        let at = |ms: Option<u64>| ms.map(|ms| self.now + Duration::from_millis(ms));
        let mut kept = vec![];
        for (delay, ttl, key) in events {
            self.number += 1;
            let times = Times {
                not_before: at(delay),
                expires_at: at(ttl),
                ..Times::default()
            };
            kept.push(Kept {
                number: self.number,
                times,
                key,
                again_at: None,
            });
        }
        self.spill.came(kept.len());
        self.on_the_way.push_back(kept);
    }

    fn report(&mut self, well: bool) {
        let Some(all) = self.on_the_way.pop_front() else {
            return;
        };
        if !well {
            return self.spill.failed(all.len());
        }
        let items = all.iter().map(|kept| kept.item(None)).collect();
        let mut seqs = vec![];
        for kept in all {
            self.disk.insert(self.next_seq, kept);
            seqs.push(Some(self.next_seq));
            self.next_seq = self.next_seq.next();
            self.durable += 1;
        }
        let lost = self.spill.committed(items, &seqs, &mut self.backlog);
        assert_eq!(lost, Lost::default());
    }

    fn ask(&mut self) {
        if self.answer.is_some() {
            assert_eq!(self.spill.wants(&self.backlog), None);
            return;
        }
        let items = match self.spill.wants(&self.backlog) {
            None => return,
            Some(Wanted::InOrder { from, .. }) => {
                let found = self.disk.range(from..).take(3);
                found.map(|(seq, kept)| kept.item(Some(*seq))).collect()
            }
            Some(Wanted::These { seqs, .. }) => {
                let found = seqs.into_iter().take(3);
                found
                    .filter_map(|seq| Some(self.disk.get(&seq)?.item(Some(seq))))
                    .collect()
            }
        };
        self.answer = Some(items);
    }

    fn hear_answer(&mut self) {
        if let Some(items) = self.answer.take() {
            let loss = self.spill.read(items, &mut self.backlog);
            assert_eq!(loss, ReadLoss::default());
        }
    }

    /// What is not durable is lost, what was tried is tried again when it should be.
    fn restart(&mut self) {
        (self.spill, self.backlog) = (Spill::default(), backlog());
        self.on_the_way.clear();
        self.answer = None;
        let now = self.now;
        for kept in self.disk.values_mut() {
            kept.times.not_before = kept.times.not_before.filter(|at| *at > now);
        }
        let times: Vec<_> = self
            .disk
            .iter()
            .map(|(seq, kept)| {
                let again_at = kept.again_at.filter(|at| *at > now);
                let times = Times {
                    not_before: again_at.or(kept.times.not_before),
                    keeps_turn: again_at.is_some(),
                    ..kept.times
                };
                (*seq, times)
            })
            .collect();
        let first = self.disk.keys().next().copied();
        self.spill
            .found(first, self.disk.len() as u64, Seq::ZERO, times);
    }

    /// Nobody who asks gets nothing while there is something for him, unless it is on its way.
    fn assert_nothing_waits_in_vain(&mut self) {
        let deadlines = [self.spill.poll_timeout(), self.backlog.poll_timeout()];
        let is_planned = deadlines.into_iter().flatten().any(|at| at <= self.now);
        let can_go = self.backlog.has_next(self.now);
        if can_go || self.answer.is_some() || is_planned {
            return;
        }
        if self.spill.due() > 0 && !self.is_blocked() {
            self.ask();
            assert!(
                self.answer.is_some(),
                "due events wait on disk, and nobody reads them"
            );
        }
    }
}

#[test]
fn what_came_while_the_disk_was_read_is_not_missing() {
    let mut site = Site::new();
    site.act(Act::Append(vec![(None, None, None); EVENTS_MAX]));
    site.act(Act::Append(vec![(None, Some(1000), None)]));
    site.act(Act::Report(true));
    site.act(Act::Report(true));
    site.act(Act::Take(EVENTS_MAX));
    // What is asked for ends before it is read, and another comes after that.
    assert!(site.answer.is_some());
    site.act(Act::Wait(1000));
    assert!(site.disk.is_empty());
    site.answer = Some(vec![]);
    site.act(Act::Append(vec![(None, None, None)]));
    site.act(Act::Report(true));
    site.act(Act::Answer);
    site.act(Act::Work);
    assert!(site.disk.is_empty());
}

/// Those that are to be tried again later hold up those of their key, and nobody else.
#[test]
fn what_is_tried_again_makes_way_and_is_waited_for() {
    let mut site = Site::new();
    let of_key = |key| (None, None, Some(key));
    site.act(Act::Append((0..7).map(of_key).collect()));
    site.act(Act::Report(true));
    for _ in 0..EVENTS_MAX {
        site.act(Act::GiveBack(1000));
    }
    // Of a key that nothing waits with, and then more than there is room for of those that wait.
    site.act(Act::Append(vec![of_key(7)]));
    site.act(Act::Append((0..9).map(|n| of_key(n % 7)).collect()));
    site.act(Act::Report(true));
    site.act(Act::Take(1));
    assert_eq!(site.ended.get(&8), Some(&"served"));
    site.act(Act::Report(true));
    site.act(Act::Work);
    assert_eq!(site.ended.len(), 1);
    site.act(Act::Wait(1000));
    site.act(Act::Work);
    assert!(site.disk.is_empty(), "{:?}", site.disk);
}

/// An event whose time has come is read, though memory is full: what goes later makes way.
#[test]
fn what_is_due_takes_the_room_of_what_goes_later() {
    let (plain, of_key) = ((None, None, None), (None, None, Some(0)));
    let ends = (None, Some(1), None);
    let mut site = Site::new();
    let acts = [
        Act::Append(vec![of_key, of_key]),
        Act::Report(true),
        Act::Append(vec![plain]),
        Act::Append(vec![of_key, of_key, plain, ends, of_key]),
        Act::Report(true),
        Act::Report(true),
        Act::Append(vec![(Some(1), None, Some(0))]),
        Act::Report(true),
        // The first of the key, for which its others wait, and then those without one.
        Act::GiveBack(1),
        Act::Append(vec![(Some(1), None, None)]),
        Act::GiveBack(1),
        Act::GiveBack(1026),
        Act::Report(true),
        Act::GiveBack(1),
        Act::GiveBack(1),
        Act::Wait(1),
        Act::GiveBack(1),
        Act::Work,
    ];
    for act in acts {
        site.act(act);
    }
}

/// One without a key goes again, though memory is full of others that wait for theirs.
#[test]
fn what_was_given_back_goes_again_whoever_fills_memory() {
    let (plain, of_key) = ((None, None, None), (None, None, Some(0)));
    let mut site = Site::new();
    let acts = [
        Act::Append(vec![of_key, plain]),
        Act::Report(true),
        Act::GiveBack(1000),
        Act::GiveBack(1),
        Act::Append(vec![of_key; EVENTS_MAX]),
        Act::Report(true),
        Act::Wait(1),
        Act::Work,
    ];
    for act in acts {
        site.act(act);
    }
    assert_eq!(site.ended.get(&2), Some(&"served"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_durable_event_ends_once_and_none_waits_in_vain(acts in prop::collection::vec(act(), 1..120)) {
        let mut site = Site::new();
        for act in acts {
            site.act(act);
        }
        let drain = [Act::Report(true), Act::Ask, Act::Answer, Act::Take(9), Act::Wait(50)];
        for act in std::iter::repeat_n(drain, 400).flatten() {
            if site.on_the_way.is_empty() && site.disk.is_empty() {
                break;
            }
            site.act(act);
        }
        prop_assert_eq!(site.ended.len() as u64, site.durable, "{:?}", site.disk);
    }

    #[test]
    fn events_without_times_keep_their_order(
        acts in prop::collection::vec((0..4u8, 1usize..9), 1..120),
    ) {
        let mut site = Site::new();
        let drain = std::iter::repeat_n([(1, 1), (2, 1), (3, 9)], 300).flatten();
        for (what, n) in acts.into_iter().chain(drain) {
            site.act(match what {
                0 => Act::Append(vec![(None, None, None); n]),
                1 => Act::Report(true),
                2 => Act::Ask,
                _ => Act::Take(n),
            });
            site.act(Act::Answer);
        }
        // They were served in the order of their numbers, or `next` gave them in another.
        prop_assert_eq!(site.ended.len() as u64, site.number);
    }
}
