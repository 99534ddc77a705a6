//! What each engine has to pass from which events come.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use event_manager_wire::api::{Bridge, BridgeState};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::{BODY_BYTES, Broker, numbers};
use super::faults;
use super::support::peers::{is_silent, probe, received};
use super::support::{TestDaemon, assert_law};

/// A server from which events come.
pub trait Source: Broker {
    /// What a bridge says that brings what goes to [`Broker::TO`]: `from`, and `group` where one place has
    /// several readers. Each reader gets all of it.
    fn reader(&self, reader: usize) -> Value;

    /// A public client writes messages whose bodies are these numbers, one after the other, each with an
    /// id if the engine gives none by itself.
    fn give(&self, numbers: Range<u64>, headers: &Value) {
        self.give_of(numbers, headers, 0);
    }

    /// The same with bodies of at least so many bytes, which end with spaces.
    fn give_of(&self, numbers: Range<u64>, headers: &Value, body_bytes: usize);

    /// How many messages this reader has not acknowledged, given to it or not.
    fn left(&self, reader: usize) -> u64;
}

/// One bridge, `prices`, in: what others have written has the subject `prices` here. `more` is said of it
/// too.
pub fn settings<B: Source>(directory: &TempDir, broker: &B, more: &Value) -> Value {
    let mut settings = json!({
        "stateDir": directory.path(),
        "engines": {"main": broker.engine()},
        "bridges": {"prices": {"engine": "main", "direction": "in", "subject": "prices"}},
        "services": {"Shop": {"delivery": "queue", "subjects": ["prices"]}},
    });
    add(&mut settings["bridges"]["prices"], &broker.reader(0));
    add(&mut settings["bridges"]["prices"], more);
    settings
}

fn add(to: &mut Value, more: &Value) {
    for (key, value) in more.as_object().expect("an object") {
        to[key] = value.clone();
    }
}

pub fn daemon<B: Source>(directory: &TempDir, broker: &B) -> TestDaemon {
    TestDaemon::in_own_process(&settings(directory, broker, &json!({})))
}

pub fn wait_for(
    daemon: &TestDaemon,
    name: &str,
    what: &str,
    wanted: impl Fn(&Bridge) -> bool,
) -> Bridge {
    let is_it = |bridge: &&Bridge| bridge.name == name && wanted(bridge);
    let status = daemon.wait_for(what, |status| status.bridges.iter().any(|one| is_it(&one)));
    status.bridges.iter().find(is_it).expect("it").clone()
}

/// The server hears of it when the daemon has it on disk.
pub fn wait_until_settled<B: Source>(broker: &B) {
    while broker.left(0) != 0 {}
}

/// The bodies that a worker of the service gets.
pub fn worked(daemon: &TestDaemon, count: u64) -> Vec<String> {
    let worker = daemon.worker("Shop", &daemon.address_of("Shop"));
    (0..count).map(|_| received(&worker)).collect()
}

pub fn dead_letters(daemon: &TestDaemon) -> Vec<Value> {
    let (token, listed) = daemon.ask("dlq", &["list", "bridge.prices"]);
    assert_eq!(token, "TK_SYS_ACK", "{listed}");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    listed["letters"].as_array().expect("letters").clone()
}

/// All of it as tests of one engine.
macro_rules! conforms_in {
    ($broker:ty) => {
        crate::conformance_in::conforms_in! { $broker:
            events_come_in_once_and_in_their_order_and_the_server_hears_of_it
            what_waits_while_the_server_is_away_comes_when_it_is_there
            a_server_that_stands_still_brings_the_rest_when_it_goes_on
            two_daemons_exchange_their_events_and_none_goes_round
            what_is_no_event_is_a_dead_letter_that_can_be_looked_at_again
            kills_lose_nothing_and_bring_nothing_twice
        }
    };
    ($broker:ty: $($name:ident)+) => {
        mod conformance_in {
            use super::*;
            $(
                #[test]
                fn $name() {
                    crate::conformance_in::$name::<$broker>();
                }
            )+
        }
    };
}
pub(crate) use conforms_in;

