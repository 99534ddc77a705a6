//! The backlog against a list that is searched through for everything.

mod model;

use super::*;
use model::Oracle;
use proptest::prelude::*;

const ACK_TIMEOUT: Duration = Duration::from_millis(500);
const WORKERS: usize = 3;

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
    HoldAlone(usize),
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
        3 => (0..WORKERS).prop_map(Act::HoldAlone),
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
                    let next = oracle.next_of_all(now);
                    prop_assert_eq!(item, next.map(|index| oracle.all.remove(index).item));
                }
                Act::Hold(by) => {
                    let next = oracle.next(false, now);
                    prop_assert_eq!(backlog.hold_next(workers[by], now), oracle.hold(next, by, now));
                }
                Act::HoldAlone(by) => {
                    let next = oracle.next(true, now);
                    prop_assert_eq!(backlog.hold_next_alone(workers[by], now), oracle.hold(next, by, now));
                }
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
            prop_assert_eq!(backlog.has_next(now), oracle.next(false, now).is_some());
            prop_assert_eq!(backlog.has_next_alone(now), oracle.next(true, now).is_some());
            if let Some(at) = oracle.poll_timeout() {
                prop_assert!(backlog.poll_timeout().is_some_and(|earlier| earlier <= at));
            }
            prop_assert_eq!(backlog.waiting.key_count(), oracle.keys());
            let here = (backlog.len() + backlog.held()) as u64;
            prop_assert_eq!(books.pushed, books.done + here + books.dead + books.expired + books.dropped, "{:?}", books);
        }
    }
}
