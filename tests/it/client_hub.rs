//! The client library's hub, with the daemon as its users run it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use event_manager_client::testing::{TestHub, TestHubBuilder};
use event_manager_client::{
    CallStatus, Delivery, Error, Failure, Hub, Level, Retry, Service, blocking,
};
use event_manager_wire::api::Counters;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::support::program::wait_until;
use super::support::{PATIENCE, tunnel};

/// With CURVE if `just curve-suite` runs the tests.
pub(super) fn daemon() -> TestHubBuilder {
    let builder = TestHub::builder().binary(env!("CARGO_BIN_EXE_event-manager"));
    match tunnel::is_on() {
        true => {
            tunnel::note_use();
            builder.curve()
        }
        false => builder,
    }
}

pub(super) fn started() -> TestHub {
    daemon().start().expect("a daemon")
}

/// Fails when it takes too long.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    run_within(PATIENCE * 2, test)
}

pub(super) fn run_within<T>(time: Duration, test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    let result = runtime.block_on(async { timeout(time, test).await });
    result.expect("in time")
}

pub(super) async fn hub(daemon: &TestHub) -> Hub {
    let connecting = Hub::builder().address(daemon.address()).timeout(PATIENCE);
    let connecting = connecting.keys(daemon.client_keys());
    connecting.connect().await.expect("a hub")
}

pub(super) fn blocking_hub(daemon: &TestHub) -> blocking::Hub {
    let connecting = Hub::builder().address(daemon.address());
    let connecting = connecting.keys(daemon.client_keys());
    blocking::Hub::build(connecting).expect("a hub")
}

/// Its next event.
pub(super) async fn next(service: &mut Service) -> Delivery {
    let next = service.next().await.expect("an event");
    next.expect("no error")
}

/// What became of the events of its only service.
pub(super) fn counters(daemon: &TestHub) -> Counters {
    let status = daemon.status().expect("a status");
    status.services[0].counters.clone()
}

async fn billing(hub: &Hub) -> Service {
    let starting = hub.service("Billing").subjects(["Order"]).start();
    starting.await.expect("a service")
}

#[test]
fn what_is_published_after_subscribing_comes_and_a_flush_says_that_it_was_taken() {
    let daemon = started();
    run(async {
        let hub = hub(&daemon).await;
        let mut events = hub.subscribe(["Order"]).await.expect("a subscription");
        for n in 0..1000 {
            hub.publish("Order", &n).await.expect("room");
        }
        hub.publish("Other", "not asked for").await.expect("room");
        let headers = json!({"id": "7"}).to_string();
        let last: [&[u8]; 3] = [b"Order.last", b"{}", headers.as_bytes()];
        hub.publish_frames(&last).await.expect("room");
        assert_eq!(hub.flush().await.expect("taken").events, 1002);
        assert_eq!(hub.flush().await.expect("taken").events, 0);
        for n in 0..1000 {
            let event = events.next().await.expect("an event");
            assert_eq!(event.json::<u32>().expect("a number"), n);
        }
        let last = events.next().await.expect("an event");
        assert_eq!((&*last.subject(), last.body()), ("Order.last", &b"{}"[..]));
        assert_eq!(last.headers()["id"], "7");
        hub.close().await.expect("all taken");
        let closed = hub.publish("Order", &1).await.expect_err("it is closed");
        assert!(matches!(
            closed,
            Error::Closed {
                may_be_taken: false
            }
        ));
    });
}

