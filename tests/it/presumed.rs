//! Workers of services that are gone dial their old ports for ever. After a restart nobody takes them for
//! workers of the service that has such a port now.

use serde_json::json;

use super::notable::wait_for;
use super::ports::{held_ports, range_of};
use super::restart::{Home, KILL};
use super::support::TestDaemon;
use super::support::peers::{connect, connected, is_silent, publish, received, socket};

/// A home with one port for services, so that each has it after the other.
fn home_with_one_port() -> Home {
    let mut home = Home::new();
    let range = range_of(&held_ports(&home.host, 1));
    home.keys = json!({"minStreamerPort": range.start(), "maxStreamerPort": range.end()});
    home
}

/// Leaves a worker behind: its service is gone, and Billing has its port. Whose address it is.
fn leave_stale(daemon: &TestDaemon) -> (zmq::Socket, String) {
    let gone = daemon.subscribe("gone", "Gone", &["Order"]);
    let stale = daemon.worker("Gone", &gone.pull_address);
    daemon.unsubscribe("gone");
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert_eq!(billing.pull_address, gone.pull_address);
    wait_for_connected(daemon, 1);
    (stale, billing.pull_address)
}

fn wait_for_connected(daemon: &TestDaemon, count: u64) {
    daemon.wait_for_service("Billing", "connections", |found| {
        found.workers.connected == count
    });
}

fn publish_numbers(daemon: &TestDaemon) {
    let publisher = daemon.publisher();
    (0..20).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    daemon.wait_for_counter("Billing", |c| c.matched, 20);
}

fn assert_gets_all(worker: &zmq::Socket) {
    for n in 0..20 {
        assert_eq!(received(worker), n.to_string());
    }
}

#[test]
fn a_worker_is_known_by_its_identity() {
    let mut home = home_with_one_port();
    let daemon = home.start();
    let (stale, address) = leave_stale(&daemon);
    let worker = socket(&daemon.context, zmq::DEALER);
    worker.set_identity(b"billing-1").expect("an option");
    connect(&worker, &address);
    worker.send("READY", 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    let mut daemon = daemon;
    for _ in 0..2 {
        daemon = home.restart(daemon, KILL);
        wait_for_connected(&daemon, 2);
        daemon.wait_for_ready("Billing", 1);
        publish_numbers(&daemon);
        assert_gets_all(&worker);
        assert!(is_silent(&stale, 300));
    }
}

#[test]
fn a_worker_is_known_by_its_host_if_no_stranger_is_there() {
    let mut home = home_with_one_port();
    let daemon = home.start();
    let (stale, address) = leave_stale(&daemon);
    let worker = socket(&daemon.context, zmq::DEALER);
    let elsewhere = address.replace("tcp://", "tcp://127.0.0.9:0;");
    connect(&worker, &elsewhere);
    worker.send("READY", 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    let daemon = home.restart(daemon, KILL);
    wait_for_connected(&daemon, 2);
    daemon.wait_for_ready("Billing", 1);
    publish_numbers(&daemon);
    assert_gets_all(&worker);
    assert!(is_silent(&stale, 300));
}

#[test]
fn in_doubt_nothing_is_presumed_and_the_log_says_so() {
    let mut home = home_with_one_port();
    let daemon = home.start();
    let (stale, address) = leave_stale(&daemon);
    let worker = daemon.worker("Billing", &address);
    let mut daemon = daemon;
    for _ in 0..2 {
        daemon = home.restart(daemon, KILL);
        let said = wait_for(&daemon, "EM-0206");
        assert_eq!(said.fields["service"], "Billing");
        wait_for_connected(&daemon, 2);
        publish_numbers(&daemon);
        assert!(is_silent(&stale, 500) && is_silent(&worker, 0));
        assert_eq!(daemon.service("Billing").workers.ready, 0);
        worker.send("READY", 0).expect("a send");
        assert_gets_all(&worker);
        daemon.wait_for_counter("Billing", |c| c.delivered, 20);
        assert!(is_silent(&stale, 0));
    }
}

#[test]
fn more_silent_workers_than_there_were_are_in_doubt_all_of_them() {
    let mut home = home_with_one_port();
    let daemon = home.start();
    let (stale, address) = leave_stale(&daemon);
    // It is not there when the daemon ends, and comes back later.
    drop(stale);
    wait_for_connected(&daemon, 0);
    let worker = daemon.worker("Billing", &address);
    let daemon = home.restart(daemon, KILL);
    daemon.wait_for_ready("Billing", 1);
    let returned = connected(&daemon.context, zmq::DEALER, &address);
    daemon.wait_for_ready("Billing", 0);
    assert_eq!(wait_for(&daemon, "EM-0206").fields["service"], "Billing");
    publish_numbers(&daemon);
    assert!(is_silent(&returned, 300) && is_silent(&worker, 0));
    worker.send("READY", 0).expect("a send");
    assert_gets_all(&worker);
}

#[test]
fn a_service_that_follows_another_on_its_port_has_its_workers_again() {
    let mut home = home_with_one_port();
    let daemon = home.start();
    let (stale, address) = leave_stale(&daemon);
    drop(stale);
    wait_for_connected(&daemon, 0);
    let workers = [(); 3].map(|()| daemon.worker("Billing", &address));
    let mut daemon = daemon;
    for _ in 0..3 {
        daemon = home.restart(daemon, KILL);
        daemon.wait_for_ready("Billing", 3);
        publish_numbers(&daemon);
        let got = workers.iter().map(|worker| {
            let mut count = 0;
            while !is_silent(worker, 300) {
                received(worker);
                count += 1;
            }
            count
        });
        assert_eq!(got.sum::<u32>(), 20);
    }
}

#[test]
fn a_port_that_was_used_before_a_restart_goes_last_after_it() {
    let mut home = Home::new();
    let range = range_of(&held_ports(&home.host, 4));
    home.keys = json!({"minStreamerPort": range.start(), "maxStreamerPort": range.end()});
    let daemon = home.start();
    let gone = daemon.subscribe("gone", "Gone", &["Order"]);
    daemon.unsubscribe("gone");
    let mut daemon = home.restart(daemon, KILL);
    for n in 0..3 {
        let name = format!("New-{n}");
        let new = daemon.subscribe(&name, &name, &["Order"]);
        assert_ne!(new.pull_address, gone.pull_address, "{name}");
        daemon.unsubscribe(&name);
        daemon = home.restart(daemon, KILL);
    }
    let again = daemon.subscribe("gone", "Gone", &["Order"]);
    assert_eq!(again.pull_address, gone.pull_address, "its own again");
    assert_eq!(daemon.service("Gone").no_port, None);
}

#[test]
fn a_worker_that_had_said_bye_is_not_ready_after_a_restart() {
    let mut home = Home::new();
    let daemon = home.start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let workers = ["stays", "leaves"].map(|name| {
        let worker = socket(&daemon.context, zmq::DEALER);
        worker.set_identity(name.as_bytes()).expect("an option");
        connect(&worker, &billing.pull_address);
        worker.send(r#"READY {"ack": true}"#, 0).expect("a send");
        worker
    });
    daemon.wait_for_ready("Billing", 2);
    workers[1].send("BYE", 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    let daemon = home.restart(daemon, KILL);
    wait_for_connected(&daemon, 2);
    assert_eq!(wait_for(&daemon, "EM-0206").fields["service"], "Billing");
    daemon.wait_for_ready("Billing", 1);
    let publisher = daemon.publisher();
    (0..4).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    for n in 0..4 {
        assert_eq!(received(&workers[0]), n.to_string());
    }
    assert!(is_silent(&workers[1], 100));
}
