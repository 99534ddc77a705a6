//! Bridges to NATS JetStream: the server, and what is special there.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::process::Command;

use event_manager_wire::api::BridgeState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::{
    Broker, Message, conforms, daemon, first_copies, numbers, settings, wait_for, wait_until_empty,
};
use super::conformance_in::{Source, conforms_in};
use super::conformance_served::{Queues, conforms_served, goes_on_at_machines};
use super::leases::keeps_leases;
use super::server::{self, Process, free_port, nats_server};
use super::standby::stands_by;
use super::support::TestDaemon;
use super::support::peers::publish;
use super::support::program::Site;
use super::tls::Authority;

/// A nats-server with JetStream.
pub struct Nats {
    process: Option<Process>,
    directory: TempDir,
    /// `nats`, or `tls`.
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Broker for Nats {
    const TYPE: &str = "nats";
    const TO: &str = "pos.";
    const KNOWS_IDS: bool = true;

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
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    fn prepare(&self) {
        self.create("POS", "pos.>");
    }

    fn read(&self, wanted: usize) -> Vec<Message> {
        Message::all(&self.client(&["read", "POS", &wanted.to_string()]))
    }

    fn too_many_bytes(&self) -> usize {
        2 << 20
    }
}

impl Nats {
    fn start_with(&mut self, more: &[&str]) {
        let port = self.port.to_string();
        let mut command = Command::new(nats_server());
        command
            .args(["-js", "-a", &self.host, "-p", &port, "-sd"])
            .arg(self.directory.path())
            .args(more);
        let process = Process::listening_at(&mut command, &self.host, self.port);
        self.process = Some(process);
    }

    /// One that runs, and speaks nothing but TLS, with the certificate of this authority.
    pub fn by_tls(authority: &Authority) -> Self {
        let mut nats = Self::new();
        nats.scheme = "tls";
        let [certificate, key] =
            ["server.pem", "server.key"].map(|name| authority.file(name).display().to_string());
        nats.start_with(&["--tls", "--tlscert", &certificate, "--tlskey", &key]);
        nats.prepare();
        nats
    }

    /// One that listens at this address.
    fn at(host: &str) -> Self {
        Self {
            process: None,
            directory: TempDir::new().expect("a directory"),
            scheme: "nats",
            host: host.into(),
            port: free_port(),
        }
    }

