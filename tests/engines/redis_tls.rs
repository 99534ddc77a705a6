//! Bridges to Redis by TLS.

use event_manager_wire::api::BridgeState;
use serde_json::json;
use tempfile::TempDir;

use super::conformance::{Broker, first_copies, numbers, settings, wait_for, wait_until_empty};
use super::redis::Redis;
use super::server::free_port;
use super::support::TestDaemon;
use super::support::peers::publish;
use super::tls::{self, Authority};

/// A server by TLS, and its URL.
fn by_tls(authority: &Authority) -> (Redis, String) {
    let mut redis = Redis::new();
    let port = free_port();
    let [certificate, key, ca] = ["server.pem", "server.key", "ca.pem"]
        .map(|name| authority.file(name).display().to_string());
    redis.start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ]);
    (redis, format!("rediss://127.0.0.1:{port}"))
}

#[test]
fn events_go_by_tls_to_a_server_whose_authority_is_trusted_and_to_no_other() {
    let [authority, other] = [(); 2].map(|()| Authority::new());
    authority.certify("IP:127.0.0.1");
    let (redis, url) = by_tls(&authority);
    let directory = TempDir::new().expect("a directory");
    let trusted = directory.path().join("trusted.pem");
    std::fs::copy(other.file("ca.pem"), &trusted).expect("a copy");
    let mut settings = settings(&directory, &redis, &json!({}));
    settings["engines"]["main"]["servers"] = json!([url]);
    settings["engines"]["main"]["caFile"] = json!(trusted);
    let daemon = TestDaemon::in_own_process(&settings);
    let publisher = daemon.publisher();
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let bridge = wait_for(&daemon, "a refusal", |bridge| bridge.problem.is_some());
    assert_eq!(bridge.state, BridgeState::Connecting);
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains("caFile names the authority"), "{problem}");
    std::fs::copy(authority.file("ca.pem"), &trusted).expect("a copy");
    wait_until_empty(&daemon);
    assert_eq!(first_copies::<Redis>(&redis.read(100)), numbers(100));
}

/// Why a daemon that trusts this authority doesn't take the server that has its certificate.
fn refusal_of_server(authority: &Authority) -> String {
    let (redis, url) = by_tls(authority);
    let directory = TempDir::new().expect("a directory");
    let mut settings = settings(&directory, &redis, &json!({}));
    settings["engines"]["main"]["servers"] = json!([url]);
    settings["engines"]["main"]["caFile"] = json!(authority.file("ca.pem"));
    let daemon = TestDaemon::in_own_process(&settings);
    let bridge = wait_for(&daemon, "a refusal", |bridge| bridge.problem.is_some());
    bridge.problem.expect("a sentence")
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    tls::another_name_is_refused(refusal_of_server);
}

#[test]
fn an_authority_s_own_certificate_is_refused_with_what_to_do() {
    tls::an_authority_s_own_is_refused(refusal_of_server);
}
