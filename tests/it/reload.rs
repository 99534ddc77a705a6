//! SIGHUP: what can change while the daemon runs changes, all or nothing.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::bus::zmtp_message;
use super::support::disk_of;
use super::support::manager::Manager;
use super::support::peers::{connected, is_silent, publish, received};
use super::support::process::settings;
use super::support::program::{Site, wait_until};
use super::support::raw::{COMMAND, RawPeer, message};

/// A daemon whose configuration changes.
struct Changing {
    daemon: TestDaemon,
    site: Site,
    manager: Manager,
}

impl Changing {
    fn start(keys: &Value) -> Self {
        let manager = Manager::new();
        let site = manager.site(keys);
        let daemon = TestDaemon::serving(&site);
        manager.ready();
        Self {
            daemon,
            site,
            manager,
        }
    }

    fn write(&self, keys: &Value) {
        self.site.write("config.json", &settings(keys).to_string());
    }

    /// These keys, and the others as tests have them.
    fn change(&self, keys: &Value) {
        self.write(keys);
        self.manager.reload(self.daemon.program());
    }

    fn queue(&self, service: &str) -> u64 {
        self.daemon.service(service).queue.events
    }

    fn dropped(&self, service: &str, reason: &str) -> u64 {
        self.daemon.service(service).counters.dropped_for(reason)
    }
}

/// Sends signals without starting a process for each.
struct Signals(Child);

impl Signals {
    fn to(pid: u32) -> Self {
        let script = format!("while read -r _; do kill -HUP {pid}; done");
        let shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn();
        Self(shell.expect("a shell"))
    }

