use std::time::Duration;

use super::super::replies::PendingReplies;
use super::*;
use event_manager_core::event_id::Emitter;

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn id(said: &'static str) -> EventId {
    EventId::of(Emitter::Anybody, said.into())
}

fn tickets<const N: usize>() -> [Ticket; N] {
    let mut all = PendingReplies::new(N);
    std::array::from_fn(|_| all.ticket())
}

fn at(origin: Instant, seconds: u64, ids_max: usize) -> IdLimits {
    IdLimits {
        now: origin + Duration::from_secs(seconds),
        ids_max,
    }
}

const ONE_SERVICE: Reached = Reached {
    services: 1,
    on_disk: false,
    subscribers: false,
    at_engine: false,
    lacks_engine: false,
};

fn later(event: impl Into<Bytes>) -> ForLater {
    ForLater {
        event: event.into(),
        via: Via::Client,
        has_matched: true,
    }
}

#[test]
fn ids_are_forgotten_by_time_and_by_number_the_oldest_first() {
    let origin = Instant::now();
    let mut emissions = Emissions::default();
    let ids = ["a", "b", "c", "d"].map(id);
    for (id, seconds) in ids.iter().zip(0..) {
        let limits = at(origin, seconds, 3);
        emissions.accept(id, ONE_SERVICE, Level::Memory, limits);
    }
    let are_known = |emissions: &Emissions| {
        let known = ids.iter().map(|id| emissions.known(id).is_some());
        known.collect::<Vec<_>>()
    };
    assert_eq!(are_known(&emissions), [false, true, true, true]);
    // One that comes again is remembered from then on.
    emissions.accept(&ids[1], ONE_SERVICE, Level::Memory, at(origin, 4, 4));
    emissions.forget_until(origin + Duration::from_secs(2));
    assert_eq!(are_known(&emissions), [false, true, false, true]);
}

#[test]
fn an_id_is_known_to_its_owner_and_one_of_anybody_to_all() {
    let limits = at(Instant::now(), 0, 10);
    let of = |emitter, said: &'static str| EventId::of(emitter, said.into());
    let (till, desk) = (Emitter::Client("till"), Emitter::Client("desk"));
    let mut emissions = Emissions::default();
    for id in [of(till, "a"), of(Emitter::Anybody, "b")] {
        emissions.accept(&id, ONE_SERVICE, Level::Memory, limits);
    }
    let [ticket] = tickets();
    let number = emissions.next_number();
    emissions.wait_for_disk(
        number,
        (&of(desk, "c"), Level::Disk),
        ticket,
        1,
        ONE_SERVICE,
    );
    for (emitter, said, is_known) in [
        (till, "a", true),
        (desk, "a", false),
        (Emitter::Anybody, "a", false),
        (till, "b", true),
        (Emitter::Nameless, "b", true),
        (till, "c", false),
        (desk, "c", true),
    ] {
        let known = emissions.known(&of(emitter, said)).is_some();
        assert_eq!(known, is_known, "{emitter:?} {said}");
    }
}

#[test]
fn ids_of_one_client_push_out_no_other_s() {
    let limits = at(Instant::now(), 0, 10);
    let mut emissions = Emissions::default();
    let of = |name, said: u8| EventId::of(Emitter::Client(name), vec![said].into());
    let mut accept = |id: &EventId| {
        emissions.accept(id, ONE_SERVICE, Level::Memory, limits);
    };
    (1..=5).for_each(|said| accept(&of("till", said)));
    (1..=100).for_each(|said| accept(&of("desk", said)));
    assert!((1..=5).all(|said| emissions.known(&of("till", said)).is_some()));
    let theirs = (1..=100).filter(|said| emissions.known(&of("desk", *said)).is_some());
    assert_eq!(theirs.collect::<Vec<_>>(), [96, 97, 98, 99, 100]);
    assert_eq!(emissions.answered.len(), 10);
}

#[test]
fn what_reached_nobody_and_what_has_no_id_is_not_remembered() {
    let limits = at(Instant::now(), 0, 10);
    let mut emissions = Emissions::default();
    for (said, reached, is_known) in [
        ("a", Reached::default(), false),
        ("", ONE_SERVICE, false),
        ("b", ONE_SERVICE, true),
    ] {
        let id = id(said);
        emissions.accept(&id, reached, Level::Disk, limits);
        assert_eq!(emissions.known(&id).is_some(), is_known, "{said:?}");
    }
    // It is on no disk, so no more than memory is confirmed, whatever was asked for.
    let accepted = Known::Accepted(1, Level::Memory);
    assert_eq!(emissions.known(&id("b")), Some(Found::Known(&accepted)));
}

