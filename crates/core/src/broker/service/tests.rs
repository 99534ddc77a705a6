#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

use super::*;

#[test]
fn workers_hold_no_more_than_may_wait_and_one_event_each() {
    let event = || Item::new(Bytes::from_static(&[0; 1000]));
    let limits = QueueLimits {
        bytes_max: 10 * event().cost(),
        events_max: 1000,
    };
    let name = ServiceName::new("Billing").unwrap();
    let mut service = Service::new(name, Ok(1), ServiceSettings::live(limits));
    let workers = [0, 1].map(|slot| {
        let peer = PeerId { slot, serial: 0 };
        service.workers.join(peer, false)
    });
    let now = Instant::now();
    service.workers.ready_with(workers[0], 100_000);
    let mut ids = vec![];
    for _ in 0..50 {
        service.enqueue(event());
        if let Some((Given::Held(delivery), _)) = service.dequeue(now) {
            ids.push(delivery.id);
        }
    }
    assert_eq!((ids.len(), service.queue.held()), (10, 10));
    // The other has work all the same.
    service.workers.ready_with(workers[1], 100_000);
    for _ in 0..5 {
        let given = service.dequeue(now);
        let Some((Given::Held(delivery), (worker, _))) = given else {
            panic!("{given:?}");
        };
        assert_eq!((worker, service.dequeue(now)), (workers[1], None));
        service.ack(worker, delivery.id, now).unwrap();
    }
    for id in ids {
        service.ack(workers[0], id, now).unwrap();
    }
    assert!(service.dequeue(now).is_some());
    assert_eq!(service.sides().1, 50);
}

/// What becomes of events of which some end each worker that is at work on them. A worker is at work on all that
/// it holds, in any order.
fn poisoned(
    poison: &[usize],
    credit: u32,
    max_deliveries: u32,
    mut chance: impl FnMut(usize) -> usize,
) {
    let limits = QueueLimits {
        bytes_max: 1 << 20,
        events_max: 1000,
    };
    let mut settings = ServiceSettings::live(limits);
    settings.policy.retry.max_deliveries = max_deliveries;
    let mut service = Service::new(ServiceName::new("Billing").unwrap(), Ok(1), settings);
    let (now, events) = (Instant::now(), 40);
    for n in 0..events {
        service.enqueue(Item::new(Bytes::from(n.to_string())));
    }
    let number = |body: &[u8]| std::str::from_utf8(body).unwrap().parse::<usize>().unwrap();
    let (mut held, mut dead, mut done) = (vec![], vec![], 0);
    let mut workers = vec![];
    for step in 0.. {
        assert!(step < 10_000, "it comes to no end: {held:?} {dead:?}");
        while workers.len() < 3 {
            let peer = PeerId { slot: 0, serial: 0 };
            let worker = service.workers.join(peer, false);
            service.workers.ready_with(worker, credit);
            workers.push(worker);
        }
        while let Some((given, (worker, _))) = service.dequeue(now) {
            let Given::Held(delivery) = given else {
                panic!("{given:?}");
            };
            held.push((worker, delivery.id, number(&delivery.body)));
        }
        // The second law: there is somebody at work as long as there is something to do.
        if held.is_empty() {
            break;
        }
        let (worker, id, n) = held.swap_remove(chance(held.len()));
        if !poison.contains(&n) {
            service.ack(worker, id, now).unwrap();
            done += 1;
            continue;
        }
        held.retain(|(by, ..)| *by != worker);
        workers.retain(|other| *other != worker);
        let aftermath = service.holder_left(worker, &[], now);
        dead.extend(
            aftermath
                .dead
                .iter()
                .map(|letter| number(&letter.item.body)),
        );
    }
    dead.sort_unstable();
    assert_eq!((&dead[..], done), (poison, events - poison.len()));
    let (matched, ended) = service.sides();
    assert_eq!((matched, ended), (0, events as u64));
}

proptest::proptest! {
    #[test]
    fn what_ends_its_worker_takes_no_other_event_along(
        poison in proptest::collection::btree_set(0usize..40, 0..6),
        credit in 1u32..20,
        max_deliveries in 1u32..5,
        chances in proptest::collection::vec(0usize..1000, 1..200),
    ) {
        let mut chances = chances.into_iter().cycle();
        let poison: Vec<_> = poison.into_iter().collect();
        poisoned(&poison, credit, max_deliveries, |n| chances.next().unwrap() % n);
    }
}
