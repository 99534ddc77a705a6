//! `event-manager worker`, `subscribe` and `unsubscribe`, as their users run them.

use event_manager_wire::api::{ServiceStatus, SubscriptionTerms};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::TestDaemon;
use super::support::peers::publish;
use super::support::program::Site;

/// Its service `Billing` is durable.
fn durable(directory: &TempDir) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }))
}

/// A service with a subscription beside the worker's, whose queue stays.
fn live(service: &Value) -> (TestDaemon, Site) {
    let daemon = TestDaemon::in_own_process(&json!({"services": {"Billing": service}}));
    daemon.subscribe("keeper", "Billing", &["Order"]);
    let site = Site::of(&daemon);
    (daemon, site)
}

fn publish_numbers(daemon: &TestDaemon, count: u64) {
    let before = daemon.service("Billing").counters.matched;
    let publisher = daemon.publisher();
    (1..=count).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    daemon.wait_for_counter("Billing", |counters| counters.matched, before + count);
}

/// The events behind those that were wanted were never given to it, and no worker was lost.
#[test]
fn a_worker_takes_from_a_durable_service_what_it_prints_and_no_more() {
    let directory = TempDir::new().expect("a directory");
    let daemon = durable(&directory);
    publish_numbers(&daemon, 5);
    let site = Site::of(&daemon);
    for (count, printed) in [("1", "Order\t1\n"), ("2", "Order\t2\nOrder\t3\n")] {
        let ended = site.run(&["worker", "Billing", "Order", "-n", count]);
        assert_eq!(
            (ended.code, &*ended.stdout),
            (Some(0), printed),
            "{ended:?}"
        );
    }
    let counters = daemon.service("Billing").counters;
    assert_eq!((counters.delivered, counters.queued), (3, 2));
    assert_eq!((counters.unconfirmed, counters.redelivered), (0, 0));
    let notable = site.run(&["events"]).done();
    assert!(!notable.contains("EM-0203"), "{notable}");
    // One that was given more than it prints gives the rest back.
    let more = ["worker", "Billing", "Order", "-n", "1", "--credit", "10"];
    assert_eq!(site.run(&more).stdout, "Order\t4\n");
    assert_eq!(
        site.run(&["worker", "Billing", "Order", "-n", "1"]).stdout,
        "Order\t5\n"
    );
    assert_eq!(daemon.service("Billing").counters.delivered, 5);
}

#[test]
fn what_a_worker_gives_back_is_tried_again_and_becomes_a_dead_letter() {
    let retry = json!({"initialMs": 1, "maxMs": 1, "maxDeliveries": 3});
    let (daemon, site) = live(&json!({"retry": retry}));
    publish_numbers(&daemon, 1);
    let all = ["worker", "Billing", "Order", "--nak-rate", "1", "-n", "3"];
    assert_eq!(site.run(&all).stdout, "Order\t1\n".repeat(3));
    daemon.wait_for_counter("Billing", |counters| counters.dead_lettered, 1);
    let none = ["worker", "Billing", "Order", "--nak-rate", "0", "-n", "1"];
    publish_numbers(&daemon, 1);
    assert_eq!(site.run(&none).stdout, "Order\t1\n");
    assert_eq!(daemon.service("Billing").counters.delivered, 1);
}

#[test]
fn what_a_worker_never_acknowledges_comes_again() {
    let (daemon, site) = live(&json!({"ackTimeout": 0.05}));
    publish_numbers(&daemon, 1);
    let worker = site.start(&["worker", "Billing", "Order", "--ack", "never", "--json"]);
    let printed = worker.printed(2);
    let first = printed.lines().next().expect("a line");
    assert!(printed.lines().all(|line| line == first), "{printed}");
    worker.signal("INT");
    worker.end();
    daemon.wait_for_service("Billing", "the event to come back", |service| {
        (service.counters.queued, service.workers.connected) == (1, 0)
    });
}

/// What is worked on when it ends goes to others, unless it was acknowledged first.
#[test]
fn a_worker_may_acknowledge_before_it_works() {
    let (daemon, site) = live(&json!({}));
    let is = |what: fn(&ServiceStatus) -> bool| daemon.wait_for_service("Billing", "it", what);
    for (ack, delivered) in [("after", 0), ("before", 2)] {
        publish_numbers(&daemon, 1);
        let worker = ["worker", "Billing", "Order", "--delay", "60", "--ack", ack];
        let worker = site.start(&[&worker[..], &["--name", "till-1"]].concat());
        worker.printed(1);
        if ack == "before" {
            is(|service| service.counters.delivered == 2);
        } else {
            is(|service| service.workers.named[0].held_events == 1);
            let named = &daemon.service("Billing").workers.named[0];
            assert_eq!(named.name.as_deref(), Some("till-1"));
            let client = named.client.as_deref().unwrap_or_default();
            assert!(client.starts_with("event-manager-rust/"), "{client}");
        }
        worker.signal("TERM");
        let ended = worker.end();
        assert_eq!((ended.code, &*ended.stdout), (Some(0), "Order\t1\n"));
        is(|service| service.counters.in_flight == 0);
        let counters = daemon.service("Billing").counters;
        assert_eq!(counters.delivered, delivered);
        if ack == "after" {
            let rest = ["worker", "Billing", "Order", "-n", "1"];
            assert_eq!(site.run(&rest).stdout, "Order\t1\n");
        }
    }
}

