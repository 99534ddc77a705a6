//! Bridges to Redis Streams: the server, and what is special there.

use std::process::Command;

use event_manager_wire::api::BridgeState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::{
    Broker, Message, conforms, daemon, first_copies, numbers, settings, wait_for, wait_until_empty,
};
use super::leases::keeps_leases;
use super::server::{self, Process, free_port, redis_server, secret};
use super::standby::stands_by;
use super::support::TestDaemon;
use super::support::peers::publish;

/// Debian's redis-server, which syncs each write to its file before it answers.
pub struct Redis {
    process: Option<Process>,
    directory: TempDir,
    host: String,
    port: u16,
}

impl Broker for Redis {
    const TYPE: &str = "redis";
    const TO: &str = "orders";
    const KNOWS_IDS: bool = false;

    fn new() -> Self {
        Self::at("127.0.0.1")
    }

    fn start(&mut self) {
        self.start_with(&[]);
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn stand_still(&self) {
        self.process.as_ref().expect("it runs").stand_still();
    }

    fn go_on(&self) {
        self.process.as_ref().expect("it runs").go_on();
    }

    fn url(&self) -> String {
        format!("redis://{}:{}", self.host, self.port)
    }

    fn prepare(&self) {}

    fn read(&self, wanted: usize) -> Vec<Message> {
        Message::all(&self.client(&["read", Self::TO, &wanted.to_string()]))
    }

    fn too_many_bytes(&self) -> usize {
        // The server is started with a limit of 1 MiB.
        (1 << 20) + 1
    }
}

impl Redis {
    /// One that listens at this address.
    pub fn at(host: &str) -> Self {
        Self {
            process: None,
            directory: TempDir::new().expect("a directory"),
            host: host.into(),
            port: free_port(),
        }
    }

    pub fn start_with(&mut self, more: &[&str]) {
        let mut command = Command::new(redis_server());
        command
            .args(["--bind", &self.host, "--port", &self.port.to_string()])
            .args(["--protected-mode", "no"])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--save", "", "--proto-max-bulk-len", "1mb", "--dir"])
            .arg(self.directory.path())
            .args(more);
        let process = Process::listening_at(&mut command, &self.host, self.port);
        self.process = Some(process);
    }

    pub fn client(&self, arguments: &[&str]) -> Value {
        server::client("redis_client.py", &self.url(), arguments)
    }

    pub fn command(&self, arguments: &[&str]) -> Value {
        let all: Vec<_> = ["command"].iter().chain(arguments).copied().collect();
        self.client(&all)
    }
}

stands_by!(Redis);
keeps_leases!(Redis);
conforms!(Redis);

/// Something is made wrong, and mended: what is said of it, and that nothing is lost.
fn refused_until(wrong: &[&str], said: &str, mended: &[&str]) {
    let redis = Redis::started();
    redis.command(wrong);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &redis);
    let publisher = daemon.publisher();
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let bridge = wait_for(&daemon, "a refusal", |bridge| {
        bridge.state == BridgeState::Failing
    });
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains(said), "{problem}");
    redis.command(mended);
    wait_until_empty(&daemon);
    assert_eq!(first_copies::<Redis>(&redis.read(100)), numbers(100));
    let bridge = wait_for(&daemon, "its count", |bridge| bridge.events == 100);
    assert_eq!((bridge.state, bridge.refused), (BridgeState::Running, 0));
    assert_eq!(redis.command(&["XLEN", Redis::TO]), 100);
}

#[test]
fn a_key_of_another_type_is_named() {
    refused_until(
        &["RPUSH", Redis::TO, "a list"],
        "the key has something else in it",
        &["DEL", Redis::TO],
    );
}

#[test]
fn a_server_without_memory_is_named() {
    refused_until(
        &["CONFIG", "SET", "maxmemory", "1"],
        "raise its maxmemory",
        &["CONFIG", "SET", "maxmemory", "0"],
    );
}

#[test]
fn a_replica_is_named() {
    refused_until(
        &["REPLICAOF", "127.0.0.1", "1"],
        "name the master",
        &["REPLICAOF", "NO", "ONE"],
    );
}

#[test]
fn too_few_replicas_are_named() {
    refused_until(
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
        "min-replicas-to-write",
        &["CONFIG", "SET", "min-replicas-to-write", "0"],
    );
}

