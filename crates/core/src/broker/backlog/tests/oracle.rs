//! The backlog against a list that is searched through for everything.

use super::*;
use proptest::prelude::*;

const ACK_TIMEOUT: Duration = Duration::from_millis(500);
const WORKERS: usize = 3;

#[derive(Debug, Clone)]
enum State {
    Waiting {
        due: Option<Instant>,
    },
    Held {
        worker: usize,
        id: DeliveryId,
        deadline: Instant,
        overtaken: bool,
        given_at: Instant,
        is_done: bool,
    },
}

#[derive(Debug, Clone)]
struct Entry {
    item: Item,
    state: State,
}

impl Entry {
    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    fn due(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { due } => due,
            State::Held { .. } => None,
        }
    }

    fn id_held_by(&self, by: usize) -> Option<DeliveryId> {
        match self.state {
            State::Held { worker, id, .. } if worker == by => Some(id),
            _ => None,
        }
    }

    /// In the order of its key: held, ready, or to be tried again.
    fn in_order(&self) -> bool {
        self.due().is_none() || self.item.attempt > 0
    }
}

struct Oracle {
    policy: Policy,
    all: Vec<Entry>,
    back: i64,
    front: i64,
    last_id: u64,
    /// Until when the last word of each worker counts.
    trusted: [Option<Instant>; WORKERS],
    /// What is in the backlog is in a log, too: it has sequence numbers.
    logged: bool,
}

impl Oracle {
    fn deadline_of(&self, entry: &Entry) -> Option<Instant> {
        match entry.state {
            State::Held {
                deadline,
                overtaken: true,
                ..
            } => Some(deadline),
            State::Held {
                deadline, worker, ..
            } => Some(self.trusted[worker].map_or(deadline, |trusted| deadline.max(trusted))),
            State::Waiting { .. } => None,
        }
    }

    /// The worker answered a delivery that it holds: what it got before is overtaken.
    fn answered(&mut self, by: usize, answered: DeliveryId, now: Instant) {
        let end = now + self.policy.ack_timeout;
        self.trusted[by] = self.trusted[by].max(Some(end));
        for entry in &mut self.all {
            if let State::Held {
                worker,
                id,
                overtaken,
                deadline,
                ..
            } = &mut entry.state
                && *worker == by
                && *id < answered
                && !*overtaken
            {
                (*overtaken, *deadline) = (true, end);
            }
        }
    }

    fn cost(&self, waiting: bool) -> usize {
        let chosen = self
            .all
            .iter()
            .filter(|entry| entry.is_waiting() == waiting);
        chosen.map(|entry| entry.item.cost()).sum()
    }

    fn count(&self, waiting: bool) -> usize {
        self.all
            .iter()
            .filter(|entry| entry.is_waiting() == waiting)
            .count()
    }

    fn add(&mut self, mut item: Item, at_back: bool) -> Result<Lost, Item> {
        if item.cost() > self.policy.limits.bytes_max || self.policy.limits.events_max == 0 {
            return Err(item);
        }
        if at_back {
            item.position = item.seq.map_or(self.back + 1, |seq| seq.0 as i64);
            self.back = self.back.max(item.position);
        } else {
            self.front -= 1;
            item.position = self.front;
        }
        let due = item.not_before;
        self.all.push(Entry {
            item,
            state: State::Waiting { due },
        });
        Ok(self.shrink())
    }

