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
