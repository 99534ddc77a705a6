use super::*;
use proptest::prelude::*;

fn peer(slot: u32) -> PeerId {
    PeerId { slot, serial: 0 }
}

fn workers(n: u32) -> (Workers, Vec<WorkerKey>) {
    let mut workers = Workers::default();
    let keys: Vec<_> = (0..n).map(|slot| workers.join(peer(slot), false)).collect();
    keys.iter().for_each(|key| workers.ready(*key));
    (workers, keys)
}

fn picks(workers: &mut Workers, n: usize) -> Vec<u32> {
    (0..n)
        .map_while(|_| workers.pick())
        .map(|(_, peer)| peer.slot)
        .collect()
}

#[test]
fn ready_once_is_round_robin() {
    let (mut workers, _) = workers(3);
    assert_eq!(picks(&mut workers, 7), [0, 1, 2, 0, 1, 2, 0]);
    let (mut many, _) = self::workers(2);
    let picked = picks(&mut many, 1000);
    assert_eq!(picked[900..904], [0, 1, 0, 1]);
}

#[test]
fn ready_after_each_is_least_busy_first() {
    let (mut workers, keys) = workers(2);
    assert_eq!(picks(&mut workers, 2), [0, 1]);
    workers.ready(keys[1]);
    assert_eq!(picks(&mut workers, 1), [1]);
    workers.ready(keys[1]);
    assert_eq!(picks(&mut workers, 2), [1, 0]);
}

#[test]
fn a_newcomer_does_not_get_all_the_work() {
    let (mut workers, _) = workers(1);
    picks(&mut workers, 1000);
    let newcomer = workers.join(peer(9), false);
    workers.ready(newcomer);
    let picked = picks(&mut workers, 100);
    assert!(
        picked[2 * REPORTED_MAX as usize..]
            .chunks(2)
            .all(|pair| pair[0] != pair[1])
    );
}

#[test]
fn nobody_gets_events_before_ready_or_while_full() {
    let mut workers = Workers::default();
    let key = workers.join(peer(0), false);
    assert_eq!(workers.pick(), None);
    workers.ready(key);
    workers.set_open(key, false);
    assert_eq!(workers.pick(), None);
    assert_eq!(workers.census(), (1, 1, 1));
    workers.set_open(key, true);
    assert_eq!(workers.pick(), Some((key, peer(0))));
    assert_eq!(workers.leave(key), 1);
    assert_eq!(workers.pick(), None);
}

#[test]
fn a_run_is_dealt_in_turn() {
    let (mut workers, keys) = workers(3);
    picks(&mut workers, 1);
    let mut turns = vec![];
    // One is busier than the others.
    assert!(!workers.pick_in_turn(9, &mut turns));
    picks(&mut workers, 3);
    workers.ready(keys[0]);
    assert!(workers.pick_in_turn(5, &mut turns));
    let order: Vec<_> = turns.iter().map(|(_, peer)| peer.slot).collect();
    assert_eq!(order, [1, 2, 0]);
    assert_eq!(picks(&mut workers, 4), [0, 1, 2, 0]);
}

#[test]
fn lockstep_takes_one_event_per_ready() {
    let mut workers = Workers::default();
    let key = workers.join(peer(0), true);
    workers.ready(key);
    assert!(!workers.pick_in_turn(5, &mut vec![]));
    assert_eq!(picks(&mut workers, 3), [0]);
    workers.ready(key);
    assert_eq!(picks(&mut workers, 3), [0]);
}

#[test]
fn the_light_ones_hold_nothing_or_do_not_acknowledge() {
    let (mut workers, keys) = workers(1);
    let acknowledging: Vec<_> = (5..7).map(|slot| workers.join(peer(slot), false)).collect();
    let light = |workers: &mut Workers| workers.pick_light().map(|(_, peer)| peer.slot);
    for key in &acknowledging {
        workers.ready_with(*key, 100);
    }
    assert_eq!([0; 4].map(|_| light(&mut workers)), [0, 5, 6, 0].map(Some));
    workers.bye(keys[0]);
    assert_eq!(light(&mut workers), None);
    workers.done(acknowledging[1], 1);
    assert_eq!((light(&mut workers), light(&mut workers)), (Some(6), None));
    // What was picked so is counted as ever.
    assert_eq!(picks(&mut workers, 2), [5, 6]);
}

#[test]
fn credit_bounds_what_a_worker_holds() {
    let mut workers = Workers::default();
    let key = workers.join(peer(0), false);
    workers.ready_with(key, 2);
    assert!(workers.acknowledges(key));
    // Each event has its own envelope, so a run can't go to it whole.
    assert!(!workers.pick_in_turn(5, &mut vec![]));
    assert_eq!(picks(&mut workers, 5), [0, 0]);
    workers.ready(key);
    assert!(picks(&mut workers, 5).is_empty());
    workers.done(key, 1);
    assert_eq!(picks(&mut workers, 5), [0]);
    workers.ready_with(key, 3);
    assert_eq!(picks(&mut workers, 5), [0]);
    workers.done(key, 3);
    workers.bye(key);
    assert!(picks(&mut workers, 5).is_empty());
    workers.ready(key);
    assert_eq!(picks(&mut workers, 5), [0, 0, 0]);
}