pub fn events_come_in_once_and_in_their_order_and_the_server_hears_of_it<B: Source>() {
    let broker = B::shared();
    broker.give(0..500, &json!({}));
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    let bridge = wait_for(&daemon, "prices", "the first", |bridge| {
        bridge.events == 500
    });
    assert_eq!(bridge.direction, "in");
    let subscriber = daemon.subscriber(&["prices", "probe"]);
    let publisher = daemon.publisher();
    probe(&publisher, &subscriber, "probe");
    broker.give(500..1000, &json!({}));
    for n in 500..1000 {
        let frames = subscriber.recv_multipart(0).expect("an event");
        assert_eq!(frames, [b"prices".to_vec(), n.to_string().into_bytes()]);
    }
    daemon.wait_for_counter("Shop", |c| c.matched, 1000);
    wait_until_settled(&broker);
    let bridge = wait_for(&daemon, "prices", "all", |bridge| bridge.events == 1000);
    assert_eq!((bridge.state, bridge.refused), (BridgeState::Running, 0));
    assert!(bridge.bytes > 0 && bridge.problem.is_none());
    assert_law(&daemon.status());
    assert!(daemon.stop());
}

pub fn what_waits_while_the_server_is_away_comes_when_it_is_there<B: Source>() {
    let mut broker = B::started();
    broker.give(0..100, &json!({}));
    broker.kill();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    let bridge = wait_for(&daemon, "prices", "its problem", |one| {
        one.problem.is_some()
    });
    assert_eq!(bridge.state, BridgeState::Connecting);
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains(&broker.url()), "{problem}");
    broker.start();
    wait_for(&daemon, "prices", "all", |one| one.events == 100);
    wait_until_settled(&broker);
    // It goes while nothing comes.
    broker.kill();
    wait_for(&daemon, "prices", "its loss", |one| {
        one.state == BridgeState::Connecting
    });
    broker.start();
    broker.give(100..200, &json!({}));
    wait_for(&daemon, "prices", "the rest", |one| one.events == 200);
    wait_until_settled(&broker);
    assert_eq!(worked(&daemon, 200), numbers(200));
}

pub fn a_server_that_stands_still_brings_the_rest_when_it_goes_on<B: Source>() {
    let broker = B::started();
    broker.give(0..10, &json!({}));
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    wait_for(&daemon, "prices", "the first", |one| one.events == 10);
    wait_until_settled(&broker);
    broker.stand_still();
    wait_for(&daemon, "prices", "its silence", |one| {
        one.state != BridgeState::Running
    });
    broker.go_on();
    broker.give(10..20, &json!({}));
    assert_eq!(worked(&daemon, 20), numbers(20));
    wait_until_settled(&broker);
    let bridge = wait_for(&daemon, "prices", "all", |one| one.events == 20);
    assert_eq!(bridge.state, BridgeState::Running);
}

