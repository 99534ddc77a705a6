//! ScheduleZero's instances as they are, with three event managers: never two of them lead. `just schedulers FILE`
//! runs this; the class is not ours, and is used unchanged.

mod instance;
mod judged;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use event_manager_wire::api::{Instance as Known, InstanceState, InstancesPage};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::Broker;
use super::faults::{KINDS, break_for, rounds};
use super::nats::Nats;
use super::server::free_port;
use super::support::TestDaemon;
use super::support::http::HttpClient;
use super::support::program::wait_until;
use super::support::way::Way;
use instance::Instance;
use judged::{Lags, changes, compare, holds, seen, starts_ms, stood_still, together};

/// How long a change may take, from the fence or the lease to the instance.
const LAG_MAX_MS: i64 = 100;
/// Between the look before a change and the one after it.
const LOOK_MS: i64 = 25;

/// The times of a run, in seconds.
#[derive(Clone, Copy)]
struct Times {
    interval: u64,
    timeout: u64,
    ttl: u64,
}

struct Machine {
    settings: Value,
    engine: Way,
    hub: Option<TestDaemon>,
    http: HttpAt,
    instance: Instance,
    _directory: TempDir,
}

/// Where a hub serves HTTP, also after a restart.
#[derive(Clone, Copy)]
struct HttpAt(u16);

impl HttpAt {
    fn page(self) -> InstancesPage {
        let mut client = HttpClient::connect(([127, 0, 0, 1], self.0).into());
        client.get("/instances?history=1000").read()
    }
}

impl Machine {
    fn hub(&self) -> &TestDaemon {
        self.hub.as_ref().expect("it runs")
    }

    /// SIGKILL, and again at once.
    fn restart_hub(&mut self) {
        self.hub.take().expect("it runs").kill();
        self.hub = Some(TestDaemon::in_own_process(&self.settings));
    }
}

/// Three machines, and the way of each to each other.
struct Site {
    machines: Vec<Machine>,
    mesh: BTreeMap<(usize, usize), Way>,
    _logs: TempDir,
    _broker: Nats,
}

impl Site {
    fn start(times: Times, have_equal_pids: bool) -> Self {
        let (broker, logs) = (Nats::started(), TempDir::new().expect("a directory"));
        let address = |port: u16| format!("tcp://127.0.0.1:{port}");
        let hubs = [(); 3].map(|()| free_port());
        let instances = [(); 3].map(|()| address(free_port()));
        let mut mesh = BTreeMap::new();
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                mesh.insert((from, to), Way::to(&address(hubs[to])));
            }
        }
        let machine = |n: usize| {
            let engine = Way::to(&broker.url());
            let peers = mesh.iter().filter(|((from, _), _)| *from == n);
            let peers: Vec<_> = peers.map(|(_, way)| way.endpoint().to_string()).collect();
            let (directory, http) = (TempDir::new().expect("a directory"), free_port());
            let settings = json!({
                "stateDir": directory.path(), "subAddress": address(hubs[n]),
                "httpAddress": format!("127.0.0.1:{http}"),
                "connectPublishers": [instances[n]],
                "heartbeatInterval": 1, "mesh": {"peers": peers},
                "engines": {"main": {"type": "nats", "servers": [format!("nats://{}", engine.address())]}},
                "lease": {"source": "main", "role": "active", "name": "scheduler", "ttl": times.ttl},
                "instances": {
                    "heartbeat": r#"{"type": "heartbeat""#, "interval": times.interval,
                    "timeout": times.timeout, "fence": "standby",
                },
            });
            Machine {
                hub: Some(TestDaemon::in_own_process(&settings)),
                settings,
                engine,
                http: HttpAt(http),
                instance: Instance::start(
                    logs.path(),
                    &format!("scheduler-{n}"),
                    (instances[n].clone(), address(hubs[n])),
                    times.interval,
                    have_equal_pids,
                ),
                _directory: directory,
            }
        };
        let site = Self {
            machines: (0..3).map(machine).collect(),
            mesh,
            _logs: logs,
            _broker: broker,
        };
        site.leader();
        site
    }

    /// Who leads, as soon as one does.
    fn leader(&self) -> usize {
        let one = || (0..3).find(|n| self.machines[*n].instance.leads());
        wait_until(one).expect("one leads")
    }

    /// The same when what was broken is whole again: each hub sees all instances, and that one leads.
    fn settled(&self) -> usize {
        let pids: Vec<_> = self
            .machines
            .iter()
            .map(|one| (one.instance.id.clone(), one.instance.pid()))
            .collect();
        let sees_all = |machine: &Machine| {
            let known = machine.http.page().instances.known;
            let is_there = |one: &Known| {
                let pid = one.pid.unwrap_or_default();
                one.state == InstanceState::Alive && pids.contains(&(one.id.clone(), pid))
            };
            known.len() == 3 && known.iter().all(is_there)
        };
        let settled = wait_until(|| {
            let leading = (0..3).filter(|n| self.machines[*n].instance.leads());
            let [one] = leading.collect::<Vec<_>>()[..] else {
                return None;
            };
            let page = self.machines[one].http.page().instances;
            let is_known = page.leaders == [self.machines[one].instance.id.clone()];
            let is_settled = is_known && self.machines.iter().all(sees_all);
            // They need not be asked all the time.
            std::thread::sleep(Duration::from_millis(20));
            is_settled.then_some(one)
        });
        settled.expect("one leads, and each sees all")
    }

    /// The ways from and to a machine that are of this kind of partition.
    fn ways(&self, n: usize, which: &str) -> Vec<&Way> {
        let of_mesh = self.mesh.iter();
        let of_mesh = of_mesh.filter(|((from, to), _)| *from == n || *to == n);
        let of_mesh = of_mesh.map(|(_, way)| way);
        match which {
            "engine" => vec![&self.machines[n].engine],
            "mesh" => of_mesh.collect(),
            _ => of_mesh.chain([&self.machines[n].engine]).collect(),
        }
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a time after 1970").as_millis() as u64
}

