//! Bridges from Redis Streams: what is special there.

use std::ops::Range;

use event_manager_wire::api::BridgeState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::{Broker, numbers};
use super::conformance_in::{
    Source, conforms_in, daemon, dead_letters, settings, wait_for, wait_until_settled, worked,
};
use super::conformance_served::{
    Queues, conforms_served, goes_on_at_machines, settings as served_settings,
};
use super::redis::Redis;
use super::server::secret;
use super::support::peers::{publish, received};
use super::support::{TestDaemon, assert_law};

impl Source for Redis {
    fn reader(&self, reader: usize) -> Value {
        json!({"from": Self::TO, "group": format!("hub-{reader}")})
    }

    fn give_of(&self, numbers: Range<u64>, headers: &Value, body_bytes: usize) {
        let (begin, end) = (numbers.start.to_string(), numbers.end.to_string());
        let (headers, bytes) = (headers.to_string(), body_bytes.to_string());
        self.client(&["write", Self::TO, &begin, &end, &headers, &bytes]);
    }

    fn left(&self, reader: usize) -> u64 {
        let left = self.client(&["left", Self::TO, &format!("hub-{reader}")]);
        left.as_u64().expect("a number")
    }
}

conforms_in!(Redis);
conforms_served!(Redis);
goes_on_at_machines!(Redis, after_ack_timeout: std::time::Duration::from_secs(1));

impl Queues for Redis {
    fn started_at(host: &str) -> Self {
        let mut started = Self::at(host);
        started.start();
        started
    }

    fn waiting(&self, service: &str) -> u64 {
        let key = format!("em:service:{service}");
        let entries = self.command(&["XRANGE", &key, "-", "+"]);
        entries.as_array().expect("entries").len() as u64
    }

    fn put(&self, service: &str, numbers: Range<u64>, headers: &Value) {
        let (begin, end) = (numbers.start.to_string(), numbers.end.to_string());
        let key = format!("em:service:{service}");
        self.client(&["write", &key, &begin, &end, &headers.to_string()]);
    }

    const FULL: &str = "raise its maxmemory";

    fn fill(&self, is_full: bool) {
        let most = if is_full { "1" } else { "0" };
        self.command(&["CONFIG", "SET", "maxmemory", most]);
    }
}

/// A public client takes some for a consumer that is never seen again.
fn taken_by_the_dead(redis: &Redis, count: usize) {
    redis.command(&["XGROUP", "CREATE", Redis::TO, "hub-0", "0"]);
    let count = count.to_string();
    redis.command(&[
        "XREADGROUP",
        "GROUP",
        "hub-0",
        "dead",
        "COUNT",
        &count,
        "STREAMS",
        Redis::TO,
        ">",
    ]);
}

#[test]
fn what_a_dead_consumer_had_is_taken_over_and_what_was_deleted_is_named() {
    let redis = Redis::started();
    redis.give(0..20, &json!({}));
    taken_by_the_dead(&redis, 10);
    let entries = redis.command(&["XRANGE", Redis::TO, "-", "+"]);
    let deleted = entries[9][0].as_str().expect("an id");
    redis.command(&["XDEL", Redis::TO, deleted]);
    let directory = TempDir::new().expect("a directory");
    let settings = settings(&directory, &redis, &json!({"claimAfter": 1}));
    let daemon = TestDaemon::in_own_process(&settings);
    wait_for(&daemon, "prices", "all", |bridge| {
        (bridge.events, bridge.refused) == (19, 1)
    });
    wait_until_settled(&redis);
    let mut bodies = worked(&daemon, 19);
    bodies.sort_by_key(|body| body.parse::<u64>().expect("a number"));
    let expected: Vec<_> = numbers(20).into_iter().filter(|n| n != "9").collect();
    assert_eq!(bodies, expected);
}

#[test]
fn what_has_come_in_is_deleted_if_that_is_wanted() {
    let redis = Redis::started();
    redis.give(0..1000, &json!({}));
    let directory = TempDir::new().expect("a directory");
    let settings = settings(&directory, &redis, &json!({"delete": true}));
    let daemon = TestDaemon::in_own_process(&settings);
    wait_for(&daemon, "prices", "all", |bridge| bridge.events == 1000);
    wait_until_settled(&redis);
    assert_eq!(redis.command(&["XLEN", Redis::TO]), 0);
    assert_eq!(worked(&daemon, 1000), numbers(1000));
}

#[test]
fn an_entry_without_a_body_is_a_dead_letter_with_all_its_fields() {
    let redis = Redis::started();
    redis.command(&["XADD", Redis::TO, "*", "temperature", "21.5"]);
    redis.give(0..1, &json!({}));
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &redis);
    wait_for(&daemon, "prices", "both", |bridge| {
        (bridge.events, bridge.refused) == (1, 1)
    });
    daemon.wait_for_counter("bridge.prices", |c| c.dead_lettered, 1);
    wait_until_settled(&redis);
    let letter = &dead_letters(&daemon)[0];
    assert_eq!(letter["detail"], "the entry has no field data");
    let wanted = json!({"seqs": [letter["seq"]]}).to_string();
    let (_, shown) = daemon.ask("dlq", &["show", "bridge.prices", &wanted]);
    assert!(shown.contains("temperature"), "{shown}");
    assert_law(&daemon.status());
}

