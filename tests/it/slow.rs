//! Peers that don't read, and what they cost.

use serde_json::json;

use super::support::TestDaemon;
use super::support::peers::{publish, received};

#[test]
fn a_daemon_runs_in_a_process_of_its_own() {
    let daemon = TestDaemon::in_own_process_with_fds(&json!({}), 100);
    let subscriber = daemon.subscriber(&[""]);
    publish(&daemon.publisher(), "subject", "data");
    assert_eq!(received(&subscriber), "data");
    let process = daemon.process();
    assert!(process.resident_bytes() > 100_000);
    assert!(process.peak_resident_bytes() >= process.resident_bytes());
    assert!((5..100).contains(&process.open_fds()));
    process.signal("STOP");
    let used = process.cpu_time();
    assert_eq!(process.cpu_time(), used);
    process.signal("CONT");
    assert!(daemon.stop());
}
