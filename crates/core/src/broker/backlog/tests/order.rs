//! The order of events with one key, as their workers see it.

use std::collections::HashMap;

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Act {
    Push(u64),
    Join(u32),
    /// Works off what may go, as far as the credit reaches.
    Dispatch,
    Ack(usize),
    Nak(usize),
    Term(usize),
    /// For a delivery that timed out.
    AckLate(usize),
    /// The connection breaks; how many of the last events had not been written.
    Kill(usize, usize),
    /// Says BYE, and finishes what it holds.
    Leave(usize),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0u64..4).prop_map(Act::Push),
        1 => (1u32..5).prop_map(Act::Join),
        6 => Just(Act::Dispatch),
        5 => any::<usize>().prop_map(Act::Ack),
        3 => any::<usize>().prop_map(Act::Nak),
        1 => any::<usize>().prop_map(Act::Term),
        2 => any::<usize>().prop_map(Act::AckLate),
        1 => (any::<usize>(), 0usize..3).prop_map(|(n, unwritten)| Act::Kill(n, unwritten)),
        1 => any::<usize>().prop_map(Act::Leave),
        3 => (0u64..40_000).prop_map(Act::Wait),
    ]
}

/// What is known of one key from outside.
#[derive(Debug, Default)]
struct History {
    /// The number of the event that was handed out last.
    last: usize,
    held: Option<DeliveryId>,
    /// The last one is done or dead, so the next must be a later one.
    is_over: bool,
}

/// Who holds what, with which key.
type Hand = (WorkerKey, DeliveryId, u64);

struct Site {
    backlog: Backlog,
    workers: Workers,
    present: Vec<WorkerKey>,
    /// In the order in which they were given.
    hands: Vec<Hand>,
    timed_out: Vec<Hand>,
    /// The keys of events, by their sequence numbers.
    keys: HashMap<u64, u64>,
    histories: HashMap<u64, History>,
    now: Instant,
}

impl Site {
    fn give_next(&mut self) -> Option<(WorkerKey, Delivery)> {
        if self.backlog.has_next_alone(self.now)
            && let Some((worker, _)) = self.workers.pick_for_one_alone()
        {
            let delivery = self.backlog.hold_next_alone(worker, self.now);
            assert_eq!(self.backlog.held_by(worker).count(), 1, "it goes alone");
            return Some((worker, delivery.unwrap()));
        }
        if !self.backlog.has_next(self.now) {
            return None;
        }
        let (worker, _) = self.workers.pick()?;
        let delivery = self.backlog.hold_next(worker, self.now);
        Some((worker, delivery.unwrap()))
    }

    fn dispatch(&mut self) {
        while let Some((worker, delivery)) = self.give_next() {
            let (key, number) = read(&delivery.body);
            let history = self.histories.entry(key).or_default();
            assert_eq!(history.held, None, "key {key} is in two hands");
            let in_order = number > history.last || number == history.last && !history.is_over;
            assert!(in_order, "{number} after {history:?} of key {key}");
            if number > history.last && history.last > 0 {
                assert!(
                    history.is_over,
                    "{number} overtook {history:?} of key {key}"
                );
            }
            *history = History {
                last: number,
                held: Some(delivery.id),
                is_over: false,
            };
            self.hands.push((worker, delivery.id, key));
        }
    }

    /// A worker has a word to say of something that it holds.
    fn let_go(&mut self, n: usize) -> Option<Hand> {
        let hand = pick(&mut self.hands, n)?;
        self.workers.done(hand.0, 1);
        self.histories.get_mut(&hand.2)?.held = None;
        Some(hand)
    }

    fn end(&mut self, item: &Item) {
        let (key, number) = read(&item.body);
        self.end_of(key, number);
    }

    fn end_of(&mut self, key: u64, number: usize) {
        let history = self.histories.get_mut(&key).unwrap();
        assert_eq!((history.last, history.is_over), (number, false));
        history.is_over = true;
    }

    fn hear(&mut self, outcome: &Outcome) {
        outcome
            .dead
            .iter()
            .for_each(|letter| self.end(&letter.item));
        for number in &outcome.done.seqs {
            self.end_of(self.keys[&number.0], number.0 as usize);
        }
    }

