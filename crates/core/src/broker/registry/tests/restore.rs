//! What an earlier run left.

use super::*;

#[test]
fn a_former_subscription_is_restored_on_its_port_with_what_is_left_of_its_lease() {
    let (mut broker, origin, mut binding) = (broker(), Instant::now(), Binding::default());
    let at = |seconds: u64| origin + Duration::from_secs(seconds);
    let mut restore = |kept| broker.restore(kept, GRACE, origin, TODAY, &mut binding);
    let key = restore(former("long", "Billing", 5003, &["Order"], 50)).unwrap();
    let second = restore(former("over", "Billing", 5003, &["Refund"], -29));
    assert_eq!(second, Ok(key), "two subscriptions of one service");
    restore(former("clock set back", "Kitchen", 5001, &["Order"], 9999)).unwrap();
    assert_eq!(binding.bound, [5003, 5001]);
    assert_eq!(broker.service(key).unwrap().port(), Some(5003));
    assert_eq!(
        services_for(&mut broker, "OrderCreated"),
        ["Billing", "Kitchen"]
    );
    assert_eq!(services_for(&mut broker, "Refund"), ["Billing"]);
    let ended = |broker: &mut Broker, seconds| -> Vec<_> {
        let expired = broker.handle_timeout(at(seconds));
        expired.into_iter().map(|(id, ..)| id.to_string()).collect()
    };
    assert!(ended(&mut broker, 29).is_empty());
    assert_eq!(ended(&mut broker, 30), ["over"], "the grace is the least");
    assert_eq!(ended(&mut broker, 50), ["long"]);
    assert_eq!(
        ended(&mut broker, 60),
        ["clock set back"],
        "a whole lease is the most"
    );
}

#[test]
fn limits_are_for_new_subscriptions_and_expired_ones_change_nothing() {
    let (mut broker, now, mut binding) = (broker(), Instant::now(), Binding::default());
    let mut restore = |kept| broker.restore(kept, GRACE, now, TODAY, &mut binding);
    let expired = restore(former("s", "S", 5001, &["X"], -30));
    assert_eq!(expired, Err(RestoreError::Expired));
    restore(former("a", "A", 5001, &["1", "2", "3", "4", "5"], 0)).unwrap();
    for sub in ["b", "c", "d", "e", "f"] {
        restore(former(sub, "A", 5001, &[sub], 0)).unwrap();
    }
    assert_eq!(
        (broker.subscription_count(), broker.services().count()),
        (6, 1)
    );
    let refused = subscribe(&mut broker, "g", "G", &["X"], now).unwrap_err();
    assert_eq!(refused, SubscribeError::TooMany(5));
    let refused = subscribe(&mut broker, "b", "A", &["more"], now).unwrap_err();
    assert_eq!(refused, SubscribeError::TooManyPatterns(4));
}

#[test]
fn a_service_whose_port_is_taken_wants_on_and_its_clients_learn_of_another() {
    let (mut broker, now, mut binding) = (broker(), Instant::now(), Binding::default());
    binding.taken.extend([5001, 5002, 5003]);
    for (sub, port) in [("a", 5001), ("b", 5004), ("c", 0)] {
        let key = broker.restore(
            former(sub, sub, port, &["X"], 0),
            GRACE,
            now,
            TODAY,
            &mut binding,
        );
        let service = broker.service(key.unwrap()).unwrap();
        assert_eq!(service.port(), None);
        assert!(service.lacks_port().is_some());
    }
    assert_eq!(services_for(&mut broker, "X"), ["a", "b", "c"]);
    assert!(broker.find_ports(&mut binding).is_empty());
    let why = broker
        .services()
        .map(|(_, service)| service.lacks_port().unwrap());
    assert!(why.eq(["no port of 5001-5003 is free for service \"a\""; 3]));
    let moved = |name: &str| Err(KeepAliveError::Moved(super::name(name)));
    assert_eq!(broker.keep_alive(&id("a"), now), moved("a"));
    let wanted = patterns(&["X"]);
    let refused = broker.subscribe(&id("a"), &name("a"), wanted, None, now, &mut binding);
    assert!(
        matches!(refused, Err(SubscribeError::NoPort(_))),
        "{refused:?}"
    );
    assert_eq!(
        services_for(&mut broker, "X"),
        ["a", "b", "c"],
        "nothing changed"
    );

    binding.taken.remove(&5001);
    binding.taken.remove(&5002);
    let found = broker.find_ports(&mut binding);
    let ports: Vec<_> = found
        .iter()
        .map(|found| (found.port, found.former))
        .collect();
    assert_eq!(ports.len(), 2);
    assert_eq!(broker.keep_alive(&id("a"), now), Ok(()), "its own again");
    assert_eq!(broker.keep_alive(&id("b"), now), moved("b"));
    let told = subscribe(&mut broker, "b", "b", &["X"], now).unwrap();
    assert_eq!(told.port, 5002);
    assert_eq!(broker.keep_alive(&id("b"), now), Ok(()));
}