#[test]
fn an_emitted_event_is_confirmed_once_for_each_id() {
    let daemon = daemon().durable().start().expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        let starting = hub.service("Billing").subjects(["exact:Order"]).durable();
        let mut service = starting.start().await.expect("a service");
        let receipt = hub.emit("Order", "1").id("o-1").level(Level::Disk).await;
        let receipt = receipt.expect("a receipt");
        assert_eq!(
            (
                &*receipt.id,
                receipt.services,
                receipt.level,
                receipt.duplicate
            ),
            ("o-1", 1, Level::Disk, false)
        );
        let again = hub.emit("Order", "1").id("o-1").level(Level::Disk).await;
        assert!(again.expect("a receipt").duplicate);
        let soon = SystemTime::now() + Duration::from_millis(200);
        let later = hub
            .emit_bytes("Order", &b"\xff\0\n"[..])
            .deliver_at(soon)
            .ttl(PATIENCE)
            .header("a", "b");
        let later = later.await.expect("a receipt");
        assert!(later.id.len() > 20 && later.services == 1, "{later:?}");
        let first = next(&mut service).await;
        assert_eq!(first.json::<String>().expect("text"), "1");
        first.ack();
        let second = next(&mut service).await;
        assert!(SystemTime::now() >= soon);
        assert_eq!(
            (second.body(), &*second.headers()["a"]),
            (&b"\xff\0\n"[..], "b")
        );
        second.ack();
        let drained = service.drain(PATIENCE).await;
        assert_eq!((drained.returned, drained.unanswered), (0, 0));
        daemon.wait_idle().expect("idle");
        let counters = counters(&daemon);
        assert_eq!((counters.delivered, counters.redelivered), (2, 0));
    });
}

#[test]
fn each_answer_of_a_delivery_has_its_effect() {
    let daemon = daemon().durable().start().expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        let retry = Retry::default()
            .max(2)
            .delays(Duration::from_millis(1), Duration::from_millis(1));
        let starting = hub.service("Billing").subjects(["Order"]).retry(retry);
        let mut service = starting.start().await.expect("a service");
        for event in ["done", "later", "dropped", "never", "fails"] {
            hub.publish("Order", event).await.expect("room");
        }
        let mut tries = vec![];
        while tries.len() < 8 {
            let delivery = next(&mut service).await;
            let event: String = delivery.json().expect("text");
            tries.push((event.clone(), delivery.attempt()));
            match (&*event, delivery.attempt()) {
                ("later", 1) => delivery.nak(Some(Duration::from_millis(1)), "5 more"),
                ("dropped", 1) => drop(delivery),
                ("never", _) => delivery.term("it makes no sense"),
                ("fails", _) => delivery.fail("as always"),
                _ => delivery.ack(),
            }
        }
        tries.sort();
        let all = [
            ("done", 1),
            ("dropped", 1),
            ("dropped", 2),
            ("fails", 1),
            ("fails", 2),
            ("later", 1),
            ("later", 2),
            ("never", 1),
        ];
        assert_eq!(
            tries,
            all.map(|(event, attempt)| (event.to_owned(), attempt))
        );
        service.drain(PATIENCE).await;
        daemon.wait_idle().expect("idle");
        let counters = counters(&daemon);
        assert_eq!((counters.delivered, counters.dead_lettered), (3, 2));
    });
}

#[test]
fn a_handler_that_takes_longer_than_the_ack_timeout_gets_its_event_once() {
    let daemon = daemon()
        .config("services", json!({"Billing": {"ackTimeout": 0.3}}))
        .start()
        .expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        let starting = hub
            .service("Billing")
            .subjects(["Order"])
            .ack_timeout(Duration::from_millis(300));
        let mut service = starting.start().await.expect("a service");
        hub.publish("Order", &1).await.expect("room");
        let tries = Arc::new(AtomicUsize::new(0));
        let (counted, stopper) = (Arc::clone(&tries), service.stopper());
        let handled = service.for_each_concurrent(4, move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            let stopper = stopper.clone();
            async move {
                sleep(Duration::from_millis(1500)).await;
                stopper.stop();
                Ok(())
            }
        });
        handled.await.expect("no error");
        assert_eq!(service.drain(PATIENCE).await.unanswered, 0);
        assert_eq!(tries.load(Ordering::Relaxed), 1);
        let counters = counters(&daemon);
        assert_eq!((counters.delivered, counters.redelivered), (1, 0));
    });
}

