//! A worker's first READY that can't be read.

use super::support::TestDaemon;
use super::support::peers::{connected, publish, received};

#[test]
fn a_first_ready_that_can_not_be_read_is_answered_if_it_speaks_of_acknowledging() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    for (options, wanted) in [
        (
            r#"{"ack": "yes"}"#,
            "ack must be true or false, not \"yes\"",
        ),
        (
            r#"{"ack": true, "credit": "many"}"#,
            "credit is 1 to 100000",
        ),
        (
            r#"{"ack": true, "ids": 1}"#,
            "ids must be true or false, not 1",
        ),
        (r#"{"ack": true"#, "READY's options are not valid JSON"),
        (r#"["ack"]"#, "READY's options must be a JSON object"),
    ] {
        for before in [&[][..], &[""]] {
            let worker = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
            let ready = format!("READY {options}");
            let frames = [before, &[&*ready]].concat();
            worker.send_multipart(&frames, 0).expect("a send");
            let answer = worker.recv_multipart(0).expect("an answer");
            assert_eq!(answer.len(), frames.len(), "{options}");
            let said = String::from_utf8_lossy(answer.last().expect("a frame"));
            assert!(
                said.starts_with(&format!("ERROR {wanted}")),
                "{options}: {said}"
            );
            // It goes on as if it had said nothing.
            let ready = r#"READY {"ack": true}"#;
            let frames = [before, &[ready]].concat();
            worker.send_multipart(&frames, 0).expect("a send");
            daemon.wait_for_ready("Billing", 1);
            drop(worker);
            daemon.wait_for_ready("Billing", 0);
        }
    }
    // One that doesn't speak of it would take an answer for an event.
    let before = daemon.status().refused("unknown-worker-message");
    let plain = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    plain.send("READY now", 0).expect("a send");
    daemon.wait_for("the word", |status| {
        status.refused("unknown-worker-message") == before + 1
    });
    plain.send("READY", 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order", "x");
    assert_eq!(received(&plain), "x");
}
