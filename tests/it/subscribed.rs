//! Subscribed means subscribed: what is published after the answer is not lost.

use super::support::TestDaemon;
use super::support::bus::exchange;
use super::support::peers::{connected, is_silent, publish, received};

/// The pull address in the answer to SUBSCRIBE.
fn pull_address(answer: &[Vec<u8>]) -> String {
    assert_eq!(answer[0], b"1.1", "{answer:?}");
    let data = String::from_utf8(answer[2].clone()).expect("text");
    data.split('\0').nth(2).expect("three fields").to_owned()
}

#[test]
fn an_event_published_right_after_the_answer_waits_for_the_worker() {
    const SUBSCRIBED: usize = 2000;
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    let publisher = daemon.publisher();
    for n in 0..SUBSCRIBED {
        let data = format!("sub-{n}\0Service{n}\0Subject{n}.");
        let answer = exchange(&client, &[b"2.1", b"2", data.as_bytes()]);
        publish(&publisher, &format!("Subject{n}.Created"), &n.to_string());
        let worker = connected(&daemon.context, zmq::DEALER, &pull_address(&answer));
        worker.send("READY", 0).expect("a send");
        assert_eq!(received(&worker), n.to_string());
        let answer = exchange(&client, &[b"2.2", b"2", format!("sub-{n}").as_bytes()]);
        assert_eq!(answer[0], b"1.1");
    }
    let status = daemon.wait_for("the last service's end", |status| {
        status.services.is_empty()
    });
    let retired = &status.retired_services;
    assert_eq!(retired.matched, SUBSCRIBED as u64);
    assert_eq!(retired.delivered, SUBSCRIBED as u64);
    assert_eq!(status.publishers.unmatched, 0);
}

/// The same with many events under way all the time: none after the answer is missing.
#[test]
fn a_subscription_takes_effect_between_two_events_of_a_stream() {
    const BURST: usize = 500;
    let daemon = TestDaemon::start();
    let publisher = daemon.publisher();
    for round in 0..20 {
        let service = format!("Service{round}");
        for n in 0..BURST {
            publish(&publisher, "Tick", &n.to_string());
        }
        let subscribed = daemon.subscribe(&service, &service, &["Tick"]);
        for n in BURST..2 * BURST {
            publish(&publisher, "Tick", &n.to_string());
        }
        let worker = daemon.worker(&service, &subscribed.pull_address);
        let first: usize = received(&worker).parse().expect("a number");
        assert!(first <= BURST, "the first event is {first}");
        for n in first + 1..2 * BURST {
            assert_eq!(received(&worker), n.to_string());
        }
        daemon.unsubscribe(&service);
    }
}

/// What a subscription asks for before and after it is replaced is never without a route.
#[test]
fn replacing_subjects_loses_nothing() {
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    let publisher = daemon.publisher();
    let subscribed = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    for n in 0..500 {
        let subjects = ["Order", "Order\0Refund", "exact:Order", "glob:Ord*"][n % 4];
        publish(&publisher, "Order", &n.to_string());
        let data = format!("sub-1\0Billing\0{subjects}");
        let answer = exchange(&client, &[b"2.1", b"2", data.as_bytes()]);
        assert_eq!(pull_address(&answer), subscribed.pull_address);
    }
    for n in 0..500 {
        assert_eq!(received(&worker), n.to_string());
    }
}

#[test]
fn unsubscribed_means_unsubscribed() {
    let daemon = TestDaemon::start();
    let publisher = daemon.publisher();
    let subscribed = daemon.subscribe("sub-1", "Billing", &["Order", "Refund"]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    let (token, _) = daemon.ask(
        "TK_EVENT_MANAGER_UNSUBSCRIBE",
        &["sub-1", "Order", "Unknown"],
    );
    assert_eq!(token, "TK_SYS_ACK");
    publish(&publisher, "Order", "lost");
    publish(&publisher, "Refund", "kept");
    assert_eq!(received(&worker), "kept");
    let (token, _) = daemon.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["sub-1", "Refund"]);
    assert_eq!(token, "TK_SYS_ACK");
    assert_eq!(
        daemon.find_service("Billing"),
        None,
        "its last subject went"
    );
    publish(&publisher, "Refund", "lost");
    daemon.wait_for("two unmatched events", |status| {
        status.publishers.unmatched == 2
    });
    assert!(is_silent(&worker, 50));
}
