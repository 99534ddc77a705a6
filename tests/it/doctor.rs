//! `event-manager doctor`: each of its findings, provoked.

use std::fs;

use event_manager_wire::api::QueueState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::TestDaemon;
use super::support::bus::own_host;
use super::support::disk_of;
use super::support::peers::{connected, is_silent, publish};
use super::support::program::{Site, locator, wait_until};
use super::support::raw::{RawPeer, message};
use super::support::responder::{Responder, register};

/// A report of the doctor, and the code with which it ended.
#[derive(Debug)]
struct Report {
    code: Option<i32>,
    json: Value,
}

impl Report {
    /// The only finding with this code: its severity, and all that it says.
    fn finding(&self, code: &str) -> (String, String) {
        let all = self.json["findings"].as_array().expect("a list");
        let such: Vec<_> = all
            .iter()
            .filter(|finding| finding["code"] == code)
            .collect();
        assert_eq!(such.len(), 1, "{code}: {self:#?}");
        let text = |key: &str| such[0][key].as_str().expect("a text").to_owned();
        assert!(!text("mend").is_empty());
        let said = ["about", "text", "mend"].map(text).join(" | ");
        (text("severity"), said)
    }

    /// Asserts that there is such a finding that says all of this, and how it ended.
    fn names(&self, code: &str, severity: &str, parts: &[&str]) {
        let (found, said) = self.finding(code);
        assert_eq!(found, severity, "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?}: {said}");
        }
        if severity != "note" {
            assert!(matches!(self.code, Some(1 | 69)), "{self:#?}");
        }
    }
}

/// Looks at a daemon, with a configuration of these keys.
fn examine(address: &str, keys: &Value, more: &[&str]) -> Report {
    let site = Site::configured(keys).with("EVENT_MANAGER_ADDRESS", address);
    let ended = site.run(&[&["doctor", "--json"], more].concat());
    assert_eq!(ended.stderr, "");
    Report {
        code: ended.code,
        json: serde_json::from_str(&ended.stdout).expect("JSON"),
    }
}

fn examined(daemon: &TestDaemon) -> Report {
    examine(&daemon.requests(), &json!({}), &[])
}

#[test]
fn a_healthy_daemon_has_nothing_wrong() {
    let daemon = TestDaemon::with(|config| {
        config.memory_limit = 1 << 20;
        config.locator.embedded = true;
        config.locator.address = "tcp://127.0.0.1:0".parse().expect("an address");
    });
    let billing = daemon.subscribe("sub-1", "Billing", &["Order", "exact:Refund", "glob:a.*"]);
    let _worker = daemon.worker("Billing", &billing.pull_address);
    register(&daemon.locator(), "EventManager", &daemon.requests());
    let keys = json!({"locatorRegister": true, "embeddedLocator": true, "locatorAddress": "tcp://127.0.0.1:0"});
    let report = examine(&daemon.requests(), &keys, &[]);
    assert_eq!(
        (report.code, &report.json["findings"]),
        (Some(0), &json!([]))
    );
    assert_eq!(report.json["daemon"]["pid"], std::process::id());
    let site = Site::configured(&json!({})).with("EVENT_MANAGER_ADDRESS", &daemon.requests());
    let text = site.run(&["doctor"]).done();
    assert_eq!(
        text,
        format!(
            "no problems found with the daemon at {}\n",
            daemon.requests()
        )
    );
}

#[test]
fn findings_are_told_to_people_too() {
    let daemon = TestDaemon::start();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let site = Site::configured(&json!({})).with("EVENT_MANAGER_ADDRESS", &daemon.requests());
    let text = site.run(&["doctor"]);
    assert_eq!((text.code, &*text.stderr), (Some(1), ""));
    let lines: Vec<_> = text.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(
        lines[0].starts_with("warning EM-9007 Billing: no worker is connected"),
        "{lines:#?}"
    );
    assert!(
        lines[1].starts_with("    fix: start a worker"),
        "{lines:#?}"
    );
    assert!(
        lines[2].starts_with("errors 0, warnings 1, notes 0;"),
        "{lines:#?}"
    );
}

#[test]
fn a_wrong_configuration_is_named_and_the_daemon_looked_at_all_the_same() {
    let daemon = TestDaemon::start();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let report = examine(&daemon.requests(), &json!({"drainTimeuot": 1}), &[]);
    report.names(
        "EM-9001",
        "error",
        &["drainTimeuot", "did you mean", "event-manager check"],
    );
    report.names("EM-9007", "warning", &["Billing"]);
}

