#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

mod owners;
mod restore;

use super::*;
use crate::broker::{BindFailure, Item, WhenFull};
use bytes::Bytes;
use proptest::prelude::*;

/// Binds whatever it is asked to.
struct Willing;

impl Streamers for Willing {
    fn open(&mut self, _: ServiceKey, port: u16) -> Result<u16, BindFailure> {
        Ok(port)
    }
}

struct NoDescriptors;

impl Streamers for NoDescriptors {
    fn open(&mut self, _: ServiceKey, _: u16) -> Result<u16, BindFailure> {
        Err(BindFailure::Hopeless("out of file descriptors".into()))
    }
}

const TTL: Duration = Duration::from_secs(60);

fn broker() -> Broker {
    broker_with(Policies::live(LIMITS))
}

const LIMITS: QueueLimits = QueueLimits {
    bytes_max: 1 << 20,
    events_max: 1000,
};

fn broker_with(policies: Policies) -> Broker {
    Broker::new(BrokerConfig {
        streamer_ports: 5001..=5003,
        subscription_ttl: TTL,
        subscriptions_max: 5,
        patterns_per_service_max: 4,
        policies,
    })
}

fn id(text: &str) -> SubscriptionId {
    SubscriptionId::new(text).unwrap()
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn patterns(written: &[&str]) -> BTreeSet<SubjectPattern> {
    written
        .iter()
        .map(|p| SubjectPattern::parse(p, 99).unwrap())
        .collect()
}

fn subscribe(
    broker: &mut Broker,
    sub: &str,
    service: &str,
    subjects: &[&str],
    now: Instant,
) -> Result<Subscribed, SubscribeError> {
    broker.subscribe(
        &id(sub),
        &name(service),
        patterns(subjects),
        None,
        now,
        &mut Willing,
    )
}

fn services_for(broker: &mut Broker, subject: &str) -> Vec<String> {
    broker
        .services_for(subject.as_bytes())
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_service_that_is_durable_by_request_stays_so() {
    let policies = |events_max| {
        Policies::new(move |_, asked| {
            let mut settings = ServiceSettings::live(QueueLimits {
                events_max,
                ..LIMITS
            });
            settings.delivery = asked.unwrap_or(DeliveryMode::Live);
            if settings.delivery == DeliveryMode::Queue {
                settings.policy.when_full = WhenFull::Spill;
            }
            settings
        })
    };
    let (mut broker, now) = (broker_with(policies(9)), Instant::now());
    let (durable, wanted) = (Some(DeliveryMode::Queue), patterns(&["a"]));
    let subscribed = broker.subscribe(&id("1"), &name("x"), wanted, durable, now, &mut Willing);
    let key = subscribed.unwrap().service;
    let service = broker.service_mut(key).unwrap();
    (0..3).for_each(|_| service.enqueue(Item::new(Bytes::from_static(b"event"))));
    broker.reconfigure(BrokerConfig {
        policies: policies(1),
        ..broker.config.clone()
    });
    let service = broker.service(key).unwrap();
    assert_eq!(
        (service.queue.len(), service.delivery()),
        (3, DeliveryMode::Queue)
    );
}

#[test]
fn other_settings_are_for_services_that_are_there_too() {
    let (mut broker, now) = (broker(), Instant::now());
    let subscribe = |broker: &mut Broker, n: usize| {
        let all = patterns(&["a"]);
        broker.subscribe(
            &id(&n.to_string()),
            &name("x"),
            all,
            None,
            now,
            &mut Willing,
        )
    };
    let key = subscribe(&mut broker, 1).unwrap().service;
    let service = broker.service_mut(key).unwrap();
    service.account.matched += 3;
    (0..3).for_each(|_| service.enqueue(Item::new(Bytes::from_static(b"event"))));
    let limits = QueueLimits {
        events_max: 1,
        ..LIMITS
    };
    broker.reconfigure(BrokerConfig {
        subscription_ttl: TTL / 4,
        subscriptions_max: 1,
        policies: Policies::live(limits),
        ..broker.config.clone()
    });
    let service = broker.service(key).unwrap();
    assert_eq!(
        (service.queue.len(), service.account.dropped.total()),
        (1, 2)
    );
    assert_eq!(service.sides().0, service.sides().1);
    assert_eq!(subscribe(&mut broker, 2), Err(SubscribeError::TooMany(1)));
    // A lease runs on as it was promised; the next one is shorter.
    assert!(broker.handle_timeout(now + TTL / 2).is_empty());
    broker.keep_alive(&id("1"), now + TTL / 2).unwrap();
    assert_eq!(broker.handle_timeout(now + TTL).len(), 1);
}

#[test]
fn subscriptions_of_one_service_share_port_and_union() {
    let (mut broker, now) = (broker(), Instant::now());
    let first = subscribe(&mut broker, "s1", "Billing", &["Order"], now).unwrap();
    let second = subscribe(&mut broker, "s2", "Billing", &["Order", "Refund"], now).unwrap();
    assert_eq!(first, second);
    assert_eq!(services_for(&mut broker, "OrderCreated"), ["Billing"]);
    assert_eq!(broker.unsubscribe(&id("s2"), &BTreeSet::new()), Ok(None));
    assert_eq!(services_for(&mut broker, "OrderCreated"), ["Billing"]);
    assert!(services_for(&mut broker, "Refund").is_empty());
    let ended = broker
        .unsubscribe(&id("s1"), &BTreeSet::new())
        .unwrap()
        .unwrap();
    assert_eq!(ended.name, name("Billing"));
    assert!(services_for(&mut broker, "OrderCreated").is_empty());
    assert_eq!(
        broker.unsubscribe(&id("s1"), &BTreeSet::new()),
        Err(UnknownSubscription(id("s1")))
    );
}

#[test]
fn the_same_id_replaces_or_moves() {
    let (mut broker, now) = (broker(), Instant::now());
    subscribe(&mut broker, "s1", "Billing", &["Order"], now).unwrap();
    subscribe(&mut broker, "s1", "Billing", &["Refund"], now).unwrap();
    assert!(services_for(&mut broker, "Order").is_empty());
    assert_eq!(services_for(&mut broker, "Refund"), ["Billing"]);
    let moved = subscribe(&mut broker, "s1", "Kitchen", &["Refund"], now).unwrap();
    assert_eq!(moved.ended.unwrap().name, name("Billing"));
    assert_eq!(services_for(&mut broker, "Refund"), ["Kitchen"]);
    assert_eq!(broker.subscription_count(), 1);
}

#[test]
fn some_subjects_may_end_and_the_last_ends_the_subscription() {
    let (mut broker, now) = (broker(), Instant::now());
    subscribe(&mut broker, "s1", "Billing", &["A", "B"], now).unwrap();
    assert_eq!(
        broker.unsubscribe(&id("s1"), &patterns(&["A", "X"])),
        Ok(None)
    );
    assert!(services_for(&mut broker, "A").is_empty());
    assert_eq!(services_for(&mut broker, "B"), ["Billing"]);
    assert!(
        broker
            .unsubscribe(&id("s1"), &patterns(&["B"]))
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_lease_ends_unless_it_is_kept_alive() {
    let (mut broker, origin) = (broker(), Instant::now());
    let at = |seconds: u64| origin + Duration::from_secs(seconds);
    subscribe(&mut broker, "s1", "Billing", &["A"], at(0)).unwrap();
    subscribe(&mut broker, "s2", "Kitchen", &["A"], at(0)).unwrap();
    assert_eq!(broker.poll_timeout(), Some(at(60)));
    broker.keep_alive(&id("s2"), at(50)).unwrap();
    assert!(broker.handle_timeout(at(59)).is_empty());
    let expired = broker.handle_timeout(at(60));
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].0, id("s1"));
    assert_eq!(expired[0].2.as_ref().unwrap().name, name("Billing"));
    assert_eq!(
        broker.keep_alive(&id("s1"), at(61)),
        Err(UnknownSubscription(id("s1")).into())
    );
    assert_eq!(broker.poll_timeout(), Some(at(110)));
    assert_eq!(broker.handle_timeout(at(110)).len(), 1);
    assert_eq!(broker.poll_timeout(), None);
}

#[test]
fn our_own_stall_is_not_counted_against_a_client() {
    let (mut broker, origin) = (broker(), Instant::now());
    let at = |seconds: u64| origin + Duration::from_secs(seconds);
    subscribe(&mut broker, "s1", "Billing", &["A"], at(0)).unwrap();
    broker.handle_stall(Duration::from_secs(100));
    assert!(broker.handle_timeout(at(130)).is_empty());
    broker.keep_alive(&id("s1"), at(130)).unwrap();
    assert_eq!(broker.poll_timeout(), Some(at(190)));
}

#[test]
fn what_is_refused_changes_nothing() {
    let (mut broker, now) = (broker(), Instant::now());
    let error = broker.subscribe(
        &id("s"),
        &name("S"),
        patterns(&["A"]),
        None,
        now,
        &mut NoDescriptors,
    );
    assert_eq!(
        error,
        Err(SubscribeError::NoPort("out of file descriptors".into()))
    );
    let error = subscribe(&mut broker, "s", "S", &["1", "2", "3", "4", "5"], now);
    assert_eq!(error, Err(SubscribeError::TooManyPatterns(4)));
    for service in ["A", "B", "C"] {
        subscribe(&mut broker, service, service, &["X"], now).unwrap();
    }
    let error = subscribe(&mut broker, "s", "D", &["X"], now)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no port of 5001-5003"), "{error}");
    for n in 0..2 {
        subscribe(&mut broker, &format!("more-{n}"), "A", &["X"], now).unwrap();
    }
    assert_eq!(
        subscribe(&mut broker, "s", "A", &["X"], now),
        Err(SubscribeError::TooMany(5))
    );
    assert_eq!(services_for(&mut broker, "X"), ["A", "B", "C"]);
    assert_eq!(broker.subscription_count(), 5);
}

const GRACE: Duration = Duration::from_secs(30);
/// Some time of day.
const TODAY: Duration = Duration::from_secs(1_800_000_000);

/// Whatever was bound, by port; some ports are others'.
#[derive(Default)]
struct Binding {
    taken: BTreeSet<u16>,
    bound: Vec<u16>,
}

impl Streamers for Binding {
    fn open(&mut self, _: ServiceKey, port: u16) -> Result<u16, BindFailure> {
        if self.taken.contains(&port) {
            return Err(BindFailure::InUse);
        }
        self.bound.push(port);
        Ok(port)
    }
}

/// A subscription whose lease ends so many seconds after [`TODAY`], or before.
fn former(sub: &str, service: &str, port: u16, subjects: &[&str], left: i64) -> FormerSubscription {
    FormerSubscription {
        id: id(sub),
        service: name(service),
        port,
        told_port: port,
        delivery: None,
        patterns: patterns(subjects),
        owner: None,
        expires_at: Duration::from_secs(TODAY.as_secs().saturating_add_signed(left)),
    }
}

#[test]
fn a_durable_service_wants_on_when_its_last_subscription_moves_away() {
    let now = Instant::now();
    let mut broker = broker_with(Policies::new(|_, _| ServiceSettings {
        delivery: DeliveryMode::Queue,
        ..ServiceSettings::live(LIMITS)
    }));
    subscribe(&mut broker, "s", "Billing", &["Order"], now).unwrap();
    let moved = subscribe(&mut broker, "s", "Kitchen", &["Order"], now).unwrap();
    assert_eq!(moved.ended, None);
    assert_eq!(broker.take_deserted().len(), 1);
    assert_eq!(services_for(&mut broker, "Order"), ["Billing", "Kitchen"]);
    // With its new subscription it wants what that wants, and no more.
    subscribe(&mut broker, "t", "Billing", &["Refund"], now).unwrap();
    assert_eq!(services_for(&mut broker, "Order"), ["Kitchen"]);
    broker.end_service(&name("Kitchen")).unwrap_err();
}

#[test]
fn no_durable_service_takes_the_name_of_dead_letters() {
    let now = Instant::now();
    let mut broker = broker_with(Policies::new(|name, _| ServiceSettings {
        delivery: match name.as_str() {
            "Live.DLQ" => DeliveryMode::Live,
            _ => DeliveryMode::Queue,
        },
        ..ServiceSettings::live(LIMITS)
    }));
    let refused = subscribe(&mut broker, "s", "Billing.DLQ", &[""], now).unwrap_err();
    assert_eq!(refused, SubscribeError::Reserved(name("Billing.DLQ")));
    assert!(services_for(&mut broker, "Order").is_empty());
    subscribe(&mut broker, "s", "Live.DLQ", &[""], now).unwrap();
}

#[test]
fn changes_are_told_once_and_keep_alives_once_a_quarter_of_a_lease() {
    let (mut broker, origin) = (broker(), Instant::now());
    let at = |seconds: u64| origin + Duration::from_secs(seconds);
    let changed = |broker: &mut Broker| -> Vec<_> {
        broker
            .take_changed()
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    subscribe(&mut broker, "a", "A", &["X", "Y"], at(0)).unwrap();
    assert_eq!(changed(&mut broker), ["a"]);
    assert!(changed(&mut broker).is_empty());
    for second in 1..=60 {
        broker.keep_alive(&id("a"), at(second)).unwrap();
        let expected = if second % 15 == 0 { vec!["a"] } else { vec![] };
        assert_eq!(changed(&mut broker), expected, "second {second}");
    }
    broker.unsubscribe(&id("a"), &patterns(&["X"])).unwrap();
    assert_eq!(changed(&mut broker), ["a"]);
    subscribe(&mut broker, "a", "B", &["X"], at(60)).unwrap();
    assert_eq!(changed(&mut broker), ["a"]);
    broker.handle_timeout(at(120));
    assert_eq!(changed(&mut broker), ["a"]);
    assert!(broker.subscription(&id("a"), at(120)).is_none());

    // The grace is longer than a lease here, so that a keep-alive ends it sooner.
    let kept = former("r", "R", 5001, &["X"], -20);
    let restored = broker.restore(kept, TTL * 2, at(120), TODAY, &mut Willing);
    assert!(restored.is_ok());
    assert!(changed(&mut broker).is_empty(), "it is kept already");
    broker.keep_alive(&id("r"), at(121)).unwrap();
    assert_eq!(changed(&mut broker), ["r"]);
}

#[derive(Debug, Clone)]
enum Act {
    Subscribe(u8, u8, Vec<u8>),
    KeepAlive(u8),
    Unsubscribe(u8, Vec<u8>),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let subjects = |min| proptest::collection::vec(0u8..6, min..4);
    prop_oneof![
        (0u8..4, 0u8..3, subjects(1)).prop_map(|(s, n, p)| Act::Subscribe(s, n, p)),
        (0u8..4).prop_map(Act::KeepAlive),
        (0u8..4, subjects(0)).prop_map(|(s, p)| Act::Unsubscribe(s, p)),
        (0u64..40).prop_map(Act::Pass),
    ]
}

proptest! {
    /// Against a list of subscriptions that is searched for everything.
    #[test]
    fn routes_follow_the_subscriptions(acts in proptest::collection::vec(act(), 1..60)) {
        let mut broker = broker();
        let mut now = Instant::now();
        let mut model: BTreeMap<u8, (u8, BTreeSet<u8>, Instant)> = BTreeMap::new();
        let subject = |n: &u8| format!("subject-{n}");
        let written = |subjects: &[u8]| -> BTreeSet<SubjectPattern> {
            subjects.iter().map(|n| SubjectPattern::parse(&subject(n), 99).unwrap()).collect()
        };
        for act in acts {
            match act {
                Act::Subscribe(sub, service, subjects) => {
                    let result = broker.subscribe(
                        &id(&sub.to_string()), &name(&service.to_string()), written(&subjects), None, now, &mut Willing,
                    );
                    let others = model.iter().filter(|(other, (s, ..))| **other != sub && *s == service);
                    let mut all: BTreeSet<u8> = others.flat_map(|(_, (_, p, _))| p.clone()).collect();
                    all.extend(&subjects);
                    if all.len() > 4 {
                        prop_assert_eq!(result, Err(SubscribeError::TooManyPatterns(4)));
                    } else {
                        prop_assert!(result.is_ok());
                        model.insert(sub, (service, subjects.into_iter().collect(), now + TTL));
                    }
                }
                Act::KeepAlive(sub) => {
                    let known = model.get_mut(&sub).map(|entry| entry.2 = now + TTL);
                    prop_assert_eq!(broker.keep_alive(&id(&sub.to_string()), now).is_ok(), known.is_some());
                }
                Act::Unsubscribe(sub, subjects) => {
                    let result = broker.unsubscribe(&id(&sub.to_string()), &written(&subjects));
                    prop_assert_eq!(result.is_ok(), model.contains_key(&sub));
                    if let Some((_, left, _)) = model.get_mut(&sub) {
                        left.retain(|n| !subjects.contains(n));
                        if subjects.is_empty() || left.is_empty() {
                            model.remove(&sub);
                        }
                    }
                }
                Act::Pass(seconds) => {
                    now += Duration::from_secs(seconds);
                    broker.handle_timeout(now);
                    model.retain(|_, (_, _, end)| *end > now);
                }
            }
            for n in 0..6 {
                let expected: BTreeSet<_> =
                    model.values().filter(|(_, p, _)| p.contains(&n)).map(|(s, ..)| s.to_string()).collect();
                let found: BTreeSet<_> = services_for(&mut broker, &subject(&n)).into_iter().collect();
                prop_assert_eq!(found, expected);
            }
            let services: BTreeSet<_> = model.values().map(|(service, ..)| *service).collect();
            prop_assert_eq!(broker.services().count(), services.len());
            prop_assert_eq!(broker.poll_timeout(), model.values().map(|(.., end)| *end).min());
        }
    }
}
