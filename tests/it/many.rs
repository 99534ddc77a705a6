//! Many subscriptions and services: what one costs must not grow with how many there are.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::peers::connected;

const SUBSCRIBE: &str = "TK_EVENT_MANAGER_SUBSCRIBE";

/// Asks many things at once: a client that waits for each answer would measure itself.
fn ask_all(daemon: &TestDaemon, token: &str, all: impl Iterator<Item = String>) {
    const UNANSWERED_MAX: usize = 200;
    let requester = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    let answer = || {
        let answer = requester.recv_multipart(0).expect("an answer");
        assert_eq!(answer[1], b"TK_SYS_ACK", "{answer:?}");
    };
    let mut unanswered = 0;
    for data in all {
        let request = ["", token, "PARAM", &data];
        requester.send_multipart(request, 0).expect("a send");
        unanswered += 1;
        if unanswered > UNANSWERED_MAX {
            answer();
            unanswered -= 1;
        }
    }
    (0..unanswered).for_each(|_| answer());
}

/// What the daemon's process has used of a processor since then. That a machine is slow or busy with
/// others changes little of it.
fn assert_cheap(daemon: &TestDaemon, since: Duration, max: Duration, what: &str) {
    let used = daemon.process().cpu_time() - since;
    assert!(used < max, "{what} took {used:?}");
}

#[test]
fn a_subscription_costs_the_same_however_many_there_are() {
    const SUBSCRIPTIONS: usize = 20_000;
    const MAX: Duration = Duration::from_secs(8);
    let directory = tempfile::tempdir().expect("a directory");
    let settings = json!({
        "stateDir": directory.path(),
        "limits": {"maxSubscriptionsPerPeer": SUBSCRIPTIONS},
    });
    let daemon = TestDaemon::in_own_process(&settings);
    for part in 0..10 {
        let part = part * SUBSCRIPTIONS / 10..(part + 1) * SUBSCRIPTIONS / 10;
        let all = part.map(|n| format!("sub-{n}\0Billing\0Subject.{n}"));
        ask_all(&daemon, SUBSCRIBE, all);
        assert_cheap(&daemon, Duration::ZERO, MAX, "subscribing");
    }
    daemon.wait_for("state on disk", |status| status.state.written);
    daemon.kill();

    let daemon = TestDaemon::in_own_process(&settings);
    let restored = &daemon.service("Billing").subscriptions;
    assert_eq!(restored.len(), SUBSCRIPTIONS);
    assert_cheap(&daemon, Duration::ZERO, MAX, "a restart");
    let before = daemon.process().cpu_time();
    let all = (0..SUBSCRIPTIONS).map(|n| format!("sub-{n}"));
    ask_all(&daemon, "TK_EVENT_MANAGER_UNSUBSCRIBE", all);
    assert_cheap(&daemon, before, MAX, "unsubscribing");
}

#[test]
fn idle_durable_services_cost_nothing() {
    const SERVICES: usize = 600;
    let directory = tempfile::tempdir().expect("a directory");
    let mut services: serde_json::Map<String, Value> = (0..30)
        .map(|n| (format!("Unused-{n}-*"), json!({"queueEvents": 3})))
        .collect();
    services.insert("Idle-*".into(), json!({"delivery": "queue"}));
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "minStreamerPort": 0,
        "maxStreamerPort": 0,
        "services": services,
    }));
    let all = (0..SERVICES).map(|n| format!("sub-{n}\0Idle-{n}\0Subject.{n}"));
    ask_all(&daemon, SUBSCRIBE, all);
    daemon.wait_for("state on disk", |status| status.state.written);
    let before = daemon.process().cpu_time();
    // Nothing is waited for here: what is measured is what happens when nothing does.
    std::thread::sleep(Duration::from_secs(4));
    assert_cheap(&daemon, before, Duration::from_millis(400), "doing nothing");
}