#[test]
fn without_a_daemon_it_says_what_is_there_instead() {
    let nowhere = format!("tcp://{}:9", own_host());
    let report = examine(&nowhere, &json!({}), &["--wait", "0.2"]);
    report.names(
        "EM-9002",
        "error",
        &[&nowhere, "nothing listens", "event-manager serve"],
    );
    assert_eq!(
        (report.code, &report.json["daemon"]),
        (Some(69), &Value::Null)
    );
    // The configuration says where to look, when nothing else does.
    let site = Site::configured(&json!({"requestAddress": &nowhere}));
    let text = site.run(&["doctor", "--wait", "0.2"]);
    assert_eq!(text.code, Some(69));
    assert!(text.stdout.contains(&nowhere), "{text:?}");
    let (program, address) = locator();
    let report = examine(&address, &json!({}), &["--wait", "1"]);
    let there = format!("process {} (event-manager) listens there", program.pid());
    report.names("EM-9002", "error", &[&there]);
    assert_eq!(report.code, Some(69));
}

#[test]
fn an_address_that_another_has_is_named_with_its_process() {
    let daemon = TestDaemon::start();
    let (program, taken) = locator();
    let keys = json!({"pubAddress": &taken, "subAddress": daemon.subscribers()});
    let report = examine(&daemon.requests(), &keys, &[]);
    let by = format!("process {} (event-manager)", program.pid());
    report.names(
        "EM-9003",
        "error",
        &["pubAddress (config.json:", &taken, &by, "ss -ltnp"],
    );
}

#[test]
fn own_ports_within_the_range_are_noted() {
    let daemon = TestDaemon::start();
    let host = own_host();
    let keys = json!({
        "subAddress": format!("tcp://{host}:5001"), "requestAddress": format!("tcp://{host}:5100"),
        "minStreamerPort": 5001, "maxStreamerPort": 5100,
    });
    let report = examine(&daemon.requests(), &keys, &[]);
    let parts = [
        "5001 of subAddress, 5100 of requestAddress",
        "98 ports",
        "maxStreamerPort",
    ];
    report.names("EM-9004", "note", &parts);
    assert_eq!(report.code, Some(0));
}

#[test]
fn a_locator_that_is_gone_or_does_not_know_the_daemon() {
    let daemon = TestDaemon::start();
    let nowhere = format!("tcp://{}:9", own_host());
    let with = |locator: &str| {
        let keys = json!({"locatorRegister": true, "locatorAddress": locator});
        examine(&daemon.requests(), &keys, &["--wait", "1"])
    };
    with(&nowhere).names("EM-9005", "warning", &[&nowhere, "event-manager locator"]);
    let (_program, address) = locator();
    with(&address).names(
        "EM-9006",
        "warning",
        &["EventManager", "event-manager serve"],
    );
    register(&address, "EventManager", &daemon.requests());
    assert_eq!(with(&address).code, Some(0));
}

#[test]
fn services_whose_queues_fill_up() {
    let daemon = TestDaemon::with(|config| {
        config.budgets.service_queue_events = 10;
        config.memory_limit = 100_000;
    });
    let kitchen = daemon.subscribe("sub-1", "Kitchen's", &["Order"]);
    let publisher = daemon.publisher();
    (0..8).for_each(|_| publish(&publisher, "Order", &"x".repeat(11_000)));
    daemon.wait_for_counter("Kitchen's", |c| c.queued, 8);
    let report = examined(&daemon);
    let parts = [
        "no worker is connected, and 8 events are queued",
        &kitchen.pull_address,
        "worker 'Kitchen'\\''s'",
    ];
    report.names("EM-9007", "warning", &parts);
    let parts = [
        "8 of 10 events",
        r#""services": {"Kitchen's":{"queueEvents":20}}"#,
    ];
    report.names("EM-9009", "warning", &parts);
    report.names(
        "EM-9018",
        "warning",
        &["of 100000 bytes are queued", "\"memoryLimit\" to 200000"],
    );
    let silent = connected(&daemon.context, zmq::DEALER, &kitchen.pull_address);
    daemon.wait_for_service("Kitchen's", "a connection", |s| s.workers.connected == 1);
    examined(&daemon).names(
        "EM-9007",
        "warning",
        &["none of 1 connected workers said READY"],
    );
    silent.send("READY", 0).expect("a send");
    daemon.wait_for_counter("Kitchen's", |c| c.delivered, 8);
    assert_eq!(examined(&daemon).code, Some(0));
}