#[test]
fn handlers_that_fail_panic_or_reject_hold_up_nobody() {
    let daemon = daemon().durable().start().expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        let starting = hub
            .service("Billing")
            .subjects(["exact:Order"])
            .retry(Retry::never());
        let mut service = starting.start().await.expect("a service");
        for n in 0..20 {
            hub.publish("Order", &n).await.expect("room");
        }
        hub.publish_frames(&[b"Order", b"{"]).await.expect("room");
        let (done, stopper) = (Arc::new(AtomicUsize::new(0)), service.stopper());
        let is_over = {
            let done = Arc::clone(&done);
            async move {
                while done.load(Ordering::Relaxed) < 17 {
                    sleep(Duration::from_millis(5)).await;
                }
                daemon.wait_idle().expect("idle");
                stopper.stop();
                daemon
            }
        };
        let handled = service.for_each_concurrent(4, |event| {
            let done = Arc::clone(&done);
            async move {
                match event.json::<u32>()? {
                    3 => Err(Failure::Reject("no threes".into())),
                    4 => Err(std::io::Error::other("away").into()),
                    5 => panic!("a five (this panic belongs to the test)"),
                    _ => {
                        done.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }
                }
            }
        });
        let (handled, daemon) = tokio::join!(handled, is_over);
        handled.expect("no error");
        let counters = counters(&daemon);
        assert_eq!((counters.delivered, counters.dead_lettered), (17, 4));
    });
}

#[test]
fn a_drain_waits_for_handlers_and_gives_back_what_none_has_begun() {
    let daemon = started();
    run(async {
        let hub = hub(&daemon).await;
        let mut first = billing(&hub).await;
        for n in 0..10 {
            hub.publish("Order", &n).await.expect("room");
        }
        let mine = next(&mut first).await;
        let has_all = wait_until(|| {
            (daemon.status().ok()?.services[0].counters.in_flight == 10).then_some(())
        });
        has_all.expect("ten under way");
        let mut second = billing(&hub).await;
        let answering = async move {
            sleep(Duration::from_millis(300)).await;
            mine.ack();
        };
        let begun = Instant::now();
        let (drained, ()) = tokio::join!(first.drain(PATIENCE), answering);
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert_eq!(drained.unanswered, 0);
        assert!(first.next().await.is_none());
        for _ in 0..9 {
            next(&mut second).await.ack();
        }
        second.drain(PATIENCE).await;
        let counters = counters(&daemon);
        assert_eq!((counters.delivered, counters.in_flight), (10, 0));
        // What is never answered does not hold it up.
        let mut third = billing(&hub).await;
        hub.publish("Order", &10).await.expect("room");
        let kept = third.next().await.expect("an event");
        let drained = third.drain(Duration::from_millis(50)).await;
        assert_eq!(drained.unanswered, 1);
        drop(kept);
        let ended = third.unsubscribe(PATIENCE).await;
        ended.expect("an end");
    });
}

#[test]
fn a_call_without_a_service_says_so_and_one_to_a_service_that_is_away_too() {
    let daemon = started();
    run(async {
        let hub = hub(&daemon).await;
        let nobody = hub
            .call("Price", &1)
            .first::<u32>()
            .await
            .expect_err("nobody");
        assert!(matches!(nobody, Error::NoResponders { .. }), "{nobody}");
        assert!(!nobody.may_be_taken());
        let _service = hub
            .service("Prices")
            .subjects(["Price"])
            .start()
            .await
            .expect("a service");
        let nobody = hub
            .call("Price", &1)
            .first::<u32>()
            .await
            .expect_err("nobody");
        assert!(matches!(nobody, Error::NoResponders { .. }), "{nobody}");
        let all = hub
            .call("Price", &1)
            .timeout(Duration::from_secs(1))
            .all()
            .await
            .expect("answers");
        assert_eq!(
            (&*all[0].service, all[0].status),
            ("Prices", CallStatus::Unreachable)
        );
    });
}

