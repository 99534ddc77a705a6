use super::*;
use crate::security::Identity;

const CLIENTS: [&str; 3] = ["a", "b", "c"];
const SUBSCRIPTIONS: [&str; 4] = ["1", "2", "3", "4"];
const SERVICES: [&str; 2] = ["A", "B"];

#[derive(Debug, Clone)]
enum Owning {
    /// A client subscribes a service.
    Subscribe(usize, usize, usize),
    /// A client refreshes a subscription, whoever made it.
    Refresh(usize, usize),
    End(usize),
}

fn client(number: usize) -> Identity {
    Identity::Client(CLIENTS[number].into())
}

fn durable() -> Broker {
    broker_with(Policies::new(|_, _| ServiceSettings {
        delivery: DeliveryMode::Queue,
        ..ServiceSettings::live(LIMITS)
    }))
}

/// Whose the subscriptions of a service are.
fn owners_at(broker: &Broker, service: &Service) -> Vec<Identity> {
    let views = service
        .subscriptions()
        .filter_map(|id| broker.subscription(id, Instant::now())?.2.owner.cloned());
    views.collect()
}

proptest! {
    #[test]
    fn a_service_is_of_one_who_subscribed_it_and_stays_so_as_long_as_they_do(
        acts in proptest::collection::vec(
            prop_oneof![
                (0usize..4, 0usize..2, 0usize..3).prop_map(|(id, at, by)| Owning::Subscribe(id, at, by)),
                (0usize..4, 0usize..3).prop_map(|(id, by)| Owning::Refresh(id, by)),
                (0usize..4).prop_map(Owning::End),
            ],
            1..40,
        ),
    ) {
        let (mut broker, now) = (durable(), Instant::now());
        for act in acts {
            let before: Vec<_> = SERVICES.map(|service| {
                let service = broker.service(broker.find(&name(service))?)?;
                Some((service.owner().cloned(), owners_at(&broker, service)))
            }).into_iter().collect();
            match act {
                Owning::Subscribe(sub, service, by) => {
                    let sub = SUBSCRIPTIONS[sub];
                    subscribe(&mut broker, sub, SERVICES[service], &["Order"], now).unwrap();
                    broker.own(&id(sub), &client(by));
                }
                Owning::Refresh(sub, by) => broker.own(&id(SUBSCRIPTIONS[sub]), &client(by)),
                Owning::End(sub) => {
                    let _ = broker.unsubscribe(&id(SUBSCRIPTIONS[sub]), &BTreeSet::new());
                }
            }
            for (service, before) in SERVICES.iter().zip(before) {
                let Some(service) = broker.find(&name(service)).and_then(|key| broker.service(key)) else {
                    continue;
                };
                let owners = owners_at(&broker, service);
                let owner = service.owner().cloned();
                let had = before.as_ref().and_then(|(owner, _)| owner.clone());
                match owners.is_empty() {
                    // It goes on wanting what its last subscription wanted.
                    true => {
                        let last = before.map(|(_, owners)| owners).unwrap_or_default();
                        let last = last.into_iter().next().or(had);
                        prop_assert_eq!(owner, last);
                    }
                    false => {
                        prop_assert!(owner.as_ref().is_some_and(|owner| owners.contains(owner)));
                        let is_there = had.as_ref().is_some_and(|had| owners.contains(had));
                        prop_assert!(!is_there || owner == had);
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_wanted_on_is_not_routed_any_more() {
    let (mut broker, now) = (durable(), Instant::now());
    subscribe(&mut broker, "1", "A", &["Order", "Refund"], now).unwrap();
    broker.own(&id("1"), &client(0));
    let key = broker.find(&name("A")).unwrap();
    // What a subscription asks for is its own.
    broker.forget_wanted(key, &patterns(&["Order"]));
    assert_eq!(services_for(&mut broker, "Order"), ["A"]);
    broker.unsubscribe(&id("1"), &BTreeSet::new()).unwrap();
    broker.forget_wanted(key, &patterns(&["Order", "Stock"]));
    assert!(services_for(&mut broker, "Order").is_empty());
    assert_eq!(services_for(&mut broker, "Refund"), ["A"]);
    // Whose it was is known to a later run.
    broker.restore_owner(key, client(1));
    let service = broker.service(key).unwrap();
    assert_eq!(service.owner(), Some(&client(1)));
    let wanted: Vec<_> = service.wanted_on().map(ToString::to_string).collect();
    assert_eq!(wanted, ["Refund"]);
}