#[test]
fn a_worker_that_does_not_read() {
    let daemon = TestDaemon::with(|config| config.budgets.worker_outbox_bytes = 64 << 10);
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let mut worker = RawPeer::met(&billing.pull_address, "DEALER");
    worker.send(&message(&["READY"]));
    daemon.wait_for_ready("Billing", 1);
    let publisher = daemon.publisher();
    let data = "x".repeat(64 << 10);
    // More than the system would take for it, which has it stalled for good.
    const WAIT_BYTES: u64 = 12 << 20;
    let status = daemon.wait_for("a stalled worker", |status| {
        publish(&publisher, "Order", &data);
        let service = &status.services[0];
        service.workers.stalled == 1 && service.queue.bytes > WAIT_BYTES
    });
    let slow = &status.peers.slow[0];
    assert_eq!(
        (&*slow.role, slow.service.as_deref()),
        ("worker", Some("Billing"))
    );
    assert!(
        slow.bytes > 32 << 10 && slow.budget_bytes == 64 << 10,
        "{slow:?}"
    );
    let report = examined(&daemon);
    report.names("EM-9008", "warning", &["1 of 1 ready workers", "ss -tnp"]);
    let top = Site::of(&daemon).run(&["top", "-n", "1"]).done();
    assert!(top.contains("1/1 1 stalled"), "{top}");
    assert!(top.contains("slow: worker Billing 127.0.0.1:"), "{top}");
}

#[test]
fn a_queue_that_failed_dead_letters_and_a_full_disk() {
    let directory = TempDir::new().expect("a directory");
    fs::create_dir_all(directory.path().join("queues")).expect("a directory");
    fs::write(directory.path().join("queues/Billing"), "in the way").expect("a file");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }));
    let kitchen = daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
    let worker = connected(&daemon.context, zmq::DEALER, &kitchen.pull_address);
    worker
        .send(r#"READY {"ack": true, "credit": 9}"#, 0)
        .expect("a send");
    daemon.wait_for_ready("Kitchen", 1);
    let publisher = daemon.publisher();
    for _ in 0..3 {
        publish(&publisher, "Meal", "burnt");
        let frames = worker.recv_multipart(0).expect("an event");
        let head = String::from_utf8(frames[0].clone()).expect("text");
        let id = head.split(' ').nth(1).expect("an id");
        worker.send(&format!("TERM {id}"), 0).expect("a send");
    }
    daemon.wait_for_counter("Kitchen", |c| c.dead_lettered, 3);
    daemon.wait_for_service("Billing", "a failure", |s| {
        disk_of(s).state == QueueState::Failed
    });
    let look = || {
        examine(
            &daemon.requests(),
            &json!({}),
            &["--min-disk-free", "1099511627776000000"],
        )
    };
    // Letters are on disk a moment after they are counted.
    let report = wait_until(|| {
        let report = look();
        let findings = report.json["findings"].to_string();
        findings
            .contains("3 dead letters are kept")
            .then_some(report)
    });
    let report = report.expect("dead letters");
    report.names(
        "EM-9010",
        "error",
        &["Billing", "takes no events", "stateDir"],
    );
    report.names(
        "EM-9011",
        "warning",
        &["Kitchen", "`event-manager dlq list Kitchen`"],
    );
    let path = directory.path().display().to_string();
    report.names("EM-9016", "warning", &[&path, "du -xsh"]);
    Site::of(&daemon).run(&["dlq", "purge", "Kitchen"]).done();
    let findings = look().json["findings"].to_string();
    assert!(!findings.contains("EM-9011"), "{findings}");
}

#[test]
fn prefixes_that_catch_more_than_they_say() {
    let daemon = TestDaemon::start();
    daemon.subscribe("sub-1", "Till", &["POS1"]);
    daemon.subscribe("sub-2", "Others", &["POS10", "POS2", "exact:POS20.open"]);
    let report = examined(&daemon);
    let findings = report.json["findings"].as_array().expect("a list");
    let said: Vec<_> = findings.iter().filter(|f| f["code"] == "EM-9012").collect();
    assert_eq!(said.len(), 2, "{said:#?}");
    let text = |n: usize| format!("{} {}", said[n]["text"], said[n]["mend"]);
    assert!(said.iter().all(|finding| finding["severity"] == "warning"));
    assert!(
        text(0).contains("POS10") && text(0).contains("exact:POS1"),
        "{}",
        text(0)
    );
    assert!(
        text(1).contains("POS20.open") && text(1).contains("glob:POS2.**"),
        "{}",
        text(1)
    );
}

#[test]
fn a_subscription_that_nobody_keeps_alive() {
    let daemon =
        TestDaemon::with(|config| config.subscription_ttl = std::time::Duration::from_secs(4));
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    daemon.wait_for("its last third", |status| {
        status.services[0].subscriptions[0].expires_in_seconds < 1.3
    });
    let report = examined(&daemon);
    report.names(
        "EM-9013",
        "warning",
        &["\"sub-1\" expires in", "KEEP_ALIVE every 1.3 s"],
    );
}