#[test]
fn bad_input_is_a_typed_error_that_says_what_to_do() {
    let daemon = started();
    run(async {
        let no_address = Hub::connect("localhost:5101")
            .await
            .err()
            .expect("no address");
        assert!(
            matches!(no_address, Error::InvalidArgument(_)),
            "{no_address}"
        );
        let nowhere = Hub::builder()
            .address("tcp://127.0.0.1:1")
            .connect_timeout(Duration::from_millis(100));
        let nowhere = nowhere.connect().await.err().expect("nobody listens");
        assert!(
            matches!(
                nowhere,
                Error::NoAnswer {
                    may_be_taken: false,
                    ..
                }
            ),
            "{nowhere}"
        );
        assert!(nowhere.to_string().contains("refused"), "{nowhere}");
        // At once, though there is no deadline.
        let no_daemon = Hub::builder()
            .address(daemon.publishers())
            .keys(daemon.client_keys())
            .connect()
            .await
            .err()
            .expect("no request socket");
        assert!(
            matches!(
                no_daemon,
                Error::NoAnswer {
                    may_be_taken: false,
                    ..
                }
            ),
            "{no_daemon}"
        );
        let hub = hub(&daemon).await;
        let refused = hub
            .emit("Order", &1)
            .id("x".repeat(300))
            .await
            .expect_err("too long");
        assert!(
            matches!(&refused, Error::Nak { code, .. } if code == "invalid-field"),
            "{refused}"
        );
        let refused = hub
            .service("Billing")
            .subjects(["Order"])
            .durable()
            .start()
            .await
            .err()
            .expect("no store");
        assert!(
            matches!(&refused, Error::Nak { code, .. } if code == "no-store"),
            "{refused}"
        );
        assert!(refused.to_string().contains("stateDir"), "{refused}");
        let no_subjects = hub
            .service("Billing")
            .start()
            .await
            .err()
            .expect("no subjects");
        assert!(matches!(no_subjects, Error::InvalidArgument(_)));
        let no_prefix = hub
            .subscribe(["glob:order.*"])
            .await
            .err()
            .expect("no prefix");
        assert!(matches!(no_prefix, Error::InvalidArgument(_)));
        let no_text = hub.emit("Order\0", &1).await.expect_err("a NUL");
        assert!(matches!(no_text, Error::InvalidArgument(_)));
        let no_text = hub.publish("Order\0", &1).await.expect_err("a NUL");
        assert!(matches!(no_text, Error::InvalidArgument(_)));
        let named = hub.emit("Order", &1).id("").await.expect("a receipt");
        assert!(!named.id.is_empty());
        let mut events = hub.subscribe([""]).await.expect("a subscription");
        hub.publish_frames(&[b"Order", b"{"]).await.expect("room");
        let unreadable = events
            .next()
            .await
            .expect("an event")
            .json::<u32>()
            .expect_err("no JSON");
        assert!(matches!(unreadable, Error::Decode { .. }), "{unreadable}");
    });
    let no_runtime = Hub::builder().connect_lazy().err().expect("no runtime");
    assert!(matches!(no_runtime, Error::InvalidArgument(_)));
}

#[test]
fn a_locator_says_where_the_daemon_is() {
    let daemon = daemon()
        .config("locatorRegister", true)
        .start()
        .expect("a daemon");
    run(async {
        let connecting = Hub::builder()
            .locator(daemon.locator())
            .keys(daemon.client_keys())
            .connect_timeout(PATIENCE);
        let hub = connecting.connect().await.expect("a hub");
        hub.status().await.expect("a status");
    });
}

#[test]
fn a_thread_without_a_runtime_has_the_same_hub() {
    let daemon = started();
    let hub = blocking_hub(&daemon);
    let mut events = hub.subscribe(["Order"]).expect("a subscription");
    let mut service = hub
        .service("Billing")
        .subjects(["Order"])
        .start()
        .expect("a service");
    let publishers: Vec<_> = (0..4)
        .map(|_| {
            let hub = hub.clone();
            std::thread::spawn(move || {
                (0..100).for_each(|n| hub.publish("Order", &n).expect("room"))
            })
        })
        .collect();
    publishers
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(hub.flush().expect("taken").events, 400);
    assert_eq!(
        hub.emit("Order", &0)
            .id("o")
            .send()
            .expect("a receipt")
            .services,
        1
    );
    for _ in 0..401 {
        events
            .next_within(PATIENCE)
            .expect("no error")
            .expect("an event");
        service.next().expect("an event").expect("no error").ack();
    }
    let nobody = hub.call("Price", &1).first::<u32>().expect_err("nobody");
    assert!(matches!(nobody, Error::NoResponders { .. }), "{nobody}");
    assert_eq!(service.unsubscribe(PATIENCE).expect("an end").unanswered, 0);
    assert_eq!(daemon.status().expect("a status").services, []);
    let within = run(async { hub.status().expect_err("it must not block there") });
    assert!(matches!(within, Error::InvalidArgument(_)), "{within}");
    hub.close().expect("all taken");
}