#[test]
fn a_server_that_still_loads_its_data_is_named() {
    let mut redis = Redis::started();
    let filling = "for i = 1, 10000 do redis.call('XADD', 'fill', '*', 'data', i) end";
    redis.command(&["EVAL", filling, "0"]);
    redis.kill();
    // Microseconds for each of them.
    redis.start_with(&["--key-load-delay", "300"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &redis);
    publish(&daemon.publisher(), "Order", "0");
    let bridge = wait_for(&daemon, "a refusal", |bridge| bridge.problem.is_some());
    assert_eq!(bridge.state, BridgeState::Connecting);
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains("reads its data"), "{problem}");
    wait_until_empty(&daemon);
    assert_eq!(first_copies::<Redis>(&redis.read(1)), ["0"]);
}

/// A bridge whose login is wrong first: what is said of it, before it is mended.
fn turned_away_until(
    prepare: impl Fn(&Redis),
    (user, wrong): (&str, &str),
    said: &str,
    mend: impl Fn(&Redis, &str),
) {
    let redis = Redis::started();
    prepare(&redis);
    let directory = TempDir::new().expect("a directory");
    let file = secret(directory.path(), wrong);
    let mut settings = settings(&directory, &redis, &json!({}));
    settings["engines"]["main"]["user"] = json!(user);
    settings["engines"]["main"]["passwordFile"] = json!(file);
    let daemon = TestDaemon::in_own_process(&settings);
    let publisher = daemon.publisher();
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let bridge = wait_for(&daemon, "a refusal", |bridge| bridge.problem.is_some());
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains(said), "{problem}");
    assert!(!problem.contains(wrong), "{problem}");
    mend(&redis, &file.display().to_string());
    wait_until_empty(&daemon);
    assert_eq!(first_copies::<Redis>(&redis.read(100)), numbers(100));
}

/// The user of docs/engines.md, who may do no more than a bridge has to.
fn with_user(redis: &Redis) {
    redis.command(&[
        "ACL",
        "SETUSER",
        "em",
        "on",
        ">s3cret",
        "~orders",
        "+xadd",
        "+select",
        "+config|get",
    ]);
}

#[test]
fn a_wrong_password_is_named_and_the_file_is_read_again() {
    turned_away_until(
        with_user,
        ("em", "wr0ng"),
        "user or the password in passwordFile is wrong",
        |_, file| std::fs::write(file, "s3cret\n").expect("a write"),
    );
}

#[test]
fn a_user_who_may_not_add_is_named() {
    turned_away_until(
        |redis| {
            with_user(redis);
            redis.command(&["ACL", "SETUSER", "em", "-xadd"]);
        },
        ("em", "s3cret"),
        "the user has no right to that",
        |redis, _| {
            redis.command(&["ACL", "SETUSER", "em", "+xadd"]);
        },
    );
}

#[test]
fn a_server_that_wants_a_login_and_one_without_the_database_are_named() {
    let mut redis = Redis::new();
    redis.start_with(&["--requirepass", "s3cret"]);
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let problem_of = |directory: &TempDir, server: &str| {
        let mut settings = settings(directory, &redis, &json!({}));
        settings["engines"]["main"]["servers"] = json!(server);
        if server.ends_with("/99") {
            let file = secret(directory.path(), "s3cret");
            settings["engines"]["main"]["user"] = json!("default");
            settings["engines"]["main"]["passwordFile"] = json!(file);
        }
        let daemon = TestDaemon::in_own_process(&settings);
        let bridge = wait_for(&daemon, "its problem", |bridge| bridge.problem.is_some());
        assert_eq!(bridge.state, BridgeState::Connecting);
        bridge.problem.expect("a sentence")
    };
    let problem = problem_of(&directories[0], &redis.url());
    assert!(problem.contains("give user and passwordFile"), "{problem}");
    let problem = problem_of(&directories[1], &format!("{}/99", redis.url()));
    assert!(
        problem.contains("has no database of the number"),
        "{problem}"
    );
}

#[test]
fn a_server_that_stands_still_while_nothing_is_sent_is_noticed() {
    let redis = Redis::started();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &redis);
    wait_for(&daemon, "a connection", |bridge| {
        bridge.state == BridgeState::Running
    });
    redis.stand_still();
    wait_for(&daemon, "its silence", |bridge| {
        bridge.state == BridgeState::Connecting
    });
    redis.go_on();
    wait_for(&daemon, "its return", |bridge| {
        bridge.state == BridgeState::Running
    });
}
