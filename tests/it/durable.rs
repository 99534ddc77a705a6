//! Services whose events are kept on disk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::requests::ask_json;
use super::support::TestDaemon;
use super::support::disk_of;
use super::support::peers::{connected, is_silent, publish, received};
use super::support::program::{Site, wait_until};

/// A daemon with a durable service, Billing, that is declared to want orders.
fn daemon(directory: &TempDir, more: Value) -> TestDaemon {
    let mut settings = json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    });
    for (key, value) in more.as_object().expect("an object") {
        settings[key] = value.clone();
    }
    TestDaemon::in_own_process(&settings)
}

fn wait_until_on_disk(daemon: &TestDaemon, events: u64) {
    daemon.wait_for_service("Billing", &format!("{events} events on disk"), |found| {
        disk_of(found).pending_events == 0 && found.counters.queued == events
    });
}

struct Held {
    id: String,
    attempt: u32,
    data: String,
}

fn acknowledging(daemon: &TestDaemon) -> zmq::Socket {
    let worker = connected(&daemon.context, zmq::DEALER, &daemon.address_of("Billing"));
    worker
        .send(r#"READY {"ack": true, "credit": 1000}"#, 0)
        .expect("a send");
    worker
}

fn hold(worker: &zmq::Socket) -> Held {
    let frames = worker.recv_multipart(0).expect("an event");
    let word = String::from_utf8(frames[0].clone()).expect("text");
    let words: Vec<&str> = word.split(' ').collect();
    Held {
        id: words[1].into(),
        attempt: words[2].parse().expect("a number"),
        data: String::from_utf8(frames[2].clone()).expect("text"),
    }
}

#[test]
fn events_wait_without_anybody_and_survive_a_kill() {
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory, json!({}));
    let publisher = first.publisher();
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    publish(&publisher, "Refund", "is for nobody");
    wait_until_on_disk(&first, 100);
    first.kill();
    let second = daemon(&directory, json!({}));
    second.wait_for_counter("Billing", |c| c.matched, 100);
    let worker = acknowledging(&second);
    for n in 0..100 {
        let event = hold(&worker);
        assert_eq!(event.data, n.to_string());
        // Nobody had it before the kill.
        assert_eq!(event.attempt, 1);
        worker
            .send(&format!("ACK {}", event.id), 0)
            .expect("a send");
    }
    second.wait_for_counter("Billing", |c| c.delivered, 100);
    assert!(is_silent(&worker, 50));
}

#[test]
fn the_delay_of_a_nak_outlives_a_kill() {
    const DELAY: Duration = Duration::from_secs(6);
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory, json!({}));
    let worker = acknowledging(&first);
    first.wait_for_ready("Billing", 1);
    let publisher = first.publisher();
    (0..2).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let (delayed, other) = (hold(&worker), hold(&worker));
    let begun = Instant::now();
    let word = format!("NAK {} {}", delayed.id, DELAY.as_millis());
    worker.send(&word, 0).expect("a send");
    // The record of its time is on disk.
    let queue = directory.path().join("queues/Billing");
    let is_noted = || {
        let files = std::fs::read_dir(&queue).expect("a directory");
        let mut files = files.map(|file| std::fs::read(file.expect("an entry").path()));
        files.any(|bytes| bytes.is_ok_and(|bytes| bytes.windows(4).any(|w| w == [0xE7, 0, 0, 0])))
    };
    wait_until(|| is_noted().then_some(())).expect("a record");
    drop(worker);
    first.kill();

    let second = daemon(&directory, json!({}));
    let worker = acknowledging(&second);
    let event = hold(&worker);
    assert_eq!(
        (&*event.data, &*other.data),
        ("1", "1"),
        "it waits for nothing"
    );
    let event = hold(&worker);
    // A file's record is of the ms.
    assert!(begun.elapsed() >= DELAY - Duration::from_millis(5));
    assert_eq!((&*event.data, event.attempt), ("0", 2));
}