/// The registry of each hub and the history of each instance at its own are what the instances did.
fn assert_kept(site: &Site, restarts: &[Vec<(u64, u64)>], lags: &mut Lags) {
    let runs: Vec<_> = site
        .machines
        .iter()
        .map(|one| one.instance.runs())
        .collect();
    for (n, machine) in site.machines.iter().enumerate() {
        let page = machine.http.page();
        let mut known = page.instances.known.iter().map(|one| {
            let address = one.address.clone().unwrap_or_default();
            (one.id.clone(), one.pid, address)
        });
        let all = site.machines.iter().zip(&runs).map(|(other, runs)| {
            let pid = runs.last().map(|run| run.pid);
            let instance = &other.instance;
            (instance.id.clone(), pid, instance.publishes.clone())
        });
        let all: Vec<_> = all.collect();
        assert!(known.all(|one| all.contains(&one)), "{page:?} {all:?}");
        assert_eq!(page.instances.known.len(), all.len());
        let own = page.history.iter();
        let own = own.filter(|turn| turn.instance == machine.instance.id);
        let own: Vec<_> = own.cloned().collect();
        assert_eq!(own.len(), page.history.len(), "of others nothing is known");
        let still = stood_still(&runs[n]);
        let own = seen(&own, &still);
        if let Err(why) = compare(&changes(&runs[n]), &own, &restarts[n], lags) {
            panic!("machine {n}, which stood still at {still:?}: {why}");
        }
    }
}

fn shown(what: &str, mut times: Vec<i64>) {
    times.sort_unstable();
    let at = |part: usize| {
        let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or_default()
    };
    println!(
        "{what}: {} times, p50 {} ms, p99 {} ms, longest {} ms",
        times.len(),
        at(50),
        at(99),
        at(100)
    );
}

