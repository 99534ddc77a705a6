//! Hubs of a mesh: each subscriber of each of them hears each event once, whoever published it.

mod loops;
mod machines;
mod refused;
mod shown;

use std::time::{Duration, Instant};

use event_manager::config::Config;
use event_manager_wire::model::Endpoint;

use super::support::bus::own_host;
use super::support::peers::{connected, is_silent, publish, received};
use super::support::{PATIENCE, TestDaemon, tunnel};

/// An address that nobody has, outside of the range from which the system gives ports to others.
fn free_address() -> Endpoint {
    let host = own_host();
    let listener = std::net::TcpListener::bind((host.as_str(), 0)).expect("a port");
    let address = Endpoint::tcp(&host, listener.local_addr().expect("it is bound").port());
    tunnel::is_daemon([&address]);
    address
}

pub fn free_addresses(count: usize) -> Vec<Endpoint> {
    (0..count).map(|_| free_address()).collect()
}

/// Listens there, and dials the others.
fn hub_of(config: &mut Config, own: &Endpoint, all: &[Endpoint]) {
    config.sub_addresses = vec![own.clone()];
    let others = all.iter().filter(|other| *other != own);
    config.mesh.peers = others.cloned().map(Into::into).collect();
}

/// So many hubs, each of which dials all others.
pub fn mesh_with(count: usize, change: impl Fn(usize, &mut Config)) -> Vec<TestDaemon> {
    let all = free_addresses(count);
    let hubs: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(n, own)| {
            TestDaemon::with(|config| {
                hub_of(config, own, &all);
                change(n, config);
            })
        })
        .collect();
    hubs.iter().for_each(|hub| wait_linked(hub, count - 1));
    hubs
}

fn mesh(count: usize) -> Vec<TestDaemon> {
    mesh_with(count, |_, _| {})
}

/// Waits until so many hubs are linked, both ways.
pub fn wait_linked(hub: &TestDaemon, others: usize) {
    hub.wait_for("all links", |status| {
        let links = status.mesh.links.iter();
        links.filter(|link| link.connected).count() == others && status.mesh.hubs.len() == others
    });
}

/// A plain subscriber of one hub, for which all hubs in `others` have been asked.
fn subscriber(hub: &TestDaemon, others: &[&TestDaemon], prefix: &str) -> zmq::Socket {
    let subscriber = hub.subscriber(&[prefix]);
    let id = hub.status().mesh.hub;
    let probe = |other: &TestDaemon| {
        other.wait_for("the prefixes", |status| {
            let mut hubs = status.mesh.hubs.iter();
            let prefixes = hub
                .status()
                .mesh
                .links
                .iter()
                .map(|link| link.prefixes)
                .max();
            hubs.any(|hub| hub.hub == id && Some(hub.prefixes) == prefixes && hub.prefixes > 0)
        });
    };
    others.iter().for_each(|other| probe(other));
    subscriber
}

fn others(hubs: &[TestDaemon], own: usize) -> Vec<&TestDaemon> {
    let others = hubs.iter().enumerate().filter(|(n, _)| *n != own);
    others.map(|(_, hub)| hub).collect()
}

/// One subscriber of each hub, whom all hubs know.
fn subscribers(hubs: &[TestDaemon], prefix: &str) -> Vec<zmq::Socket> {
    let each = hubs.iter().enumerate();
    each.map(|(n, hub)| subscriber(hub, &others(hubs, n), prefix))
        .collect()
}

/// Each hub's clients publish so many events: each subscriber gets each of all once, and those of one
/// publisher in order.
fn assert_each_hears_all_once(hubs: &[TestDaemon], subscribers: &[zmq::Socket], events: usize) {
    let publishers: Vec<_> = hubs.iter().map(TestDaemon::publisher).collect();
    for event in 0..events {
        for (n, publisher) in publishers.iter().enumerate() {
            publish(publisher, "Order", &format!("{n} {event}"));
        }
    }
    for subscriber in subscribers {
        let mut next = vec![0; hubs.len()];
        for _ in 0..events * hubs.len() {
            let event = received(subscriber);
            let (from, event) = event.split_once(' ').expect("two numbers");
            let from: usize = from.parse().expect("a number");
            assert_eq!(event, next[from].to_string());
            next[from] += 1;
        }
    }
    for subscriber in subscribers {
        assert!(
            is_silent(subscriber, 50),
            "{:?}",
            subscriber.recv_multipart(0)
        );
    }
    for hub in hubs {
        let status = hub.status();
        let came = (events * hubs.len()) as u64;
        assert_eq!(status.publishers.events, came, "nothing goes round");
    }
}

