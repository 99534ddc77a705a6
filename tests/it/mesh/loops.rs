//! Event managers that are linked in more than one way: no event goes round, and each subscriber hears
//! each once, or the ring is named and cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use event_manager_wire::api::Status;
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::{free_addresses, wait_linked};
use crate::support::TestDaemon;
use crate::support::peers::{is_silent, publish, received};
use crate::support::program::Site;

const EVENTS: usize = 10_000;

/// A daemon in a process of its own, with what it dials.
fn daemon(own: &Endpoint, mesh: &[&Endpoint], publishers: &[&Endpoint]) -> TestDaemon {
    daemon_at(&[own], mesh, publishers)
}

fn daemon_at(own: &[&Endpoint], mesh: &[&Endpoint], publishers: &[&Endpoint]) -> TestDaemon {
    let texts = |all: &[&Endpoint]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    TestDaemon::in_own_process(&json!({
        "subAddress": texts(own),
        "mesh": {"peers": texts(mesh)},
        "connectPublishers": texts(publishers),
    }))
}

fn holds_a_ring(status: &Status) -> bool {
    let mut dialled = status.publishers.dialled.iter();
    dialled.any(|one| one.ring.is_some_and(|ring| ring.held))
}

fn finding(daemon: &TestDaemon, code: &str) -> Option<Value> {
    let ended = Site::of(daemon).run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list").clone();
    findings.into_iter().find(|finding| finding["code"] == code)
}

/// Clients of one publish: those who hear it hear each event once, the others none.
fn assert_heard(from: &TestDaemon, subscribers: &[(&zmq::Socket, bool)]) {
    let publisher = from.publisher();
    for n in 0..EVENTS {
        publish(&publisher, "Order", &n.to_string());
    }
    for (subscriber, hears) in subscribers {
        for n in (0..EVENTS).take_while(|_| *hears) {
            assert_eq!(received(subscriber), n.to_string());
        }
    }
    for (subscriber, _) in subscribers {
        assert!(is_silent(subscriber, 100));
    }
}

/// What goes round would take all of a processor.
fn assert_are_idle(daemons: &[&TestDaemon]) {
    let spent = || daemons.iter().map(|daemon| daemon.process().cpu_time());
    let before: Vec<_> = spent().collect();
    std::thread::sleep(Duration::from_secs(1));
    for (before, after) in before.into_iter().zip(spent()) {
        let spent = after.saturating_sub(before);
        assert!(spent < Duration::from_millis(200), "{spent:?}");
    }
}

/// What is cancelled is told a moment later: who subscribes meanwhile would count wrong.
fn wait_subscribed(daemons: &[&TestDaemon], count: u64) {
    daemons[0].wait_for("what is cancelled", |_| {
        let all = daemons.iter().map(|daemon| daemon.status());
        all.map(|status| status.subscribers.subscriptions)
            .sum::<u64>()
            == count
    });
}

fn wait_asked(daemon: &TestDaemon) {
    daemon.wait_for("the prefix", |status| {
        status.mesh.hubs.iter().all(|hub| hub.prefixes == 1)
    });
}

#[test]
fn two_that_dial_each_other_under_load_break_the_ring() {
    let all = free_addresses(2);
    let first = daemon(&all[0], &[], &[&all[1]]);
    let publisher = first.publisher();
    let stop = AtomicBool::new(false);
    let is_told_to_stop = &stop;
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(move || {
            let mut published = 0u64;
            while !is_told_to_stop.load(Ordering::Relaxed) {
                publish(&publisher, "Order", "x");
                published += 1;
                if published.is_multiple_of(100) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            published
        });
        let second = daemon(&all[1], &[], &[&all[0]]);
        let both = [&first, &second];
        first.wait_for("the ring", |_| {
            both.iter().any(|daemon| holds_a_ring(&daemon.status()))
        });
        stop.store(true, Ordering::Relaxed);
        let published = publishing.join().expect("no panic");
        assert_are_idle(&both);
        wait_subscribed(&both, 1);
        let heard = both.map(|daemon| daemon.subscriber(&["Order"]));
        // The one that holds hears nothing of the other.
        let holder = usize::from(!holds_a_ring(&first.status()));
        assert_heard(both[holder], &[(&heard[0], true), (&heard[1], true)]);
        let other = 1 - holder;
        assert_heard(
            both[other],
            &[(&heard[holder], false), (&heard[other], true)],
        );
        let found = finding(both[holder], "EM-9025").expect("a finding");
        assert!(
            found["mend"]
                .as_str()
                .expect("a text")
                .contains("\"mesh\" links event managers")
        );
        published
    });
    // Some went round before it was found out, and not for long.
    let came = first.status().publishers.events;
    assert!(came < 2 * published + 200_000, "{came} of {published}");
}

