//! Leases of clients that an engine keeps which is away: each place that shows it says so.

use serde_json::json;

use super::support::program::{Site, wait_until};
use super::support::{PATIENCE, TestDaemon};

/// Nobody listens there.
fn daemon(lease: &serde_json::Value) -> TestDaemon {
    let away = "nats://127.0.0.1:1";
    TestDaemon::in_own_process(&json!({
        "httpAddress": "127.0.0.1:0",
        "engines": {"main": {"type": "nats", "servers": [away]}},
        "lease": lease,
    }))
}

#[test]
fn while_the_engine_is_away_all_that_shows_it_says_so() {
    for required in [false, true] {
        let daemon = daemon(&json!({"source": "main", "role": "active", "required": required}));
        let asked = daemon
            .client(PATIENCE)
            .ask_json(&json!({"token": "lease", "data": ["acquire", "job", "a", "60000"]}));
        let why = asked.expect_err("nobody keeps it").to_string();
        assert!(why.contains("the engine main keeps leases"), "{why}");

        let status = daemon.status();
        let kept = status.leases.expect("an engine keeps them");
        assert_eq!((&*kept.source, &*kept.engine), ("main", "nats"));
        assert_eq!((kept.asked, kept.failed, kept.required), (1, 1, required));
        let problem = kept.problem.expect("it is away");

        let metrics = daemon.metrics();
        for name in ["asked", "failed"] {
            let name = format!("event_manager_leases_{name}_total");
            assert_eq!(metrics.value(&name, &[]) as u64, 1);
        }
        let readiness = daemon.readiness();
        assert_eq!(readiness.ready, !required, "{readiness:?}");
        let check = &readiness.checks["lease"];
        assert_eq!(check.ok, !required);
        for part in ["LEASE is refused", "lease.required", &problem] {
            assert!(check.reason.contains(part), "{part}: {check:?}");
        }

        let site = Site::of(&daemon);
        let found = wait_until(|| {
            let found = site.run(&["doctor", "--wait", "1"]);
            (found.code == Some(1)).then_some(found.stdout)
        });
        let found = found.expect("an error");
        let line = "error EM-9040 leases: requests LEASE are refused, as the engine main keeps";
        assert!(found.contains(line), "{found}");
    }
}

#[test]
fn a_daemon_that_keeps_them_itself_shows_none_of_it() {
    let daemon = TestDaemon::in_own_process(&json!({"httpAddress": "127.0.0.1:0"}));
    assert_eq!(daemon.status().leases, None);
    let metrics = daemon.http_get("/metrics").body;
    let has = |line: &str| line.starts_with("event_manager_leases_");
    assert!(!metrics.lines().any(has), "{metrics}");
    assert!(!daemon.readiness().checks.contains_key("lease"));
}