#[test]
fn two_hubs_share_their_events() {
    let hubs = mesh(2);
    let subscribers = subscribers(&hubs, "Order");
    assert_each_hears_all_once(&hubs, &subscribers, 1000);
    let status = hubs[0].status();
    let (link, other) = (&status.mesh.links[0], &hubs[1].status().mesh);
    assert_eq!(
        (link.hub.as_deref(), link.events),
        (Some(&*other.hub), 1000)
    );
    assert_eq!(
        (&other.hubs[0].hub, other.hubs[0].events),
        (&status.mesh.hub, 1000)
    );
    // A mesh link is no publisher of connectPublishers.
    assert!(status.publishers.dialled.is_empty());
}

#[test]
fn three_and_five_hubs_share_their_events() {
    for (count, events) in [(3, 1000), (5, 400)] {
        let hubs = mesh(count);
        let subscribers = subscribers(&hubs, "Order");
        assert_each_hears_all_once(&hubs, &subscribers, events);
    }
}

#[test]
fn only_what_is_wanted_goes_over_a_link() {
    let hubs = mesh_with(2, |_, config| {
        config.mesh.subjects = vec!["Order".into(), "Price.eu".into()];
    });
    let (here, there) = (&hubs[0], &hubs[1]);
    let publisher = there.publisher();
    let bytes = || there.status().mesh.hubs[0].bytes;
    // Commands of heartbeats aside, which there are none of for a while.
    for _ in 0..100 {
        publish(&publisher, "Order", "nobody wants it");
    }
    there.wait_for("the events", |status| status.publishers.unmatched == 100);
    assert_eq!(there.status().mesh.hubs[0].events, 0);
    let orders = subscriber(here, &[there], "Order.new");
    let prices = here.subscriber(&["Price"]);
    here.wait_for("two prefixes", |status| status.mesh.links[0].prefixes == 2);
    there.wait_for("both", |status| status.mesh.hubs[0].prefixes == 2);
    let before = bytes();
    for (subject, data) in [
        ("Order.old", "not wanted"),
        ("Price.us", "not in the mesh"),
        ("Other", "neither"),
    ] {
        publish(&publisher, subject, data);
    }
    publish(&publisher, "Price.eu.1", "wanted");
    publish(&publisher, "Order.new.1", "wanted, too");
    assert_eq!(received(&prices), "wanted");
    assert_eq!(received(&orders), "wanted, too");
    assert_eq!(there.status().mesh.hubs[0].events, 2);
    // Two short frames for each event, and traces once a second.
    let wanted = "Price.eu.1wantedOrder.new.1wanted, too".len() + 8;
    let traces = bytes() - before - wanted as u64;
    assert!(traces.is_multiple_of(26), "{traces}");
    // What nobody wants any more is given up.
    drop((orders, prices));
    there.wait_for("no prefix", |status| status.mesh.hubs[0].prefixes == 0);
    assert_eq!(here.status().mesh.links[0].prefixes, 0);
}

