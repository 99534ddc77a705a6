//! Each subcommand as its user runs it.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use event_manager_wire::api::Status;
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::support::peers::{is_silent, publish, received, socket};
use super::support::program::{Program, Site, wait_until};
use super::support::responder::{Responder, register};
use super::support::{TestDaemon, tunnel};

fn daemon_and_site() -> (TestDaemon, Site) {
    let daemon = TestDaemon::start();
    let site = Site::of(&daemon);
    (daemon, site)
}

#[test]
fn pub_sends_an_argument_or_lines_and_sub_prints_what_it_asked_for() {
    let (daemon, site) = daemon_and_site();
    let orders = site.start(&["sub", "Order", "Refund"]);
    let all = site.start(&["sub", "--json"]);
    daemon.wait_for_subscriptions(3);
    assert_eq!(site.run(&["pub", "OrderCreated", "one"]).done(), "");
    assert_eq!(site.fed(&["pub", "Bill"], "a\n\nlast").done(), "");
    assert_eq!(site.run(&["pub", "Refund", "zwei\t"]).done(), "");
    assert_eq!(orders.printed(2), "OrderCreated\tone\nRefund\tzwei\\t\n");
    let printed = all.printed(5);
    let printed: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let event = |subject, data| json!({"subject": subject, "frames": [subject, data]});
    let expected = [
        event("OrderCreated", "one"),
        event("Bill", "a"),
        event("Bill", ""),
        event("Bill", "last"),
        event("Refund", "zwei\t"),
    ];
    assert_eq!(printed, expected);
    for (program, signal) in [(orders, "INT"), (all, "TERM")] {
        program.signal(signal);
        program.end().done();
    }
}

#[test]
fn pub_loses_no_line_of_a_long_input() {
    let (daemon, site) = daemon_and_site();
    let subscriber = daemon.subscriber(&["n"]);
    let lines: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    site.fed(&["pub", "n"], &lines).done();
    assert!((0..20_000).all(|n| received(&subscriber) == n.to_string()));
    assert!(is_silent(&subscriber, 50));
    let address = daemon.publishers();
    let elsewhere = Site::new();
    let direct = ["pub", "n", "direct", "--pub-address", &address];
    elsewhere.run(&direct).done();
    assert_eq!(received(&subscriber), "direct");
}

#[test]
fn emit_waits_for_each_confirmation() {
    let (daemon, site) = daemon_and_site();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let one = ["emit", "Order", "x", "--id", "o-1", "--ttl", "60"];
    for duplicate in [false, true] {
        let receipt: Value = serde_json::from_str(&site.run(&one).done()).expect("JSON");
        let expected =
            json!({"id": "o-1", "services": 1, "level": "memory", "duplicate": duplicate});
        assert_eq!(receipt, expected);
    }
    let lines = ["emit", "Order", "--id", "n", "--level", "disk"];
    for _ in 0..2 {
        let told = site.fed(&lines, "a\n\nlast").done();
        assert_eq!(told, "{\"confirmed\":3}\n");
    }
    assert_eq!(daemon.service("Billing").counters.matched, 4);
    let later = ["emit", "Order", "x", "--deliver-at", "99999999999999"];
    site.run(&later).done();
    let refused = site.fed(&["emit", "Order", "--ttl", "0"], "a\n").failed(1);
    assert!(refused.contains("0 events were confirmed"), "{refused}");
    assert!(refused.contains("invalid-field"), "{refused}");
}

#[test]
fn sub_ends_after_so_many_events() {
    let (daemon, site) = daemon_and_site();
    let address = daemon.subscribers();
    let two = site.start(&["sub", "-n", "2"]);
    let one = ["sub", "--json", "-n", "1", "--sub-address", &address];
    let one = Site::new().start(&one);
    daemon.wait_for_subscriptions(2);
    let publisher = daemon.publisher();
    let binary = [&b"a\0b"[..], b"", b"\xFF\n"];
    publisher.send_multipart(binary, 0).expect("a send");
    publish(&publisher, "second", "");
    publish(&publisher, "third", "");
    assert_eq!(two.end().done(), "a\\u{0}b\t\t\\xff\\n\nsecond\t\n");
    let printed: Value = serde_json::from_str(&one.end().done()).expect("one line of JSON");
    let frames = json!(["a\0b", "", {"base64": "/wo="}]);
    assert_eq!(printed, json!({"subject": "a", "frames": frames}));
}