    fn act(&mut self, number: usize, act: Act) {
        match act {
            Act::Push(key) => {
                let mut item = Item::new(format!("{key} {number}").into());
                item.seq = Some(Seq(number as u64));
                self.keys.insert(number as u64, key);
                let key = Some(OrderKey::from_hash(key));
                push(&mut self.backlog, [Item { key, ..item }]);
            }
            Act::Join(credit) => {
                let peer = PeerId { slot: 0, serial: 0 };
                let worker = self.workers.join(peer, false);
                self.workers.ready_with(worker, credit);
                self.present.push(worker);
            }
            Act::Dispatch => self.dispatch(),
            Act::Ack(n) => {
                if let Some((worker, id, _)) = self.let_go(n) {
                    let acked = self.backlog.ack(worker, id, self.now);
                    let Ok(Acked::Done(settled)) = acked else {
                        panic!("it was held: {acked:?}")
                    };
                    self.end(&settled.item);
                }
            }
            Act::AckLate(n) => {
                if let Some((worker, id, _)) = pick(&mut self.timed_out, n)
                    && let Ok(Acked::Done(settled)) = self.backlog.ack(worker, id, self.now)
                {
                    assert!(settled.late);
                    self.end(&settled.item);
                }
            }
            Act::Nak(n) => {
                if let Some((worker, id, _)) = self.let_go(n) {
                    let outcome = self.backlog.nak(worker, id, None, "", self.now, 0.7);
                    self.hear(&outcome.unwrap());
                }
            }
            Act::Term(n) => {
                if let Some((worker, id, _)) = self.let_go(n) {
                    let outcome = self.backlog.term(worker, id, "", self.now);
                    self.hear(&outcome.unwrap());
                }
            }
            Act::Kill(n, unwritten) => {
                if let Some(worker) = pick(&mut self.present, n) {
                    self.kill(worker, unwritten);
                }
            }
            Act::Leave(n) => {
                if let Some(worker) = self.present.get(n % self.present.len().max(1)) {
                    self.workers.bye(*worker);
                }
            }
            Act::Wait(time) => self.wait(self.now + ms(time)),
        }
    }

    fn kill(&mut self, worker: WorkerKey, unwritten: usize) {
        self.workers.leave(worker);
        self.timed_out.retain(|(by, ..)| *by != worker);
        let theirs: Vec<_> = self
            .hands
            .extract_if(.., |(by, ..)| *by == worker)
            .collect();
        let unwritten = theirs.iter().rev().take(unwritten).map(|(_, id, _)| *id);
        let unwritten: Vec<_> = unwritten.collect();
        for (_, _, key) in &theirs {
            self.histories.get_mut(key).unwrap().held = None;
        }
        let outcome = self.backlog.release(worker, &unwritten, self.now);
        self.hear(&outcome);
    }

    fn wait(&mut self, until: Instant) {
        while let Some(next) = self.backlog.poll_timeout().filter(|next| *next <= until) {
            self.now = next;
            let outcome = self.backlog.handle_timeout(next, || 0.3);
            for (worker, id) in &outcome.timed_out {
                self.workers.let_down(*worker);
                let n = self
                    .hands
                    .iter()
                    .position(|(_, held, _)| held == id)
                    .unwrap();
                let hand = self.hands.remove(n);
                self.histories.get_mut(&hand.2).unwrap().held = None;
                self.timed_out.push(hand);
            }
            self.hear(&outcome);
            self.dispatch();
        }
        self.now = until;
    }
}

fn read(body: &Bytes) -> (u64, usize) {
    let text = std::str::from_utf8(body).unwrap();
    let (key, number) = text.split_once(' ').unwrap();
    (key.parse().unwrap(), number.parse().unwrap())
}

fn pick<T>(all: &mut Vec<T>, n: usize) -> Option<T> {
    let index = n.checked_rem(all.len())?;
    Some(all.remove(index))
}

proptest! {
    #[test]
    fn events_with_one_key_keep_their_order(acts in prop::collection::vec(act(), 1..400)) {
        let mut site = Site {
            backlog: backlog(|policy| policy.retry.max_deliveries = 4),
            workers: Workers::default(),
            present: vec![],
            hands: vec![],
            timed_out: vec![],
            keys: HashMap::new(),
            histories: HashMap::new(),
            now: start(),
        };
        let pushed = acts.iter().filter(|act| matches!(act, Act::Push(_))).count();
        for (n, act) in acts.into_iter().enumerate() {
            site.act(n + 1, act);
        }
        // In the end all that came has gone, if there is a worker that does it.
        site.act(0, Act::Join(1));
        let mut patience = 20 * pushed + 20;
        while site.backlog.len() + site.backlog.held() > 0 {
            patience -= 1;
            site.dispatch();
            site.act(0, Act::Ack(0));
            site.act(0, Act::Wait(1000));
            prop_assert!(patience > 0, "{} wait for ever", site.backlog.len());
        }
        prop_assert!(site.histories.values().all(|history| history.is_over));
        prop_assert_eq!(site.backlog.waiting.key_count(), 0);
    }
}