/// An entry that is deleted between the daemon's death and its return is named, and holds up nobody.
#[test]
fn an_entry_that_was_deleted_while_a_consumer_had_it_is_named() {
    let redis = Redis::started();
    redis.give(0..2, &json!({}));
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory, &redis);
    wait_for(&first, "prices", "both", |bridge| bridge.events == 2);
    wait_until_settled(&redis);
    let consumers = redis.command(&["XINFO", "CONSUMERS", Redis::TO, "hub-0"]);
    let own = consumers[0]["name"].as_str().expect("a name").to_owned();
    first.kill();
    redis.give(2..4, &json!({}));
    // As if it had been killed with these in its hands.
    redis.command(&[
        "XREADGROUP",
        "GROUP",
        "hub-0",
        &own,
        "STREAMS",
        Redis::TO,
        ">",
    ]);
    let entries = redis.command(&["XRANGE", Redis::TO, "-", "+"]);
    let deleted = entries[2][0].as_str().expect("an id");
    redis.command(&["XDEL", Redis::TO, deleted]);
    let daemon = daemon(&directory, &redis);
    wait_for(&daemon, "prices", "the rest", |bridge| {
        (bridge.events, bridge.refused) == (1, 1)
    });
    wait_until_settled(&redis);
    daemon.wait_for_counter("bridge.prices", |c| c.dead_lettered, 1);
    let detail = dead_letters(&daemon)[0]["detail"].clone();
    assert_eq!(detail, "the entry was deleted before it could be read");
    assert_eq!(worked(&daemon, 3), ["0", "1", "3"]);
}

#[test]
fn a_stream_that_is_deleted_and_made_anew_goes_on() {
    let redis = Redis::started();
    redis.give(0..10, &json!({}));
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &redis);
    wait_for(&daemon, "prices", "the first", |bridge| bridge.events == 10);
    wait_until_settled(&redis);
    redis.command(&["DEL", Redis::TO]);
    redis.give(10..20, &json!({}));
    wait_for(&daemon, "prices", "all", |bridge| {
        bridge.events == 20 && bridge.state == BridgeState::Running
    });
    assert_eq!(worked(&daemon, 20), numbers(20));
}

#[test]
fn a_key_of_another_type_is_named_and_waited_for() {
    let redis = Redis::started();
    redis.command(&["RPUSH", Redis::TO, "a list"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &redis);
    let bridge = wait_for(&daemon, "prices", "its problem", |bridge| {
        bridge.problem.is_some()
    });
    let problem = bridge.problem.expect("a sentence");
    assert!(
        problem.contains("the key has something else in it"),
        "{problem}"
    );
    redis.command(&["DEL", Redis::TO]);
    redis.give(0..10, &json!({}));
    wait_for(&daemon, "prices", "all", |bridge| bridge.events == 10);
}

/// The rights that docs/engines.md names are enough, and those for deleting only for that.
#[test]
fn a_user_who_may_do_no_more_than_a_bridge_has_to() {
    for deletes in [false, true] {
        let redis = Redis::started();
        let mut rights = vec![
            "ACL",
            "SETUSER",
            "em",
            "on",
            ">s3cret",
            "~orders",
            "+xreadgroup",
            "+xautoclaim",
            "+xack",
            "+select",
            "+xgroup|create",
        ];
        if deletes {
            rights.extend(["+multi", "+exec", "+xdel"]);
        }
        redis.command(&rights);
        redis.give(0..10, &json!({}));
        let directory = TempDir::new().expect("a directory");
        let more = json!({"delete": deletes});
        let mut settings = settings(&directory, &redis, &more);
        settings["engines"]["main"]["user"] = json!("em");
        settings["engines"]["main"]["passwordFile"] = json!(secret(directory.path(), "s3cret"));
        let daemon = TestDaemon::in_own_process(&settings);
        wait_for(&daemon, "prices", "all", |bridge| bridge.events == 10);
        wait_until_settled(&redis);
        let left = if deletes { 0 } else { 10 };
        assert_eq!(redis.command(&["XLEN", Redis::TO]), left);
    }
}

/// What is told together is refused as a whole, for a reason that the server says of one.
#[test]
fn a_right_that_is_missing_for_what_is_told_together_is_named() {
    let redis = Redis::started();
    redis.command(&[
        "ACL", "SETUSER", "em", "on", ">s3cret", "~*", "+@all", "-xdel",
    ]);
    let directory = TempDir::new().expect("a directory");
    let mut settings = served_settings(&directory, &redis, &json!({}));
    settings["engines"]["main"]["user"] = json!("em");
    settings["engines"]["main"]["passwordFile"] = json!(secret(directory.path(), "s3cret"));
    let daemon = TestDaemon::in_own_process(&settings);
    publish(&daemon.publisher(), "Order", "0");
    let worker = daemon.worker("Billing", &daemon.address_of("Billing"));
    assert_eq!(received(&worker), "0");
    let status = daemon.wait_for("a refusal", |status| {
        status.bridges.iter().any(|way| way.problem.is_some())
    });
    let problem = status.bridges.iter().find_map(|way| way.problem.clone());
    let problem = problem.expect("a sentence");
    assert!(
        problem.contains("the user has no right to that: ACL SETUSER"),
        "{problem}"
    );
    assert!(problem.contains("xdel"), "{problem}");
}
