//! Leases of clients that an engine keeps: of the clients of all daemons one holds a lease at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use event_manager_client::{ClientError, Hub, Lease};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::conformance::Broker;
use super::faults::{KINDS, Line, break_for, rounds, shown};
use super::server::free_port;
use super::support::clock::Clock;
use super::support::network::{Machine, Network};
use super::support::program::wait_until;
use super::support::way::Way;
use super::support::{PATIENCE, TestDaemon};

const TTL: Duration = Duration::from_millis(1000);

/// A daemon that serves beside others.
pub fn active(engine: &Value) -> TestDaemon {
    active_with(engine, &json!({}))
}

pub fn active_with(engine: &Value, more: &Value) -> TestDaemon {
    TestDaemon::in_own_process(&active_settings(engine, more))
}

fn active_settings(engine: &Value, more: &Value) -> Value {
    let mut settings = json!({
        "engines": {"main": engine},
        "lease": {"source": "main", "role": "active"},
        "httpAddress": format!("127.0.0.1:{}", free_port()),
    });
    for (key, value) in more.as_object().expect("an object") {
        settings[key] = value.clone();
    }
    settings
}

/// What a request about a lease is answered, or the code of the NAK.
pub fn ask(daemon: &TestDaemon, fields: &[&str]) -> Result<Map<String, Value>, String> {
    let asked = daemon
        .client(PATIENCE)
        .ask_json(&json!({"token": "lease", "data": fields}));
    match asked {
        Ok(answer) => match &answer["data"] {
            Value::Object(lease) => Ok(lease.clone()),
            Value::String(text) => Ok(serde_json::from_str(text).expect("JSON")),
            other => panic!("{other:?}"),
        },
        Err(ClientError::Nak { code, .. }) => Err(code),
        Err(error) => panic!("{error}"),
    }
}

pub fn token_of(lease: &Map<String, Value>) -> u64 {
    lease["token"].as_u64().expect("a token")
}

macro_rules! keeps_leases {
    ($broker:ty) => {
        mod leases {
            use super::*;

            #[test]
            fn of_two_daemons_clients_one_holds_it() {
                crate::leases::one_holds_it::<$broker>();
            }

            #[test]
            fn another_has_it_when_a_daemon_is_killed_with_its_holder() {
                crate::leases::another_has_it_after_a_kill::<$broker>();
            }

            #[test]
            fn while_the_engine_is_away_it_is_refused_and_all_else_goes_on() {
                crate::leases::refused_while_it_is_away::<$broker>();
            }

            #[test]
            #[ignore = "it takes 5 s for each of EVENT_MANAGER_ROUNDS (just engines-partitions)"]
            fn broken_again_and_again() {
                crate::leases::broken_again_and_again::<$broker>();
            }

            #[test]
            #[ignore = "as long, and needs root (just engines-partitions)"]
            fn machines_broken_again_and_again() {
                crate::leases::machines_broken_again_and_again::<$broker>();
            }
        }
    };
}
pub(crate) use keeps_leases;

