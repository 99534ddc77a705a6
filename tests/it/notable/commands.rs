//! EVENTS, `event-manager events` and `event-manager tail`.

use std::fs::OpenOptions;
use std::io::Write;

use event_manager_wire::api::{EventsPage, NotableEvent};
use serde_json::{Value, json};

use super::{codes, noted, parsed, wait_for};
use crate::support::TestDaemon;
use crate::support::bus::exchange;
use crate::support::peers::publish;
use crate::support::program::{Site, wait_until};

const EVENTS: &str = "TK_EVENT_MANAGER_EVENTS";

fn page(daemon: &TestDaemon, fields: &[&str]) -> EventsPage {
    let (token, data) = daemon.ask(EVENTS, fields);
    assert_eq!(token, "TK_SYS_ACK", "{data}");
    serde_json::from_str(&data).expect("JSON")
}

fn seqs(page: &EventsPage) -> Vec<u64> {
    page.events.iter().map(|event| event.seq).collect()
}

#[test]
fn a_follower_asks_for_what_came_after() {
    let daemon = TestDaemon::start();
    for service in ["A", "B", "C"] {
        daemon.subscribe(service, service, &["Order"]);
    }
    assert_eq!(seqs(&page(&daemon, &[])), [1, 2, 3, 4, 5, 6]);
    assert_eq!(seqs(&page(&daemon, &["", "2"])), [5, 6]);
    let first = page(&daemon, &["0", "4"]);
    assert_eq!(seqs(&first), [1, 2, 3, 4]);
    assert_eq!((first.events_after, first.latest, first.missed), (4, 6, 0));
    let second = page(&daemon, &["4", "4"]);
    assert_eq!(seqs(&second), [5, 6]);
    assert_eq!(second.started_ms, first.started_ms);
    let third = page(&daemon, &["6"]);
    assert_eq!((third.events.len(), third.events_after), (0, 6));
    let as_json = json!({"token": "events", "after": 5, "max": 1}).to_string();
    let answer = exchange(&daemon.requester(), &[as_json.as_bytes()]);
    let answer: Value = serde_json::from_slice(&answer[0]).expect("JSON");
    assert!(answer.to_string().contains("subscribed"), "{answer}");
    for fields in [
        &["x"][..],
        &["-1"],
        &["0", "0"],
        &["0", "513"],
        &["", "many"],
    ] {
        assert_eq!(daemon.refusal(EVENTS, fields), "invalid-field");
    }
    let wrong = json!({"token": "events", "since": 5}).to_string();
    let answer = exchange(&daemon.requester(), &[wrong.as_bytes()]);
    assert!(String::from_utf8_lossy(&answer[0]).contains("unknown-field"));
}

#[test]
fn events_are_shown_filtered_and_followed() {
    let daemon = TestDaemon::start();
    let site = Site::of(&daemon);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    daemon.subscribe("sub-2", "Kitchen", &["Meal"]);
    let all = site.run(&["events"]).done();
    assert_eq!(all.lines().count(), 4, "{all}");
    let first = all.lines().next().expect("a line");
    assert!(
        first.contains("Z INFO  EM-0104 service-opened: a service was opened port="),
        "{first}"
    );
    assert!(first.ends_with(" service=Billing suppressed=0"), "{first}");
    let count = |arguments: &[&str]| {
        let arguments = [&["events", "--json"], arguments].concat();
        parsed::<NotableEvent>(&site.run(&arguments).done()).len()
    };
    assert_eq!(count(&["--code", "em-0101"]), 2);
    assert_eq!(count(&["--type", "subscribed", "--service", "Kitchen"]), 1);
    assert_eq!(
        count(&["--code", "EM-0101", "--code", "EM-0104", "-n", "3"]),
        3
    );
    assert_eq!(count(&["--type", "store-failed"]), 0);
    let unknown = site.run(&["events", "--code", "EM-9999"]).failed(2);
    assert!(unknown.contains("EM-9999"), "{unknown}");

    let follower = site.start(&[
        "events",
        "--follow",
        "--json",
        "-n",
        "1",
        "--type",
        "unsubscribed",
    ]);
    let other = site.start(&["events", "-f"]);
    other.printed(4);
    daemon.unsubscribe("sub-1");
    let printed: Vec<NotableEvent> = parsed(&follower.printed(1));
    assert_eq!(printed[0].fields["subscription"], "sub-1");
    for (program, signal) in [(follower, "INT"), (other, "TERM")] {
        program.signal(signal);
        program.end().done();
    }
}

