//! The fence: in the smaller part of a mesh no instance leads, though none of them knows of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use event_manager::config::Config;
use event_manager_core::instances::FencePolicy;
use serde_json::Value;

use super::super::mesh::{free_addresses, wait_linked};
use super::super::support::peers::{connected, is_silent, probe};
use super::super::support::scheduler::Scheduler;
use super::super::support::way::Way;
use super::super::support::{PATIENCE, TestDaemon};
use super::{observing, turns, wait_for};

/// Three hubs; the way from one to another can be cut.
fn mesh() -> (Vec<TestDaemon>, BTreeMap<(usize, usize), Way>) {
    let all = free_addresses(3);
    let mut ways = BTreeMap::new();
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            ways.insert((from, to), Way::to(&all[to].to_string()));
        }
    }
    let hubs = (0..3).map(|n| {
        let change = |config: &mut Config| {
            observing(config);
            config.instances.timeout = Duration::from_secs(1);
            config.instances.fence = FencePolicy::Minority;
            config.sub_addresses = vec![all[n].clone()];
            let peers = ways.iter().filter(|((from, _), _)| *from == n);
            config.mesh.peers = peers.map(|(_, way)| way.endpoint().into()).collect();
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

/// It leads until it hears that it may not, however long it is until the next heartbeat of anybody.
#[test]
fn whoever_comes_later_is_told_within_a_second() {
    let peers = free_addresses(2);
    let hub = TestDaemon::with(|config| {
        observing(config);
        config.instances.interval = Duration::from_secs(60);
        config.instances.timeout = Duration::from_secs(180);
        config.instances.fence = FencePolicy::Minority;
        config.mesh.peers = peers.iter().cloned().map(Into::into).collect();
    });
    for _ in 0..2 {
        let subscriber = connected(&hub.context, zmq::SUB, &hub.subscribers());
        let begun = Instant::now();
        subscriber.set_subscribe(b"").expect("an option");
        let text = subscriber.recv_string(0).expect("a heartbeat");
        assert!(text.expect("a text").contains("event-manager-fence"));
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