#[test]
fn what_is_acknowledged_does_not_come_back() {
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory, json!({}));
    let worker = acknowledging(&first);
    let publisher = first.publisher();
    (0..10).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let held: Vec<_> = (0..10).map(|_| hold(&worker)).collect();
    for event in held
        .iter()
        .filter(|event| event.data.parse::<u32>().expect("a number") % 2 == 0)
    {
        assert_eq!(event.attempt, 1);
        worker
            .send(&format!("ACK {}", event.id), 0)
            .expect("a send");
    }
    first.wait_for_counter("Billing", |c| c.delivered, 5);
    drop(worker);
    assert!(first.stop());
    let second = daemon(&directory, json!({}));
    let worker = acknowledging(&second);
    let again: Vec<_> = (0..5).map(|_| hold(&worker).data).collect();
    assert_eq!(again, ["1", "3", "5", "7", "9"]);
    assert!(is_silent(&worker, 50));
}

#[test]
fn plain_workers_are_served_too_and_what_was_not_written_comes_back() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, json!({}));
    let publisher = daemon.publisher();
    let worker = daemon.worker("Billing", &daemon.address_of("Billing"));
    (0..1000).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    (0..1000).for_each(|n| assert_eq!(received(&worker), n.to_string()));
    daemon.wait_for_counter("Billing", |c| c.delivered, 1000);
    drop(worker);
    daemon.wait_for("the worker's end", |status| {
        status.services[0].workers.connected == 0
    });
    publish(&publisher, "Order", "later");
    wait_until_on_disk(&daemon, 1);
    let other = acknowledging(&daemon);
    let event = hold(&other);
    assert_eq!((event.data.as_str(), event.attempt), ("later", 1));
}

#[test]
fn more_than_memory_holds_stays_on_disk_in_its_order() {
    const EVENTS: u64 = 5_000;
    let directory = TempDir::new().expect("a directory");
    let services =
        json!({"Billing": {"delivery": "queue", "subjects": ["Order"], "queueEvents": 100}});
    let daemon = daemon(&directory, json!({"services": services}));
    let publisher = daemon.publisher();
    (0..EVENTS).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    wait_until_on_disk(&daemon, EVENTS);
    let service = daemon.service("Billing");
    assert_eq!(service.queue.events, 100);
    assert_eq!(disk_of(&service).on_disk_only_events, EVENTS - 100);
    let worker = acknowledging(&daemon);
    for n in 0..EVENTS {
        let event = hold(&worker);
        assert_eq!((event.data, event.attempt), (n.to_string(), 1));
        worker
            .send(&format!("ACK {}", event.id), 0)
            .expect("a send");
    }
    daemon.wait_for_counter("Billing", |c| c.delivered, EVENTS);
    assert_eq!(disk_of(&daemon.service("Billing")).on_disk_only_events, 0);
}

#[test]
fn retries_and_dead_letters_survive_a_restart() {
    let directory = TempDir::new().expect("a directory");
    let services = json!({"Billing": {
        "delivery": "queue", "subjects": ["Order"],
        "retry": {"initialMs": 1, "maxMs": 1, "maxDeliveries": 3},
    }});
    let first = daemon(&directory, json!({"services": services}));
    let worker = acknowledging(&first);
    publish(&first.publisher(), "Order", "poison");
    for attempt in 1..=2 {
        let event = hold(&worker);
        assert_eq!(event.attempt, attempt);
        if attempt == 1 {
            worker
                .send(&format!("NAK {}", event.id), 0)
                .expect("a send");
        }
    }
    drop(worker);
    assert!(first.stop());
    let second = daemon(&directory, json!({"services": services}));
    let worker = acknowledging(&second);
    let event = hold(&worker);
    assert!((2..=3).contains(&event.attempt), "{}", event.attempt);
    worker
        .send(&format!("TERM {}", event.id), 0)
        .expect("a send");
    second.wait_for_counter("Billing", |c| c.dead_lettered, 1);
    drop(worker);
    assert!(second.stop());
    let third = daemon(&directory, json!({"services": services}));
    let worker = acknowledging(&third);
    assert!(is_silent(&worker, 100));
    assert_eq!(third.service("Billing").counters.matched, 0);
}