#[test]
fn without_a_daemon_the_files_are_read_and_a_torn_line_is_passed_over() {
    let site = Site::configured(&json!({"stateDir": "state"}));
    let daemon = TestDaemon::serving(&site);
    let address = daemon.requests();
    let follower = site.start(&["events", "--follow", "--json", "--address", &address]);
    follower.printed(1);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    wait_for(&daemon, "EM-0101");
    let events = noted(&daemon).len();
    follower.printed(events);
    let path = site.path("state/events.jsonl");
    // What is noted is written by another thread.
    let written = || std::fs::read_to_string(&path).unwrap_or_default();
    let all = || (written().lines().count() == events).then_some(());
    wait_until(all).expect("all lines");
    let program = daemon.into_program();
    program.signal("KILL");
    program.end();
    let torn = OpenOptions::new().append(true).open(&path);
    torn.expect("a file")
        .write_all(b"{\"ts\":\"2026")
        .expect("a write");

    let arguments = ["events", "--json", "--address", &address, "--wait", "0.2"];
    let ended = site.run(&arguments);
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("reading state/events.jsonl"),
        "{}",
        ended.stderr
    );
    assert_eq!(parsed::<NotableEvent>(&ended.stdout).len(), events);
    let named = [
        "events",
        "--json",
        "--file",
        "state/events.jsonl",
        "--type",
        "subscribed",
    ];
    assert_eq!(parsed::<NotableEvent>(&site.run(&named).done()).len(), 1);
    let absent = site.run(&["events", "--file", "absent"]).failed(1);
    assert!(absent.contains("absent can't be read"), "{absent}");
    follower.signal("INT");
    let followed = follower.end();
    assert_eq!(followed.code, Some(0));
    assert_eq!(parsed::<NotableEvent>(&followed.stdout).len(), events);

    let daemon = TestDaemon::serving(&site);
    assert!(daemon.stop());
    let ended = site
        .run(&["events", "--file", "state/events.jsonl", "--json"])
        .done();
    let events = parsed(&ended);
    let codes = codes(&events);
    assert_eq!(codes.iter().filter(|code| **code == "EM-0001").count(), 2);
    assert_eq!(codes.last(), Some(&"EM-0003"));
    let alone = Site::new().run(&["events", "--address", &address, "--wait", "0.2"]);
    assert!(alone.failed(69).contains("no event manager answers"));
}

#[test]
fn tail_shows_what_passes_and_payloads_on_request_only() {
    let daemon = TestDaemon::start();
    let site = Site::of(&daemon);
    let plain = site.start(&["tail", "Order"]);
    let curious = site.start(&["tail", "--payload", "--bytes", "5", "--count", "2"]);
    let json = site.start(&["tail", "--json", "--payload"]);
    daemon.wait_for_subscriptions(3);
    let publisher = daemon.publisher();
    publish(&publisher, "OrderCreated", "s3cr3t");
    publish(&publisher, "Refund\u{1b}[2J", "\u{1b}]0;x\u{7}\u{9b}");
    let line = plain.printed(1);
    assert!(
        line.ends_with("Z\tOrderCreated\t18 bytes in 2 frames\t12+6\n"),
        "{line:?}"
    );
    let shown = curious.end().done();
    assert!(shown.contains("\t12+6\ts3cr3…\n"), "{shown:?}");
    assert!(shown.contains("\tRefund\\u{1b}[2J\t"), "{shown:?}");
    let printed = json.printed(2);
    let is_raw = |text: &str| {
        text.chars()
            .any(|c| c.is_control() && c != '\t' && c != '\n')
    };
    assert!(
        !is_raw(&shown) && !is_raw(&printed),
        "{shown:?} {printed:?}"
    );
    let events: Vec<Value> = parsed(&printed);
    assert_eq!(
        [
            &events[0]["subject"],
            &events[0]["frames"],
            &events[0]["sizes"],
            &events[0]["payload"]
        ],
        [
            &json!("OrderCreated"),
            &json!(2),
            &json!([12, 6]),
            &json!(["s3cr3t"])
        ]
    );
    for (program, signal) in [(plain, "INT"), (json, "TERM")] {
        program.signal(signal);
        let ended = program.end();
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    }
    let wrong = site.run(&["tail", "--bytes", "5"]).failed(2);
    assert!(wrong.contains("--payload"), "{wrong}");
}

/// `head` closes the pipe, as people use it.
#[test]
fn commands_end_quietly_when_nobody_reads_any_more() {
    let daemon = TestDaemon::start();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let site = Site::of(&daemon);
    for arguments in [&["events", "--follow"][..], &["tail"]] {
        let before = daemon.status().subscribers.subscriptions;
        let mut child = site.command(arguments).spawn().expect("a process");
        drop(child.stdout.take());
        if arguments[0] == "tail" {
            daemon.wait_for_subscriptions(before + 1);
            publish(&daemon.publisher(), "Order", "x");
        }
        let code = wait_until(|| child.try_wait().expect("a child")).map(|status| status.code());
        if code.is_none() {
            let _ = child.kill();
        }
        assert_eq!(code, Some(Some(0)), "{arguments:?}");
    }
}