#[test]
fn the_last_of_the_durable_services_confirms() {
    let limits = at(Instant::now(), 0, 10);
    let mut emissions = Emissions::default();
    let ([ticket, later], id) = (tickets(), id("id"));
    let number = emissions.next_number();
    emissions.wait_for_disk(number, (&id, Level::Disk), ticket, 2, ONE_SERVICE);
    assert_eq!(emissions.known(&id), Some(Found::Pending(number)));
    emissions.wait_too(number, later);
    let (one, two) = (service("one"), service("two"));
    assert_eq!(emissions.confirm(number, &one, Ok(false), limits), None);
    let confirmed = emissions.confirm(number, &two, Ok(true), limits).unwrap();
    assert_eq!((confirmed.ticket, confirmed.again), (ticket, vec![later]));
    assert_eq!(confirmed.is_duplicate, Ok(false));
    assert_eq!(
        (confirmed.reached.services, confirmed.reached.on_disk),
        (3, true)
    );
    let known = Known::Accepted(3, Level::Disk);
    assert_eq!(emissions.known(&id), Some(Found::Known(&known)));
    // Nothing waits for it any more.
    assert_eq!(emissions.confirm(number, &two, Ok(true), limits), None);
}

#[test]
fn services_without_the_event_are_remembered_with_the_first_reason() {
    let limits = at(Instant::now(), 0, 10);
    let mut emissions = Emissions::default();
    let ([ticket], id) = (tickets(), id("id"));
    let number = emissions.next_number();
    emissions.wait_for_disk(number, (&id, Level::Disk), ticket, 3, Reached::default());
    let names = ["one", "two", "three"].map(service);
    let full = Err("full".to_owned());
    assert_eq!(emissions.confirm(number, &names[0], full, limits), None);
    assert_eq!(emissions.confirm(number, &names[1], Ok(true), limits), None);
    let gone = Err("gone".to_owned());
    let confirmed = emissions.confirm(number, &names[2], gone, limits);
    let confirmed = confirmed.unwrap();
    assert_eq!(confirmed.is_duplicate, Err(NotHad::ByStore("full".into())));
    let failed = vec![names[0].clone(), names[2].clone()];
    let known = Known::Partial(confirmed.reached, failed);
    assert_eq!(emissions.known(&id), Some(Found::Known(&known)));
    assert_eq!(confirmed.reached.services, 1);
}

#[test]
fn what_waits_goes_in_the_order_of_its_time_and_is_bounded() {
    let origin = Instant::now();
    let at = |seconds| origin + Duration::from_secs(seconds);
    let mut emissions = Emissions::default();
    let huge = Bytes::from(vec![0; WAITING_BYTES_MAX + 1]);
    // A single one may have more.
    assert_eq!(emissions.no_room_for(&huge), None);
    for (seconds, event) in [(2, "later"), (1, "sooner"), (1, "sooner too")] {
        let number = emissions.next_number();
        emissions.schedule(at(seconds), number, later(event), &Identity::Anonymous);
    }
    emissions.hold(later("held"));
    assert!(emissions.no_room_for(&huge).is_some());
    assert_eq!(emissions.no_room_for(&Bytes::from("small")), None);
    assert_eq!(emissions.next_due(), Some(at(1)));
    assert_eq!(emissions.take_due(origin), None);
    assert_eq!(emissions.take_due(at(1)), Some(later("sooner")));
    assert_eq!(emissions.take_due(at(1)), Some(later("sooner too")));
    assert_eq!(emissions.take_due(at(1)), None);
    // The wall clock was set back by a second.
    let back = ClockChange { forward_ms: -1000 };
    emissions.clock_was_set(back, at(1));
    assert_eq!(emissions.take_due(at(2)), None);
    assert_eq!(emissions.take_due(at(3)), Some(later("later")));
    assert_eq!(emissions.take_held(), Some(later("held")));
    assert_eq!(emissions.take_held(), None);
    assert_eq!(emissions.no_room_for(&huge), None);
    for _ in 0..WAITING_MAX {
        emissions.hold(later(""));
    }
    assert!(emissions.no_room_for(&Bytes::new()).is_some());
}

#[test]
fn no_client_takes_more_of_the_room_than_it_leaves() {
    let origin = Instant::now();
    let mut emissions = Emissions::default();
    let client = |name: &str| Identity::Client(name.into());
    let (greedy, other) = (client("greedy"), client("other"));
    let schedule = |emissions: &mut Emissions, event: &Bytes, who: &Identity| {
        let number = emissions.next_number();
        emissions.schedule(origin, number, later(event.clone()), who);
    };
    let small = Bytes::from_static(b"x");
    while emissions.no_share_for(&small, &greedy).is_none() {
        schedule(&mut emissions, &small, &greedy);
    }
    assert_eq!(emissions.shares[&greedy].0, WAITING_MAX / 2);
    for _ in 0..10 {
        assert_eq!(emissions.no_share_for(&small, &other), None);
        schedule(&mut emissions, &small, &other);
    }
    while emissions.take_due(origin).is_some() {}
    assert!(emissions.shares.is_empty());
    // The same of bytes. A single one may have more.
    let large = Bytes::from(vec![0; WAITING_BYTES_MAX / 4]);
    for _ in 0..2 {
        assert_eq!(emissions.no_share_for(&large, &greedy), None);
        schedule(&mut emissions, &large, &greedy);
    }
    assert!(emissions.no_share_for(&large, &greedy).is_some());
    assert_eq!(emissions.no_share_for(&large, &other), None);
}
