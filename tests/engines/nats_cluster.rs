//! A service's queue at three nats-servers, of which the one that leads is killed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use event_manager_wire::api::{Bridge, BridgeState};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance_served::{Worker, asked};
use super::server::{Process, free_port, installed};
use super::support::http::HttpClient;
use super::support::peers::connected;
use super::support::program::wait_until;
use super::support::{PATIENCE, TestDaemon, assert_law};

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
        let mut command = Command::new(installed("nats-server"));
        command
            .args(["-js", "-a", "127.0.0.1", "-n", &server.name])
            .args(["-p", &clients.to_string(), "-m", &monitor.to_string()])
            .args(["--cluster_name", "c", "--cluster", &routes[n]])
            .args(["--routes", &routes.join(",")])
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
            let at = SocketAddr::from(([127, 0, 0, 1], server.ports[2]));
            let shown = HttpClient::connect(at).get("/jsz?streams=1").json();
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

fn daemon(cluster: &Cluster, directory: &TempDir) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": cluster.engine()},
        "services": {"Billing": {
            "delivery": "engine", "engine": "main", "subjects": ["Order"], "ackTimeout": 30,
        }},
    }))
}

/// Publishes one after the other, each until the engine has confirmed it. Which, and how long the longest took.
fn publish_until(requester: &zmq::Socket, ends: &AtomicBool) -> (BTreeSet<String>, Duration) {
    let (mut confirmed, mut longest) = (BTreeSet::new(), Duration::ZERO);
    while !ends.load(Ordering::Relaxed) {
        let id = confirmed.len().to_string();
        let request = json!({
            "token": "emit", "subject": "Order", "payload": id, "id": id, "level": "engine",
        });
        let begun = Instant::now();
        // While nobody leads, the answer is after 10 s that the daemon has it.
        while asked(requester, &request)["data"]["level"] != "engine" {
            assert!(begun.elapsed() < PATIENCE, "{id} is not confirmed");
        }
        longest = longest.max(begun.elapsed());
        confirmed.insert(id);
    }
    (confirmed, longest)
}

/// Acknowledges all that comes.
fn work_until(worker: &Worker, served: &Mutex<BTreeSet<String>>, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        if worker.0.poll(zmq::POLLIN, 20).expect("a poll") > 0 {
            let event = worker.receive();
            worker.ack(&event);
            served.lock().expect("no panic").insert(event.data);
        }
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
    let served = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        let is_enough = &published;
        let publishing = scope.spawn(move || publish_until(&requester, is_enough));
        for worker in workers {
            let (served, ends) = (&served, &ends);
            scope.spawn(move || work_until(&worker, served, ends));
        }
        for _ in 0..kills {
            let leader = cluster.settled(STREAM);
            cluster.servers[leader].process = None;
            let another = || {
                let found = cluster.leader_of(STREAM);
                found.filter(|(now, _)| *now != leader)
            };
            wait_until(another).expect("another leads");
            cluster.run(leader);
        }
        cluster.settled(STREAM);
        published.store(true, Ordering::Relaxed);
        let (confirmed, longest) = publishing.join().expect("no panic");
        println!(
            "{kills} kills, {} confirmed, the longest after {longest:?}",
            confirmed.len()
        );
        let all_served = || {
            let served = served.lock().expect("no panic");
            confirmed.is_subset(&served).then_some(())
        };
        let all_served = wait_until(all_served);
        ends.store(true, Ordering::Relaxed);
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
