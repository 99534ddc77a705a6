//! Event managers of a mesh hear each other's instances, and tell by that who is cut off.

use event_manager_wire::api::InstanceState;

use super::super::mesh::mesh_with;
use super::super::support::peers::{connected, received};
use super::{find, heartbeat, observing, send, state_of, wait_for};

#[test]
fn one_that_only_another_hub_hears_is_cut_off() {
    let hubs = mesh_with(2, |_, config| {
        observing(config);
        config.instances.timeout = std::time::Duration::from_millis(600);
    });
    // Each asks the other for heartbeats.
    for hub in &hubs {
        hub.wait_for("what is wanted", |status| {
            status.mesh.hubs.iter().all(|hub| hub.prefixes >= 1)
        });
    }
    let [here, there] = [0, 1].map(|hub: usize| hubs[hub].publisher());
    send(&there, &heartbeat("beyond", 2));
    let page = wait_for(&hubs[0], "the other's", |all| all.leaders == ["beyond"]);
    let beyond = find(&page, "beyond");
    assert!(beyond.link.is_none() && beyond.state == InstanceState::Alive);
    // It is connected to both, and then only to the other.
    send(&here, &heartbeat("both", 1));
    send(&there, &heartbeat("both", 1));
    wait_for(&hubs[0], "it leads", |all| all.leaders == ["both"]);
    drop(here);
    let page = loop {
        send(&there, &heartbeat("both", 1));
        let page = super::page(&hubs[0]);
        match state_of(&page.instances, "both") {
            Some(InstanceState::CutOff) => break page,
            Some(InstanceState::Alive) => {}
            other => panic!("{other:?}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(page.instances.leaders, ["both"], "it is alive");
    let events = hubs[0].client(super::PATIENCE).events(None, 512);
    let events = events.expect("an answer").events;
    let apart = events.iter().find(|event| event.code == "EM-0707");
    assert_eq!(apart.expect("it is noted").fields["state"], "cut-off");
}

/// Who publishes here and subscribes nowhere here hears no others. It is told once somebody subscribes.
#[test]
fn one_without_a_subscription_from_its_host_is_deaf() {
    let daemon = super::TestDaemon::with(|config| {
        observing(config);
        config.instances.timeout = std::time::Duration::from_millis(600);
    });
    let publisher = daemon.publisher();
    let beat = |wanted: InstanceState| loop {
        send(&publisher, &heartbeat("a", 7));
        let page = super::page(&daemon);
        if state_of(&page.instances, "a") == Some(wanted) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    beat(InstanceState::Alive);
    beat(InstanceState::Deaf);
    let subscriber = connected(&daemon.context, zmq::SUB, &daemon.subscribers());
    subscriber.set_subscribe(b"").expect("an option");
    beat(InstanceState::Alive);
    assert_eq!(received_one(&subscriber), heartbeat("a", 7));
}

fn received_one(subscriber: &zmq::Socket) -> String {
    let _ = received;
    let bytes = subscriber.recv_bytes(0).expect("an event");
    String::from_utf8(bytes).expect("a text")
}