#[test]
fn descriptors_and_connections_that_run_out() {
    let keys = json!({"maxConnections": 300});
    let daemon = TestDaemon::in_own_process_with_fds(&keys, 256);
    let report = examined(&daemon);
    report.names(
        "EM-9014",
        "warning",
        &["may open only 256", "LimitNOFILE=332"],
    );
    let few = TestDaemon::with(|config| config.connections_max = 10);
    assert_eq!(examined(&few).code, Some(0));
    let peers: Vec<_> = (0..8)
        .map(|_| RawPeer::met(&few.subscribers(), "SUB"))
        .collect();
    few.wait_for("connections", |status| status.connections.open >= 8);
    examined(&few).names("EM-9015", "warning", &["of 10 connections are open"]);
    drop(peers);
}

/// The clock of this machine is not ours to set: what a real daemon says is told on with another
/// time of its start.
#[test]
fn a_clock_that_jumped() {
    let daemon = TestDaemon::start();
    let mut status = daemon.status();
    let started = status.started_at_ms;
    for (started, severity) in [
        (started - 3_600_000, "forward by 3600 s"),
        (started + 60_000, "back by 60 s"),
    ] {
        status.started_at_ms = started;
        let liar = Responder::new("TK_SYS_ACK", json!(status).to_string());
        let report = examine(&liar.address, &json!({}), &[]);
        report.names("EM-9017", "warning", &[severity, "timedatectl"]);
    }
}

#[test]
fn dead_letters_are_found_whatever_their_service_is_called() {
    let directory = TempDir::new().expect("a directory");
    let settings = json!({"stateDir": directory.path()});
    let names = ["Till/7", "100%", ".hidden", "%2F"];
    let daemon = TestDaemon::in_own_process(&settings);
    let publisher = daemon.publisher();
    for name in names {
        let service = daemon.subscribe(&format!("sub {name}"), name, &[&format!("exact:{name}")]);
        let worker = connected(&daemon.context, zmq::DEALER, &service.pull_address);
        worker.send("READY {\"ack\": true}", 0).expect("a send");
        daemon.wait_for_ready(name, 1);
        publish(&publisher, name, "x");
        let event = worker.recv_multipart(0).expect("an event");
        let word = String::from_utf8(event[0].clone()).expect("text");
        let id = word.split(' ').nth(1).expect("an id");
        worker.send(&format!("TERM {id}"), 0).expect("a send");
        daemon.wait_for_counter(name, |c| c.dead_lettered, 1);
    }
    daemon.stop();
    // Of another run, and all of these services are gone but one.
    let daemon = TestDaemon::in_own_process(&settings);
    for name in &names[1..] {
        daemon.unsubscribe(&format!("sub {name}"));
    }
    let report = examined(&daemon);
    let all = report.json["findings"].as_array().expect("a list");
    let letters = all.iter().filter(|finding| finding["code"] == "EM-9011");
    let mut about: Vec<_> = letters
        .map(|finding| finding["about"].as_str().expect("a text"))
        .collect();
    about.sort_unstable();
    let mut expected = names;
    expected.sort_unstable();
    assert_eq!(about, expected, "{report:#?}");
}

#[test]
fn who_is_refused_again_and_again_is_named() {
    let daemon = TestDaemon::with(|config| config.limits.subscriptions_per_peer_max = 2);
    let subscriber = connected(&daemon.context, zmq::SUB, &daemon.subscribers());
    for n in 0..3 {
        subscriber
            .set_subscribe(n.to_string().as_bytes())
            .expect("an option");
    }
    // One that is refused once is no finding.
    RawPeer::connect(&daemon.requests()).send_while_heard(b"GET / HTTP/1.1\r\n\r\n");
    daemon.wait_for("its refusals", |status| {
        // It subscribes anew only while somebody uses it.
        is_silent(&subscriber, 1);
        let again = &status.peers.refused_again;
        again.first().is_some_and(|first| first.times >= 5) && status.refused("not-zmtp") == 1
    });
    drop(subscriber);
    let report = examined(&daemon);
    report.names(
        "EM-9022",
        "warning",
        &[
            "127.0.0.1 | refused",
            "(too-many-subscriptions): more than 2 subscriptions (limits.maxSubscriptionsPerPeer)",
        ],
    );
}

#[test]
fn a_state_directory_that_can_not_be_used_is_named() {
    for (in_the_way, says) in [
        ("state.db", "has a state database that can't be used"),
        ("queues", "can't have queues"),
    ] {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join(in_the_way);
        match in_the_way {
            "queues" => fs::write(&path, "").expect("a file in the way"),
            _ => fs::create_dir(&path).expect("a directory in the way"),
        }
        let daemon = TestDaemon::with(|config| config.state_dir = directory.path().into());
        let keys = json!({"stateDir": directory.path()});
        let report = examine(&daemon.requests(), &keys, &[]);
        report.names("EM-9041", "error", &[says, "EM-0505", "ls -ld"]);
    }
}