    fn shrink(&mut self) -> Lost {
        let mut lost = Lost::default();
        let limits = self.policy.limits;
        while self.policy.when_full != WhenFull::Spill
            && (self.cost(true) > limits.bytes_max || self.count(true) > limits.events_max)
        {
            let waiting = self
                .all
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.is_waiting());
            let position = |(_, entry): &(usize, &Entry)| entry.item.position;
            let victim = match self.policy.when_full {
                WhenFull::DropOldest => waiting.min_by_key(position),
                _ => waiting.max_by_key(position),
            };
            let victim = victim.unwrap().0;
            lost.add(&self.all.remove(victim).item);
        }
        lost
    }

    /// The index of the next that may go.
    fn next(&self, now: Instant) -> Option<usize> {
        let may_go = |entry: &Entry| {
            let is_first_of_its_key = entry.item.key.is_none()
                || self.all.iter().all(|other| {
                    other.item.key != entry.item.key
                        || other.is_waiting()
                            && (!other.in_order() || other.item.position >= entry.item.position)
                });
            entry.is_waiting()
                && entry.due().is_none()
                && entry.item.expires_at.is_none_or(|end| end > now)
                && is_first_of_its_key
        };
        let all = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, entry)| may_go(entry));
        all.min_by_key(|(_, entry)| entry.item.position)
            .map(|(index, _)| index)
    }

    fn hold(&mut self, worker: usize, now: Instant) -> Option<Delivery> {
        let index = self.next(now)?;
        if self.ids_of(worker).is_empty() {
            self.trusted[worker] = None;
        }
        self.last_id += 1;
        let id = DeliveryId(self.last_id);
        let entry = &mut self.all[index];
        entry.item.attempt += 1;
        entry.item.first_at = entry.item.first_at.or(Some(now));
        entry.state = State::Held {
            worker,
            id,
            deadline: now + self.policy.ack_timeout,
            overtaken: false,
            given_at: now,
            is_done: false,
        };
        Some(Delivery {
            id,
            attempt: entry.item.attempt,
            seq: entry.item.seq,
            body: entry.item.body.clone(),
        })
    }

    fn held(&self, worker: usize, id: DeliveryId) -> Result<usize, UnknownDelivery> {
        let found = self
            .all
            .iter()
            .position(|entry| entry.id_held_by(worker) == Some(id));
        found.ok_or(UnknownDelivery)
    }

    fn ack(&mut self, by: usize, id: DeliveryId, now: Instant) -> Result<Acked, UnknownDelivery> {
        if let Ok(index) = self.held(by, id) {
            self.answered(by, id, now);
            let entry = self.all.remove(index);
            let State::Held { given_at, .. } = entry.state else {
                panic!("it is held")
            };
            return Ok(Acked::Done(Settled {
                given_at: Some(given_at),
                late: false,
                item: entry.item,
            }));
        }
        let late = Some((worker(by), id));
        let found = self
            .all
            .iter()
            .position(|entry| entry.item.late.as_deref() == late.as_ref());
        let index = found.ok_or(UnknownDelivery)?;
        if let State::Held { is_done, .. } = &mut self.all[index].state {
            *is_done = true;
            return Ok(Acked::HeldAgain);
        }
        let item = self.all.remove(index).item;
        Ok(Acked::Done(Settled {
            given_at: item.first_at,
            late: true,
            item,
        }))
    }

    /// The item in this position wasn't done.
    fn fail(
        &mut self,
        index: usize,
        delay: Duration,
        by_time: bool,
        detail: &str,
        now: Instant,
        outcome: &mut Outcome,
    ) -> bool {
        let entry = self.all[index].clone();
        let State::Held {
            worker: by,
            id,
            given_at,
            is_done,
            ..
        } = entry.state
        else {
            panic!("only what is held can fail")
        };
        if by_time {
            self.all[index].item.late = Some(Box::new((worker(by), id)));
        }
        let entry = self.all[index].clone();
        if is_done {
            self.all.remove(index);
            outcome.done.add(&entry.item);
            return false;
        }
        if entry.item.attempt >= self.policy.retry.max_deliveries {
            self.all.remove(index);
            outcome.dead.push(DeadLetter {
                item: entry.item,
                reason: DeadReason::MaxDeliveries,
                detail: detail.into(),
                last_at: given_at,
            });
            return false;
        }
        if entry.item.expires_at.is_some_and(|end| end <= now) {
            self.all.remove(index);
            outcome.expired.add(&entry.item);
            return false;
        }
        self.all[index].state = State::Waiting {
            due: (delay > Duration::ZERO).then(|| now + delay),
        };
        true
    }

    fn backoff(&self, index: usize, chance: f64) -> Duration {
        let whole = ms(100) * 2u32.pow(self.all[index].item.attempt - 1);
        let whole = whole.min(ms(300));
        if chance == 0.0 { whole / 2 } else { whole }
    }

    fn nak(
        &mut self,
        worker: usize,
        id: DeliveryId,
        delay: Option<Duration>,
        now: Instant,
        chance: f64,
    ) -> Result<Outcome, UnknownDelivery> {
        let index = self.held(worker, id)?;
        self.answered(worker, id, now);
        let delay = delay.unwrap_or_else(|| self.backoff(index, chance));
        let mut outcome = Outcome::default();
        outcome.retries = self
            .fail(index, delay, false, "no", now, &mut outcome)
            .into();
        outcome.dropped = self.shrink();
        Ok(outcome)
    }

    fn term(
        &mut self,
        worker: usize,
        id: DeliveryId,
        now: Instant,
    ) -> Result<Outcome, UnknownDelivery> {
        let index = self.held(worker, id)?;
        self.answered(worker, id, now);
        let Entry {
            item,
            state: State::Held {
                given_at, is_done, ..
            },
        } = self.all.remove(index)
        else {
            panic!("it is held")
        };
        let mut outcome = Outcome::default();
        if is_done {
            outcome.done.add(&item);
            return Ok(outcome);
        }
        outcome.dead.push(DeadLetter {
            item,
            reason: DeadReason::Terminated,
            detail: "never".into(),
            last_at: given_at,
        });
        Ok(outcome)
    }

    fn hear(&mut self, worker: usize, now: Instant) {
        self.trusted[worker] = self.trusted[worker].max(Some(now + self.policy.ack_timeout));
    }

    fn wip(&mut self, worker: usize, id: DeliveryId, now: Instant) -> Result<(), UnknownDelivery> {
        self.hear(worker, now);
        let index = self.held(worker, id)?;
        if let State::Held { deadline, .. } = &mut self.all[index].state {
            *deadline = (now + self.policy.ack_timeout).max(*deadline);
        }
        Ok(())
    }

    fn ids_of(&self, worker: usize) -> Vec<DeliveryId> {
        let mut ids: Vec<_> = self
            .all
            .iter()
            .filter_map(|entry| entry.id_held_by(worker))
            .collect();
        ids.sort();
        ids
    }

    fn release(&mut self, worker: usize, unwritten: &[DeliveryId], now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let gone = self::worker(worker);
        for entry in &mut self.all {
            if entry.is_waiting() {
                entry.item.late.take_if(|late| late.0 == gone);
            }
        }
        for id in self.ids_of(worker) {
            let index = self.held(worker, id).unwrap();
            let item = &mut self.all[index].item;
            if unwritten.contains(&id) {
                item.attempt -= 1;
                if item.attempt == 0 {
                    item.first_at = None;
                }
            }
            let again = self.fail(
                index,
                Duration::ZERO,
                false,
                "its worker left",
                now,
                &mut outcome,
            );
            outcome.retries += u64::from(again && !unwritten.contains(&id));
        }
        for entry in &mut self.all {
            if !entry.is_waiting() {
                entry.item.late.take_if(|late| late.0 == gone);
            }
        }
        outcome.dropped = self.shrink();
        outcome
    }

    fn handle_timeout(&mut self, now: Instant, chance: f64) -> Outcome {
        let mut outcome = Outcome::default();
        let mut ended: Vec<_> = self
            .all
            .iter()
            .filter(|entry| {
                entry.is_waiting() && entry.item.expires_at.is_some_and(|end| end <= now)
            })
            .map(|entry| (entry.item.expires_at, entry.item.position))
            .collect();
        ended.sort();
        for (_, position) in ended {
            let index = self
                .all
                .iter()
                .position(|entry| entry.item.position == position)
                .unwrap();
            outcome.expired.add(&self.all.remove(index).item);
        }
        let mut overdue: Vec<_> = self
            .all
            .iter()
            .filter_map(|entry| {
                let deadline = self.deadline_of(entry).filter(|end| *end <= now)?;
                let State::Held { worker, id, .. } = entry.state else {
                    return None;
                };
                Some((deadline, id, worker))
            })
            .collect();
        overdue.sort();
        for (_, id, by) in overdue {
            let index = self.held(by, id).unwrap();
            outcome.timed_out.push((worker(by), id));
            let delay = self.backoff(index, chance);
            let again = self.fail(
                index,
                delay,
                true,
                "not acknowledged in time",
                now,
                &mut outcome,
            );
            outcome.retries += u64::from(again);
        }
        for entry in &mut self.all {
            if let State::Waiting { due } = &mut entry.state {
                *due = due.filter(|due| *due > now);
            }
        }
        outcome.dropped = self.shrink();
        outcome
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.all.iter().flat_map(|entry| match entry.state {
            State::Waiting { due } => [due, entry.item.expires_at],
            State::Held { .. } => [self.deadline_of(entry), None],
        });
        deadlines.flatten().min()
    }

    fn keys(&self) -> usize {
        let keys = self
            .all
            .iter()
            .filter(|entry| entry.in_order())
            .filter_map(|entry| entry.item.key);
        keys.collect::<std::collections::HashSet<_>>().len()
    }
}