/// Partitions by turns, restarts of hubs, and some of instances.
fn broken_and_restarted(times: Times, have_equal_pids: bool) {
    let mut site = Site::start(times, have_equal_pids);
    site.settled();
    let ttl = Duration::from_secs(times.ttl);
    let mut restarts = vec![vec![]; 3];
    let (mut takeovers, mut partitions, begun) = (vec![], 0, Instant::now());
    for round in 0..rounds() {
        let leader = site.settled();
        let (which, kind) = (
            ["engine", "all", "mesh"][round % 3],
            KINDS[round / 3 % KINDS.len()],
        );
        println!("{:?}: {kind} of {which} of {leader}", begun.elapsed());
        let cut_at = Instant::now();
        std::thread::scope(|scope| {
            for way in site.ways(leader, which) {
                scope.spawn(move || break_for(way, kind, ttl * 2));
            }
            let other = wait_until_for(ttl * 2, || {
                let others = (0..3).filter(|n| *n != leader);
                others
                    .into_iter()
                    .find(|n| site.machines[*n].instance.leads())
            });
            takeovers.extend(other.map(|_| cut_at.elapsed().as_millis() as i64));
        });
        partitions += 1;
        let leader = site.settled();
        let victim = match round % 3 {
            2 => (leader + 1) % 3,
            _ => leader,
        };
        println!("{:?}: kill of {victim}, {leader} leads", begun.elapsed());
        let from = wall_ms();
        site.machines[victim].restart_hub();
        // Until it has heard the instance once more.
        restarts[victim].push((from, wall_ms() + 3000 * times.interval));
        site.settled();
        assert_kept(&site, &restarts, &mut Lags::default());
        if round % 10 == 9 {
            // One that may not lead.
            let leader = site.settled();
            let victim = (leader + 1 + round / 10 % 2) % 3;
            println!("{:?}: instance {victim} starts anew", begun.elapsed());
            site.machines[victim].instance.restart();
            site.settled();
        }
    }
    let all = site.machines.iter().enumerate();
    let all: Vec<_> = all.map(|(n, one)| (n, one.instance.runs())).collect();
    let held: Vec<_> = all.iter().flat_map(|(n, runs)| holds(*n, runs)).collect();
    let looks: usize = all
        .iter()
        .flat_map(|(_, runs)| runs)
        .map(|run| run.looks.len())
        .sum();
    let twice = together(&held);
    for (one, other, ms) in &twice {
        println!("two led for {ms} ms: {one:?} {other:?}");
    }
    let starts: Vec<_> = all.iter().flat_map(|(_, runs)| starts_ms(runs)).collect();
    println!(
        "{partitions} partitions, {} restarts of hubs, {looks} looks, two led {} times",
        restarts.iter().map(Vec::len).sum::<usize>(),
        twice.len()
    );
    let still = all.iter().flat_map(|(_, runs)| stood_still(runs));
    let still = still.map(|(from, to)| (to - from) as i64).collect();
    shown("instances stood still for more than 60 ms", still);
    println!("those that started led for {starts:?} ms");
    let mut lags = Lags::default();
    assert_kept(&site, &restarts, &mut lags);
    shown("another led", takeovers);
    shown(
        "the fence goes up, the instance resigns",
        lags.ended.clone(),
    );
    shown(
        "the fence goes down, the instance leads",
        lags.begun.clone(),
    );
    shown(
        "after a restart, before the history",
        lags.restarted.iter().map(|lag| -lag).collect(),
    );
    assert!(twice.is_empty());
    // Until the next heartbeat comes by a new connection.
    let heard_again_ms = 1000 * times.interval as i64 + 1000;
    assert!(lags.restarted.iter().all(|lag| lag.abs() <= heard_again_ms));
    assert!(starts.iter().all(|start| *start <= judged::START_MAX_MS));
    for lag in lags.ended.iter().chain(&lags.begun) {
        assert!(lag.abs() <= LAG_MAX_MS + LOOK_MS, "{lag} ms");
    }
}

/// What comes within this time, if it does.
fn wait_until_for<T>(time: Duration, mut wanted: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if let Some(found) = wanted() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

const SHORT: Times = Times {
    interval: 1,
    timeout: 3,
    ttl: 2,
};

#[test]
#[ignore = "needs a file that is not ours, and 15 s for each round (just schedulers)"]
fn never_two_lead() {
    broken_and_restarted(SHORT, false);
}

/// By their own rule all of them lead. Needs root.
#[test]
#[ignore = "needs a file that is not ours, root, and 15 s for each round (just schedulers)"]
fn never_two_lead_that_have_the_same_process_id() {
    broken_and_restarted(SHORT, true);
}

/// The times that they have by default.
const LONG: Times = Times {
    interval: 5,
    timeout: 15,
    ttl: 3,
};

/// Each side of a partition says of instances on the other one that they are not heard, or not heard any more.
#[test]
#[ignore = "needs a file that is not ours, and a minute (just schedulers)"]
fn a_partition_is_named_in_time() {
    let site = Site::start(LONG, false);
    for kind in ["both-ways", "cut"] {
        let leader = site.settled();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for way in site.ways(leader, "all") {
                scope.spawn(move || break_for(way, kind, Duration::from_secs(20)));
            }
            for n in 0..3 {
                let others: Vec<_> = (0..3)
                    .filter(|other| (n == leader) != (*other == leader))
                    .map(|other| site.machines[other].instance.id.clone())
                    .collect();
                let http = site.machines[n].http;
                scope.spawn(move || {
                    let named = wait_until_for(Duration::from_secs(19), || {
                        let known = http.page().instances.known;
                        let mut known = known.iter().filter(|one| others.contains(&one.id));
                        known
                            .all(|one| one.state != InstanceState::Alive)
                            .then_some(())
                    });
                    let after = begun.elapsed();
                    println!("{kind} of {leader}: machine {n} names {others:?} after {after:?}");
                    assert!(named.is_some() && after <= Duration::from_secs(16));
                });
            }
        });
        site.settled();
    }
    for machine in &site.machines {
        let starts = starts_ms(&machine.instance.runs());
        println!("it led for {starts:?} ms when it had started");
        assert!(starts.iter().all(|start| *start <= judged::START_MAX_MS));
    }
}