    /// One whose clients may publish to these subjects only, and hear nothing but answers.
    fn allowing(subjects: &[&str]) -> Self {
        let mut nats = Self::new();
        let (port, directory) = (nats.port, nats.directory.path());
        let config = directory.join("nats.conf");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {directory:?} }}\n\
             authorization {{ default_permissions: {{ publish: {{ allow: {subjects:?} }}, \
             subscribe: {{ allow: [\"_INBOX.>\"] }} }}, users: [{{ user: em, password: x }}] }}\n\
             no_auth_user: em\n"
        );
        std::fs::write(&config, text).expect("a write");
        let mut command = Command::new(nats_server());
        command.arg("-c").arg(&config);
        nats.process = Some(Process::listening(&mut command, port));
        nats
    }

    fn client(&self, arguments: &[&str]) -> Value {
        server::client("nats_client.py", &self.url(), arguments)
    }

    fn create(&self, stream: &str, subjects: &str) {
        self.client(&["create", stream, subjects]);
    }
}

conforms!(Nats);
conforms_in!(Nats);
conforms_served!(Nats);
goes_on_at_machines!(Nats, after_ack_timeout: std::time::Duration::from_secs(1));
stands_by!(Nats);
keeps_leases!(Nats);

impl Queues for Nats {
    fn started_at(host: &str) -> Self {
        let mut started = Self::at(host);
        started.start();
        started
    }

    fn waiting(&self, service: &str) -> u64 {
        let left = self.client(&["left", &format!("em-service-{service}"), "workers"]);
        left.as_u64().expect("a number")
    }

    fn put(&self, service: &str, numbers: Range<u64>, headers: &Value) {
        let (begin, end) = (numbers.start.to_string(), numbers.end.to_string());
        let subject = format!("em.service.{service}.a");
        self.client(&["write", &begin, &end, &subject, &headers.to_string()]);
    }

    const FULL: &str = "maximum messages exceeded";

    fn fill(&self, is_full: bool) {
        let most = if is_full { "1" } else { "-1" };
        self.client(&["bound", "em-service-Billing", "max_msgs", most]);
    }
}

impl Source for Nats {
    fn reader(&self, reader: usize) -> Value {
        json!({"from": "POS", "group": format!("hub-{reader}")})
    }

    fn give_of(&self, numbers: Range<u64>, headers: &Value, body_bytes: usize) {
        let (begin, end) = (numbers.start.to_string(), numbers.end.to_string());
        let (headers, bytes) = (headers.to_string(), body_bytes.to_string());
        self.client(&["write", &begin, &end, "pos.a", &headers, &bytes]);
    }

    fn left(&self, reader: usize) -> u64 {
        let left = self.client(&["left", "POS", &format!("hub-{reader}")]);
        left.as_u64().expect("a number")
    }
}

#[test]
fn a_stream_that_is_missing_is_named_and_brings_events_once_it_is_there() {
    let mut nats = Nats::new();
    nats.start();
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": nats.engine()},
        "bridges": {"prices": {"engine": "main", "direction": "in", "from": "POS"}},
    }));
    let bridge = wait_for(&daemon, "its problem", |bridge| bridge.problem.is_some());
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains("there is no stream POS"), "{problem}");
    nats.prepare();
    nats.give(0..10, &json!({}));
    wait_for(&daemon, "all", |bridge| bridge.events == 10);
}

#[test]
fn what_is_there_has_its_subject_and_the_id_that_the_stream_knows_it_by() {
    let nats = Nats::started();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    publish(&daemon.publisher(), "Order.Created", "0");
    let message = &nats.client(&["read", "POS", "1"])[0];
    assert_eq!(message["subject"], "pos.Order.Created");
    assert_eq!(
        message["headers"]["nats-msg-id"],
        message["headers"]["x-em-id"]
    );
}

#[test]
fn a_stream_that_is_missing_is_named_and_what_waits_goes_once_it_is_there() {
    let mut nats = Nats::new();
    nats.start();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let bridge = wait_for(&daemon, "no stream", |bridge| {
        bridge.state == BridgeState::Failing
    });
    let problem = bridge.problem.expect("a sentence");
    assert!(
        problem.contains("no stream takes the subject pos.Order"),
        "{problem}"
    );
    nats.prepare();
    assert_eq!(first_copies::<Nats>(&nats.read(100)), numbers(100));
    wait_until_empty(&daemon);
}

/// It must not be sent again and again behind one that can't go.
#[test]
fn an_event_that_no_stream_takes_has_nothing_behind_it_stored_twice() {
    let mut nats = Nats::new();
    nats.start();
    nats.create("POS", "pos.OrderX");
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    publish(&publisher, "OrderX", "0");
    publish(&publisher, "OrderY", "nobody takes it");
    (1..200).for_each(|n| publish(&publisher, "OrderX", &n.to_string()));
    wait_for(&daemon, "some tries", |bridge| bridge.failures >= 4);
    let bridge = daemon.status().bridges[0].clone();
    assert_eq!(bridge.state, BridgeState::Failing);
    let stored = nats.client(&["count", "POS"]).as_u64().expect("a number");
    assert_eq!((bridge.events, bridge.known), (stored, 0));
    nats.create("OTHER", "pos.OrderY");
    wait_until_empty(&daemon);
    assert_eq!(nats.client(&["count", "POS"]), 200);
    let bridge = wait_for(&daemon, "all", |bridge| bridge.events == 201);
    assert_eq!((bridge.state, bridge.known), (BridgeState::Running, 0));
}

#[test]
fn a_subject_that_is_too_long_there_is_a_dead_letter() {
    let nats = Nats::started();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    publish(&publisher, &format!("Order{}", "a".repeat(5000)), "long");
    publish(&publisher, "Order.next", "goes");
    assert_eq!(first_copies::<Nats>(&nats.read(1)), ["goes"]);
    daemon.wait_for_counter("bridge.orders", |c| c.dead_lettered, 1);
}

/// What operators see of it, while it works and when its server is gone.
#[test]
fn what_is_too_large_for_the_stream_is_a_dead_letter_and_holds_up_nobody() {
    let nats = Nats::started();
    nats.client(&["bound", "POS", "max_msg_size", "500"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    publish(&publisher, "Order", &"x".repeat(1000));
    publish(&publisher, "Order", "0");
    assert_eq!(first_copies::<Nats>(&nats.read(1)), ["0"]);
    daemon.wait_for_counter("bridge.orders", |c| c.dead_lettered, 1);
    let (_, letters) = daemon.ask("dlq", &["list", "bridge.orders"]);
    assert!(letters.contains("more than the stream takes"), "{letters}");
}

#[test]
fn a_right_to_publish_that_is_missing_is_named_at_once() {
    let nats = Nats::allowing(&["$JS.API.INFO"]);
    let directory = TempDir::new().expect("a directory");
    let settings = settings(&directory, &nats, &json!({"stallTimeout": 60}));
    let daemon = TestDaemon::in_own_process(&settings);
    publish(&daemon.publisher(), "Order", "0");
    let bridge = wait_for(&daemon, "a refusal", |bridge| bridge.problem.is_some());
    assert_eq!(bridge.state, BridgeState::Failing);
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains("pos.Order"), "{problem}");
    assert!(problem.contains("give the user that right"), "{problem}");
}

/// Why it is not admitted is said once, however often it is tried.
#[test]
fn a_wrong_password_fills_no_log() {
    let mut nats = Nats::new();
    let (port, directory) = (nats.port.to_string(), nats.directory.path());
    let mut command = Command::new(nats_server());
    command.args([
        "-a",
        "127.0.0.1",
        "-p",
        &port,
        "-js",
        "--user",
        "em",
        "--pass",
        "right",
        "-sd",
    ]);
    nats.process = Some(Process::listening(command.arg(directory), nats.port));
    let state = TempDir::new().expect("a directory");
    let mut engine = nats.engine();
    engine["user"] = json!("em");
    engine["passwordFile"] = json!(server::secret(state.path(), "wrong"));
    let site = Site::configured(&json!({
        "stateDir": state.path(),
        "engines": {"main": engine},
        "bridges": {"orders": {"engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos."}},
        "lease": {"source": "main", "name": "x", "ttl": 2},
    }));
    let waiting = site.start(&[]);
    let said = waiting.logged("EM-0714");
    assert!(said.contains("authorization violation"), "{said}");
    std::thread::sleep(std::time::Duration::from_secs(3));
    let log = waiting.log();
    let said: Vec<_> = log
        .lines()
        .filter(|line| line.contains("violation"))
        .collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(!log.contains("async_nats"), "{log}");
}

#[test]
fn commands_show_what_it_does() {
    let mut nats = Nats::started();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    (0..10).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    wait_for(&daemon, "all of them", |bridge| bridge.events == 10);
    wait_until_empty(&daemon);
    let site = Site::of(&daemon);
    let printed = site.run(&["bridges"]).done();
    let row: Vec<_> = printed
        .lines()
        .nth(1)
        .expect("a row")
        .split_whitespace()
        .collect();
    let expected = [
        "orders", "main", "out", "running", "10", "0", "0", "0", "0", "0", "-",
    ];
    assert_eq!(row, expected, "{printed}");
    let printed = site.run(&["top", "-n", "1"]).done();
    let line = "bridge orders → main: running, -/s, 0 waiting\n";
    assert!(printed.contains(line), "{printed}");
    let findings = || site.run(&["doctor"]).stdout;
    let found = findings();
    assert!(!found.contains("orders"), "{found}");

    nats.kill();
    wait_for(&daemon, "its loss", |bridge| {
        bridge.state == BridgeState::Connecting
    });
    let found = findings();
    let line = "warning EM-9031 bridges.orders: main is not reached since ";
    assert!(found.contains(line), "{found}");
    nats.start();
    wait_for(&daemon, "its return", |bridge| {
        bridge.state == BridgeState::Running
    });
    let found = findings();
    assert!(!found.contains("EM-9031"), "{found}");
}

/// The stream gives all of it again, when the daemon was away for longer than it remembers ids.
#[test]
fn what_comes_again_after_a_long_time_away_is_known() {
    let nats = Nats::started();
    nats.give(0..200, &json!({}));
    let directory = TempDir::new().expect("a directory");
    let settings = json!({
        "stateDir": directory.path(),
        "dedupWindow": 3,
        "engines": {"main": nats.engine()},
        "bridges": {"prices": {"engine": "main", "direction": "in", "from": "POS", "group": "shops"}},
        "services": {"Shop": {"delivery": "queue", "subjects": ["pos"]}},
    });
    let daemon = TestDaemon::in_own_process(&settings);
    wait_for(&daemon, "all", |bridge| bridge.events == 200);
    daemon.kill();
    nats.client(&["forget", "POS", "shops"]);
    std::thread::sleep(std::time::Duration::from_secs(4));
    let daemon = TestDaemon::in_own_process(&settings);
    let bridge = wait_for(&daemon, "all again", |bridge| bridge.events == 200);
    assert_eq!(bridge.known, 200);
    assert_eq!(daemon.service("Shop").counters.queued, 200);
}

/// Two daemons write to one place and read from it, and say no more than that: none misses an event of the
/// other, as it would if they shared what is there.
#[test]
fn daemons_that_name_no_group_have_all_events_each() {
    let nats = Nats::started();
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let daemons = [0, 1].map(|index: usize| {
        TestDaemon::in_own_process(&json!({
            "stateDir": directories[index].path(),
            "engines": {"main": nats.engine()},
            "bridges": {
                "in": {"engine": "main", "direction": "in", "from": "POS"},
                "out": {"engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos."},
            },
        }))
    });
    for daemon in &daemons {
        let publisher = daemon.publisher();
        (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    }
    for daemon in &daemons {
        wait_for(daemon, "all of the other", |bridge| {
            bridge.name == "in" && (bridge.events, bridge.left_out) == (100, 100)
        });
    }
}

#[test]
fn what_waited_to_go_out_says_so_when_the_direction_is_turned_round() {
    let mut nats = Nats::started();
    nats.kill();
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory, &nats);
    publish(&first.publisher(), "Order", "waits");
    first.wait_for_counter("bridge.orders", |c| c.in_flight, 1);
    assert!(first.stop());
    nats.start();
    let turned = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": nats.engine()},
        "bridges": {"orders": {"engine": "main", "direction": "in", "from": "POS"}},
    }));
    turned.wait_for_counter("bridge.orders", |c| c.dead_lettered, 1);
    let (_, listed) = turned.ask("dlq", &["list", "bridge.orders"]);
    assert!(
        listed.contains("change that back and replay it"),
        "{listed}"
    );
}