    fn send(&mut self) {
        let pipe = self.0.stdin.as_mut().expect("it is piped");
        pipe.write_all(b"\n").expect("the shell reads");
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_thousand_reloads_under_load_drop_no_event() {
    /// How far the publisher may be ahead of the receivers, so that none of them is slow.
    const AHEAD_MAX: u64 = 2000;
    let changing = Changing::start(&json!({}));
    let Changing {
        daemon, manager, ..
    } = &changing;
    let subscribed = daemon.subscribe("1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    let subscriber = daemon.subscriber(&["Order"]);
    let publisher = daemon.publisher();
    let over = Arc::new(AtomicBool::new(false));
    let read = Arc::new(AtomicU64::new(0));
    let publishing = std::thread::spawn({
        let (over, read) = (Arc::clone(&over), Arc::clone(&read));
        move || {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                if sent < read.load(Ordering::Relaxed) + AHEAD_MAX {
                    publish(&publisher, "Order", &sent.to_string());
                    sent += 1;
                } else {
                    std::thread::yield_now();
                }
            }
            publish(&publisher, "Order", "last");
            (publisher, sent)
        }
    });
    let receiving = std::thread::spawn(move || {
        for n in 0.. {
            let events = [received(&subscriber), received(&worker)];
            if events == ["last", "last"] {
                return (subscriber, worker, n);
            }
            assert_eq!(events, [n.to_string(), n.to_string()]);
            read.store(n, Ordering::Relaxed);
        }
        unreachable!("it ends with the last event")
    });
    let mut signals = Signals::to(daemon.program().pid());
    for n in 0..1000u64 {
        let more = n % 2;
        changing.write(&json!({
            "heartbeatInterval": 10 + more,
            "subscriptionTtl": 600 + more,
            "limits": {"maxMessageBytes": 1_000_000 + n},
            "budgets": {"serviceQueueEvents": 100_000 + n, "workerOutboxBytes": 1_000_000 + n},
            "services": {"Billing": {"ackTimeout": 5 + more, "queueEvents": 50_000 + n}},
            "log": {"level": if more == 0 { "warn" } else { "info" }},
        }));
        signals.send();
        manager.reloaded();
    }
    over.store(true, Ordering::Relaxed);
    let (_publisher, sent) = publishing.join().expect("it published");
    let (_subscriber, _worker, received) = receiving.join().expect("nothing is lost");
    assert_eq!(received, sent);
    assert!(sent > 10_000, "it was under load: {sent}");
    let status = daemon.wait_for("the books", |status| {
        status.services[0].counters.delivered == sent + 1
    });
    let service = &status.services[0].counters;
    let subscribers = &status.subscribers.counters;
    for counters in [service, subscribers] {
        assert_eq!(counters.matched, sent + 1);
        assert_eq!(counters.dropped.len(), 0);
    }
    assert_eq!(status.subscription_ttl_seconds, 601.0);
}

#[test]
fn a_service_that_is_there_has_its_new_policy() {
    let changing = Changing::start(&json!({}));
    let daemon = &changing.daemon;
    let publisher = daemon.publisher();
    for service in ["Billing", "Kitchen"] {
        daemon.subscribe(service, service, &["Order"]);
    }
    let publish_ten = || (0..10).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    publish_ten();
    daemon.wait_for_counter("Kitchen", |c| c.queued, 10);
    let few = |events: u64, what: &str| json!({"services": {"Bill*": {"queueEvents": events, "whenFull": what}}});
    changing.change(&few(3, "drop-oldest"));
    assert_eq!(changing.queue("Billing"), 3);
    assert_eq!(changing.dropped("Billing", "queue-full"), 7);
    assert_eq!(changing.queue("Kitchen"), 10);
    changing.change(&few(8, "drop-newest"));
    publish_ten();
    daemon.wait_for_counter("Kitchen", |c| c.queued, 20);
    assert_eq!(changing.queue("Billing"), 8);
    assert_eq!(changing.dropped("Billing", "queue-full"), 12);
    let worker = daemon.worker("Billing", &daemon.address_of("Billing"));
    for n in [7, 8, 9, 0, 1, 2, 3, 4] {
        assert_eq!(received(&worker), n.to_string());
    }
}

#[test]
fn a_shorter_ack_timeout_and_fewer_tries_are_for_what_is_given_next() {
    let changing = Changing::start(&json!({}));
    let daemon = &changing.daemon;
    let subscribed = daemon.subscribe("1", "Billing", &["Order"]);
    let worker = connected(&daemon.context, zmq::DEALER, &subscribed.pull_address);
    worker.send(r#"READY {"ack": true}"#, 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    let publisher = daemon.publisher();
    let retry = json!({"maxDeliveries": 1});
    changing.change(&json!({"services": {"*": {"ackTimeout": 0.05, "retry": retry}}}));
    publish(&publisher, "Order", "x");
    worker.recv_multipart(0).expect("an event");
    // The worker says nothing.
    daemon.wait_for_counter("Billing", |c| c.dead_lettered, 1);
}

#[test]
fn limits_and_beats_are_new_for_connections_that_are_there() {
    let changing = Changing::start(&json!({"heartbeatInterval": 0}));
    let daemon = &changing.daemon;
    let mut subscriber = RawPeer::met(&daemon.subscribers(), "SUB");
    let mut large = RawPeer::met(&daemon.publishers(), "PUB");
    let mut small = RawPeer::met(&daemon.publishers(), "PUB");
    let event = zmtp_message(&[b"Order", &[b'x'; 3000]]);
    large.send(&event);
    daemon.wait_for("an event", |s| s.publishers.events == 1);
    let limited = |heartbeat: u64| {
        json!({
            "heartbeatInterval": heartbeat,
            "limits": {"maxMessageBytes": 2000},
            "maxConnections": 5,
            "maxSubscriptions": 1,
            "subscriptionTtl": 7,
        })
    };
    changing.change(&limited(1));
    let (flags, body) = subscriber.read_frame();
    assert_eq!((flags & COMMAND, &body[..5]), (COMMAND, &b"\x04PING"[..]));
    // None of them answers: they would be dead after three.
    changing.change(&limited(0));
    small.send(&message(&["Order", "small"]));
    large.send_while_heard(&event);
    large.read_to_end();
    let status = daemon.wait_for("a small event", |s| s.publishers.events == 2);
    assert_eq!(status.connections.max, 5);
    assert_eq!(status.subscription_ttl_seconds, 7.0);
    daemon.subscribe("1", "Billing", &["Order"]);
    let refusal = daemon.ask("TK_EVENT_MANAGER_SUBSCRIBE", &["2", "Billing", "Order"]);
    assert!(refusal.1.contains("maxSubscriptions"), "{refusal:?}");
    changing.change(&json!({"heartbeatInterval": 0}));
    small.send(&event);
    daemon.wait_for("a large event", |s| s.publishers.events == 3);
    daemon.subscribe("2", "Billing", &["Order"]);
}

#[test]
fn a_memory_limit_makes_room_at_once() {
    let changing = Changing::start(&json!({}));
    let daemon = &changing.daemon;
    daemon.subscribe("1", "Billing", &["Order"]);
    let publisher = daemon.publisher();
    (0..10).for_each(|_| publish(&publisher, "Order", &"x".repeat(500)));
    daemon.wait_for_counter("Billing", |c| c.queued, 10);
    changing.change(&json!({"memoryLimit": 4000, "limits": {"maxMessageBytes": 1024}}));
    assert!(changing.dropped("Billing", "memory-limit") > 0);
    assert!(changing.queue("Billing") > 0);
}

#[test]
fn a_queue_on_disk_has_its_new_bounds() {
    let keys = |bytes_max: u64| {
        let retention = json!({"maxBytes": bytes_max});
        json!({
            "stateDir": "state",
            "limits": {"maxMessageBytes": 1024},
            "services": {"Billing": {"delivery": "queue", "queueEvents": 5, "retention": retention}},
        })
    };
    let changing = Changing::start(&keys(1 << 20));
    let daemon = &changing.daemon;
    daemon.subscribe("1", "Billing", &["Order"]);
    let publisher = daemon.publisher();
    (0..50).for_each(|_| publish(&publisher, "Order", &"x".repeat(500)));
    daemon.wait_for_service("Billing", "events on disk", |service| {
        service.counters.queued == 50 && disk_of(service).pending_events == 0
    });
    changing.change(&keys(4096));
    publish(&publisher, "Order", "the last");
    daemon.wait_for("what is too much to go", |_| {
        changing.dropped("Billing", "retention-bytes") > 30
    });
}

#[test]
fn the_monitor_and_the_time_for_stopping_change_too() {
    let changing = Changing::start(&json!({}));
    changing.change(&json!({"drainTimeout": 3}));
    assert!(!changing.daemon.program().log().contains("snapshot"));
    changing.change(&json!({
        "diagnosticMonitor": true,
        "diagnosticInterval": 0.1,
        "drainTimeout": 4,
    }));
    changing.daemon.program().logged("snapshot");
    assert!(changing.daemon.stop());
    let stopping = changing.manager.next();
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=34000000"),
        "{stopping}"
    );
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    let changing = Changing::start(&json!({"services": {"*": {"queueEvents": 5}}}));
    let daemon = &changing.daemon;
    daemon.subscribe("1", "Billing", &["Order"]);
    let publisher = daemon.publisher();
    (0..5).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    daemon.wait_for_counter("Billing", |c| c.queued, 5);
    let wrong = [
        (json!({"drainTimeout": -1}), "drainTimeout: -1"),
        (json!({"log": {"level": "loud"}}), "log.level"),
        (json!({"memoryLimit": 1}), "above memoryLimit 1"),
        (
            json!({"services": {"*": {"queueEvents": 0}}}),
            "services.*.queueEvents: 0",
        ),
    ];
    for (n, (wrong, named)) in wrong.into_iter().enumerate() {
        let mut keys = json!({"subscriptionTtl": 9, "services": {"*": {"queueEvents": 1}}});
        let all = keys.as_object_mut().expect("an object");
        all.extend(wrong.as_object().expect("an object").clone());
        changing.change(&keys);
        daemon.program().logged(named);
        let told = "not reloaded, the old configuration stays";
        let log = daemon.program().log();
        assert_eq!(log.matches(told).count(), n + 1, "{log}");
        assert_eq!(daemon.status().subscription_ttl_seconds, 600.0);
        assert_eq!(changing.queue("Billing"), 5);
    }
    publish(&publisher, "Order", "5");
    daemon.wait_for("the old bound", |_| {
        changing.dropped("Billing", "queue-full") == 1
    });
    assert_eq!(changing.queue("Billing"), 5);
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_changes() {
    let changing = Changing::start(&json!({}));
    let daemon = &changing.daemon;
    let subscribed = daemon.subscribe("1", "Billing", &["Order"]);
    let publishers = daemon.publishers();
    let wanted = json!({
        "pubAddress": "tcp://127.0.0.1:1",
        "stateDir": "elsewhere",
        "subscriptionTtl": 9,
        "services": {"Billing": {"delivery": "queue", "queueEvents": 70_000_000}},
        "log": {"format": "json"},
    });
    changing.change(&wanted);
    let program = daemon.program();
    for key in [
        "pubAddress",
        "stateDir",
        "services.Billing.delivery",
        "log.format",
    ] {
        let line = program.logged(&format!("key=\"{key}\""));
        assert!(line.contains("needs a restart"), "{line}");
    }
    let line = program.logged("configuration reloaded");
    assert!(
        line.contains("changed=\"subscriptionTtl,services\""),
        "{line}"
    );
    let status = daemon.status();
    assert_eq!(status.subscription_ttl_seconds, 9.0);
    assert_eq!(status.services[0].durable, None);
    assert_eq!(status.addresses.publishers, [publishers]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    publish(&daemon.publisher(), "Order", "x");
    assert_eq!(received(&worker), "x");
    assert!(is_silent(&worker, 10));
}

/// Without its file a daemon would have the defaults, and be open to everybody.
#[test]
fn a_configuration_that_is_gone_changes_nothing() {
    let site = Site::configured(&json!({
        "httpAddress": "127.0.0.1:0",
        "security": {"from": ["127.0.0.0/8"]},
    }));
    let daemon = TestDaemon::serving(&site);
    std::fs::remove_file(site.path("config.json")).expect("a file");
    daemon.program().signal("HUP");
    let refused = wait_until(|| {
        let noted = daemon.http_get("/events").body;
        noted.contains("config.json is gone").then_some(noted)
    });
    let noted = refused.expect("EM-0008");
    assert!(!noted.contains("EM-0007"), "{noted}");
    site.write("config.json", "{}");
    daemon.program().signal("HUP");
    wait_until(|| {
        daemon
            .http_get("/events")
            .body
            .contains("EM-0007")
            .then_some(())
    });
}