#[test]
fn who_stays_misses_nothing_while_others_join_and_leave() {
    let hubs = mesh(2);
    let (here, there) = (&hubs[0], &hubs[1]);
    let stays = subscriber(here, &[there], "Order.new");
    let publisher = there.publisher();
    let changing = connected(&here.context, zmq::SUB, &here.subscribers());
    let mut sent = 0;
    for round in 0..1000 {
        // Shorter and longer ones, and with others at their side.
        let prefix = ["", "Order", "Order.new", "Order.new.x", "Other"][round % 5];
        changing
            .set_subscribe(prefix.as_bytes())
            .expect("an option");
        for _ in 0..5 {
            publish(&publisher, "Order.new.1", &sent.to_string());
            sent += 1;
        }
        changing
            .set_unsubscribe(prefix.as_bytes())
            .expect("an option");
        if round % 200 == 100 {
            // What is given up at leisure is given up in between, too.
            let until = Instant::now() + Duration::from_millis(1100);
            while Instant::now() < until {
                publish(&publisher, "Order.new.1", &sent.to_string());
                sent += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        while changing.recv_multipart(zmq::DONTWAIT).is_ok() {}
    }
    for event in 0..sent {
        assert_eq!(received(&stays), event.to_string());
    }
    assert!(is_silent(&stays, 50));
    drop(changing);
    there.wait_for("one prefix", |status| status.mesh.hubs[0].prefixes == 1);
}

#[test]
fn services_of_each_hub_get_each_event_once() {
    let hubs = mesh(2);
    let workers: Vec<_> = hubs
        .iter()
        .map(|hub| {
            let subscribed = hub.subscribe("", "Billing", &["exact:Order", "glob:Price.*.eu"]);
            [0, 1].map(|_| hub.worker("Billing", &subscribed.pull_address))
        })
        .collect();
    for hub in &hubs {
        hub.wait_for("both prefixes", |status| status.mesh.hubs[0].prefixes == 2);
    }
    let publishers: Vec<_> = hubs.iter().map(TestDaemon::publisher).collect();
    for n in 0..100 {
        publish(&publishers[n % 2], "Order", &n.to_string());
    }
    publish(&publishers[0], "Price.1.eu", "100");
    for workers in &workers {
        let mut heard: Vec<u32> = vec![];
        while heard.len() < 101 {
            for worker in workers {
                if worker.poll(zmq::POLLIN, 1).expect("a poll") > 0 {
                    heard.push(received(worker).parse().expect("a number"));
                }
            }
        }
        heard.sort_unstable();
        assert_eq!(heard, (0..101).collect::<Vec<_>>());
        assert!(workers.iter().all(|worker| is_silent(worker, 20)));
    }
    for hub in &hubs {
        assert_eq!(hub.service("Billing").counters.matched, 101);
    }
}

#[test]
fn a_hub_that_was_killed_is_linked_again() {
    let all = free_addresses(2);
    let directory = tempfile::tempdir().expect("a directory");
    let keys = serde_json::json!({
        "subAddress": all[1].to_string(), "mesh": {"peers": [all[0].to_string()]},
        "stateDir": directory.path(),
    });
    let here = TestDaemon::with(|config| hub_of(config, &all[0], &all));
    let there = TestDaemon::in_own_process(&keys);
    wait_linked(&here, 1);
    let id = there.status().mesh.hub;
    let heard = subscriber(&here, &[&there], "Order");
    publish(&there.publisher(), "Order", "before");
    assert_eq!(received(&heard), "before");
    there.kill();
    here.wait_for("the link's end", |status| !status.mesh.links[0].connected);
    let there = TestDaemon::in_own_process(&keys);
    wait_linked(&here, 1);
    // Its id is in its directory.
    assert_eq!(there.status().mesh.hub, id);
    assert_eq!(here.status().mesh.links[0].connections, 2);
    there.wait_for("the prefix", |status| status.mesh.hubs[0].prefixes == 1);
    publish(&there.publisher(), "Order", "after");
    assert_eq!(received(&heard), "after");
}

/// A process that was stopped goes on when this is dropped, also if the test fails.
struct GoesOn<'a>(&'a TestDaemon);

impl Drop for GoesOn<'_> {
    fn drop(&mut self) {
        self.0.process().signal("CONT");
    }
}

#[test]
fn a_hub_that_hangs_does_not_slow_the_others() {
    let all = free_addresses(3);
    let hubs = [0, 1].map(|n| {
        TestDaemon::with(|config| {
            hub_of(config, &all[n], &all);
            config.budgets.subscriber_outbox_bytes = 1 << 20;
        })
    });
    let others: Vec<_> = all[..2].iter().map(ToString::to_string).collect();
    let hung = TestDaemon::in_own_process(&serde_json::json!({
        "subAddress": all[2].to_string(), "mesh": {"peers": others},
    }));
    hubs.iter().for_each(|hub| wait_linked(hub, 2));
    wait_linked(&hung, 2);
    let heard = subscriber(&hubs[1], &[&hubs[0], &hung], "Order");
    let _its = subscriber(&hung, &[&hubs[0], &hubs[1]], "Order");
    hung.process().signal("STOP");
    let goes_on = GoesOn(&hung);
    let publisher = hubs[0].publisher();
    let data = "x".repeat(1000);
    let begun = Instant::now();
    for _ in 0..200 {
        (0..100).for_each(|_| publish(&publisher, "Order", &data));
        (0..100).for_each(|_| assert_eq!(received(&heard).len(), data.len()));
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let status = hubs[0].status();
    let slow = status.mesh.hubs.iter().find(|hub| hub.dropped > 0);
    let slow = slow.expect("the one that hangs");
    assert!(slow.waiting_bytes <= 1 << 20, "{}", slow.waiting_bytes);
    assert_eq!(
        status.subscribers.counters.dropped["slow-subscriber"],
        slow.dropped
    );
    drop(goes_on);
    hubs.iter().for_each(|hub| wait_linked(hub, 2));
}
