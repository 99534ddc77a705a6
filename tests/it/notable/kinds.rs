//! What provokes each kind.

use super::super::support::disk_of;
use std::fs;
use std::time::Duration;

use event_manager::config::SlowSubscriber;
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{codes, in_file, noted, parsed, wait_for, with_code};
use crate::support::TestDaemon;
use crate::support::bus::{own_host, services_on};
use crate::support::peers::{connected, publish, received};
use crate::support::program::{Program, Serving, Site, locator};
use crate::support::raw::{RawPeer, command, message};

#[test]
fn services_subscriptions_and_workers_come_and_go() {
    let daemon = TestDaemon::with(|config| config.subscription_ttl = Duration::from_secs(2));
    let billing = daemon.subscribe("sub-1", "Billing", &["Order", "exact:Refund"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    publish(&daemon.publisher(), "Order", "x");
    assert_eq!(received(&worker), "x");
    drop(worker);
    let lost = wait_for(&daemon, "EM-0203");
    assert_eq!(
        [
            &lost.fields["service"],
            &lost.fields["held"],
            &lost.fields["acknowledged"]
        ],
        [&json!("Billing"), &json!(1), &json!(false)]
    );
    let kitchen = daemon.subscribe("sub-2", "Kitchen", &["Meal"]);
    drop(daemon.worker("Kitchen", &kitchen.pull_address));
    assert_eq!(wait_for(&daemon, "EM-0202").fields["service"], "Kitchen");
    daemon.unsubscribe("sub-2");
    assert_eq!(wait_for(&daemon, "EM-0102").fields["subscription"], "sub-2");
    let expired = wait_for(&daemon, "EM-0103");
    assert_eq!(
        [&expired.fields["subscription"], &expired.fields["service"]],
        ["sub-1", "Billing"]
    );
    let all = noted(&daemon);
    let subscribed = with_code(&all, "EM-0101")[0];
    assert_eq!(
        (&*subscribed.name, &*subscribed.level),
        ("subscribed", "info")
    );
    assert_eq!(subscribed.text("subjects"), Some("Order exact:Refund"));
    let port = billing.pull_address.rsplit_once(':').expect("a port").1;
    assert_eq!(subscribed.fields["port"].to_string(), port);
    assert!(subscribed.instance.starts_with("EventManager@"));
    for (code, count) in [("EM-0104", 2), ("EM-0105", 2), ("EM-0201", 2)] {
        assert_eq!(with_code(&all, code).len(), count, "{code}: {all:#?}");
    }
    let seqs = all.iter().map(|event| event.seq);
    assert!(seqs.eq(1..=all.len() as u64));
}

#[test]
fn a_burst_of_like_things_is_one_event() {
    let daemon = TestDaemon::with(|config| config.budgets.service_queue_events = 2);
    for n in 0..50 {
        daemon.subscribe(&format!("sub-{n}"), "Billing", &["Order"]);
        // Again is no news.
        daemon.subscribe(&format!("sub-{n}"), "Billing", &["Order"]);
    }
    let publisher = daemon.publisher();
    (0..50).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    daemon.wait_for_service("Billing", "48 dropped", |found| {
        found.counters.dropped.get("queue-full") == Some(&48)
    });
    let all = noted(&daemon);
    assert_eq!(with_code(&all, "EM-0101").len(), 1);
    let dropped = with_code(&all, "EM-0301");
    assert_eq!(dropped.len(), 1);
    assert_eq!(
        [&dropped[0].fields["service"], &dropped[0].fields["reason"]],
        ["Billing", "queue-full"]
    );
    let ended = daemon.service("Billing").subscriptions;
    for subscription in ended {
        daemon.unsubscribe(&subscription.id);
    }
    let ended = wait_for(&daemon, "EM-0105");
    assert_eq!(
        [&ended.fields["service"], &ended.fields["queued"]],
        [&json!("Billing"), &json!(2)]
    );
}

#[test]
fn a_slow_subscriber_and_one_that_leaves() {
    let daemon = TestDaemon::with(|config| config.budgets.subscriber_outbox_bytes = 1024);
    let mut deaf = RawPeer::met(&daemon.subscribers(), "SUB");
    deaf.send(&command("SUBSCRIBE", b"Order"));
    daemon.wait_for_subscriptions(1);
    let publisher = daemon.publisher();
    let data = "x".repeat(256 << 10);
    let mut sent = 0;
    while with_code(&noted(&daemon), "EM-0211").is_empty() {
        publish(&publisher, "Order", &data);
        sent += 1;
        assert!(sent < 1000, "it is not slow");
    }
    let slow = wait_for(&daemon, "EM-0211");
    assert_eq!(slow.fields["reason"], "slow-subscriber");
    assert!(slow.fields["events"].as_u64() > Some(0));
    drop(deaf);
    assert!(wait_for(&daemon, "EM-0213").fields["events"].as_u64() > Some(0));
}

#[test]
fn a_worker_that_reads_nothing_and_two_with_one_identity() {
    let daemon = TestDaemon::with(|config| {
        config.heartbeat_interval = Duration::from_millis(300);
        config.budgets.worker_outbox_bytes = 1024;
    });
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let first = RawPeer::met_as(&billing.pull_address, "DEALER", "me", 0);
    let mut stuck = RawPeer::met_as(&billing.pull_address, "DEALER", "me", 0);
    let twins = wait_for(&daemon, "EM-0205");
    assert_eq!(
        [&twins.fields["service"], &twins.fields["identity"]],
        ["Billing", "me"]
    );
    stuck.send(&message(&["READY"]));
    daemon.wait_for_ready("Billing", 1);
    let publisher = daemon.publisher();
    let data = "x".repeat(256 << 10);
    let mut sent = 0;
    // The system may hold much for the worker before the daemon has to.
    while with_code(&noted(&daemon), "EM-0204").is_empty() {
        publish(&publisher, "Order", &data);
        sent += 1;
        assert!(sent < 10_000, "it reads");
    }
    let stalled = wait_for(&daemon, "EM-0204");
    assert_eq!(stalled.fields["service"], "Billing");
    assert!(stalled.fields["bytes"].as_u64() > Some(1024));
    drop(first);
}

#[test]
fn a_dead_letter() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    worker.send("READY {\"ack\": true}", 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order\u{1b}[2J", "x");
    let event = worker.recv_multipart(0).expect("an event");
    let head = String::from_utf8(event[0].clone()).expect("text");
    let id = head.split(' ').nth(1).expect("an id");
    worker
        .send(&format!("TERM {id} {{\"reason\": \"no such order\"}}"), 0)
        .expect("a send");
    let dead = wait_for(&daemon, "EM-0302");
    assert_eq!(
        [
            &dead.fields["service"],
            &dead.fields["reason"],
            &dead.fields["subject"]
        ],
        ["Billing", "terminated", "Order\u{1b}[2J"]
    );
    worker.send("nonsense", 0).expect("a send");
    assert_eq!(
        wait_for(&daemon, "EM-0604").fields["reason"],
        "unknown-worker-message"
    );
}

#[test]
fn a_range_without_a_port_left() {
    let host = own_host();
    let held = std::net::TcpListener::bind((host.as_str(), 0)).expect("a port");
    let port = held.local_addr().expect("it is bound").port();
    let daemon = TestDaemon::with(|config| {
        services_on(&host)(config);
        config.streamer_ports = port..=port;
    });
    assert_eq!(
        daemon.refusal("TK_EVENT_MANAGER_SUBSCRIBE", &["sub-1", "Billing", "Order"]),
        "no-port"
    );
    let exhausted = wait_for(&daemon, "EM-0106");
    assert_eq!(exhausted.fields["service"], "Billing");
    assert!(exhausted.message.contains(&port.to_string()));
}

#[test]
fn a_locator_that_is_there_gone_and_there_again() {
    let (first, address) = locator();
    let daemon = TestDaemon::with(|config| {
        config.locator.register = true;
        config.locator.address = address.parse::<Endpoint>().expect("an address");
        config.locator.ttl = Duration::from_millis(300);
    });
    let found = wait_for(&daemon, "EM-0401");
    assert_eq!(
        [&found.fields["locator"], &found.fields["address"]],
        [&json!(address), &json!(daemon.requests())]
    );
    first.signal("TERM");
    first.end();
    let lost = wait_for(&daemon, "EM-0402");
    assert!(lost.fields["why"].is_string());
    let again = Site::new().start(&["locator", "--address", &address]);
    again.logged("the ServiceLocator is ready");
    let back = crate::support::program::wait_until(|| {
        (with_code(&noted(&daemon), "EM-0401").len() == 2).then_some(())
    });
    back.expect("it is registered again");
}

#[test]
fn the_guard_waits_is_overridden_or_gives_up() {
    let (_locator, address) = locator();
    let keys = |more: Value| {
        let mut keys = json!({"locatorAddress": address, "locatorRegister": true,
            "startupGuard": true, "startupGuardTimeout": 1,
            "stateDir": "state"});
        more.as_object()
            .expect("an object")
            .iter()
            .for_each(|(key, value)| keys[key] = value.clone());
        keys
    };
    let first = TestDaemon::serving(&Site::configured(&keys(json!({}))));
    first.program().logged("registered with the ServiceLocator");
    assert!(wait_for(&first, "EM-0412").fields["how"].is_string());

    let proceed = json!({"startupGuardTimeoutAction": "proceed"});
    let second = TestDaemon::serving(&Site::configured(&keys(proceed)));
    let all = noted(&second);
    // It may wait for more than one reason, and be registered before it says that it has started.
    let mut all = codes(&all);
    all.retain(|code| *code != "EM-0401");
    all.dedup();
    assert_eq!(all[..3], ["EM-0411", "EM-0413", "EM-0001"]);

    let site = Site::configured(&keys(json!({})));
    assert_eq!(site.run(&[]).code, Some(75));
    let all = in_file(&site, "state/events.jsonl");
    let mut all = codes(&all);
    all.dedup();
    assert_eq!(all, ["EM-0411", "EM-0414"]);
}

#[test]
fn a_queue_that_fails_and_recovers() {
    let directory = TempDir::new().expect("a directory");
    let start = || {
        TestDaemon::in_own_process(&json!({
            "stateDir": directory.path(),
            "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
        }))
    };
    assert!(start().stop());
    let queue = directory.path().join("queues/Billing");
    fs::remove_dir_all(&queue).expect("it is there");
    fs::write(&queue, "in the way").expect("a file");
    let daemon = start();
    let failed = wait_for(&daemon, "EM-0501");
    assert!(failed.fields["queue"] == "Billing" && failed.fields["reason"].is_string());
    fs::remove_file(&queue).expect("it is there");
    assert_eq!(wait_for(&daemon, "EM-0502").fields["queue"], "Billing");
}

#[test]
fn state_that_is_damaged_or_can_not_be_kept_and_a_file_that_fails() {
    let site = Site::configured(&json!({"stateDir": "state"}));
    fs::create_dir(site.path("state")).expect("a directory");
    site.write("state/state.db", "damaged");
    let daemon = TestDaemon::serving(&site);
    let damaged = wait_for(&daemon, "EM-0513");
    assert!(
        damaged.fields["aside"]
            .as_str()
            .is_some_and(|aside| aside.contains("damaged-"))
    );
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert!(daemon.stop());
    let daemon = TestDaemon::serving(&site);
    let restored = wait_for(&daemon, "EM-0521");
    assert_eq!(restored.fields["subscriptions"], 1);

    let nowhere = TestDaemon::serving(&Site::configured(&json!({"stateDir": "/dev/null/below"})));
    for code in ["EM-0011", "EM-0505", "EM-0514"] {
        wait_for(&nowhere, code);
    }
    let mut client = nowhere.client(crate::support::PATIENCE);
    let lost = client.events(None, 1).expect("an answer").lost_lines;
    assert!(lost >= 3, "{lost}");
}

#[test]
fn connections_that_are_refused_or_end_badly() {
    let daemon = TestDaemon::with(|config| {
        config.connections_max = 4;
        config.heartbeat_interval = Duration::from_millis(50);
    });
    let silent = RawPeer::met_as(&daemon.subscribers(), "SUB", "", 1);
    assert_eq!(
        wait_for(&daemon, "EM-0603").fields["reason"],
        "heartbeat-timeout"
    );
    drop(silent);
    let mut stranger = RawPeer::connect(&daemon.subscribers());
    stranger.send_while_heard(&b"GET / HTTP/1.1\r\n\r\n".repeat(4));
    stranger.read_to_end();
    assert_eq!(wait_for(&daemon, "EM-0602").fields["reason"], "not-zmtp");
    // Whose handshake isn't done would make room; without PING nobody is silent for too long.
    let crowd = [(); 4].map(|()| RawPeer::met_as(&daemon.publishers(), "PUB", "", 0));
    let late = RawPeer::connect(&daemon.publishers());
    daemon.wait_for("a refusal", |status| {
        status.refused("too-many-connections") > 0
    });
    drop((crowd, late));
    assert_eq!(
        wait_for(&daemon, "EM-0601").fields["reason"],
        "too-many-connections"
    );
}

#[test]
fn the_daemon_s_own_life_is_in_its_file() {
    let site = Site::configured(&json!({"stateDir": "state", "drainTimeout": 0.2}));
    let daemon = TestDaemon::serving(&site);
    let started = wait_for(&daemon, "EM-0001");
    assert_eq!(started.fields["requests"], *daemon.requests());
    // It hangs for longer than its ticks may be late.
    daemon.program().signal("STOP");
    std::thread::sleep(Duration::from_millis(900));
    daemon.program().signal("CONT");
    assert!(wait_for(&daemon, "EM-0009").fields["stalled_ms"].as_u64() >= Some(500));
    daemon.program().signal("HUP");
    wait_for(&daemon, "EM-0007");
    let config = fs::read_to_string(site.path("config.json")).expect("a file");
    site.write("config.json", "{");
    daemon.program().signal("HUP");
    wait_for(&daemon, "EM-0008");
    site.write("config.json", &config);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let publisher = daemon.publisher();
    (0..3).for_each(|_| publish(&publisher, "Order", "x"));
    daemon.wait_for_counter("Billing", |c| c.queued, 3);

    let taken = site.path("other.json");
    let mut other: Value = serde_json::from_str(&config).expect("JSON");
    other["requestAddress"] = daemon.requests().into();
    other["stateDir"] = "other".into();
    fs::write(&taken, other.to_string()).expect("a file");
    let complaint = site.run(&["serve", "--config", "other.json"]).failed(1);
    assert_eq!(
        complaint.matches("can't be bound").count(),
        1,
        "{complaint}"
    );
    let failed = in_file(&site, "other/events.jsonl");
    assert_eq!([&failed[0].code, &failed[0].level], ["EM-0005", "error"]);

    assert!(daemon.stop());
    let all = in_file(&site, "state/events.jsonl");
    assert_eq!(
        codes(&all[all.len() - 3..]),
        ["EM-0002", "EM-0303", "EM-0003"]
    );
    let stopped = &all[all.len() - 1];
    assert_eq!(
        [&stopped.fields["drained"], &stopped.fields["undelivered"]],
        [&json!(true), &json!(3)]
    );
}

#[test]
fn each_event_is_a_line_of_the_log_with_the_same_code_and_words() {
    let site = Site::configured(&json!({"stateDir": "state", "log": {"format": "json"}}));
    let daemon = TestDaemon::serving(&site);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    daemon.unsubscribe("sub-1");
    let program = daemon.into_program();
    program.signal("TERM");
    let log = parsed(&program.end().stderr);
    let file = fs::read_to_string(site.path("state/events.jsonl")).expect("a file");
    let events = parsed(&file);
    let said = |lines: &[Value]| -> Vec<[String; 3]> {
        let coded = lines.iter().filter(|line| line["code"].is_string());
        coded
            .map(|line| {
                let text = |name: &str| line[name].as_str().expect("a text").to_owned();
                [text("code"), text("level").to_lowercase(), text("message")]
            })
            .collect()
    };
    assert!(events.len() >= 6, "{events:#?}");
    assert_eq!(said(&log), said(&events));
}

#[test]
fn an_end_in_a_hurry_is_noted_with_what_it_cost() {
    let (program, site, _deaf) = with_a_deaf_subscriber(0.2);
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
    let all = in_file(&site, "state/events.jsonl");
    let left = with_code(&all, "EM-0304")[0].fields["events"].clone();
    assert!(left.as_u64() > Some(0));
    let stopped = all.last().expect("an event");
    assert_eq!(
        [&stopped.fields["drained"], &stopped.fields["undelivered"]],
        [&json!(false), &left]
    );
}

#[test]
fn a_second_signal_is_noted_too() {
    let (program, site, _deaf) = with_a_deaf_subscriber(60.0);
    program.signal("TERM");
    program.logged("a second signal ends at once");
    program.signal("TERM");
    assert_eq!(program.end().code, Some(1));
    let all = in_file(&site, "state/events.jsonl");
    assert_eq!(codes(&all).last(), Some(&"EM-0004"));
}

/// A daemon with more for a subscriber than that and the system take.
fn with_a_deaf_subscriber(drain_timeout: f64) -> (Program, Site, RawPeer) {
    let site = Site::configured(&json!({"stateDir": "state", "drainTimeout": drain_timeout}));
    let serving = Serving::ready(site.start(&[]));
    let mut deaf = RawPeer::met(&serving.bound().subscribers[0].to_string(), "SUB");
    deaf.send(&command("SUBSCRIBE", b""));
    let context = zmq::Context::new();
    let publisher = connected(
        &context,
        zmq::XPUB,
        &serving.bound().publishers[0].to_string(),
    );
    publisher.recv_bytes(0).expect("a subscription");
    let waits = || serving.status().subscribers.subscriptions == 1;
    crate::support::program::wait_until(|| waits().then_some(())).expect("a subscription");
    (0..1000).for_each(|_| publish(&publisher, "Order", &"x".repeat(64 << 10)));
    let all = || (serving.status().publishers.events == 1000).then_some(());
    crate::support::program::wait_until(all).expect("all events");
    (serving.program, site, deaf)
}

#[test]
fn records_that_are_damaged() {
    let directory = TempDir::new().expect("a directory");
    let start = || {
        TestDaemon::in_own_process(&json!({
            "stateDir": directory.path(),
            "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
        }))
    };
    let daemon = start();
    let publisher = daemon.publisher();
    for n in 0..10 {
        publish(&publisher, "Order", &format!("{n} {}", "x".repeat(1000)));
    }
    daemon.wait_for_service("Billing", "all on disk", |found| {
        disk_of(found).pending_events == 0 && found.counters.queued == 10
    });
    assert!(daemon.stop());
    let segments = fs::read_dir(directory.path().join("queues/Billing")).expect("a directory");
    let segments = segments.map(|entry| entry.expect("an entry").path());
    let segments = segments.filter(|path| path.extension().is_some_and(|end| end == "log"));
    let largest = segments.max_by_key(|path| path.metadata().expect("a file").len());
    let largest = largest.expect("a segment");
    let mut bytes = fs::read(&largest).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    fs::write(&largest, bytes).expect("it is written");
    let daemon = start();
    let damaged = wait_for(&daemon, "EM-0503");
    assert!(damaged.fields["queue"] == "Billing" && damaged.fields["damage"].is_string());
    daemon.wait_for_service("Billing", "all but one", |found| found.counters.queued == 9);
    let counters = daemon.service("Billing").counters;
    assert_eq!(
        (counters.matched, counters.dropped),
        (10, [("damaged".to_owned(), 1)].into())
    );
    // It is told once.
    assert!(daemon.stop());
    let daemon = start();
    daemon.wait_for_service("Billing", "the others", |found| {
        found.counters.queued == 9 && found.counters.dropped.is_empty()
    });
}

#[test]
fn a_dead_letter_that_can_not_be_kept() {
    let directory = TempDir::new().expect("a directory");
    fs::create_dir(directory.path().join("queues")).expect("a directory");
    fs::write(directory.path().join("queues/Billing.DLQ"), "in the way").expect("a file");
    let daemon = TestDaemon::in_own_process(&json!({"stateDir": directory.path()}));
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    worker.send("READY {\"ack\": true}", 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order", "x");
    let event = worker.recv_multipart(0).expect("an event");
    let head = String::from_utf8(event[0].clone()).expect("text");
    let id = head.split(' ').nth(1).expect("an id");
    worker.send(&format!("TERM {id}"), 0).expect("a send");
    let not_kept = wait_for(&daemon, "EM-0504");
    assert!(not_kept.fields["service"] == "Billing" && not_kept.fields["reason"].is_string());
}

#[test]
fn a_slow_subscriber_that_is_disconnected() {
    let daemon = TestDaemon::with(|config| {
        config.slow_subscriber = SlowSubscriber::Disconnect;
        config.budgets.subscriber_outbox_bytes = 1024;
    });
    let mut deaf = RawPeer::met(&daemon.subscribers(), "SUB");
    deaf.send(&command("SUBSCRIBE", b"Order"));
    daemon.wait_for_subscriptions(1);
    let publisher = daemon.publisher();
    let data = "x".repeat(256 << 10);
    let mut sent = 0;
    while daemon.status().subscribers.connected == 1 {
        publish(&publisher, "Order", &data);
        sent += 1;
        assert!(sent < 1000, "it is not slow");
    }
    assert_eq!(
        wait_for(&daemon, "EM-0212").fields["reason"],
        "slow-subscriber"
    );
}