#[derive(Debug, Clone)]
enum Act {
    Push {
        key: Option<u64>,
        size: usize,
        ttl: Option<u64>,
        delay: Option<u64>,
    },
    PutBack {
        key: Option<u64>,
        size: usize,
    },
    Next,
    Hold(usize),
    /// Of the deliveries given so far, the nth from the last, and by whom.
    Ack(usize, usize),
    Nak(usize, usize, Option<u64>),
    Term(usize, usize),
    Wip(usize, usize),
    Hear(usize),
    Release(usize, u8),
    Wait(u64),
    Timeout(bool),
    SetPolicy(Policy),
}

fn act() -> impl Strategy<Value = Act> {
    let key = || prop::option::of(0u64..3);
    let delivery = || (prop_oneof![4 => 0usize..4, 1 => 0usize..30], 0..WORKERS);
    prop_oneof![
        8 => (key(), 0usize..200, prop::option::weighted(0.2, 0u64..1500), prop::option::weighted(0.2, 0u64..1000))
            .prop_map(|(key, size, ttl, delay)| Act::Push { key, size, ttl, delay }),
        1 => (key(), 0usize..200).prop_map(|(key, size)| Act::PutBack { key, size }),
        2 => Just(Act::Next),
        8 => (0..WORKERS).prop_map(Act::Hold),
        4 => delivery().prop_map(|(n, by)| Act::Ack(n, by)),
        5 => (delivery(), prop::option::of(0u64..400)).prop_map(|((n, by), delay)| Act::Nak(n, by, delay)),
        1 => delivery().prop_map(|(n, by)| Act::Term(n, by)),
        2 => delivery().prop_map(|(n, by)| Act::Wip(n, by)),
        1 => (0..WORKERS).prop_map(Act::Hear),
        1 => (0..WORKERS, any::<u8>()).prop_map(|(by, unwritten)| Act::Release(by, unwritten)),
        3 => (0u64..600).prop_map(Act::Wait),
        4 => any::<bool>().prop_map(Act::Timeout),
        1 => policy().prop_map(Act::SetPolicy),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let when_full = prop_oneof![
        Just(WhenFull::DropOldest),
        Just(WhenFull::DropNewest),
        Just(WhenFull::Spill)
    ];
    (500usize..8000, 0usize..12, when_full, 1u32..5).prop_map(
        |(bytes_max, events_max, when_full, max_deliveries)| Policy {
            limits: QueueLimits {
                bytes_max,
                events_max,
            },
            when_full,
            ack_timeout: ACK_TIMEOUT * max_deliveries,
            retry: Retry {
                max: ms(300),
                max_deliveries,
                ..Retry::default()
            },
        },
    )
}

/// Where all events went, by the answers of the backlog.
#[derive(Debug, Default)]
struct Books {
    pushed: u64,
    done: u64,
    dead: u64,
    expired: u64,
    dropped: u64,
}

impl Books {
    fn count(&mut self, outcome: &Outcome) {
        self.dead += outcome.dead.len() as u64;
        self.done += outcome.done.events;
        self.expired += outcome.expired.events;
        self.dropped += outcome.dropped.events;
    }

    fn count_pushed(&mut self, pushed: &Result<Lost, Item>) {
        self.pushed += 1;
        self.dropped += pushed.as_ref().map_or(1, |lost| lost.events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn agrees_with_a_list(policy in policy(), logged in any::<bool>(), acts in prop::collection::vec(act(), 1..250)) {
        let mut backlog = Backlog::new(Rc::new(policy.clone()));
        let mut oracle = Oracle { policy, all: vec![], back: 0, front: 0, last_id: 0, trusted: [None; WORKERS], logged };
        let mut books = Books::default();
        let mut now = start();
        let workers: Vec<_> = (0..WORKERS).map(worker).collect();
        // Each event is told from the others by what is in it.
        let new = |n: usize, size: usize, key: Option<u64>| Item {
            key: key.map(OrderKey::from_hash),
            ..Item::new([&n.to_be_bytes()[..], &vec![0; size]].concat().into())
        };
        for (n, act) in acts.into_iter().enumerate() {
            let id = |back: usize, oracle: &Oracle| DeliveryId(oracle.last_id.saturating_sub(back as u64));
            match act {
                Act::Push { key, size, ttl, delay } => {
                    let item = Item {
                        seq: oracle.logged.then_some(Seq(n as u64 + 1)),
                        not_before: delay.map(|delay| now + ms(delay)),
                        expires_at: ttl.map(|ttl| now + ms(ttl)),
                        ..new(n, size, key)
                    };
                    let pushed = backlog.push(item.clone());
                    books.count_pushed(&pushed);
                    prop_assert_eq!(pushed, oracle.add(item, true));
                }
                Act::PutBack { key, size } => {
                    let item = new(n, size, key);
                    let pushed = backlog.put_back(item.clone());
                    books.count_pushed(&pushed);
                    prop_assert_eq!(pushed, oracle.add(item, false));
                }
                Act::Next => {
                    let item = backlog.next(now);
                    books.done += u64::from(item.is_some());
                    let next = oracle.next(now);
                    prop_assert_eq!(item, next.map(|index| oracle.all.remove(index).item));
                }
                Act::Hold(by) => prop_assert_eq!(backlog.hold_next(workers[by], now), oracle.hold(by, now)),
                Act::Ack(back, by) => {
                    let id = id(back, &oracle);
                    let acked = backlog.ack(workers[by], id, now);
                    books.done += u64::from(matches!(acked, Ok(Acked::Done(_))));
                    prop_assert_eq!(acked, oracle.ack(by, id, now));
                }
                Act::Nak(back, by, delay) => {
                    let (id, delay) = (id(back, &oracle), delay.map(ms));
                    let outcome = backlog.nak(workers[by], id, delay, "no", now, 1.0);
                    outcome.iter().for_each(|outcome| books.count(outcome));
                    prop_assert_eq!(outcome, oracle.nak(by, id, delay, now, 1.0));
                }
                Act::Term(back, by) => {
                    let id = id(back, &oracle);
                    let outcome = backlog.term(workers[by], id, "never", now);
                    outcome.iter().for_each(|outcome| books.count(outcome));
                    prop_assert_eq!(outcome, oracle.term(by, id, now));
                }
                Act::Wip(back, by) => {
                    let id = id(back, &oracle);
                    prop_assert_eq!(backlog.wip(workers[by], id, now), oracle.wip(by, id, now));
                }
                Act::Hear(by) => {
                    backlog.hear(workers[by], now);
                    oracle.hear(by, now);
                }
                Act::Release(by, unwritten) => {
                    let ids = oracle.ids_of(by).into_iter().enumerate();
                    let unwritten: Vec<_> = ids.filter(|(n, _)| unwritten >> (n % 8) & 1 == 1).map(|(_, id)| id).collect();
                    let outcome = backlog.release(workers[by], &unwritten, now);
                    books.count(&outcome);
                    prop_assert_eq!(outcome, oracle.release(by, &unwritten, now));
                }
                Act::Wait(time) => now += ms(time),
                Act::SetPolicy(policy) => {
                    let lost = backlog.set_policy(Rc::new(policy.clone()));
                    books.dropped += lost.events;
                    oracle.policy = policy;
                    prop_assert_eq!(lost, oracle.shrink());
                }
                Act::Timeout(whole) => {
                    let chance = f64::from(u8::from(whole));
                    let outcome = backlog.handle_timeout(now, || chance);
                    books.count(&outcome);
                    prop_assert_eq!(outcome, oracle.handle_timeout(now, chance));
                    prop_assert!(backlog.poll_timeout().is_none_or(|next| next > now));
                }
            }
            prop_assert_eq!((backlog.len(), backlog.bytes()), (oracle.count(true), oracle.cost(true)));
            prop_assert_eq!((backlog.held(), backlog.held_bytes()), (oracle.count(false), oracle.cost(false)));
            for (by, key) in workers.iter().enumerate() {
                prop_assert_eq!(backlog.held_by(*key).count(), oracle.ids_of(by).len());
            }
            prop_assert_eq!(backlog.has_next(now), oracle.next(now).is_some());
            if let Some(at) = oracle.poll_timeout() {
                prop_assert!(backlog.poll_timeout().is_some_and(|earlier| earlier <= at));
            }
            prop_assert_eq!(backlog.waiting.key_count(), oracle.keys());
            let here = (backlog.len() + backlog.held()) as u64;
            prop_assert_eq!(books.pushed, books.done + here + books.dead + books.expired + books.dropped, "{:?}", books);
        }
    }
}