pub fn one_holds_it<B: Broker>() {
    let broker = B::started();
    let [a, b] = [(); 2].map(|()| active(&broker.engine()));
    let free = ask(&b, &["get", "job"]).expect("an answer");
    assert_eq!((&free["holder"], token_of(&free)), (&Value::Null, 0));
    let first = ask(&a, &["acquire", "job", "a", "60000"]).expect("it is free");
    let token = token_of(&first);
    let left = first["expiresInMs"].as_u64().expect("a time");
    assert!((50_000..=60_000).contains(&left), "{first:?}");
    assert_eq!(
        ask(&b, &["acquire", "job", "b", "60000"]),
        Err("held".into())
    );
    assert_eq!(
        ask(&a, &["acquire", "job", "b", "60000"]),
        Err("held".into())
    );
    let again = ask(&a, &["acquire", "job", "a", "60000"]).expect("its own");
    assert_eq!(token_of(&again), token);
    let text = token.to_string();
    // Its holder may ask at either.
    for daemon in [&a, &b, &a] {
        let renewed = ask(daemon, &["renew", "job", "a", "", &text]).expect("its own");
        assert_eq!(
            (&renewed["holder"], token_of(&renewed)),
            (&"a".into(), token)
        );
        let shown = ask(daemon, &["get", "job"]).expect("an answer");
        assert_eq!((&shown["holder"], token_of(&shown)), (&"a".into(), token));
    }
    for (op, who, token) in [("renew", "b", &*text), ("release", "a", "1")] {
        assert_eq!(ask(&b, &[op, "job", who, "", token]), Err("lost".into()));
    }
    let released = ask(&b, &["release", "job", "a", "", &text]).expect("its own");
    assert_eq!(released["holder"], Value::Null);
    assert_eq!(
        ask(&a, &["renew", "job", "a", "", &text]),
        Err("lost".into())
    );
    // It has a name that no engine takes as a key, and a lease of its own.
    let strange = "a.b *>/\u{e4}";
    let other = ask(&a, &["acquire", strange, "a", "60000"]).expect("it is free");
    assert_eq!(other["name"], strange);
    assert_eq!(
        ask(&b, &["acquire", strange, "b", "60000"]),
        Err("held".into())
    );
    let second = ask(&b, &["acquire", "job", "b", "60000"]).expect("it is free");
    assert!(token_of(&second) > token, "{second:?}");
    assert_eq!(
        ask(&a, &["acquire", "job", "a", "60000"]),
        Err("held".into())
    );
    let kept = a.status().leases.expect("an engine keeps them");
    assert_eq!((&*kept.source, &*kept.engine), ("main", B::TYPE));
    assert!(kept.asked >= 9 && kept.failed == 0, "{kept:?}");
    assert_eq!(kept.problem, None);
    assert!(a.status().lease.is_none());
}

fn acquired(runtime: &Runtime, hub: &Hub) -> Option<Lease> {
    let lease = hub.lease("job").ttl(TTL);
    let asked = runtime.block_on(async { lease.try_acquire().await });
    asked.expect("an answer")
}

fn hub_of(runtime: &Runtime, daemon: &TestDaemon) -> Hub {
    let address = daemon.requests();
    let builder = Hub::builder().address(&address);
    let hub = runtime.block_on(async { builder.connect().await });
    hub.expect("a daemon")
}

/// The daemon that its holder asks is gone, so it can't renew: it knows that it has lost it before the other
/// daemon gives it away.
pub fn another_has_it_after_a_kill<B: Broker>() {
    let broker = B::started();
    let [a, b] = [(); 2].map(|()| active(&broker.engine()));
    let runtime = Runtime::new().expect("a runtime");
    let hubs = [&a, &b].map(|daemon| hub_of(&runtime, daemon));
    let first = acquired(&runtime, &hubs[0]).expect("it is free");
    // Over some of its renewals.
    let begun = Instant::now();
    while begun.elapsed() < TTL + TTL / 2 {
        assert!(acquired(&runtime, &hubs[1]).is_none() && first.is_held());
    }
    a.kill();
    let killed = Instant::now();
    let second = wait_until(|| {
        let second = acquired(&runtime, &hubs[1]);
        assert!(second.is_none() || !first.is_held(), "two hold it");
        second
    });
    let second = second.expect("it is over");
    let after = killed.elapsed();
    assert!(after < 2 * TTL, "{after:?}");
    assert!(second.token() > first.token());
    assert!(!first.is_held() && second.is_held());
}

