//! The fence: in the smaller part of a mesh no instance leads, though none of them knows of it.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use event_manager::config::Config;
use event_manager_core::instances::FencePolicy;
use event_manager_wire::model::Endpoint;
use serde_json::Value;

use super::super::mesh::{free_addresses, wait_linked};
use super::super::support::peers::{connected, is_silent, probe};
use super::super::support::{PATIENCE, TestDaemon};
use super::{heartbeat, observing, turns, wait_for};

const INTERVAL: Duration = Duration::from_millis(100);

/// A way between two hubs that can be cut.
struct Way {
    address: Endpoint,
    state: Arc<Mutex<WayState>>,
}

#[derive(Default)]
struct WayState {
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Way {
    fn to(target: &Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let target = target.to_string().replace("tcp://", "");
        let state = Arc::<Mutex<WayState>>::default();
        let shared = Arc::clone(&state);
        // It ends with the process, as what it waits for does.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = shared.lock().expect("a lock");
                if state.is_cut {
                    continue;
                }
                let Ok(other) = TcpStream::connect(&target) else {
                    continue;
                };
                for (from, to) in [(&stream, &other), (&other, &stream)] {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (from, to) = (from.expect("a copy"), to.expect("a copy"));
                    std::thread::spawn(move || pass_on(from, to));
                }
                state.open.extend([stream, other]);
            }
        });
        let address = Endpoint::tcp("127.0.0.1", port);
        Self { address, state }
    }

    fn set_cut(&self, is_cut: bool) {
        let mut state = self.state.lock().expect("a lock");
        state.is_cut = is_cut;
        if is_cut {
            for stream in state.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    let mut copy = || -> io::Result<bool> {
        let read = from.read(&mut buffer)?;
        to.write_all(&buffer[..read])?;
        Ok(read > 0)
    };
    while matches!(copy(), Ok(true)) {}
    let _ = to.shutdown(Shutdown::Both);
}

/// An instance that follows the rule of ScheduleZero's broker: it leads while its process id is the lowest of
/// all that it has heard within three intervals; it looks when somebody says something, and each two
/// intervals.
struct Scheduler {
    leads: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scheduler {
    fn start(hub: &TestDaemon, id: &str, pid: i64) -> Self {
        let (leads, ends) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let publisher = connected(&hub.context, zmq::PUB, &hub.publishers());
        let subscriber = connected(&hub.context, zmq::SUB, &hub.subscribers());
        subscriber.set_subscribe(b"").expect("an option");
        let (told, ending, id) = (Arc::clone(&leads), Arc::clone(&ends), id.to_owned());
        let thread = std::thread::spawn(move || {
            let mut alive: HashMap<String, (i64, Instant)> = HashMap::new();
            let mut beat_at = Instant::now();
            let mut clean_at = Instant::now() + 2 * INTERVAL;
            told.store(true, Ordering::Relaxed);
            while !ending.load(Ordering::Relaxed) {
                if Instant::now() >= beat_at {
                    publisher.send(&heartbeat(&id, pid), 0).expect("a send");
                    beat_at += INTERVAL;
                }
                let mut looks = Instant::now() >= clean_at;
                if looks {
                    clean_at += 2 * INTERVAL;
                    alive.retain(|_, (_, seen)| seen.elapsed() <= 3 * INTERVAL);
                }
                if subscriber.poll(zmq::POLLIN, 5).expect("a poll") > 0 {
                    let bytes = subscriber.recv_bytes(0).expect("a message");
                    let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                    let who = said["instance_id"].as_str().unwrap_or_default();
                    match said["type"].as_str() {
                        Some("heartbeat") if who != id => {
                            let other = said["pid"].as_i64().expect("a number");
                            alive.insert(who.to_owned(), (other, Instant::now()));
                            looks = true;
                        }
                        Some("shutdown") => looks |= alive.remove(who).is_some(),
                        _ => {}
                    }
                }
                if looks {
                    let lowest = alive.values().all(|(other, _)| *other >= pid);
                    told.store(lowest, Ordering::Relaxed);
                }
            }
        });
        Self {
            leads,
            ends,
            thread: Some(thread),
        }
    }

    fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Three hubs; the way from one to another can be cut.
fn mesh() -> (Vec<TestDaemon>, BTreeMap<(usize, usize), Way>) {
    let all = free_addresses(3);
    let mut ways = BTreeMap::new();
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            ways.insert((from, to), Way::to(&all[to]));
        }
    }
    let hubs = (0..3).map(|n| {
        let change = |config: &mut Config| {
            observing(config);
            config.instances.timeout = Duration::from_secs(1);
            config.instances.fence = FencePolicy::Minority;
            config.sub_addresses = vec![all[n].clone()];
            let peers = ways.iter().filter(|((from, _), _)| *from == n);
            config.mesh.peers = peers.map(|(_, way)| way.address.clone().into()).collect();
        };
        TestDaemon::with(change)
    });
    let hubs: Vec<_> = hubs.collect();
    hubs.iter().for_each(|hub| wait_linked(hub, 2));
    (hubs, ways)
}

/// Waits until this one leads, and no other.
fn wait_for_leader(schedulers: &[Scheduler], wanted: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leading: Vec<_> = (0..schedulers.len())
            .filter(|n| schedulers[*n].leads())
            .collect();
        if leading == [wanted] {
            return;
        }
        assert!(Instant::now() < deadline, "{leading:?} lead, not {wanted}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whoever_is_cut_off_does_not_lead_and_others_do() {
    let (hubs, ways) = mesh();
    // The lowest is at the hub that will be cut off.
    let pids = [10, 20, 30];
    let schedulers: Vec<_> = (0..3)
        .map(|n| Scheduler::start(&hubs[n], &format!("scheduler-{n}"), pids[n]))
        .collect();
    hubs.iter().for_each(|hub| {
        wait_for(hub, "that it is down", |all| !all.fenced);
    });
    wait_for_leader(&schedulers, 0);
    let cut = |is_cut: bool| {
        let touched = ways.iter().filter(|((from, to), _)| *from == 0 || *to == 0);
        touched.for_each(|(_, way)| way.set_cut(is_cut));
    };
    let begun = Instant::now();
    cut(true);
    // Sampled until the others have one: at no time are there two.
    let mut resigned = None;
    while !schedulers[1].leads() {
        let leading = schedulers.iter().filter(|one| one.leads()).count();
        assert!(leading <= 1, "{leading} lead");
        if !schedulers[0].leads() {
            resigned.get_or_insert_with(|| begun.elapsed());
        }
        assert!(begun.elapsed() < PATIENCE, "nobody leads");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        !schedulers[0].leads() && !schedulers[2].leads(),
        "{resigned:?}"
    );
    let page = wait_for(&hubs[0], "that it is fenced", |all| all.fenced);
    let fenced = ("scheduler-0".to_owned(), "fenced".to_owned());
    assert!(turns(&page).contains(&fenced), "{page:#?}");
    let events = hubs[0]
        .client(PATIENCE)
        .events(None, 512)
        .expect("an answer");
    assert!(events.events.iter().any(|event| event.code == "EM-0708"));
    cut(false);
    // Back: at no time do two lead.
    let begun = Instant::now();
    while !schedulers[0].leads() {
        let leading = schedulers.iter().filter(|one| one.leads()).count();
        assert!(leading <= 1, "{leading} lead");
        assert!(begun.elapsed() < PATIENCE, "it never leads again");
        std::thread::sleep(Duration::from_millis(2));
    }
    wait_for_leader(&schedulers, 0);
}

/// Whoever subscribes to something else hears nothing of it, and no other hub does.
#[test]
fn the_fence_is_said_to_those_only_who_want_heartbeats_here() {
    let (hubs, ways) = mesh();
    let subscriber = |hub: usize, prefix: &str| {
        let hub = &hubs[hub];
        let subscriber = connected(&hub.context, zmq::SUB, &hub.subscribers());
        let done = subscriber.set_subscribe(prefix.as_bytes());
        done.expect("an option");
        subscriber
    };
    let here = subscriber(0, r#"{"type": "heartbeat""#);
    let (other, there) = (subscriber(0, "Order"), subscriber(1, "{"));
    hubs.iter().for_each(|hub| {
        wait_for(hub, "that it is down", |all| !all.fenced);
    });
    let publisher = hubs[0].publisher();
    let until_heard = |mark: &str| {
        let (deadline, mut others) = (Instant::now() + PATIENCE, vec![]);
        loop {
            assert!(Instant::now() < deadline, "{mark} is not heard");
            publisher.send(mark, 0).expect("a send");
            while !is_silent(&there, 10) {
                let text = there.recv_string(0).expect("an event").expect("a text");
                if text == mark {
                    return others;
                }
                others.push(text);
            }
        }
    };
    // Its own hub said so at its start, before it was linked.
    until_heard(r#"{"first": 1}"#);
    ways.iter()
        .filter(|((from, _), _)| *from == 0)
        .for_each(|(_, way)| way.set_cut(true));
    wait_for(&hubs[0], "that it is up", |all| all.fenced);
    let said = loop {
        let text = here.recv_string(0).expect("a heartbeat").expect("a text");
        let said: Value = serde_json::from_str(&text).expect("JSON");
        if said["instance_id"] == "event-manager-fence" {
            break said;
        }
    };
    assert_eq!(
        (&said["type"], &said["pid"]),
        (&"heartbeat".into(), &(-1).into())
    );
    // It comes by the way that is open, and what the fence says doesn't.
    let others = until_heard(r#"{"last": 1}"#);
    let is_mark = |text: &String| text == r#"{"first": 1}"#;
    assert!(others.iter().all(is_mark), "{others:?}");
    probe(&publisher, &other, "Order");
    // Who hears all others, and is heard by none, is cut off as well.
    ways.values().for_each(|way| way.set_cut(false));
    wait_for(&hubs[0], "that it is down again", |all| !all.fenced);
    ways.iter()
        .filter(|((_, to), _)| *to == 0)
        .for_each(|(_, way)| way.set_cut(true));
    wait_for(&hubs[0], "that it is up again", |all| all.fenced);
    wait_for(&hubs[1], "that the others' is down", |all| !all.fenced);
    // It is nobody's instance.
    let known = super::page(&hubs[0]).instances.known;
    assert!(known.is_empty(), "{known:?}");
}
