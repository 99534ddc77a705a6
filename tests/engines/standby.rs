//! Two daemons with one state directory, of which one serves: by an engine's lease.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::Broker;
use super::server::free_port;
use super::support::TestDaemon;
use super::support::http::HttpClient;
use super::support::peers::{connect, is_silent, probe, publish, received, socket};
use super::support::program::{Program, Serving, Site, wait_until};
use super::support::shared_directory::SharedDirectory;

/// For so long a lease is held.
const TTL: Duration = Duration::from_secs(2);
/// How soon after the last sign of life another serves.
const TAKEOVER_MAX: Duration = Duration::from_secs(4);

/// A machine on which a daemon runs. All share the directory.
pub struct Machine {
    site: Site,
    ports: [u16; 4],
}

impl Machine {
    fn new(broker: &impl Broker, directory: &SharedDirectory, more: &Value) -> Self {
        Self::at(&broker.engine(), directory, more)
    }

    /// One whose lease is at this engine.
    pub fn at(engine: &Value, directory: &SharedDirectory, more: &Value) -> Self {
        Self::in_directory(engine, directory.of_next_machine(), more)
    }

    fn in_directory(engine: &Value, directory: &Path, more: &Value) -> Self {
        let ports = [(); 4].map(|()| free_port());
        let at = |n: usize| format!("tcp://127.0.0.1:{}", ports[n]);
        let mut keys = json!({
            "pubAddress": at(0), "subAddress": at(1), "requestAddress": at(2),
            "httpAddress": format!("127.0.0.1:{}", ports[3]),
            "stateDir": directory,
            "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
            "engines": {"main": engine},
            "lease": {"source": "main", "ttl": TTL.as_secs()},
        });
        for (key, value) in more.as_object().expect("an object") {
            keys["lease"][key] = value.clone();
        }
        Self {
            site: Site::configured(&keys),
            ports,
        }
    }

    pub fn start(&self) -> Program {
        self.site.start(&[])
    }

    /// Started, when it waits for another.
    fn standing_by(&self) -> Program {
        let program = self.start();
        program.logged("EM-0711");
        program
    }

    fn address(&self, n: usize) -> String {
        format!("tcp://127.0.0.1:{}", self.ports[n])
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let at = SocketAddr::from(([127, 0, 0, 1], self.ports[3]));
        let answer = HttpClient::connect(at).get(path);
        (answer.status, answer.json())
    }

    fn get_text(&self, path: &str) -> (u16, String) {
        let at = SocketAddr::from(([127, 0, 0, 1], self.ports[3]));
        let answer = HttpClient::connect(at).get(path);
        (answer.status, answer.body)
    }

    fn binds_nothing(&self) -> bool {
        self.ports[..3]
            .iter()
            .all(|port| TcpStream::connect(("127.0.0.1", *port)).is_err())
    }
}

pub fn serving(program: Program) -> TestDaemon {
    TestDaemon::of(Serving::ready(program))
}

/// A request socket at both machines, which asks whichever is there.
fn asking(context: &zmq::Context, machines: &[&Machine]) -> zmq::Socket {
    let requester = socket(context, zmq::DEALER);
    requester.set_immediate(true).expect("an option");
    for machine in machines {
        connect(&requester, &machine.address(2));
    }
    requester
}

fn ask_to_emit(requester: &zmq::Socket, id: &str) {
    let request =
        json!({"token": "emit", "subject": "Order", "payload": id, "id": id, "level": "disk"});
    let frames = [b"".to_vec(), request.to_string().into_bytes()];
    requester.send_multipart(frames, 0).expect("a send");
}

/// Publishes until it is confirmed.
fn emit(requester: &zmq::Socket, id: &str) {
    ask_to_emit(requester, id);
    let answer = requester.recv_multipart(0).expect("an answer");
    let answer = answer.last().expect("a frame");
    let answer: Value = serde_json::from_slice(answer).expect("JSON");
    assert_eq!(answer["data"]["id"], id, "{answer}");
}

