#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

use bytes::Bytes;

use super::*;
use crate::broker::{
    DeliveryMode, Given, PeerId, QueueLimits, ServiceSettings, WorkerAnswer, WorkerKey,
};
use event_manager_wire::model::ServiceName;

fn service() -> Service {
    let limits = QueueLimits {
        bytes_max: 1 << 20,
        events_max: 1000,
    };
    let mut settings = ServiceSettings::live(limits);
    settings.delivery = DeliveryMode::Engine;
    settings.policy.when_full = DeliveryMode::Engine.default_when_full();
    Service::new(ServiceName::new("Billing").unwrap(), Ok(1), settings)
}

fn worker(service: &mut Service, slot: u32, credit: u32) -> WorkerKey {
    let worker = service.workers.join(PeerId { slot, serial: 0 }, false);
    service.workers.ready_with(worker, credit);
    service.workers.set_wants_ids(worker, true);
    worker
}

fn take(service: &mut Service, number: u64) {
    let mut item = Item::new(Bytes::from_static(b"event"));
    item.seq = Some(Seq(number));
    let aftermath = service.take_in(item, &format!("id-{number}"), None, Instant::now());
    assert!(aftermath.dead.is_empty());
}

fn give(service: &mut Service) -> crate::broker::Delivery {
    match service.dequeue(Instant::now()) {
        Some((Given::Held(delivery), _)) => delivery,
        other => panic!("{other:?}"),
    }
}

fn assert_law(service: &Service) {
    let (matched, found) = service.sides();
    assert_eq!(matched, found);
}

#[test]
fn as_many_are_wanted_as_workers_could_take() {
    let mut service = service();
    assert_eq!(service.wanted_in_all(), 0);
    let first = worker(&mut service, 0, 5);
    assert_eq!(service.wanted_in_all(), 5);
    (1..4).for_each(|number| take(&mut service, number));
    assert_eq!(service.wanted_in_all(), 5);
    let delivery = give(&mut service);
    assert_eq!(
        service.event_id_for(first, delivery.seq).as_deref(),
        Some("id-1")
    );
    assert_eq!(service.wanted_in_all(), 5);
    let seq = service.ack(first, delivery.id, Instant::now()).unwrap();
    assert_eq!(seq, Some(Seq(1)));
    assert_eq!(service.wanted_in_all(), 6);
    worker(&mut service, 1, 10);
    assert_eq!(service.wanted_in_all(), 16);
    assert_law(&service);
}

#[test]
fn what_no_worker_can_take_goes_back() {
    let mut service = service();
    let now = Instant::now();
    let first = worker(&mut service, 0, 2);
    (1..6).for_each(|number| take(&mut service, number));
    // The newest go, and never those that a worker here has tried.
    let surplus = service.give_back(GivenBack::Surplus, now);
    assert_eq!(surplus, [5, 4, 3].map(Seq));
    let tried = give(&mut service);
    let again = WorkerAnswer::Nak {
        delay: Some(std::time::Duration::ZERO),
        reason: "",
    };
    let other = give(&mut service);
    drop(
        service
            .hear_answer(first, tried.id, again, now, 0.0)
            .unwrap(),
    );
    take(&mut service, 6);
    take(&mut service, 7);
    assert_eq!(service.give_back(GivenBack::Surplus, now), [7, 6].map(Seq));
    assert_law(&service);
    // Without any worker all goes, and what one held.
    drop(service.holder_left(first, &[], now));
    assert_eq!(service.give_back(GivenBack::Surplus, now), [1, 2].map(Seq));
    assert_eq!(other.seq, Some(Seq(2)));
    assert_eq!((service.account.returned, service.queued()), (7, 0));
    assert_law(&service);
}

#[test]
fn what_waits_goes_back_and_what_is_held_stays() {
    let mut service = service();
    let now = Instant::now();
    worker(&mut service, 0, 1);
    (1..4).for_each(|number| take(&mut service, number));
    give(&mut service);
    assert_eq!(service.give_back_these(&[Seq(1), Seq(3)]), [Seq(3)]);
    assert_eq!(service.give_back(GivenBack::Waiting, now), [Seq(2)]);
    assert_eq!((service.queue.held(), service.account.returned), (1, 2));
    assert_law(&service);
}

#[test]
fn what_is_no_event_is_dead_at_once() {
    let mut service = service();
    worker(&mut service, 0, 1);
    let mut item = Item::new(Bytes::from_static(b"?"));
    item.seq = Some(Seq(1));
    let aftermath = service.take_in(item, "id", Some("nonsense".into()), Instant::now());
    assert_eq!(aftermath.dead[0].detail, "nonsense");
    let mut large = Item::new(Bytes::from(vec![0; 2 << 20]));
    large.seq = Some(Seq(2));
    let aftermath = service.take_in(large, "id", None, Instant::now());
    assert_eq!(aftermath.dead[0].detail, TOO_LARGE);
    assert_eq!((service.account.dead_lettered, service.queued()), (2, 0));
    assert_law(&service);
}