/// A worker that is at work on all that it holds ends by one of them; before and after a restart.
#[test]
fn what_ends_its_worker_takes_no_other_event_along() {
    let directory = TempDir::new().expect("a directory");
    let services = json!({"Billing": {
        "delivery": "queue", "subjects": ["Order"], "retry": {"maxDeliveries": 2},
    }});
    let first = daemon(&directory, json!({"services": services}));
    let publisher = first.publisher();
    let all = ["0", "1", "poison", "3", "4"];
    all.iter()
        .for_each(|event| publish(&publisher, "Order", event));
    for attempt in 1..=2 {
        let worker = acknowledging(&first);
        all.iter().for_each(|event| {
            let held = hold(&worker);
            assert_eq!((&*held.data, held.attempt), (*event, attempt));
        });
        drop(worker);
        first.wait_for_service("Billing", "all again", |found| found.counters.queued == 5);
    }
    assert!(first.stop());
    let second = daemon(&directory, json!({"services": services}));
    let mut worker = acknowledging(&second);
    for event in all {
        let held = hold(&worker);
        assert_eq!((&*held.data, held.attempt), (event, 3));
        assert!(is_silent(&worker, 20), "it goes alone");
        if event == "poison" {
            drop(worker);
            worker = acknowledging(&second);
            continue;
        }
        let done = format!("ACK {}", held.id);
        worker.send(&done, 0).expect("a send");
    }
    let counters = second.wait_for_service("Billing", "all", |found| found.counters.delivered == 4);
    assert_eq!(counters.counters.dead_lettered, 1);
}

#[test]
fn a_durable_service_outlives_its_subscriptions() {
    let directory = TempDir::new().expect("a directory");
    let services = json!({"Kitchen": {"delivery": "queue"}});
    let daemon = daemon(&directory, json!({"services": services}));
    let kitchen = daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
    let publisher = daemon.publisher();
    publish(&publisher, "Meal", "1");
    daemon.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["sub-1"]);
    publish(&publisher, "Meal", "2");
    let again = daemon.subscribe("sub-2", "Kitchen", &["Meal"]);
    assert_eq!(again.pull_address, kitchen.pull_address);
    let worker = daemon.worker("Kitchen", &again.pull_address);
    assert_eq!(
        (received(&worker), received(&worker)),
        ("1".into(), "2".into())
    );
}

#[test]
fn events_with_one_key_are_in_one_hand_and_keep_their_order() {
    let directory = TempDir::new().expect("a directory");
    let services = json!({"Billing": {
        "delivery": "queue", "subjects": ["Order"], "orderBy": "subject",
        "retry": {"initialMs": 1, "maxMs": 5, "maxDeliveries": 100},
    }});
    let daemon = daemon(&directory, json!({"services": services}));
    let workers: Vec<_> = (0..3).map(|_| acknowledging(&daemon)).collect();
    daemon.wait_for_ready("Billing", 3);
    let publisher = daemon.publisher();
    for n in 0..300 {
        publish(&publisher, &format!("Order.{}", n % 5), &n.to_string());
    }
    let mut done: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut turn = 0;
    while done.values().map(Vec::len).sum::<usize>() < 300 {
        let mut items: Vec<_> = workers
            .iter()
            .map(|worker| worker.as_poll_item(zmq::POLLIN))
            .collect();
        assert!(
            zmq::poll(&mut items, 5000).expect("a poll") > 0,
            "stuck: {done:?}"
        );
        let ready: Vec<bool> = items.iter().map(zmq::PollItem::is_readable).collect();
        for (worker, _) in workers.iter().zip(ready).filter(|(_, ready)| *ready) {
            let event = hold(worker);
            turn += 1;
            if turn % 7 == 0 {
                worker
                    .send(&format!("NAK {}", event.id), 0)
                    .expect("a send");
                continue;
            }
            let n: u32 = event.data.parse().expect("a number");
            done.entry(n % 5).or_default().push(n);
            worker
                .send(&format!("ACK {}", event.id), 0)
                .expect("a send");
        }
    }
    assert!(done.values().all(|of_key| of_key.is_sorted()), "{done:?}");
}