/// Both have the same bridges, out and in, over the same place there.
pub fn two_daemons_exchange_their_events_and_none_goes_round<B: Source>() {
    let broker = B::shared();
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let daemons = [0, 1].map(|index: usize| {
        let mut settings = json!({
            "stateDir": directories[index].path(),
            "engines": {"main": broker.engine()},
            "bridges": {
                "out": {"engine": "main", "direction": "out", "subjects": ["Order"], "to": B::TO},
                "in": {"engine": "main", "direction": "in"},
            },
        });
        add(&mut settings["bridges"]["in"], &broker.reader(index));
        TestDaemon::in_own_process(&settings)
    });
    let subscribers = [0, 1].map(|index: usize| daemons[index].subscriber(&["Order", "probe"]));
    let publishers = [0, 1].map(|index: usize| {
        let publisher = daemons[index].publisher();
        probe(&publisher, &subscribers[index], "probe");
        publisher
    });
    let events: [Vec<Vec<u8>>; 3] = [
        vec![b"Order".to_vec(), b"two frames".to_vec()],
        vec![
            b"Order.\0\xff v2".to_vec(),
            b"a".to_vec(),
            vec![],
            vec![0; 300],
        ],
        vec![b"Order alone".to_vec()],
    ];
    let rounds = 100;
    for _ in 0..rounds {
        for publisher in &publishers {
            for event in &events {
                publisher.send_multipart(event, 0).expect("a send");
            }
        }
    }
    for subscriber in &subscribers {
        let mut counts = BTreeMap::<Vec<Vec<u8>>, usize>::new();
        for _ in 0..2 * rounds * events.len() {
            let event = subscriber.recv_multipart(0).expect("an event");
            *counts.entry(event).or_default() += 1;
        }
        for event in &events {
            assert_eq!(counts[event], 2 * rounds, "{event:?}");
        }
    }
    let each = (rounds * events.len()) as u64;
    for daemon in &daemons {
        // Their own come back, and are left out.
        let bridge = wait_for(daemon, "in", "all", |bridge| {
            bridge.events == each && bridge.left_out == each
        });
        assert_eq!((bridge.known, bridge.refused), (0, 0));
        wait_for(daemon, "out", "all", |bridge| bridge.events == each);
        assert_law(&daemon.status());
    }
    assert!(
        subscribers
            .iter()
            .all(|subscriber| is_silent(subscriber, 50))
    );
}

pub fn what_is_no_event_is_a_dead_letter_that_can_be_looked_at_again<B: Source>() {
    let broker = B::shared();
    broker.give(0..1, &json!({"x-em-lengths": "7,9"}));
    broker.give(1..2, &json!({"x-em-subject": "a%0"}));
    broker.give(2..3, &json!({}));
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    wait_for(&daemon, "prices", "all", |bridge| {
        (bridge.events, bridge.refused) == (1, 2)
    });
    daemon.wait_for_counter("bridge.prices", |c| c.dead_lettered, 2);
    wait_until_settled(&broker);
    let letters = dead_letters(&daemon);
    let details: Vec<_> = letters
        .iter()
        .map(|one| one["detail"].as_str().expect("a reason"))
        .collect();
    assert!(details[0].contains("x-em-lengths"), "{details:?}");
    assert!(details[1].contains("x-em-subject"), "{details:?}");
    // What is looked at again is what it was.
    daemon.ask("dlq", &["replay", "bridge.prices"]);
    daemon.wait_for_counter("bridge.prices", |c| c.dead_lettered, 4);
    assert_law(&daemon.status());
}

/// [`faults::kills`] of each.
#[expect(clippy::print_stderr, reason = "a figure for people")]
pub fn kills_lose_nothing_and_bring_nothing_twice<B: Source>() {
    let mut broker = B::started();
    let directory = TempDir::new().expect("a directory");
    let (rounds, events) = (faults::kills(4) as u64, faults::events(500) as u64);
    for round in 0..rounds {
        let daemon = daemon(&directory, &broker);
        let begin = round * events;
        broker.give_of(begin..begin + events / 2, &json!({}), BODY_BYTES);
        broker.kill();
        broker.start();
        broker.give_of(begin + events / 2..begin + events, &json!({}), BODY_BYTES);
        wait_for(&daemon, "prices", "some", |bridge| bridge.events > 0);
        daemon.kill();
    }
    let daemon = daemon(&directory, &broker);
    wait_until_settled(&broker);
    let all = rounds * events;
    daemon.wait_for_service("Shop", "all", |found| found.counters.queued >= all);
    let worker = daemon.worker("Shop", &daemon.address_of("Shop"));
    let bodies: BTreeSet<_> = (0..all).map(|_| received(&worker)).collect();
    assert_eq!(bodies.len() as u64, all);
    assert!(is_silent(&worker, 50));
    assert_law(&daemon.status());
    eprintln!(
        "{}: {rounds} kills of each, {all} events of 1 KiB, none twice here",
        B::TYPE
    );
}
