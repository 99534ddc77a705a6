//! Whatever comes in place of heartbeats is bounded and counted, and passed on as ever.

use event_manager_wire::api::InstanceState;

use super::super::support::TestDaemon;
use super::super::support::peers::is_silent;
use super::{find, heartbeat, observing, said, send, state_of, wait_for};

#[test]
fn what_is_no_heartbeat_is_counted_and_does_no_harm() {
    let daemon = TestDaemon::with(observing);
    let publisher = daemon.publisher();
    let subscriber = daemon.subscriber(&["{"]);
    let of = |id: &str| heartbeat(id, 7);
    let begin = r#"{"type": "heartbeat""#;
    let wrong = [
        ("no-json", begin.to_owned()),
        ("no-json", format!("{begin}, \"x\": {}", "[".repeat(10_000))),
        ("no-json", format!("{begin}, \"x\": \u{0}}}")),
        ("no-id", format!("{begin}}}")),
        ("no-id", format!("{begin}, \"instance_id\": [1]}}")),
        ("bad-id", of("")),
        ("bad-id", of(&"x".repeat(129))),
        ("oversized", of(&"x".repeat(1 << 20))),
        (
            "too-large",
            format!("{begin}, \"x\": \"{}\"}}", "y".repeat(16 << 10)),
        ),
        ("stranger", said("event", "nobody", 7)),
        ("stranger", said("shutdown", "nobody", 7)),
    ];
    for (_, text) in &wrong {
        send(&publisher, text);
    }
    // A pid of another shape is none: it can't lead.
    send(
        &publisher,
        r#"{"type": "heartbeat", "instance_id": "odd", "pid": "7"}"#,
    );
    send(&publisher, &of("right"));
    let page = wait_for(&daemon, "the right one", |all| {
        all.leaders == ["right"] && all.refused.len() >= 6
    });
    for reason in [
        "no-json",
        "no-id",
        "bad-id",
        "oversized",
        "too-large",
        "stranger",
    ] {
        let expected = wrong.iter().filter(|(of, _)| *of == reason).count() as u64;
        let found = page.instances.refused.get(reason).copied();
        assert_eq!(
            found,
            Some(expected),
            "{reason}: {:?}",
            page.instances.refused
        );
    }
    assert_eq!(find(&page, "odd").pid, None);
    assert_eq!(page.instances.known.len(), 2);
    for (_, text) in &wrong {
        let passed = subscriber.recv_bytes(0).expect("it is passed on");
        assert_eq!(passed, text.as_bytes());
    }
}

#[test]
fn floods_of_ids_are_bounded_and_who_is_known_stays() {
    let daemon = TestDaemon::with(|config| {
        observing(config);
        config.instances.timeout = super::PATIENCE;
    });
    let publisher = daemon.publisher();
    send(&publisher, &heartbeat("known", 1));
    wait_for(&daemon, "the one", |all| all.leaders == ["known"]);
    for n in 0..20_000 {
        send(&publisher, &heartbeat(&format!("flood-{n}"), 2 + n));
    }
    send(&publisher, &heartbeat("known", 1));
    let page = wait_for(&daemon, "the end of it", |all| {
        let refused: u64 = all.refused.values().sum();
        refused + all.heartbeats >= 20_002
    });
    assert_eq!(page.instances.leaders, ["known"]);
    assert!(page.instances.known.len() <= 1000);
    assert!(page.instances.refused.contains_key("too-many"));
    assert_eq!(
        daemon.status().instances.known.len(),
        64.min(page.instances.known.len())
    );
    let alive = state_of(&page.instances, "known");
    assert_eq!(alive, Some(InstanceState::Alive));
    // What it costs is not at the expense of others.
    let subscriber = daemon.subscriber(&["Order"]);
    super::super::support::peers::publish(&publisher, "Order", "1");
    assert_eq!(super::super::support::peers::received(&subscriber), "1");
    assert!(is_silent(&subscriber, 1));
}