#[test]
fn a_second_daemon_is_kept_out_of_the_state_directory() {
    let directory = TempDir::new().expect("a directory");
    let _first = daemon(&directory, json!({}));
    let site = Site::configured(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }));
    let said = site.run(&["serve"]).failed(1);
    assert!(said.contains("is in use by process"), "{said}");
}

/// As END is: whoever subscribes and leaves relies on the answer.
#[test]
fn a_subscription_that_asks_for_a_queue_is_answered_when_no_kill_takes_it_back() {
    const SERVICES: usize = 8;
    let directory = TempDir::new().expect("a directory");
    let settings = json!({"stateDir": directory.path()});
    let name = |n| format!("Billing{n}");
    for n in 0..SERVICES {
        let daemon = TestDaemon::in_own_process(&settings);
        let request = json!({"token": "subscribe", "id": format!("sub-{n}"), "service": name(n),
            "subjects": ["Order"], "delivery": "queue"});
        let answer = ask_json(&daemon.requester(), &request);
        assert_eq!(answer["token"], "TK_SYS_ACK", "{answer}");
        daemon.kill();
    }
    let last = TestDaemon::in_own_process(&settings);
    for n in 0..SERVICES {
        assert_eq!(last.service(&name(n)).subjects, ["Order"], "{n}");
    }
}

#[test]
fn a_subscription_may_make_its_service_durable() {
    let directory = TempDir::new().expect("a directory");
    let settings = json!({"stateDir": directory.path()});
    let first = TestDaemon::in_own_process(&settings);
    let subscribe = |daemon: &TestDaemon, service: &str, delivery: &str| {
        let request = json!({"token": "subscribe", "id": format!("sub-{service}"),
            "service": service, "subjects": ["Order"], "delivery": delivery});
        ask_json(&daemon.requester(), &request)["data"].to_string()
    };
    let answer = subscribe(&first, "Billing", "disk");
    assert!(answer.contains(r#"invalid-field"#), "{answer}");
    subscribe(&first, "Billing", "queue");
    // The one is durable already, the other is not, and neither changes while it is there.
    subscribe(&first, "Billing", "queue");
    let answer = subscribe(&first, "Billing", "live");
    assert!(
        answer.contains("the service's delivery is queue"),
        "{answer}"
    );
    first.subscribe("sub-Kitchen", "Kitchen", &["Order"]);
    let answer = subscribe(&first, "Kitchen", "queue");
    assert!(
        answer.contains("the service's delivery is live"),
        "{answer}"
    );
    // Nobody is subscribed any more when events come, and again after a kill.
    let unsubscribe = json!({"token": "unsubscribe", "id": "sub-Billing"});
    ask_json(&first.requester(), &unsubscribe);
    let publisher = first.publisher();
    (0..10).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    wait_until_on_disk(&first, 10);
    first.wait_for("what is to be kept", |status| status.state.written);
    first.kill();
    let second = TestDaemon::in_own_process(&settings);
    second.wait_for_counter("Billing", |c| c.matched, 10);
    let publisher = second.publisher();
    publish(&publisher, "Order", "10");
    wait_until_on_disk(&second, 11);
    let worker = acknowledging(&second);
    for n in 0..=10 {
        let event = hold(&worker);
        assert_eq!(event.data, n.to_string());
        worker
            .send(&format!("ACK {}", event.id), 0)
            .expect("a send");
    }
    second.wait_for_counter("Billing", |c| c.delivered, 11);
    assert!(second.stop());
}

#[test]
fn there_is_no_durable_subscription_without_a_state_directory() {
    let daemon = TestDaemon::in_own_process(&json!({"stateDir": ""}));
    let request = json!({"token": "subscribe", "id": "sub-1", "service": "Billing",
        "subjects": ["Order"], "delivery": "queue"});
    let answer = ask_json(&daemon.requester(), &request)["data"].to_string();
    assert!(
        answer.contains("no-store") && answer.contains("stateDir"),
        "{answer}"
    );
    assert_eq!(daemon.status().services, []);
}

#[test]
fn a_durable_service_is_ended_on_request_alone() {
    let directory = TempDir::new().expect("a directory");
    let services = json!({
        "Billing": {"delivery": "queue", "subjects": ["Order"]},
        "Kitchen": {"delivery": "queue"},
    });
    let daemon = daemon(&directory, json!({"services": services}));
    daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
    let publisher = daemon.publisher();
    publish(&publisher, "Meal", "1");
    daemon.wait_for_service("Kitchen", "the meal", |found| {
        disk_of(found).pending_events == 0 && found.counters.queued == 1
    });
    let site = Site::of(&daemon);
    let end = |service: &str| site.run(&["services", "--end", service]);
    assert!(
        end("Kitchen")
            .failed(1)
            .contains("in-use: Kitchen: it has 1 subscriptions")
    );
    assert!(
        end("Billing")
            .failed(1)
            .contains("the configuration declares it")
    );
    assert!(end("Bakery").failed(1).contains("unknown-service"));
    daemon.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["sub-1"]);
    end("Kitchen").done();
    assert_eq!(daemon.status().services.len(), 1);
    let queues = || {
        std::fs::read_dir(directory.path().join("queues"))
            .expect("a directory")
            .count()
    };
    assert!(wait_until(|| (queues() == 1).then_some(())).is_some());
    // A service of this name begins anew.
    let again = daemon.subscribe("sub-2", "Kitchen", &["Meal"]);
    publish(&publisher, "Meal", "2");
    assert_eq!(
        received(&daemon.worker("Kitchen", &again.pull_address)),
        "2"
    );
}

#[test]
fn what_retention_gives_up_is_counted_and_not_served() {
    const EVENTS: usize = 60;
    let directory = TempDir::new().expect("a directory");
    let settings = json!({
        "limits": {"maxMessageBytes": 100_000},
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"],
            "retention": {"maxBytes": 1_000_000}}},
    });
    let daemon = daemon(&directory, settings);
    let publisher = daemon.publisher();
    let large = "x".repeat(90_000);
    (0..EVENTS).for_each(|n| publish(&publisher, "Order", &format!("{n} {large}")));
    daemon.wait_for_service("Billing", "what there is room for", |found| {
        let counters = &found.counters;
        let dropped = counters.dropped.get("retention-bytes");
        let dropped = dropped.is_some_and(|dropped| *dropped >= 49);
        counters.matched == EVENTS as u64 && (1..=11).contains(&counters.queued) && dropped
    });
    let first = hold(&acknowledging(&daemon)).data;
    let first: usize = first
        .split(' ')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    assert!((49..EVENTS).contains(&first), "{first}");
}