#[test]
fn what_a_worker_got_before_it_acknowledged_takes_no_credit() {
    let (mut workers, keys) = workers(1);
    picks(&mut workers, 100);
    workers.ready_with(keys[0], 1);
    assert_eq!(picks(&mut workers, 5), [0]);
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Join(bool),
    Ready(usize),
    ReadyWith(usize, u32),
    Done(usize, u64),
    LetDown(usize),
    Trust(usize),
    Bye(usize),
    Open(usize, bool),
    Leave(usize),
    Pick,
    PickInTurn(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => any::<bool>().prop_map(Act::Join),
        3 => any::<usize>().prop_map(Act::Ready),
        2 => (any::<usize>(), 1u32..40).prop_map(|(n, credit)| Act::ReadyWith(n, credit)),
        2 => (any::<usize>(), 1u64..3).prop_map(|(n, events)| Act::Done(n, events)),
        1 => any::<usize>().prop_map(Act::LetDown),
        1 => any::<usize>().prop_map(Act::Trust),
        1 => any::<usize>().prop_map(Act::Bye),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(n, open)| Act::Open(n, open)),
        1 => any::<usize>().prop_map(Act::Leave),
        5 => Just(Act::Pick),
        1 => (1usize..20).prop_map(Act::PickInTurn),
    ]
}

proptest! {
    #[test]
    fn picks_agree_with_a_search_over_all_workers(acts in proptest::collection::vec(act(), 1..200)) {
        let mut workers = Workers::default();
        // (key, the model's own copy, its place in the order of turns)
        let mut model: Vec<(WorkerKey, Worker, u64)> = vec![];
        let mut turn = 0;
        let able = |worker: &Worker| {
            worker.ready && worker.open && match worker.credit {
                _ if worker.lockstep => worker.outstanding == 0,
                Some(credit) => worker.outstanding < credit.into(),
                None => true,
            }
        };
        for act in acts {
            turn += 1;
            let at = |n: usize, model: &Vec<_>| n % model.len().max(1);
            match act {
                Act::Join(lockstep) => {
                    let peer = peer(turn as u32);
                    let worker = Worker { peer, lockstep, credit: None, ready: false, open: true, outstanding: 0, is_doubted: false, is_alone: false, last_turn: 0, stamp: 0, introduction: None, wants_ids: false };
                    model.push((workers.join(peer, lockstep), worker, turn));
                }
                Act::Ready(n) => if let Some((key, worker, since)) = { let i = at(n, &model); model.get_mut(i) } {
                    workers.ready(*key);
                    if worker.ready && worker.credit.is_none() {
                        worker.outstanding = worker.outstanding.saturating_sub(1);
                    }
                    worker.ready = true;
                    *since = turn;
                },
                Act::ReadyWith(n, credit) => if let Some((key, worker, since)) = { let i = at(n, &model); model.get_mut(i) } {
                    workers.ready_with(*key, credit);
                    if worker.credit.replace(credit).is_none() { worker.outstanding = 0; }
                    worker.ready = true;
                    *since = turn;
                },
                Act::Done(n, events) => if let Some((key, worker, since)) = { let i = at(n, &model); model.get_mut(i) } {
                    workers.done(*key, events);
                    let (was_able, load) = (able(worker), worker.load());
                    worker.outstanding = worker.outstanding.saturating_sub(events);
                    if !was_able || worker.load() != load { *since = turn; }
                },
                Act::LetDown(n) => if let Some((key, worker, since)) = { let i = at(n, &model); model.get_mut(i) } {
                    workers.let_down(*key);
                    worker.outstanding = worker.outstanding.saturating_sub(1);
                    worker.is_doubted = true;
                    *since = turn;
                },
                Act::Trust(n) => if let Some((key, worker, since)) = { let i = at(n, &model); model.get_mut(i) } {
                    workers.trust(*key);
                    if std::mem::take(&mut worker.is_doubted) { *since = turn; }
                },
                Act::Bye(n) => if let Some((key, worker, since)) = { let i = at(n, &model); model.get_mut(i) } {
                    workers.bye(*key);
                    worker.ready = false;
                    *since = turn;
                },
                Act::Open(n, open) => if let Some((key, worker, since)) = { let i = at(n, &model); model.get_mut(i) } {
                    workers.set_open(*key, open);
                    if worker.open != open { *since = turn; }
                    worker.open = open;
                },
                Act::Leave(n) => if !model.is_empty() {
                    let (key, worker, _) = model.remove(at(n, &model));
                    prop_assert_eq!(workers.leave(key), worker.outstanding);
                },
                Act::Pick => {
                    let best = model.iter_mut().filter(|(_, w, _)| able(w)).min_by_key(|(_, w, since)| (w.load(), *since));
                    let expected = best.map(|(key, worker, since)| {
                        worker.outstanding += 1;
                        *since = turn;
                        (*key, worker.peer)
                    });
                    prop_assert_eq!(workers.pick(), expected);
                }
                Act::PickInTurn(events) => {
                    let mut turns = vec![];
                    if !workers.pick_in_turn(events, &mut turns) { continue; }
                    for event in 0..events {
                        turn += 1;
                        let best = model.iter_mut().filter(|(_, w, _)| able(w)).min_by_key(|(_, w, since)| (w.load(), *since));
                        let (key, worker, since) = best.unwrap();
                        worker.outstanding += 1;
                        *since = turn;
                        prop_assert_eq!(turns[event % turns.len()], (*key, worker.peer));
                    }
                }
            }
            prop_assert_eq!(workers.any_acknowledges(), model.iter().any(|(_, w, _)| w.credit.is_some()));
            prop_assert_eq!(workers.any_eligible(), model.iter().any(|(_, w, _)| able(w)));
            prop_assert!(workers.turns.len() <= 2 * workers.workers.len() + 16);
        }
    }
}