/// What waits for Billing, which is taken.
fn take_all(daemon: &TestDaemon) -> BTreeSet<String> {
    let worker = socket(&daemon.context, zmq::DEALER);
    connect(&worker, &daemon.address_of("Billing"));
    let ready = r#"READY {"ack": true, "credit": 1000}"#;
    worker.send(ready, 0).expect("a send");
    let mut taken = BTreeSet::new();
    let waits = || daemon.service("Billing").counters;
    while waits().queued + waits().in_flight > 0 {
        let frames = worker.recv_multipart(0).expect("an event");
        let word = String::from_utf8_lossy(&frames[0]).into_owned();
        let delivery = word.split(' ').nth(1).expect("its number");
        let acknowledged = format!("ACK {delivery}");
        worker.send(&acknowledged, 0).expect("a send");
        taken.insert(String::from_utf8_lossy(&frames[2]).into_owned());
        daemon.wait_for_service("Billing", "it is acknowledged", |found| {
            found.counters.delivered >= taken.len() as u64
        });
    }
    taken
}

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

macro_rules! stands_by {
    ($broker:ty) => {
        mod standby {
            use super::*;

            #[test]
            fn takes_over_from_a_killed_one_with_all_that_was_confirmed() {
                crate::standby::takes_over_from_a_killed_one::<$broker>();
            }

            #[test]
            fn of_a_stopped_one_nothing_survives_the_take_over() {
                crate::standby::of_a_stopped_one_nothing_survives::<$broker>();
            }

            #[test]
            fn who_is_cut_off_from_the_engine_ends() {
                crate::standby::who_is_cut_off_ends::<$broker>();
            }

            #[test]
            fn a_lost_connection_is_known_without_waiting_for_an_answer() {
                crate::standby::a_lost_connection_is_known_at_once::<$broker>();
            }

            #[test]
            fn who_is_told_to_stop_gives_the_lease_back() {
                crate::standby::who_stops_gives_it_back::<$broker>();
            }

            #[test]
            fn who_has_another_directory_says_so_and_takes_over_from_nobody() {
                crate::standby::another_directory_is_named::<$broker>();
            }
        }
    };
}
pub(crate) use stands_by;

pub fn takes_over_from_a_killed_one<B: Broker>() {
    let (broker, directory) = (B::started(), SharedDirectory::new());
    let [a, b] = [(); 2].map(|()| Machine::new(&broker, &directory, &json!({})));
    let first = serving(a.start());
    let second = b.standing_by();
    assert_eq!(b.get("/livez"), (200, json!({"live": true})));
    let (status, readiness) = b.get("/readyz");
    assert_eq!(status, 503);
    assert_eq!(readiness["checks"]["standby"]["ok"], false, "{readiness}");
    assert!(b.binds_nothing());
    let context = zmq::Context::new();
    let (subscriber, publisher) = (socket(&context, zmq::SUB), socket(&context, zmq::XPUB));
    subscriber.set_subscribe(b"Live").expect("an option");
    for machine in [&a, &b] {
        connect(&subscriber, &machine.address(1));
        connect(&publisher, &machine.address(0));
    }
    assert_eq!(publisher.recv_bytes(0).expect("a subscription"), [1]);
    first.wait_for_subscriptions(1);
    publish(&publisher, "Live", "before");
    assert_eq!(received(&subscriber), "before");
    let requester = asking(&context, &[&a, &b]);
    let confirmed = ids("a", 20);
    confirmed.iter().for_each(|id| emit(&requester, id));
    first.into_program().signal("KILL");
    let killed = Instant::now();
    let second = serving(second);
    let after = killed.elapsed();
    assert!(after <= TAKEOVER_MAX, "{after:?}");
    assert_eq!(b.get("/livez").0, 200);
    assert!(second.readiness().checks["lease"].ok);
    shows_its_lease::<B>(&b, &second);
    second.wait_for_service("Billing", "its queue", |found| found.counters.queued == 20);
    // Nobody does anything: all sockets go on.
    second.wait_for_subscriptions(1);
    probe(&publisher, &subscriber, "Live");
    emit(&requester, "b-0");
    let mut all: BTreeSet<_> = confirmed.into_iter().collect();
    all.insert("b-0".into());
    assert_eq!(take_all(&second), all);
    // Whoever comes back stands by.
    let first = a.standing_by();
    first.signal("TERM");
    assert_eq!(first.end().code, Some(0));
    assert!(second.stop());
}

