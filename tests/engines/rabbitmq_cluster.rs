//! A service's queue at three RabbitMQ, of which the one that leads it is killed.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use event_manager_wire::api::{Bridge, BridgeState};
use serde_json::json;
use tempfile::TempDir;

use super::conformance_served::Worker;
use super::nats_cluster::{Ends, Published, publish_until, work_until};
use super::rabbitmq_server::Node;
use super::server::{Process, free_port};
use super::support::peers::connected;
use super::support::program::wait_until;
use super::support::{TestDaemon, assert_law};

/// What the daemons make there, as the servers call its members.
const QUEUE: &str = "'%2F_em.service.Billing'";

struct Cluster {
    nodes: Vec<Node>,
    _names: Process,
}

impl Cluster {
    fn start() -> Self {
        let names_port = free_port();
        let mut nodes = [(); 3].map(|()| Node::with_names_at(names_port));
        let port = names_port.to_string();
        let arguments = ["-port", &port, "-address", "127.0.0.1"];
        let names = Process::listening(Command::new("epmd").args(arguments), names_port);
        let members: Vec<_> = nodes.iter().map(Node::name).collect();
        for node in &mut nodes {
            node.join(&members);
            node.start();
        }
        let cluster = Self {
            nodes: nodes.into(),
            _names: names,
        };
        cluster.wait_for("3", "length(rabbit_nodes:all_running()).");
        cluster
    }

    /// What a server that runs says.
    fn ask(&self, wanted: &str) -> String {
        let node = self.nodes.iter().find(|node| node.is_running());
        let said = node.expect("one runs").control(&["eval", wanted]);
        said.trim().trim_matches('\'').to_owned()
    }

    fn wait_for(&self, answer: &str, wanted: &str) {
        let is_so = || (self.ask(wanted) == answer).then_some(());
        let is_so = wait_until(is_so);
        is_so.unwrap_or_else(|| panic!("{wanted} is not {answer}"));
    }

    /// Waits until somebody leads the queue, and all three are members that run. Who leads.
    fn settled(&self) -> usize {
        let alive = format!(
            "case ra:members({{{QUEUE}, node()}}) of {{ok, All, {{_, Leader}}}} -> case [N || {{_, N}} <- All, is_pid(catch erpc:call(N, erlang, whereis, [{QUEUE}]))] of [_, _, _] -> Leader; _ -> none end; _ -> none end."
        );
        let leader = || {
            let leader = self.ask(&alive);
            self.nodes.iter().position(|node| node.name() == leader)
        };
        wait_until(leader).expect("all three have the queue")
    }
}

fn daemon(cluster: &Cluster, directory: &TempDir) -> TestDaemon {
    let urls: Vec<_> = cluster.nodes.iter().map(|node| node.url("/")).collect();
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": {"type": "rabbitmq", "servers": urls}},
        "services": {"Billing": {
            "delivery": "engine", "engine": "main", "subjects": ["Order"], "ackTimeout": 30,
        }},
    }))
}

/// Kills whoever leads the queue so often, while events go through it.
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
    cluster.settled();
    cluster.nodes.iter().for_each(Node::remember_queues);
    let requester = connected(&daemons[0].context, zmq::REQ, &daemons[0].requests());
    let (is_enough, ends) = (AtomicBool::new(false), AtomicBool::new(false));
    let confirmed = AtomicUsize::new(0);
    let goes_on = || {
        let before = confirmed.load(Ordering::Relaxed);
        let some_more = || (confirmed.load(Ordering::Relaxed) > before + 100).then_some(());
        wait_until(some_more).expect("the engine confirms");
    };
    let served = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        let _ends = [Ends(&is_enough), Ends(&ends)];
        let (counted, enough) = (&confirmed, &is_enough);
        let publishing = scope.spawn(move || publish_until(&requester, counted, enough));
        for worker in workers {
            let (served, ends) = (&served, &ends);
            scope.spawn(move || work_until(&worker, served, ends));
        }
        for _ in 0..kills {
            let leader = cluster.settled();
            goes_on();
            cluster.nodes[leader].kill();
            goes_on();
            cluster.nodes[leader].start();
        }
        cluster.settled();
        is_enough.store(true, Ordering::Relaxed);
        let Published {
            all,
            on_disk,
            stalled,
        } = publishing.join().expect("no panic");
        println!(
            "rabbitmq: {kills} kills, {} published, {on_disk} not confirmed by the engine in time, nothing for {stalled:?}",
            all.len()
        );
        let all_served = || {
            let served = served.lock().expect("no panic");
            all.is_subset(&served).then_some(())
        };
        wait_until(all_served).expect("what is confirmed is served");
    });
    for daemon in &daemons {
        assert_law(&daemon.status());
    }
}

#[test]
#[ignore = "takes half a minute for each of EVENT_MANAGER_ROUNDS (just engines-cluster)"]
fn leaders_that_are_killed_take_no_confirmed_event_along() {
    kill_leaders(super::faults::rounds());
}