#[test]
fn a_publisher_that_outruns_the_disk_goes_on_when_that_has_caught_up() {
    // A hundred megabytes, of which 32 MiB may wait for the disk.
    const EVENTS: u64 = 1_000;
    let directory = TempDir::new().expect("a directory");
    let settings = json!({
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"],
            "retention": {"maxBytes": 67_108_864}}},
    });
    let daemon = daemon(&directory, settings);
    let publisher = daemon.publisher();
    let large = "x".repeat(100_000);
    (0..EVENTS).for_each(|_| publish(&publisher, "Order", &large));
    daemon.wait_for_counter("Billing", |c| c.matched, EVENTS);
}

#[test]
fn a_durable_service_whose_subscription_moved_away_wants_on_after_a_restart() {
    let directory = TempDir::new().expect("a directory");
    let services = json!({"Kitchen": {"delivery": "queue"}, "Bakery": {"delivery": "queue"}});
    let first = daemon(&directory, json!({"services": services}));
    first.subscribe("sub-1", "Kitchen", &["Meal"]);
    first.wait_for("what is kept", |status| status.state.written);
    first.subscribe("sub-1", "Bakery", &["Meal"]);
    let publisher = first.publisher();
    publish(&publisher, "Meal", "1");
    for service in ["Kitchen", "Bakery"] {
        first.wait_for_counter(service, |c| c.matched, 1);
    }
    assert!(first.stop());
    let second = daemon(&directory, json!({"services": services}));
    for service in ["Kitchen", "Bakery"] {
        second.wait_for_counter(service, |c| c.matched, 1);
    }
}
