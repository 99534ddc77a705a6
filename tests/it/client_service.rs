//! What the client library's services ask of the daemon.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use event_manager_client::{Error, Hub, OrderBy, Retry, WhenFull};
use serde_json::json;

use super::client_hub::{counters, daemon, hub, next, run, started};
use super::support::PATIENCE;
use super::support::peers::socket;

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn a_service_works_as_its_subscription_says() {
    let daemon = daemon().durable().start().expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        let retry = Retry::default().max(12).delays(MOMENT, MOMENT);
        let service = hub.service("Billing").subjects(["Order"]).retry(retry);
        let service = service.order_by(OrderBy::Subject).ack_timeout(PATIENCE);
        let service = service.when_full(WhenFull::DropNewest);
        let service = service.dead_letter_subject("failed.orders");
        let mut service = service.start().await.expect("a service");
        for n in 0..2 {
            hub.publish("Order", &n).await.expect("room");
        }
        // More often than the daemon's eight; meanwhile what comes behind it waits.
        for attempt in 1..=12 {
            let first = next(&mut service).await;
            assert_eq!(
                (first.json::<u8>().expect("a number"), first.attempt()),
                (0, attempt)
            );
            first.fail("as always");
        }
        let second = next(&mut service).await;
        assert_eq!(second.json::<u8>().expect("a number"), 1);
        second.ack();
        service.drain(PATIENCE).await;
        daemon.wait_idle().expect("idle");
        let counters = counters(&daemon);
        assert_eq!((counters.delivered, counters.dead_lettered), (1, 1));
        let status = hub.status().await.expect("a status");
        let subject = &status
            .service("Billing")
            .expect("it is there")
            .dead_letter_subject;
        assert_eq!(subject, "failed.orders");

        let starting = hub.service("Live").subjects(["Order"]).live();
        let refused = starting.when_full(WhenFull::Spill).start().await;
        let refused = refused.err().expect("a live service can't spill");
        assert!(
            matches!(&refused, Error::Nak { code, .. } if code == "invalid-field"),
            "{refused}"
        );
    });
}

/// It answers each request alike, as long as the test runs.
fn old_daemon(answer: serde_json::Value) -> String {
    let context = zmq::Context::new();
    let router = socket(&context, zmq::ROUTER);
    router.set_rcvtimeo(-1).expect("an option");
    router.bind("tcp://127.0.0.1:*").expect("a free port");
    let address = router.get_last_endpoint().expect("it is bound");
    std::thread::spawn(move || {
        while let Ok(mut message) = router.recv_multipart(0) {
            message.truncate(3);
            message.push(answer.to_string().into());
            router.send_multipart(message, 0).expect("a send");
        }
    });
    address.expect("a text")
}

#[test]
fn a_daemon_that_is_too_old_for_an_option_is_named_as_such() {
    let old = old_daemon(json!({
        "token": "TK_SYS_NAK", "dataType": "STRING",
        "data": "unknown-field: SUBSCRIBE has no field \"orderBy\"",
    }));
    run(async {
        let hub = Hub::connect(&old).await.expect("a hub");
        let service = hub.service("Billing").subjects(["Order"]);
        let error = service.order_by(OrderBy::Subject).start().await;
        let error = error.err().expect("it doesn't know that");
        assert!(matches!(error, Error::TooOld { .. }), "{error}");
        let said = error.to_string();
        for part in [
            "Billing",
            "orderBy",
            "nothing was done",
            "update the daemon",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!error.may_be_taken());
    });
    let older = old_daemon(json!({
        "token": "TK_SYS_NAK", "dataType": "STRING",
        "data": "malformed-message: a message has 2 to 4 frames",
    }));
    run(async {
        let hub = Hub::connect(&older).await.expect("a hub");
        let error = hub.emit("Order", &1).id("o-1").await.expect_err("too old");
        assert!(matches!(error, Error::TooOld { .. }), "{error}");
        assert!(error.to_string().contains("o-1"), "{error}");
    });
}