#[test]
fn subscriptions_are_made_and_ended_without_a_worker() {
    let directory = TempDir::new().expect("a directory");
    let daemon = durable(&directory);
    let site = Site::of(&daemon);
    let plain = site
        .run(&["subscribe", "Kitchen", "", "--id", "k-1"])
        .done();
    let address = daemon.address_of("Kitchen");
    let expected = format!("Kitchen is subscribed as k-1 and receives at {address}\n");
    assert!(plain.starts_with(&expected), "{plain}");
    assert!(
        plain.contains("ends in 600 s") && !plain.contains("--end"),
        "{plain}"
    );
    assert_eq!(daemon.service("Kitchen").subjects, [""]);

    let asked = [
        "subscribe",
        "Stock",
        "Order",
        "exact:Refund",
        "--json",
        "--delivery",
        "queue",
        "--ack-timeout",
        "2.5",
        "--retry",
        r#"{"maxDeliveries": 2}"#,
        "--order-by",
        "1",
        "--when-full",
        "spill",
        "--dead-letter-subject",
        "failed.stock",
    ];
    let told: Value = serde_json::from_str(&site.run(&asked).done()).expect("JSON");
    let terms: SubscriptionTerms = serde_json::from_value(told.clone()).expect("terms");
    let stock = daemon.service("Stock");
    assert_eq!((terms.ack_timeout_ms, &*terms.delivery), (2500, "queue"));
    assert_eq!(terms.dead_letter_subject, "failed.stock");
    assert_eq!(stock.dead_letter_subject, "failed.stock");
    assert_eq!(stock.subscriptions[0].id, told["id"]);
    assert_eq!(told["workers"], json!(stock.address));
    let verbose = site.run(&["services", "--verbose"]).done();
    assert_eq!(verbose.matches("dead letters are published as").count(), 1);
    assert!(verbose.contains("dead letters are published as failed.stock\n"));
    let durable = site.run(&["subscribe", "Stock", "Order"]).done();
    assert!(durable.contains("services --end Stock"), "{durable}");

    let id = &stock.subscriptions[0].id;
    assert_eq!(site.run(&["unsubscribe", id, "exact:Refund"]).done(), "");
    assert_eq!(daemon.service("Stock").subjects, ["Order"]);
    assert_eq!(site.run(&["unsubscribe", "k-1"]).done(), "");
    assert_eq!(daemon.find_service("Kitchen"), None);
    let again = site.run(&["unsubscribe", "k-1"]).failed(1);
    assert!(again.contains("unknown-subscription"), "{again}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (_daemon, site) = live(&json!({}));
    let worker = ["worker", "Billing", "Order"];
    let subscribe = ["subscribe", "Billing", "Order"];
    for (command, flag, value, code, why) in [
        (&worker, "--nak-rate", "1.5", 2, "a number from 0 to 1"),
        (&worker, "--nak-rate", "often", 2, "a number from 0 to 1"),
        (&worker, "--delay", "0", 2, "seconds from 0.001"),
        (&worker, "--credit", "0", 2, "0 is not in 1..=100000"),
        (&worker, "--ack", "perhaps", 2, "after, before, never"),
        (&worker, "--delivery", "queue", 1, "no-store: delivery"),
        (&subscribe, "--retry", "3", 2, "expected a JSON object"),
        (
            &subscribe,
            "--retry",
            r#"{"colour": 1}"#,
            1,
            "unknown field \"colour\"",
        ),
        (&subscribe, "--order-by", "colour", 1, "a frame's index"),
        (&subscribe, "--when-full", "explode", 1, "drop-oldest"),
        (&subscribe, "--ack-timeout", "0", 1, "seconds from 0.01"),
        (
            &subscribe,
            "--dead-letter-subject",
            "glob:x",
            1,
            "is a pattern",
        ),
        (&subscribe, "--delivery", "disk", 2, "live, queue"),
    ] {
        let complaint = site
            .run(&[&command[..], &[flag, value]].concat())
            .failed(code);
        assert!(complaint.contains(why), "{flag} {value}: {complaint}");
    }
    let nowhere = ["--address", "tcp://127.0.0.1:1", "--wait", "0.1"];
    for command in [&worker[..], &subscribe, &["unsubscribe", "x"]] {
        let complaint = site.run(&[command, &nowhere].concat()).failed(69);
        assert!(
            complaint.contains("no event manager answers at"),
            "{complaint}"
        );
    }
}
