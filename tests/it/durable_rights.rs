//! What durable services get when their clients have lost rights.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::emit::emit;
use super::requests::ask_json;
use super::rights::{Changing, denied};
use super::support::TestDaemon;
use super::support::peers::{connected, received};

/// Peers without a key may have these subjects, and these services.
fn keys(directory: &TempDir, subscribe: &[&str], services: &[&str]) -> Value {
    json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue"}},
        "security": {"anonymous": {
            "publish": [""], "subscribe": subscribe, "services": services, "requests": ["*"],
        }},
    })
}

/// In how many services it is on disk.
fn stored(daemon: &TestDaemon, subject: &str) -> Value {
    let request = json!({"level": "disk", "subject": subject, "payload": subject});
    emit(daemon, request).expect("an ACK")["services"].take()
}

#[test]
fn nothing_more_is_queued_of_what_a_client_may_not_have_any_more() {
    let directory = TempDir::new().expect("a directory");
    let keys = |subscribe: &[&str], services: &[&str]| keys(&directory, subscribe, services);
    let changing = Changing::new(&keys(&[""], &["*"]));
    let daemon = &changing.daemon;
    daemon.subscribe("1", "Billing", &["order.", "invoice."]);
    for subject in ["order.1", "invoice.1"] {
        assert_eq!(stored(daemon, subject), 1);
    }

    changing.change(&keys(&["order."], &["*"]));
    let status = daemon.status();
    assert_eq!(denied(&status, "anonymous", "subscribe"), 1);
    let billing = status.service("Billing").expect("it is durable");
    assert!(billing.subscriptions.is_empty(), "{billing:?}");
    assert_eq!(billing.subjects, ["order."]);
    assert_eq!(billing.counters.queued, 2, "what is queued stays");
    let refusal = daemon.refusal("TK_EVENT_MANAGER_KEEP_ALIVE", &["1"]);
    assert_eq!(refusal, "unknown-subscription");
    assert_eq!(
        (stored(daemon, "invoice.2"), stored(daemon, "order.2")),
        (json!(0), json!(1))
    );

    // It is not wanted again only because it is allowed again.
    changing.change(&keys(&[""], &["*"]));
    assert_eq!(stored(daemon, "invoice.3"), 0);
    // Without a subscription too.
    changing.change(&keys(&["invoice."], &["*"]));
    let status = daemon.status();
    assert_eq!(denied(&status, "anonymous", "subscribe"), 2);
    assert!(
        status
            .service("Billing")
            .expect("it is durable")
            .subjects
            .is_empty()
    );
    assert_eq!(stored(daemon, "order.3"), 0);

    changing.change(&keys(&[""], &["*"]));
    let billing = daemon.subscribe("1", "Billing", &["order."]);
    changing.change(&keys(&[""], &["Shipping"]));
    let status = daemon.status();
    assert_eq!(denied(&status, "anonymous", "service"), 1);
    assert!(
        status
            .service("Billing")
            .expect("it is durable")
            .subjects
            .is_empty()
    );
    assert_eq!(stored(daemon, "order.4"), 0);
    changing.change(&keys(&[""], &["*"]));
    let worker = daemon.worker("Billing", &billing.pull_address);
    for expected in ["order.1", "invoice.1", "order.2"] {
        assert_eq!(received(&worker), expected);
    }
}

#[test]
fn rights_that_were_lost_while_it_was_down_count_from_the_start() {
    for is_subscribed in [true, false] {
        let directory = TempDir::new().expect("a directory");
        let start = |subscribe| TestDaemon::in_own_process(&keys(&directory, subscribe, &["*"]));
        let first = start(&[""]);
        first.subscribe("1", "Billing", &["order.", "invoice."]);
        if !is_subscribed {
            first.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["1"]);
        }
        assert_eq!(stored(&first, "invoice.1"), 1);
        first.wait_for("what is kept", |status| status.state.written);
        first.kill();
        let second = start(&["order."]);
        assert_eq!(stored(&second, "invoice.2"), 0, "{is_subscribed}");
        assert_eq!(stored(&second, "order.1"), 1);
        let status = second.status();
        assert_eq!(denied(&status, "anonymous", "subscribe"), 1);
        let billing = status.service("Billing").expect("it is durable");
        assert!(billing.subscriptions.is_empty(), "{billing:?}");
        second.wait_for("what is kept", |status| status.state.written);
        assert!(second.stop());
        let third = start(&[""]);
        assert_eq!(stored(&third, "invoice.3"), 0);
        assert_eq!(stored(&third, "order.2"), 1);
        third.wait_for_counter("Billing", |counters| counters.queued, 3);
    }
}

#[test]
fn dead_letters_lose_a_subject_that_their_client_may_not_publish_any_more() {
    for is_down in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let keys = |publish: &[&str]| {
            json!({
                "stateDir": directory.path(),
                "services": {"Billing": {"delivery": "queue"}},
                "security": {"anonymous": {
                    "publish": publish, "subscribe": [""], "services": ["*"], "requests": ["*"],
                }},
            })
        };
        let mut changing = Changing::new(&keys(&[""]));
        let request = json!({
            "token": "subscribe", "id": "1", "service": "Billing", "subjects": ["order."],
            "deadLetterSubject": "failed.order",
        });
        let answer = ask_json(&changing.daemon.requester(), &request);
        assert_eq!(answer["deadLetterSubject"], "failed.order", "{answer}");
        let subject = |daemon: &TestDaemon| daemon.service("Billing").dead_letter_subject;
        // What it may publish still has it stay.
        changing.change(&keys(&["failed.", "order."]));
        assert_eq!(subject(&changing.daemon), "failed.order");
        changing
            .daemon
            .wait_for("what is kept", |status| status.state.written);
        match is_down {
            false => changing.change(&keys(&["order."])),
            true => {
                assert!(changing.daemon.stop());
                changing = Changing::new(&keys(&["order."]));
            }
        }
        let daemon = &changing.daemon;
        assert_eq!(
            denied(&daemon.status(), "anonymous", "publish"),
            1,
            "{is_down}"
        );
        assert_eq!(subject(daemon), "Billing.DLQ");
        // The subscription goes on, and dead letters are told where everybody may look for them.
        let (token, said) = daemon.ask("TK_EVENT_MANAGER_KEEP_ALIVE", &["1"]);
        assert_eq!(token, "TK_SYS_ACK", "{is_down}: {said}");
        let watcher = daemon.subscriber(&["failed.", "Billing.DLQ"]);
        assert_eq!(stored(daemon, "order.1"), 1);
        let worker = connected(&daemon.context, zmq::DEALER, &daemon.address_of("Billing"));
        worker.send(r#"READY {"ack": true}"#, 0).expect("a send");
        let event = worker.recv_multipart(0).expect("an event");
        let head = String::from_utf8(event[0].clone()).expect("text");
        let id = head.split(' ').nth(1).expect("an id");
        worker.send(&format!("TERM {id}"), 0).expect("a send");
        let letter = watcher.recv_multipart(0).expect("a letter");
        assert_eq!(letter[0], b"Billing.DLQ");
        // It has to be said again.
        changing.change(&keys(&[""]));
        assert_eq!(subject(&changing.daemon), "Billing.DLQ");
    }
}