/// Passes lines on, of which those from the server don't say what NATS before 2.10 didn't. They keep their
/// length, which the server says before.
fn as_of_old(server: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let pass = |from: TcpStream, mut to: TcpStream| {
        let mut from = BufReader::new(from);
        let mut line = vec![];
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let new = b"reserved_memory";
            if let Some(at) = line.windows(new.len()).position(|found| found == new) {
                line[at..at + new.len()].copy_from_slice(b"nothing_of_memo");
            }
            if to.write_all(&line).is_err() {
                break;
            }
            line.clear();
        }
        let _ = to.shutdown(Shutdown::Both);
    };
    // It ends with the process.
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", server)).expect("it listens");
            let copies = [&client, &server].map(|s| s.try_clone().expect("a descriptor"));
            let [client_too, server_too] = copies;
            std::thread::spawn(move || pass(client, server_too));
            std::thread::spawn(move || pass(server, client_too));
        }
    });
    format!("nats://{address}")
}

#[test]
fn a_server_that_says_less_of_our_account_will_do() {
    let nats = Nats::started();
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": {"type": "nats", "servers": [as_of_old(nats.port)]}},
        "bridges": {"orders": {"engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos."}},
    }));
    publish(&daemon.publisher(), "Order", "0");
    assert_eq!(first_copies::<Nats>(&nats.read(1)), ["0"]);
}

/// With these rights a lease can be had, as docs/availability.md says; without one of them the log names it.
#[test]
fn the_rights_that_a_lease_needs() {
    let needed = [
        "$KV.event-manager.x",
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.KV_event-manager",
        "$JS.API.STREAM.CREATE.KV_event-manager",
        "$JS.API.STREAM.MSG.GET.KV_event-manager",
    ];
    let daemon = |nats: &Nats, state: &TempDir| {
        Site::configured(&json!({
            "stateDir": state.path(),
            "engines": {"main": nats.engine()},
            "lease": {"source": "main", "name": "x", "ttl": 2},
        }))
    };
    for (n, missing) in needed.iter().enumerate() {
        let state = TempDir::new().expect("a directory");
        let mut rights = needed.to_vec();
        rights.remove(n);
        let nats = Nats::allowing(&rights);
        let site = daemon(&nats, &state);
        let waiting = site.start(&[]);
        let said = waiting.logged("EM-0714");
        assert!(said.contains(missing), "{said}");
        assert!(said.contains("give the user that right"), "{said}");
    }
    let state = TempDir::new().expect("a directory");
    let nats = Nats::allowing(&needed);
    let site = daemon(&nats, &state);
    assert!(TestDaemon::serving(&site).stop());
}