pub fn refused_while_it_is_away<B: Broker>() {
    let broker = B::started();
    let a = active(&broker.engine());
    let held = ask(&a, &["acquire", "job", "a", "60000"]).expect("it is free");
    let text = token_of(&held).to_string();
    broker.stand_still();
    let begun = Instant::now();
    let renewed = ask(&a, &["renew", "job", "a", "", &text]);
    assert_eq!(renewed, Err("engine-failed".into()));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let readiness = a.readiness();
    let check = &readiness.checks["lease"];
    assert!(readiness.ready && check.ok, "{readiness:?}");
    assert!(check.reason.contains("LEASE is refused"), "{check:?}");
    let kept = a.status().leases.expect("an engine keeps them");
    assert!(kept.failed > 0 && kept.problem.is_some(), "{kept:?}");
    // One that is confirmed too late is not confirmed.
    assert_eq!(
        ask(&a, &["acquire", "other", "a", "100"]),
        Err("engine-failed".into())
    );
    broker.go_on();
    let renewed = wait_until(|| ask(&a, &["renew", "job", "a", "", &text]).ok());
    assert_eq!(token_of(&renewed.expect("it is back")), token_of(&held));
    let seen = wait_until(|| a.status().leases.filter(|kept| kept.problem.is_none()));
    assert!(seen.is_some(), "{:?}", a.status().leases);
}

/// For so long a lease is held while its holder is cut off again and again.
const LONG_TTL: Duration = Duration::from_secs(3);

/// From when on a client held the lease, and with which token; until when it believed so.
struct Hold {
    client: usize,
    token: u64,
    begun: Instant,
    until: Instant,
}

/// What clients hold now, as each of them believes.
type Believed = Arc<Mutex<Vec<Option<Arc<Lease>>>>>;

async fn want(hub: Hub, client: usize, believed: Believed) {
    loop {
        let lease = hub.lease("job").ttl(LONG_TTL).try_acquire().await;
        match lease {
            Ok(Some(lease)) => {
                let lease = Arc::new(lease);
                believed.lock().expect("a lock")[client] = Some(Arc::clone(&lease));
                lease.lost().await;
                believed.lock().expect("a lock")[client] = None;
            }
            Ok(None) | Err(_) => tokio::time::sleep(LONG_TTL / 12).await,
        }
    }
}