/// By all ways in which a daemon shows anything.
fn shows_its_lease<B: Broker>(machine: &Machine, daemon: &TestDaemon) {
    let lease = || daemon.status().lease.expect("it is held");
    let renewed = wait_until(|| Some(lease()).filter(|lease| lease.renewals > 0));
    let held = renewed.expect("a renewal");
    assert_eq!((&*held.source, &*held.name), ("main", "event-manager"));
    assert_eq!(held.engine.as_deref(), Some(B::TYPE));
    let process = format!("/{}:", daemon.program().pid());
    assert!(held.holder.contains(&process), "{held:?}");
    assert!(held.token > 1 && held.epoch >= held.token, "{held:?}");
    assert_eq!(held.ttl_ms, Some(TTL.as_millis() as u64));
    assert_eq!(held.problem, None);
    let left = held.expires_in_ms.expect("its time");
    // It counts from when it asked, less a tenth.
    let sum = left + held.renewed_ago_ms;
    assert!((1799..=1801).contains(&sum), "{held:?}");
    let (status, metrics) = machine.get_text("/metrics");
    assert_eq!(status, 200);
    for line in [
        format!("event_manager_lease_token {}.0", held.token),
        format!("event_manager_lease_epoch {}.0", held.epoch),
        "event_manager_lease_ttl_seconds 2.0".into(),
    ] {
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    for name in ["expires_seconds ", "renewed_seconds ", "renewals_total "] {
        let name = format!("\nevent_manager_lease_{name}");
        assert!(metrics.contains(&name), "{name}: {metrics}");
    }
    let doctor = machine.site.run(&["doctor", "--json"]).stdout;
    let warned = doctor.contains("EM-9037");
    assert_eq!(warned, B::TYPE == "redis", "{doctor}");
}

pub fn of_a_stopped_one_nothing_survives<B: Broker>() {
    let (broker, directory) = (B::started(), SharedDirectory::new());
    let [a, b, c] = [(); 3].map(|()| Machine::new(&broker, &directory, &json!({})));
    let first = Serving::ready(a.start());
    let second = b.standing_by();
    let context = zmq::Context::new();
    let at_first = asking(&context, &[&a]);
    let confirmed = ids("a", 10);
    confirmed.iter().for_each(|id| emit(&at_first, id));
    first.program.signal("STOP");
    let stopped = Instant::now();
    // It reads them when it goes on.
    ids("late", 10)
        .iter()
        .for_each(|id| ask_to_emit(&at_first, id));
    let second = serving(second);
    let after = stopped.elapsed();
    assert!(after <= TAKEOVER_MAX, "{after:?}");
    let at_second = asking(&context, &[&b]);
    let of_second = ids("b", 10);
    of_second.iter().for_each(|id| emit(&at_second, id));
    first.program.signal("CONT");
    let ended = first.program.end();
    assert_eq!(ended.code, Some(76), "{ended:#?}");
    assert!(ended.stderr.contains("EM-0713"), "{ended:#?}");
    assert!(is_silent(&at_first, 100), "it has confirmed something");
    assert_eq!(second.service("Billing").counters.queued, 20);
    // What is on the disk is what the next one finds.
    let third = c.standing_by();
    second.into_program().signal("KILL");
    let third = serving(third);
    third.wait_for_service("Billing", "its queue", |found| found.counters.queued == 20);
    assert_eq!(
        take_all(&third),
        confirmed.into_iter().chain(of_second).collect()
    );
    assert!(third.stop());
}

pub fn who_is_cut_off_ends<B: Broker>() {
    let (broker, directory) = (B::started(), SharedDirectory::new());
    // A command that hangs is ended before another's has run for long.
    let hanging = json!({"onResign": ["/bin/sleep", "60"]});
    let [a, b] = [hanging, json!({})].map(|more| Machine::new(&broker, &directory, &more));
    let first = Serving::ready(a.start());
    let second = b.standing_by();
    let context = zmq::Context::new();
    emit(&asking(&context, &[&a]), "a-0");
    broker.stand_still();
    let cut_off = Instant::now();
    let ended = first.program.end();
    let after = cut_off.elapsed();
    assert_eq!(ended.code, Some(76), "{ended:#?}");
    assert!(after <= TTL * 2 + Duration::from_secs(1), "{after:?}");
    let lost = ended.stderr.lines().find(|line| line.contains("EM-0713"));
    let lost = lost.expect("it is said");
    assert!(lost.contains("since then main: "), "{lost}");
    assert!(ended.stderr.contains("it was ended after 2s"), "{ended:#?}");
    assert!(b.binds_nothing(), "nobody knows who leads");
    second.logged("EM-0714");
    broker.go_on();
    let second = serving(second);
    emit(&asking(&context, &[&b]), "b-0");
    assert_eq!(take_all(&second).len(), 2);
    assert!(second.stop());
}

/// What is left of the lease's time is for a new connection.
pub fn a_lost_connection_is_known_at_once<B: Broker>() {
    let (mut broker, directory) = (B::started(), SharedDirectory::new());
    let a = Machine::new(&broker, &directory, &json!({}));
    let daemon = serving(a.start());
    broker.kill();
    let said = daemon.program().logged("EM-0714");
    assert!(said.contains("the connection was lost"), "{said}");
    broker.start();
    drop(daemon);
}

pub fn who_stops_gives_it_back<B: Broker>() {
    let (broker, directory) = (B::started(), SharedDirectory::new());
    let notes = TempDir::new().expect("a directory");
    let notes = notes.path().join("notes");
    let hook = |what: &str| {
        let note = format!("echo {what} $LEASE_NAME >> {}", notes.display());
        json!(["/bin/sh", "-c", note])
    };
    let hooks = json!({"name": "x-1", "onLead": hook("leads"), "onResign": hook("resigns")});
    let a = Machine::new(&broker, &directory, &hooks);
    let failing = json!({"name": "x-1", "onLead": ["/bin/false"]});
    let b = Machine::new(&broker, &directory, &failing);
    let first = serving(a.start());
    let second = b.standing_by();
    let written = || std::fs::read_to_string(&notes).unwrap_or_default();
    assert!(wait_until(|| (written() == "leads x-1\n").then_some(())).is_some());
    let begun = Instant::now();
    assert!(first.stop());
    let second = serving(second);
    let after = begun.elapsed();
    assert!(after < TTL, "it has waited for the lease's end: {after:?}");
    assert_eq!(written(), "leads x-1\nresigns x-1\n");
    second.program().logged("EM-0715");
    assert!(second.stop());
}

/// Its storage isn't mounted: it finds an empty directory at its place.
pub fn another_directory_is_named<B: Broker>() {
    let (broker, directory) = (B::started(), SharedDirectory::new());
    let places = TempDir::new().expect("a directory");
    let [mounted, own] = ["mounted", "own"].map(|name| places.path().join(name));
    let second = json!({"ttl": 1});
    let [a, c] = [(); 2].map(|()| Machine::new(&broker, &directory, &second));
    let b = Machine::in_directory(&broker.engine(), &mounted, &second);
    let first = serving(a.start());
    emit(&asking(&zmq::Context::new(), &[&a]), "a-0");
    let number = std::fs::read_to_string(directory.path().join("instance")).expect("it has one");
    let number = number.trim_end();
    assert_eq!(
        first
            .status()
            .lease
            .and_then(|lease| lease.directory)
            .as_deref(),
        Some(number)
    );
    let unmounted = b.start();
    let said = unmounted.logged("EM-0717");
    for word in [
        &format!("theirs={number}"),
        "ours=none",
        "is mounted",
        "instance",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let readiness = b.get("/readyz").1;
    let why = readiness["checks"]["stateDir"]["reason"]
        .as_str()
        .expect("a check");
    assert!(why.contains("won't take over"), "{readiness}");
    assert!(
        b.site
            .run(&["health"])
            .failed(1)
            .contains("can't take over")
    );
    let doctor = b.site.run(&["doctor"]);
    assert!(
        doctor.code == Some(1) && doctor.stdout.contains("error EM-9039"),
        "{doctor:?}"
    );
    // Neither when who serves dies, nor when the lease is given back, is it taken without what was kept.
    let third = c.standing_by();
    first.into_program().signal("KILL");
    let third = serving(third);
    emit(&asking(&zmq::Context::new(), &[&c]), "c-0");
    assert!(third.stop());
    assert!(b.binds_nothing() && !mounted.exists());
    let doctor = b.site.run(&["doctor"]);
    assert!(doctor.stdout.contains("EM-9039"), "{doctor:?}");
    // Storage that is there at last needs no restart.
    std::os::unix::fs::symlink(directory.path(), &mounted).expect("a link");
    let mounted = serving(unmounted);
    mounted.wait_for_service("Billing", "its queue", |found| found.counters.queued == 2);
    assert_eq!(take_all(&mounted).len(), 2);
    // Two directories on purpose: what this one has stays here, which is said.
    let on_purpose = json!({"ttl": 1, "stateDir": "own"});
    let d = Machine::in_directory(&broker.engine(), &own, &on_purpose);
    let other = d.start();
    let said = other.logged("EM-0717");
    assert!(said.contains("stays there"), "{said}");
    assert_eq!(d.get("/readyz").1["checks"]["stateDir"], Value::Null);
    assert!(mounted.stop());
    assert!(serving(other).stop());
}
