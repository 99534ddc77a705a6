//! A service's queue at three nats-servers, of which the one that leads is killed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use event_manager_wire::api::{Bridge, BridgeState, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance_served::{Worker, asked};
use super::faults::Line;
use super::leases::{Place, broken_at};
use super::server::{Process, free_port, nats_server};
use super::support::peers::connected;
use super::support::program::wait_until;
use super::support::way::Way;
use super::support::{TestDaemon, assert_law};

/// What the daemons make there.
const STREAM: &str = "em-service-Billing";

struct Cluster {
    servers: Vec<Server>,
}

struct Server {
    name: String,
    ports: [u16; 3],
    directory: TempDir,
    process: Option<Process>,
}

impl Cluster {
    fn start() -> Self {
        let server = |n| Server {
            name: format!("n{n}"),
            ports: [(); 3].map(|()| free_port()),
            directory: TempDir::new().expect("a directory"),
            process: None,
        };
        let mut cluster = Self {
            servers: (1..=3).map(server).collect(),
        };
        (0..3).for_each(|n| cluster.run(n));
        cluster
    }

    fn run(&mut self, n: usize) {
        let of = |server: &Server| format!("nats://127.0.0.1:{}", server.ports[1]);
        let routes: Vec<_> = self.servers.iter().map(of).collect();
        let server = &mut self.servers[n];
        let [clients, _, monitor] = server.ports;
        let mut command = Command::new(nats_server());
        command
            .args(["-js", "-a", "127.0.0.1", "-n", &server.name])
            .args(["-p", &clients.to_string(), "-m", &monitor.to_string()])
            .args(["--cluster_name", "c", "--cluster", &routes[n]])
            .args(["--routes", &routes.join(",")])
            // Else clients would go around a way that is cut.
            .arg("--no_advertise")
            .arg("-sd")
            .arg(server.directory.path());
        server.process = Some(Process::listening(&mut command, clients));
    }

    fn engine(&self) -> Value {
        let of = |server: &Server| format!("nats://127.0.0.1:{}", server.ports[0]);
        let servers: Vec<_> = self.servers.iter().map(of).collect();
        json!({"type": "nats", "servers": servers, "replicas": 3})
    }

    /// Who leads a stream, and how many follow and have all of it.
    fn leader_of(&self, stream: &str) -> Option<(usize, usize)> {
        let shown = |server: &Server| {
            let shown = monitored(server.ports[2], "/jsz?streams=1")?;
            let accounts = shown["account_details"].as_array()?.clone();
            let mut streams = accounts
                .iter()
                .flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
            streams.find(|found| found["name"] == stream).cloned()
        };
        let running = self.servers.iter().enumerate();
        for (n, server) in running.filter(|(_, server)| server.process.is_some()) {
            let Some(shown) = shown(server) else { continue };
            let cluster = &shown["cluster"];
            if cluster["leader"] == server.name.as_str() {
                let current = |replica: &&Value| replica["current"] == true;
                let replicas = cluster["replicas"].as_array().into_iter().flatten();
                return Some((n, replicas.filter(current).count()));
            }
        }
        None
    }

    /// Waits until somebody leads it, and the others have all of it. Who leads.
    fn settled(&self, stream: &str) -> usize {
        let leads = || match self.leader_of(stream)? {
            (leader, 2) => Some(leader),
            _ => None,
        };
        wait_until(leads).expect("all three have the stream")
    }
}

/// What a server's monitor shows. By HTTP 1.0, which has no chunks.
fn monitored(port: u16, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

fn daemon(cluster: &Cluster, directory: &TempDir) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": cluster.engine()},
        "services": {"Billing": {
            "delivery": "engine", "engine": "main", "subjects": ["Order"], "ackTimeout": 30,
        }},
    }))
}

/// What was published.
#[derive(Default)]
pub struct Published {
    pub all: BTreeSet<String>,
    /// Those that the engine did not confirm within the 10 s that a publisher waits.
    pub on_disk: usize,
    /// The longest time between two that it did.
    pub stalled: Duration,
}

/// Publishes one after the other, each until it is confirmed.
pub fn publish_until(
    requester: &zmq::Socket,
    confirmed: &AtomicUsize,
    ends: &AtomicBool,
) -> Published {
    let mut published = Published::default();
    let mut last = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        let id = published.all.len().to_string();
        let request = json!({
            "token": "emit", "subject": "Order", "payload": id, "id": id, "level": "engine",
        });
        let answer = asked(requester, &request);
        assert_eq!(answer["data"]["id"], *id, "{answer}");
        if answer["data"]["level"] == "engine" {
            published.stalled = published.stalled.max(last.elapsed());
            last = Instant::now();
            confirmed.fetch_add(1, Ordering::Relaxed);
        } else {
            published.on_disk += 1;
        }
        published.all.insert(id);
    }
    published
}

/// Acknowledges all that comes.
pub fn work_until(worker: &Worker, served: &Mutex<BTreeSet<String>>, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        if worker.0.poll(zmq::POLLIN, 20).expect("a poll") > 0 {
            let event = worker.receive();
            worker.ack(&event);
            served.lock().expect("no panic").insert(event.data);
        }
    }
}

