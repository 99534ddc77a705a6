//! LEASE: of several clients one holds a lease at a time, with a token that only grows.

use std::time::{Duration, Instant};

use event_manager_client::{Error, Hub};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::support::{PATIENCE, TestDaemon, tunnel};

fn daemon(directory: &TempDir) -> TestDaemon {
    TestDaemon::in_own_process(&json!({"stateDir": directory.path()}))
}

/// What a request about a lease is answered: its fields, or the code of the NAK.
fn ask(daemon: &TestDaemon, fields: Value) -> Result<Map<String, Value>, String> {
    let mut request = fields;
    request["token"] = json!("lease");
    let asked = daemon.client(PATIENCE).ask_json(&request);
    match asked {
        Ok(answer) => match &answer["data"] {
            Value::Object(lease) => Ok(lease.clone()),
            Value::String(text) => Ok(serde_json::from_str(text).expect("JSON")),
            other => panic!("{other:?}"),
        },
        Err(event_manager_client::ClientError::Nak { code, .. }) => Err(code),
        Err(error) => panic!("{error}"),
    }
}

fn by_position(daemon: &TestDaemon, data: &[&str]) -> Result<Map<String, Value>, String> {
    ask(daemon, json!({"data": data}))
}

fn token_of(lease: &Map<String, Value>) -> u64 {
    lease["token"].as_u64().expect("a token")
}

#[test]
fn one_holds_it_and_tokens_grow() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    let free = ask(&daemon, json!({"op": "get", "name": "job"})).expect("an answer");
    assert_eq!((&free["holder"], token_of(&free)), (&Value::Null, 0));
    let acquire = |who: &str| by_position(&daemon, &["acquire", "job", who, "60000"]);
    let first = acquire("a").expect("it is free");
    let token = token_of(&first);
    assert!(first["expiresInMs"].as_u64().expect("a time") > 59_000);
    assert_eq!(acquire("b"), Err("held".into()));
    assert_eq!(
        token_of(&acquire("a").expect("its own")),
        token,
        "the same answer again"
    );
    let text = token.to_string();
    let with =
        |op: &str, who: &str, token: &str| by_position(&daemon, &[op, "job", who, "", token]);
    with("renew", "a", &text).expect("it is held");
    for (who, token) in [("b", &*text), ("a", "1")] {
        assert_eq!(with("renew", who, token), Err("lost".into()));
        assert_eq!(with("release", who, token), Err("lost".into()));
    }
    assert_eq!(
        with("release", "a", &text).expect("it is held")["holder"],
        Value::Null
    );
    assert_eq!(with("renew", "a", &text), Err("lost".into()));
    assert!(token_of(&acquire("b").expect("it is free")) > token);
    for (wrong, code) in [
        (json!({"op": "take", "name": "job"}), "invalid-field"),
        (json!({"op": "get"}), "missing-field"),
        (
            json!({"op": "get", "name": "x".repeat(256)}),
            "invalid-name",
        ),
        (json!({"op": "acquire", "name": "job"}), "missing-field"),
        (
            json!({"op": "acquire", "name": "job", "holder": "a", "ttlMs": 99}),
            "invalid-field",
        ),
        (
            json!({"op": "acquire", "name": "job", "holder": "a", "ttlMs": 3_600_001}),
            "invalid-field",
        ),
        (
            json!({"op": "renew", "name": "job", "holder": "a"}),
            "missing-field",
        ),
        (
            json!({"op": "get", "name": "job", "more": 1}),
            "unknown-field",
        ),
    ] {
        assert_eq!(ask(&daemon, wrong.clone()), Err(code.into()), "{wrong}");
    }
}

#[test]
fn a_kill_takes_back_no_token_and_what_was_held_is_held_for_its_time() {
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory);
    let mut tokens = vec![];
    for name in ["long", "short", "free"] {
        let ttl = if name == "long" { "600000" } else { "300" };
        let lease = by_position(&first, &["acquire", name, "a", ttl]).expect("it is free");
        tokens.push(token_of(&lease));
    }
    assert!(tokens.is_sorted());
    let text = tokens[2].to_string();
    by_position(&first, &["release", "free", "a", "", &text]).expect("it is held");
    first.wait_for("that it is on disk", |status| status.state.written);
    first.kill();
    let again = daemon(&directory);
    let acquire = |name: &str, who: &str| by_position(&again, &["acquire", name, who, "1000"]);
    assert_eq!(acquire("long", "b"), Err("held".into()));
    let renewed = ["renew", "long", "a", "", &tokens[0].to_string()];
    by_position(&again, &renewed).expect("it is held still");
    let free = acquire("free", "b").expect("it was released");
    assert!(token_of(&free) > tokens[2]);
    // The other's time begins anew, and ends.
    let begun = Instant::now();
    let taken = loop {
        match acquire("short", "b") {
            Ok(taken) => break taken,
            Err(code) => assert_eq!(code, "held"),
        }
        assert!(begun.elapsed() < PATIENCE, "it never ends");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(token_of(&taken) > token_of(&free), "of all leases");
}

#[test]
fn there_are_none_without_a_state_database_or_the_right() {
    let daemon = TestDaemon::start();
    let refused = by_position(&daemon, &["acquire", "job", "a"]);
    assert_eq!(refused, Err("no-state".into()));
    if tunnel::is_on() {
        return;
    }
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "security": {"anonymous": {"services": ["job-*"], "requests": ["lease", "status"]}},
    }));
    by_position(&daemon, &["acquire", "job-1", "a"]).expect("it may");
    for op in ["acquire", "get"] {
        let denied = by_position(&daemon, &[op, "other", "a"]);
        assert_eq!(denied, Err("forbidden".into()), "{op}");
    }
}

async fn hub(daemon: &TestDaemon) -> Hub {
    let address = daemon.requests();
    let builder = Hub::builder().address(&address).keys(tunnel::keys());
    builder.connect().await.expect("a daemon")
}

#[tokio::test]
async fn the_client_renews_and_knows_when_it_has_lost() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    let (one, other) = (hub(&daemon).await, hub(&daemon).await);
    let ttl = Duration::from_secs(1);
    let first = one.lease("job").ttl(ttl).acquire().await.expect("a lease");
    // Longer than its time.
    for _ in 0..20 {
        let taken = other.lease("job").ttl(ttl).try_acquire().await;
        assert!(taken.expect("an answer").is_none() && first.is_held());
        tokio::time::sleep(ttl / 10).await;
    }
    let token = first.token();
    assert!(first.release().await);
    let second = other
        .lease("job")
        .ttl(ttl)
        .acquire()
        .await
        .expect("a lease");
    assert!(second.token() > token);
    // The daemon is stopped: whoever holds it knows before anybody else may have it.
    daemon.process().signal("STOP");
    let begun = Instant::now();
    second.lost().await;
    assert!(!second.is_held() && begun.elapsed() < PATIENCE);
    assert!(!second.release().await);
    daemon.process().signal("CONT");
    let third = one.lease("job").ttl(ttl).acquire().await.expect("a lease");
    drop(third);
    // It is released by that.
    let long = Duration::from_secs(60);
    let fourth = other
        .lease("job")
        .ttl(long)
        .acquire()
        .await
        .expect("a lease");
    assert!(fourth.is_held());
    let wrong = one.lease("job").ttl(Duration::ZERO).acquire().await;
    assert!(matches!(wrong, Err(Error::InvalidArgument(_))));
}