#[test]
fn a_service_that_is_left_alone_keeps_what_it_was_told() {
    let daemon = started();
    run(async {
        let hub = hub(&daemon).await;
        let retry = Retry::never();
        let asks = hub.service("Billing").subjects(["Order"]).retry(retry);
        let mut asks = asks.start().await.expect("a service");
        // One that asks for nothing.
        let plain = hub.service("Billing").subjects(["Order"]);
        let mut plain = plain.start().await.expect("a service");
        asks.drain(PATIENCE).await;
        hub.publish("Order", &1).await.expect("room");
        let first = next(&mut plain).await;
        // Once is as often as it is tried.
        first.nak(None, "not now");
        plain.drain(PATIENCE).await;
        daemon.wait_idle().expect("idle");
        let counters = counters(&daemon);
        assert_eq!((counters.delivered, counters.dead_lettered), (0, 1));
    });
}

#[test]
fn a_hundred_handlers_end_in_time_or_their_events_come_to_others_and_none_is_done_twice() {
    const HANDLERS: usize = 100;
    let daemon = daemon().durable().start().expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        let starting = hub.service("Billing").subjects(["exact:Order"]).durable();
        let mut first = starting.credit(128).start().await.expect("a service");
        for n in 0..HANDLERS + 20 {
            hub.publish("Order", &n).await.expect("room");
        }
        hub.flush().await.expect("taken");
        let (begun, done) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(vec![])));
        let handling = first.for_each_concurrent(HANDLERS, |event| {
            let (begun, done) = (Arc::clone(&begun), Arc::clone(&done));
            async move {
                *begun.lock().unwrap() += 1;
                let number: usize = event.json()?;
                let is_quick = number.is_multiple_of(2);
                tokio::time::sleep(if is_quick { MOMENT * 200 } else { PATIENCE * 9 }).await;
                done.lock().unwrap().push(number);
                Ok(())
            }
        });
        let all_run = async {
            while *begun.lock().unwrap() < HANDLERS {
                tokio::time::sleep(MOMENT).await;
            }
        };
        tokio::select! {
            _ = handling => panic!("it goes on"),
            () = all_run => {}
        }
        // Half of them are in the middle of it: those are cut off by that, and so is the rest.
        let begins = Instant::now();
        let drained = first.drain(Duration::from_secs(1)).await;
        assert!(begins.elapsed() < Duration::from_secs(2), "{drained:?}");
        assert_eq!(drained.unanswered, 0);
        let second = hub.service("Billing").subjects(["exact:Order"]);
        let mut second = second.credit(128).start().await.expect("a service");
        let mut left: BTreeSet<usize> = (0..HANDLERS + 20).collect();
        for number in done.lock().unwrap().drain(..) {
            assert!(left.remove(&number));
        }
        while !left.is_empty() {
            let delivery = next(&mut second).await;
            let number: usize = delivery.json().expect("a number");
            assert!(left.remove(&number), "{number} was done");
            delivery.ack();
        }
        second.drain(PATIENCE).await;
        daemon.wait_idle().expect("idle");
        assert_eq!(counters(&daemon).delivered as usize, HANDLERS + 20);
    });
}

#[test]
fn handlers_that_run_when_it_is_stopped_finish_before_it_ends() {
    const HANDLERS: usize = 100;
    let daemon = started();
    run(async {
        let hub = hub(&daemon).await;
        let starting = hub.service("Billing").subjects(["exact:Order"]);
        let mut service = starting.credit(128).start().await.expect("a service");
        for n in 0..HANDLERS {
            hub.publish("Order", &n).await.expect("room");
        }
        let (stopper, begun) = (service.stopper(), Arc::new(Mutex::new(0)));
        let handled = service.for_each_concurrent(HANDLERS, |_| {
            let (begun, stopper) = (Arc::clone(&begun), stopper.clone());
            async move {
                let is_last = {
                    let mut begun = begun.lock().unwrap();
                    *begun += 1;
                    *begun == HANDLERS
                };
                if is_last {
                    stopper.stop();
                }
                tokio::time::sleep(MOMENT * 100).await;
                Ok(())
            }
        });
        handled.await.expect("no error");
        let drained = service.drain(PATIENCE).await;
        assert_eq!((drained.returned, drained.unanswered), (0, 0));
        let counters = counters(&daemon);
        assert_eq!(
            (counters.delivered as usize, counters.redelivered),
            (HANDLERS, 0)
        );
    });
}