/// Says that all is over, also when the test fails.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills whoever leads the stream so often, while events go through it.
fn kill_leaders(kills: usize) {
    let mut cluster = Cluster::start();
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let daemons = directories
        .each_ref()
        .map(|directory| daemon(&cluster, directory));
    for daemon in &daemons {
        daemon.wait_for("both ways", |status| {
            let works = |way: &&Bridge| way.state == BridgeState::Running;
            status.bridges.iter().filter(works).count() == 2
        });
    }
    let workers = daemons.each_ref().map(|daemon| {
        let address = daemon.address_of("Billing");
        let worker = Worker(connected(&daemon.context, zmq::DEALER, &address));
        worker.say(r#"READY {"ack": true, "ids": true, "credit": 10}"#);
        worker
    });
    let requester = connected(&daemons[0].context, zmq::REQ, &daemons[0].requests());
    let (published, ends) = (AtomicBool::new(false), AtomicBool::new(false));
    let confirmed = AtomicUsize::new(0);
    let goes_on = || {
        let before = confirmed.load(Ordering::Relaxed);
        let some_more = || (confirmed.load(Ordering::Relaxed) > before + 100).then_some(());
        wait_until(some_more).expect("the engine confirms");
    };
    let served = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        let _ends = [Ends(&published), Ends(&ends)];
        let (counted, is_enough) = (&confirmed, &published);
        let publishing = scope.spawn(move || publish_until(&requester, counted, is_enough));
        for worker in workers {
            let (served, ends) = (&served, &ends);
            scope.spawn(move || work_until(&worker, served, ends));
        }
        for _ in 0..kills {
            let leader = cluster.settled(STREAM);
            goes_on();
            cluster.servers[leader].process = None;
            let another = || {
                let found = cluster.leader_of(STREAM);
                found.filter(|(now, _)| *now != leader)
            };
            wait_until(another).expect("another leads");
            cluster.run(leader);
            goes_on();
        }
        cluster.settled(STREAM);
        published.store(true, Ordering::Relaxed);
        let published = publishing.join().expect("no panic");
        let Published {
            all,
            on_disk,
            stalled,
        } = published;
        println!(
            "{kills} kills, {} published, {on_disk} not confirmed by the engine in time, nothing for {stalled:?}",
            all.len()
        );
        let all_served = || {
            let served = served.lock().expect("no panic");
            all.is_subset(&served).then_some(())
        };
        let all_served = wait_until(all_served);
        all_served.expect("what is confirmed is served");
    });
    for daemon in &daemons {
        assert_law(&daemon.status());
    }
}

#[test]
fn a_leader_that_is_killed_takes_no_confirmed_event_along() {
    kill_leaders(1);
}

#[test]
#[ignore = "takes minutes"]
fn twenty_leaders_that_are_killed_take_no_confirmed_event_along() {
    kill_leaders(20);
}

/// A daemon that serves by a lease that is kept there goes on while another leader is elected.
fn hold_a_lease(kills: usize) {
    const BUCKET: &str = "KV_event-manager";
    let mut cluster = Cluster::start();
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": cluster.engine()},
        "lease": {"source": "main", "ttl": 20},
    }));
    let held = |status: &Status| status.lease.clone().expect("it has a lease");
    let token = held(&daemon.status()).token;
    let least = Cell::new(u64::MAX);
    for _ in 0..kills {
        let leader = cluster.settled(BUCKET);
        cluster.servers[leader].process = None;
        let another = || {
            let found = cluster.leader_of(BUCKET);
            found.filter(|(now, _)| *now != leader)
        };
        wait_until(another).expect("another leads");
        let before = held(&daemon.status()).renewals;
        daemon.wait_for("a renewal", |status| {
            least.set(
                least
                    .get()
                    .min(held(status).expires_in_ms.expect("it ends")),
            );
            held(status).renewals > before
        });
        cluster.run(leader);
    }
    assert_eq!(held(&daemon.status()).token, token);
    println!("{kills} kills, at least {} ms were left", least.get());
}

#[test]
#[ignore = "takes minutes"]
fn a_lease_outlives_the_leaders_that_keep_it() {
    hold_a_lease(10);
}

/// The ways from a daemon to all three.
#[test]
#[ignore = "it takes 6 s for each of EVENT_MANAGER_ROUNDS (just engines-partitions)"]
fn broken_again_and_again() {
    let cluster = Cluster::start();
    broken_at("three nats-servers", || {
        let to = |server: &Server| Way::to(&format!("nats://127.0.0.1:{}", server.ports[0]));
        let ways: Vec<_> = cluster.servers.iter().map(to).collect();
        let urls = ways.iter().map(|way| format!("nats://{}", way.address()));
        let urls: Vec<_> = urls.collect();
        let lines = ways.into_iter().map(|way| Box::new(way) as Box<dyn Line>);
        Place {
            engine: json!({"type": "nats", "servers": urls, "replicas": 3}),
            lines: lines.collect(),
            machine: None,
        }
    });
}
