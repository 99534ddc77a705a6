//! Bridges to and from streams in which `dotmac.events` writes and reads.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::{self, Broker};
use super::conformance_in::{dead_letters, settings, wait_for, wait_until_settled};
use super::redis::Redis;
use super::support::TestDaemon;
use super::support::peers::{probe, publish};

const ID: &str = "6f1ed002-ab59-4b16-8d5e-1b0c0f7e6f9a";

#[test]
fn events_go_out_as_their_adapter_writes_them() {
    let redis = Redis::started();
    let directory = TempDir::new().expect("a directory");
    let more = json!({"layout": "dotmac"});
    let daemon = TestDaemon::in_own_process(&conformance::settings(&directory, &redis, &more));
    let publisher = daemon.publisher();
    let headers = json!({
        "id": ID, "time": "2026-11-21T15:44:04.123456", "source": "pos", "tenant-id": "acme",
        "correlation-id": "c",
    });
    let frames = ["Order.created", r#"{"total": 0.10}"#, &headers.to_string()];
    publisher.send_multipart(frames, 0).expect("a send");
    publish(&publisher, "Order.created", "no JSON");
    publish(&publisher, "Order.created", r#"{"n": 2}"#);
    let messages = redis.read(2);
    let first = &messages[0];
    assert_eq!(first.header("content_type"), "application/json");
    assert_eq!(first.header("x-event-id"), ID);
    assert_eq!(first.header("header_source"), "pos");
    assert!(!first.headers.contains_key("x-em-lengths"), "{first:?}");
    let data: Value = serde_json::from_str(&first.body).expect("JSON");
    let expected = json!({
        "topic": "Order.created",
        "payload": {"total": 0.1},
        "headers": {"source": "pos"},
        "tenant_id": "acme",
        "metadata": {
            "id": ID, "timestamp": "2026-11-21T15:44:04.123456",
            "content_type": "application/json", "encoding": "utf-8", "correlation_id": "c",
        },
    });
    assert_eq!(data, expected);
    let second: Value = serde_json::from_str(&messages[1].body).expect("JSON");
    assert_eq!(second["payload"], json!({"n": 2}));
    assert_eq!(second["metadata"]["id"], messages[1].header("x-event-id"));
    // What their adapter would throw away doesn't get there.
    daemon.wait_for_counter("bridge.orders", |c| c.dead_lettered, 1);
    conformance::wait_until_empty(&daemon);
}

#[test]
fn events_come_in_as_our_clients_have_them() {
    let redis = Redis::started();
    let directory = TempDir::new().expect("a directory");
    let more = json!({"layout": "dotmac"});
    let daemon = TestDaemon::in_own_process(&settings(&directory, &redis, &more));
    let subscriber = daemon.subscriber(&["prices", "probe"]);
    probe(&daemon.publisher(), &subscriber, "probe");
    let data = json!({
        "topic": "orders", "payload": {"total": 5}, "key": "k", "tenant_id": "acme",
        "headers": {"source": "pos"},
        "metadata": {
            "id": ID, "timestamp": "2026-11-21T15:44:04.123456",
            "content_type": "application/json", "encoding": "utf-8",
        },
    });
    let data = data.to_string();
    // Their publisher tries again when the answer is lost.
    for _ in 0..2 {
        redis.command(&[
            "XADD",
            Redis::TO,
            "*",
            "data",
            &data,
            "content_type",
            "application/json",
            "x-event-id",
            ID,
            "header_source",
            "pos",
        ]);
    }
    redis.command(&["XADD", Redis::TO, "*", "data", "no JSON"]);
    let frames = subscriber.recv_multipart(0).expect("an event");
    assert_eq!(frames[..2], [&b"prices"[..], br#"{"total":5}"#]);
    let headers: Value = serde_json::from_slice(&frames[2]).expect("JSON");
    let expected = json!({
        "id": ID, "time": "2026-11-21T15:44:04.123456", "source": "pos", "tenant-id": "acme",
        "x-event-key": "k",
    });
    assert_eq!(headers, expected);
    let bridge = wait_for(&daemon, "prices", "all", |bridge| bridge.refused == 1);
    assert_eq!((bridge.events, bridge.known), (2, 1));
    wait_until_settled(&redis);
    daemon.wait_for_counter("bridge.prices", |c| c.dead_lettered, 1);
    let detail = dead_letters(&daemon)[0]["detail"].to_string();
    assert!(detail.contains("no event of DotMac"), "{detail}");
}