#[test]
fn a_ring_over_a_link_of_the_mesh_is_cut() {
    let all = free_addresses(2);
    // Events of the second go to the first as to a hub, and would come back.
    let first = daemon(&all[0], &[&all[1]], &[]);
    let second = daemon(&all[1], &[], &[&all[0]]);
    second.wait_for("the ring", holds_a_ring);
    wait_subscribed(&[&first, &second], 0);
    let heard = [&first, &second].map(|daemon| daemon.subscriber(&["Order"]));
    wait_asked(&second);
    assert_heard(&second, &[(&heard[0], true), (&heard[1], true)]);
    assert_heard(&first, &[(&heard[0], true), (&heard[1], false)]);
    assert_are_idle(&[&first, &second]);
    assert!(finding(&second, "EM-9025").is_some());
}

#[test]
fn a_hub_that_is_dialled_as_a_publisher_too_is_heard_once() {
    // Each listens at two addresses.
    let all = free_addresses(4);
    let first = daemon_at(&[&all[0], &all[1]], &[&all[2]], &[&all[3]]);
    let second = daemon_at(&[&all[2], &all[3]], &[&all[0]], &[&all[1]]);
    let both = [&first, &second];
    for daemon in both {
        wait_linked(daemon, 1);
        daemon.wait_for("the twin", |status| status.publishers.dialled[0].doubled);
    }
    wait_subscribed(&both, 0);
    let heard = both.map(|daemon| daemon.subscriber(&["Order"]));
    for daemon in both {
        wait_asked(daemon);
        daemon.wait_for("no other subscription", |status| {
            status.subscribers.subscriptions == 2
        });
    }
    for daemon in both {
        assert_heard(daemon, &[(&heard[0], true), (&heard[1], true)]);
        let found = finding(daemon, "EM-9025").expect("a finding");
        assert!(
            found["text"]
                .as_str()
                .expect("a text")
                .contains("linked by \"mesh\", too")
        );
    }
    assert_are_idle(&both);
}

#[test]
fn two_meshes_that_dial_each_other_hear_each_event_once_at_most() {
    let all = free_addresses(4);
    let a = daemon(&all[0], &[&all[1]], &[&all[2]]);
    let b = daemon(&all[1], &[&all[0]], &[]);
    let c = daemon(&all[2], &[&all[3]], &[&all[0]]);
    let d = daemon(&all[3], &[&all[2]], &[]);
    for hub in [&a, &b, &c, &d] {
        wait_linked(hub, 1);
    }
    a.wait_for("the ring", |status| {
        holds_a_ring(status) || holds_a_ring(&c.status())
    });
    // The first mesh hears nothing of the second, or the other way round.
    let (a, b, c, d) = match holds_a_ring(&a.status()) {
        true => (a, b, c, d),
        false => (c, d, a, b),
    };
    a.wait_for("one subscription to all", |status| {
        status.subscribers.subscriptions == 1
    });
    let heard = [&a, &b, &c, &d].map(|daemon| daemon.subscriber(&["Order"]));
    [&a, &b, &c, &d].into_iter().for_each(wait_asked);
    let [at_a, at_b, at_c, at_d] = &heard;
    // Into the other mesh goes what comes to the one that is dialled, and no further than one hub.
    assert_heard(
        &a,
        &[(at_a, true), (at_b, true), (at_c, true), (at_d, false)],
    );
    assert_heard(
        &b,
        &[(at_a, true), (at_b, true), (at_c, true), (at_d, false)],
    );
    assert_heard(
        &c,
        &[(at_a, false), (at_b, false), (at_c, true), (at_d, true)],
    );
    assert_heard(
        &d,
        &[(at_a, false), (at_b, false), (at_c, true), (at_d, true)],
    );
    assert_are_idle(&[&a, &b, &c, &d]);
}