/// As with `| head -1`.
#[test]
fn output_that_nobody_reads_any_more_ends_a_command_quietly() {
    let (daemon, site) = daemon_and_site();
    for arguments in [&["sub"][..], &["worker", "Billing", "Order"]] {
        let mut child = site.command(arguments).spawn().expect("a process");
        let publisher = daemon.publisher();
        if arguments[0] == "sub" {
            daemon.wait_for_subscriptions(1);
        } else {
            daemon.wait_for_ready("Billing", 1);
        }
        publish(&publisher, "Order", "first");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        stdout.read_line(&mut line).expect("text");
        assert_eq!(line, "Order\tfirst\n");
        drop(stdout);
        publish(&publisher, "Order", "more");
        let ended = wait_until(|| child.try_wait().expect("a child"));
        assert_eq!(ended.and_then(|status| status.code()), Some(0));
        let mut complaint = String::new();
        let mut stderr = child.stderr.take().expect("it is piped");
        stderr.read_to_string(&mut complaint).expect("text");
        assert!(
            complaint.lines().all(|line| line.contains("is subscribed")),
            "{complaint}"
        );
    }
    daemon.wait_for("its unsubscription", |s| s.services.is_empty());
    let mut child = site.command(&["services", "--json"]);
    let mut child = child.spawn().expect("a process");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("a child").code(), Some(0));
}

#[test]
fn a_worker_takes_no_event_that_it_does_not_print() {
    let (daemon, site) = daemon_and_site();
    daemon.subscribe("keeper", "Billing", &["Order"]);
    let publisher = daemon.publisher();
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let expected = |events: std::ops::Range<u32>| -> String {
        events.map(|n| format!("Order\t{n}\n")).collect()
    };
    let mut next = 0;
    for count in [1, 9, 90] {
        let number = count.to_string();
        let ended = site.run(&["worker", "Billing", "Order", "-n", &number]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.stdout, expected(next..next + count));
        next += count;
    }
    assert_eq!(daemon.service("Billing").counters.delivered, 100);
}

/// What it says at its start: its subscription's id.
fn subscription_of(worker: &Program) -> String {
    let line = worker.logged("is subscribed as");
    let (_, rest) = line.split_once("is subscribed as ").expect("it is there");
    rest.split(' ').next().expect("an id").to_owned()
}

#[test]
fn a_worker_unsubscribes_when_it_is_told_to_end() {
    let (daemon, site) = daemon_and_site();
    let publisher = daemon.publisher();
    for signal in ["INT", "TERM"] {
        let worker = site.start(&["worker", "Billing", "exact:Order", "--json"]);
        daemon.wait_for_ready("Billing", 1);
        let id = subscription_of(&worker);
        assert_eq!(daemon.service("Billing").subscriptions[0].id, *id);
        publish(&publisher, "OrderCreated", "not asked for");
        publish(&publisher, "Order", signal);
        worker.printed(1);
        worker.signal(signal);
        let ended = worker.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let printed: Value = serde_json::from_str(&ended.stdout).expect("one line of JSON");
        let expected = json!({"subject": "Order", "frames": ["Order", signal]});
        assert_eq!(printed, expected);
        assert_eq!(daemon.status().services, []);
    }
}

#[test]
fn a_worker_keeps_its_subscription_alive_and_subscribes_again() {
    let daemon = TestDaemon::with(|config| config.subscription_ttl = Duration::from_secs(1));
    let site = Site::of(&daemon);
    let worker = site.start(&["worker", "Billing", "Order"]);
    daemon.wait_for_ready("Billing", 1);
    let (last_seen, refreshed) = (Cell::new(f64::MAX), Cell::new(0));
    daemon.wait_for("keep-alives", |status| {
        let left = status.services[0].subscriptions[0].expires_in_seconds;
        if left > last_seen.replace(left) {
            refreshed.set(refreshed.get() + 1);
        }
        refreshed.get() == 4
    });
    daemon.unsubscribe(&subscription_of(&worker));
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order", "again");
    assert_eq!(worker.printed(1), "Order\tagain\n");
    worker.signal("TERM");
    assert_eq!(worker.end().code, Some(0));
    assert_eq!(daemon.status().services, []);
}