/// Services are as their subscriptions ask, else as this says of their names.
fn as_asked(of: fn(&str) -> DeliveryMode) -> Broker {
    broker_with(Policies::new(move |name, asked| ServiceSettings {
        delivery: asked.unwrap_or(of(name.as_str())),
        ..ServiceSettings::live(LIMITS)
    }))
}

#[test]
fn a_durable_service_is_restored_without_a_lease_or_a_subscription() {
    let (origin, mut binding) = (Instant::now(), Binding::default());
    let mut broker = as_asked(|name| match name {
        "Live" => DeliveryMode::Live,
        _ => DeliveryMode::Queue,
    });
    let expired = former("s", "Billing", 5003, &["Order"], -9999);
    broker
        .restore(expired, GRACE, origin, TODAY, &mut binding)
        .unwrap();
    assert_eq!(broker.handle_timeout(origin + GRACE).len(), 1);
    assert_eq!(
        services_for(&mut broker, "Order"),
        ["Billing"],
        "it wants on"
    );
    for service in ["Kitchen", "Live"] {
        broker.recall_port(&name(service), 5002, false);
        let wanted = patterns(&["Order"]);
        broker
            .restore_wanting(&name(service), wanted, None, &mut binding)
            .unwrap();
    }
    assert_eq!(services_for(&mut broker, "Order"), ["Billing", "Kitchen"]);
    assert_eq!(binding.bound, [5003, 5002]);
    subscribe(&mut broker, "k", "Kitchen", &["Refund"], origin).unwrap();
    assert_eq!(
        services_for(&mut broker, "Order"),
        ["Billing"],
        "until another comes"
    );
}

#[test]
fn a_name_without_room_for_its_dead_letters_is_durable_only_if_its_queue_is_there() {
    let (now, mut binding) = (Instant::now(), Binding::default());
    let mut broker = as_asked(|_| DeliveryMode::Live);
    let (there, gone) = ("%".repeat(85), "%".repeat(84));
    broker.know_queues([name(&there)]);
    let queue = Some(DeliveryMode::Queue);
    let too_long = Err(SubscribeError::TooLong(name(&gone)));
    let mut restored = |service: &str| {
        broker.restore_wanting(&name(service), patterns(&["X"]), queue, &mut binding)
    };
    assert_eq!((restored(&there), restored(&gone)), (Ok(()), too_long));
    let subscription = FormerSubscription {
        delivery: queue,
        ..former("a", &gone, 5001, &["X"], 50)
    };
    let refused = broker.restore(subscription, GRACE, now, TODAY, &mut binding);
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("it has 252 bytes; the limit is 251"), "{why}");
    assert_eq!(services_for(&mut broker, "X"), [&*there]);
}

#[test]
fn a_queue_on_disk_makes_its_service_durable_until_that_is_ended() {
    let (now, mut binding) = (Instant::now(), Binding::default());
    let mut broker = as_asked(|_| DeliveryMode::Live);
    broker.know_queues(["Left", "Asked", "Left.DLQ"].map(name));
    let asked_live = FormerSubscription {
        delivery: Some(DeliveryMode::Live),
        ..former("a", "Asked", 5001, &["X"], -9999)
    };
    broker
        .restore(asked_live, GRACE, now, TODAY, &mut binding)
        .unwrap();
    broker.adopt_queues(&mut binding);
    let all: Vec<_> = broker
        .services()
        .map(|(_, service)| (service.name().as_str(), service.delivery()))
        .collect();
    let queue = DeliveryMode::Queue;
    assert_eq!(all, [("Asked", queue), ("Left", queue)]);
    assert!(broker.find_ports(&mut binding).is_empty(), "it is empty");
    let (live, wanted) = (Some(DeliveryMode::Live), patterns(&["X"]));
    let refused = broker.subscribe(&id("s"), &name("Left"), wanted, live, now, &mut binding);
    assert_eq!(refused, Err(SubscribeError::Delivery(queue)));
    let taken = subscribe(&mut broker, "s", "Left", &["X"], now).unwrap();
    assert_eq!(broker.service(taken.service).unwrap().delivery(), queue);
    broker.unsubscribe(&id("s"), &BTreeSet::new()).unwrap();
    assert!(broker.end_service(&name("Left")).unwrap().durable);
    let anew = subscribe(&mut broker, "s", "Left", &["X"], now).unwrap();
    assert_eq!(
        broker.service(anew.service).unwrap().delivery(),
        DeliveryMode::Live
    );
}

#[test]
fn a_port_that_was_restored_is_no_other_service_s() {
    let (mut broker, now, mut binding) = (broker(), Instant::now(), Binding::default());
    let kept = former("a", "A", 5001, &["X"], 0);
    broker
        .restore(kept, GRACE, now, TODAY, &mut binding)
        .unwrap();
    let subscribed = subscribe(&mut broker, "b", "B", &["X"], now).unwrap();
    assert_eq!(subscribed.port, 5002);
    broker.unsubscribe(&id("a"), &BTreeSet::new()).unwrap();
    let subscribed = subscribe(&mut broker, "a", "A", &["X"], now).unwrap();
    assert_eq!(subscribed.port, 5001, "its own again");
}