/// Looks each 2 ms who holds it, until it is told to end; all holds, and how often there were two.
fn look(believed: &Believed, ends: &AtomicBool) -> (Vec<Hold>, usize) {
    let (mut holds, mut twice) = (Vec::<Hold>::new(), 0);
    while !ends.load(Ordering::Relaxed) {
        let held: Vec<_> = {
            let believed = believed.lock().expect("a lock");
            let held = believed.iter().enumerate();
            let held = held.filter_map(|(client, lease)| Some((client, lease.as_ref()?)));
            held.filter(|(_, lease)| lease.is_held())
                .map(|(client, lease)| (client, lease.token()))
                .collect()
        };
        twice += usize::from(held.len() > 1);
        let now = Instant::now();
        for (client, token) in held {
            let known = holds.iter_mut().rev().take(3);
            let mut known = known.filter(|hold| (hold.client, hold.token) == (client, token));
            match known.next() {
                Some(hold) => hold.until = now,
                None => holds.push(Hold {
                    client,
                    token,
                    begun: now,
                    until: now,
                }),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    (holds, twice)
}

/// How long a daemon is stopped.
const STOPPED: Duration = Duration::from_secs(10);

/// Where a daemon runs.
pub struct Place {
    /// The engine, as it is told of it.
    pub engine: Value,
    /// All that connects it with the engine.
    pub lines: Vec<Box<dyn Line>>,
    /// If it isn't this machine.
    pub machine: Option<Machine>,
}

/// The engine, by its address there.
pub fn engine_at<B: Broker>(broker: &B, address: &str) -> Value {
    let url = broker.url();
    let (scheme, _) = url.split_once("//").expect("a URL");
    json!({"type": B::TYPE, "servers": [format!("{scheme}//{address}")]})
}

/// The way of the holder's daemon to the engine breaks, again and again, or the daemon is stopped.
pub fn broken_again_and_again<B: Broker>() {
    let broker = B::started();
    broken_at(B::TYPE, || {
        let way = Way::to(&broker.url());
        Place {
            engine: engine_at(&broker, &way.address()),
            lines: vec![Box::new(way)],
            machine: None,
        }
    });
}

/// The same of daemons on machines of their own, whose packets are lost.
pub fn machines_broken_again_and_again<B: Broker>() {
    let broker = B::started();
    // One by which tests reach the daemons, and one by which these reach the engine.
    let [tests, engine] = [(); 2].map(|()| Network::new());
    broken_at(&format!("{} by machines", B::TYPE), || {
        let machine = tests.machine();
        let link = engine.link_of(&machine);
        // What never breaks, on our side of the link.
        let way = Way::from(&engine.ours(), &broker.url());
        Place {
            engine: engine_at(&broker, &way.address()),
            lines: vec![Box::new(link)],
            machine: Some(machine),
        }
    });
}

/// Keys by which a daemon listens at this address.
fn listening_at(host: &str) -> Value {
    let any = format!("tcp://{host}:0");
    json!({
        "pubAddress": any, "subAddress": any, "requestAddress": any, "publicHostname": host,
        "pullAddress": format!("tcp://{host}"), "httpAddress": "off",
    })
}

/// The same at any places. The daemons' wall clocks are set an hour forward and back.
pub fn broken_at(name: &str, mut place: impl FnMut() -> Place) {
    let directories = [(); 3].map(|()| TempDir::new().expect("a directory"));
    let clocks = directories.each_ref().map(|one| Clock::within(one.path()));
    let places = [(); 3].map(|()| place());
    let daemons = [0, 1, 2].map(|n| {
        let (place, clock) = (&places[n], &clocks[n]);
        let machine = place.machine.as_ref();
        let own = machine.map_or(json!({}), |machine| listening_at(&machine.address));
        let settings = active_settings(&place.engine, &own);
        TestDaemon::in_own_process_with_clock(&settings, clock, machine)
    });
    let runtime = Runtime::new().expect("a runtime");
    let believed: Believed = Arc::new(Mutex::new(vec![None, None, None]));
    for (client, daemon) in daemons.iter().enumerate() {
        let hub = hub_of(&runtime, daemon);
        runtime.spawn(want(hub, client, Arc::clone(&believed)));
    }
    let ends = Arc::<AtomicBool>::default();
    let looking = {
        let (believed, ends) = (Arc::clone(&believed), Arc::clone(&ends));
        std::thread::spawn(move || look(&believed, &ends))
    };
    let holder = |but: Option<usize>| {
        let found = wait_until(|| {
            let believed = believed.lock().expect("a lock");
            let is_held = |client: &usize| {
                believed[*client]
                    .as_ref()
                    .is_some_and(|lease| lease.is_held())
            };
            (0..3).filter(|client| Some(*client) != but).find(is_held)
        });
        found.expect("somebody holds it")
    };
    let mut faults = vec![];
    for round in 0..rounds() {
        let victim = holder(None);
        let begun = Instant::now();
        faults.push((begun, victim));
        // Now one of the holder, now of another.
        clocks[(victim + round) % 3].set([3600, -3600, 0][round % 3]);
        match KINDS.get(round % (KINDS.len() + 1)) {
            Some(kind) => std::thread::scope(|scope| {
                for line in &places[victim].lines {
                    scope.spawn(move || break_for(&**line, kind, LONG_TTL * 3 / 2));
                }
            }),
            None => {
                daemons[victim].process().signal("STOP");
                std::thread::sleep(STOPPED);
                daemons[victim].process().signal("CONT");
            }
        }
    }
    ends.store(true, Ordering::Relaxed);
    let (holds, twice) = looking.join().expect("no panic");
    assert_eq!(twice, 0, "instants with two holders");
    let mut times = vec![];
    for (begun, victim) in &faults {
        let next = holds.iter().find(|hold| hold.begun > *begun);
        let next = next.filter(|hold| hold.client != *victim);
        times.extend(next.map(|hold| hold.begun - *begun));
    }
    for two in holds.windows(2) {
        assert!(two[0].until < two[1].begun && two[0].token < two[1].token);
    }
    let in_ms: Vec<_> = times.iter().map(Duration::as_millis).collect();
    println!("{name}: take-overs after {in_ms:?} ms");
    println!(
        "{name}: {} faults, {} holds, instants with two holders 0, tokens grew; {}",
        faults.len(),
        holds.len(),
        shown(times)
    );
}