#[test]
fn call_shows_what_each_service_answers() {
    let daemon = TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
    });
    let site = Site::of(&daemon);
    let call = |arguments: &[&str]| {
        let ended = site.run(&[&["call", "Order", "data"], arguments].concat());
        assert_eq!(ended.stderr, "");
        let answer: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(answer["subject"], "Order");
        let results = answer["results"].as_array().expect("a list");
        let result = |service: &str| {
            let found = results.iter().find(|r| r["service"] == service);
            found.map(|r| [&r["status"], &r["data"]].map(|v| v.as_str().unwrap_or("").to_owned()))
        };
        (
            ended.code,
            ["Agrees", "Refuses", "Sleeps", "Absent"].map(result),
        )
    };
    let is = |status: &str, data: &str| Some([status.to_owned(), data.to_owned()]);
    assert_eq!(call(&[]), (Some(0), [None, None, None, None]));

    let agrees = Responder::new("TK_SYS_ACK", "gladly");
    daemon.subscribe("1", "Agrees", &["Order"]);
    register(&daemon.locator(), "Agrees", &agrees.address);
    let agreed = is("ack", "gladly");
    assert_eq!(call(&[]), (Some(0), [agreed.clone(), None, None, None]));

    let refuses = Responder::new("TK_SYS_NAK", "never");
    daemon.subscribe("2", "Refuses", &["exact:Order"]);
    register(&daemon.locator(), "Refuses", &refuses.address);
    let refused = is("nak", "never");
    let both = [agreed.clone(), refused.clone(), None, None];
    assert_eq!(call(&[]), (Some(1), both));

    let sleeps = socket(&daemon.context, zmq::ROUTER);
    sleeps.bind("tcp://127.0.0.1:*").expect("a free port");
    let address = sleeps.get_last_endpoint().expect("it is bound");
    daemon.subscribe("3", "Sleeps", &["Order"]);
    register(
        &daemon.locator(),
        "Sleeps",
        &tunnel::before(&address.expect("a text")),
    );
    daemon.subscribe("4", "Absent", &["Order"]);
    let (code, [first, second, third, fourth]) = call(&["--timeout", "0.2"]);
    assert_eq!((code, first, second), (Some(1), agreed, refused));
    assert_eq!(third.expect("a result")[0], "timeout");
    assert_eq!(fourth.expect("a result")[0], "unreachable");
}

#[test]
fn services_are_shown() {
    let (daemon, site) = daemon_and_site();
    assert_eq!(site.run(&["services"]).done(), "no service is subscribed\n");
    let billing = daemon.subscribe("sub-1", "Billing", &["Order", "exact:Refund"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    daemon.subscribe("sub-2", "Kitchen", &[""]);
    let publisher = daemon.publisher();
    (0..3).for_each(|_| publish(&publisher, "Order", "x"));
    (0..3).for_each(|_| assert_eq!(received(&worker), "x"));
    daemon.wait_for("the account", |status| {
        status.services[0].counters.delivered == 3
    });
    let who = r#"READY {"name": "till-1", "client": "lib/1.0"}"#;
    worker.send(who, 0).expect("a send");
    daemon.wait_for("its name", |s| !s.services[0].workers.named.is_empty());
    let address = &daemon.service("Billing").workers.named[0].address;

    let words = |text: &str| -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        text.lines().map(words).collect()
    };
    let port = |service| daemon.service(service).port.expect("a port").to_string();
    let table = site.run(&["services"]).done();
    assert_eq!(
        words(&table),
        [
            &[
                "SERVICE",
                "PORT",
                "READY",
                "STALLED",
                "QUEUED",
                "DELIVERED",
                "DROPPED",
                "SUBJECTS"
            ][..],
            &[
                "Billing",
                &port("Billing"),
                "1/1",
                "0",
                "0",
                "3",
                "0",
                "Order",
                "exact:Refund"
            ],
            &[
                "Kitchen",
                &port("Kitchen"),
                "0/0",
                "0",
                "3",
                "0",
                "0",
                "(all)"
            ],
        ]
    );
    let verbose = site.run(&["services", "--verbose"]).done();
    assert!(
        table.lines().all(|line| verbose.contains(line)),
        "{verbose}"
    );
    for expected in [
        "subscription sub-1: expires in ",
        "subjects [\"Order\",\"exact:Refund\"]",
        "matched 3 = delivered 3 + queued 0 + in flight 0 + dead-lettered 0 + expired 0 + dropped {}; unconfirmed 0, retries 0, letters lost 0",
        &format!("worker till-1 (lib/1.0) at {address}: ready\n"),
        "subscription sub-2: expires in ",
        "matched 3 = delivered 0 + queued 3 + in flight 0 + dead-lettered 0 + expired 0 + dropped {}; unconfirmed 0, retries 0",
    ] {
        assert!(verbose.contains(expected), "{expected:?}: {verbose}");
    }
    let status: Status =
        serde_json::from_str(&site.run(&["services", "--json"]).done()).expect("JSON");
    assert_eq!(status.addresses, daemon.status().addresses);
    assert_eq!(status.services[1].queue.events, 3);
}
