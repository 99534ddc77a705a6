//! Services of the client library that answer calls, with the daemon and its ServiceLocator.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use event_manager_client::{Answers, CallStatus, Error, Failure, Hub, Retry};
use tokio::sync::Notify;

use super::client_hub::{blocking_hub, counters, daemon, hub, run, started};
use super::support::PATIENCE;
use super::support::bus::exchange;
use super::support::peers::connected;

async fn prices(hub: &Hub) -> Answers {
    let answers = hub.answers("Prices").subjects(["exact:price"]);
    let answers = answers.with(|service| service.retry(Retry::never()));
    answers.start().await.expect("it answers")
}

fn price(number: u64) -> Result<u64, Failure> {
    match number {
        3 => Err(Failure::Reject("no threes".into())),
        4 => Err(Failure::Retry("away".into())),
        5 => panic!("a five (this panic belongs to the test)"),
        number => Ok(number * 950),
    }
}

#[test]
fn calls_are_answered_and_events_with_their_subject_are_acknowledged() {
    let daemon = daemon().durable().start().expect("a daemon");
    run(async {
        let hub = hub(&daemon).await;
        let mut answers = prices(&hub).await;
        let stopper = answers.stopper();
        let asking = async {
            let cents: u64 = hub.call("price", &7).first().await.expect("a price");
            assert_eq!(cents, 6650);
            for (number, reason) in [
                ("3", "rejected: no threes"),
                ("4", "failed: away"),
                ("5", "failed: its handler panicked"),
                ("\"x\"", "rejected: the body of \"price\" can't be read"),
            ] {
                let body: serde_json::Value = number.parse().expect("JSON");
                let refused = hub.call("price", &body).first::<u64>().await;
                let refused = refused.expect_err("it is refused");
                let Error::CallRefused { replies, .. } = &refused else {
                    panic!("{refused}")
                };
                let said = String::from_utf8_lossy(&replies[0].data);
                assert!(said.starts_with(reason), "{said}");
            }
            // As an event it is acknowledged, and answered to nobody.
            assert_eq!(hub.emit("price", &7).await.expect("a receipt").services, 1);
            assert_eq!(hub.emit("price", &3).await.expect("a receipt").services, 1);
            while counters(&daemon).delivered + counters(&daemon).dead_lettered < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stopper.stop();
        };
        let handling = answers.for_each_concurrent(8, |event| async move { price(event.json()?) });
        let (handled, ()) = tokio::join!(handling, asking);
        handled.expect("no error");
        let counters = counters(&daemon);
        assert_eq!((counters.delivered, counters.dead_lettered), (1, 1));

        let drained = answers.drain(PATIENCE).await;
        assert_eq!((drained.returned, drained.unanswered), (0, 0));
        let gone = hub.call("price", &7).first::<u64>().await;
        let gone = gone.expect_err("nobody answers");
        assert!(matches!(gone, Error::NoResponders { .. }), "{gone}");
    });
}

#[test]
fn calls_beyond_the_credit_are_refused_and_those_that_nobody_answers_too() {
    let daemon = started();
    run(async {
        let hub = hub(&daemon).await;
        let answers = hub.answers("Prices").subjects(["exact:price"]).credit(1);
        let mut answers = answers.start().await.expect("it answers");
        let begun = Arc::new(Notify::new());
        let asked = {
            let (hub, begun) = (hub.clone(), Arc::clone(&begun));
            tokio::spawn(async move {
                begun.notify_one();
                hub.call("price", &1).all().await
            })
        };
        begun.notified().await;
        let first = answers.next().await.expect("a question").expect("no error");
        assert!(first.is_call() && first.json::<u8>().expect("a number") == 1);
        let second = hub.call("price", &2).all().await.expect("an answer");
        assert_eq!(second[0].status, CallStatus::Nak);
        assert!(second[0].data.starts_with(b"busy: "), "{second:?}");
        drop(first);
        let first = asked.await.expect("no panic").expect("an answer");
        assert_eq!(&*first[0].data, b"failed: it was dropped without an answer");
        // Who stops with a question in hand is waited for.
        let asked = {
            let hub = hub.clone();
            tokio::spawn(async move { hub.call("price", &3).first::<u8>().await })
        };
        let third = answers.next().await.expect("a question").expect("no error");
        let answering = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            third.answer(&33).expect("it is JSON");
        };
        let (drained, ()) = tokio::join!(answers.drain(PATIENCE), answering);
        assert_eq!(drained.unanswered, 0);
        assert_eq!(asked.await.expect("no panic").expect("an answer"), 33);
    });
}

#[test]
fn who_answers_is_known_again_after_the_daemon_was_killed() {
    let mut daemon = started();
    run(async {
        let hub = hub(&daemon).await;
        let mut answers = prices(&hub).await;
        let answering = tokio::spawn(async move {
            answers
                .for_each_concurrent(1, |event| async move { price(event.json()?) })
                .await
        });
        for _ in 0..3 {
            let asked = async {
                loop {
                    match hub.call("price", &1).first::<u64>().await {
                        Ok(price) => return price,
                        // By the connection that has ended; or it isn't subscribed and registered yet.
                        Err(Error::NoAnswer { .. } | Error::NoResponders { .. }) => {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            // Much sooner than a registration is renewed.
            let asked = tokio::time::timeout(Duration::from_secs(8), asked).await;
            assert_eq!(asked.expect("in time"), 950);
            daemon.kill().expect("it is killed");
            daemon.start().expect("it comes back");
        }
        answering.abort();
    });
}

#[test]
fn other_clients_may_ask_its_port_and_noise_there_harms_nobody() {
    let daemon = started();
    let hub = blocking_hub(&daemon);
    let answers = hub.answers("Prices").subjects(["exact:price"]);
    let mut answers = answers.start().expect("it answers");
    let address = answers.address().to_owned();
    let (stopper, asked) = (answers.stopper(), Arc::new(AtomicUsize::new(0)));
    let answering = {
        let asked = Arc::clone(&asked);
        std::thread::spawn(move || {
            for question in &mut answers {
                asked.fetch_add(1, Ordering::Relaxed);
                question.expect("no error").answer("yes").expect("JSON");
            }
            answers.drain(PATIENCE).expect("no runtime")
        })
    };
    let host = address.strip_prefix("tcp://").expect("a TCP address");
    let mut noise = std::net::TcpStream::connect(host).expect("a connection");
    noise.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("room");
    noise.set_read_timeout(Some(PATIENCE)).expect("an option");
    // It is closed, at once.
    while !matches!(noise.read(&mut [0; 512]), Ok(0) | Err(_)) {}
    let context = zmq::Context::new();
    for kind in [zmq::REQ, zmq::DEALER] {
        let client = connected(&context, kind, &address);
        if kind == zmq::DEALER {
            client.send("", zmq::SNDMORE).expect("a send");
        }
        let mut answer = exchange(&client, &[b"TK_EVT_EVENT", b"PARAM", b"7\0price"]);
        answer.retain(|frame| !frame.is_empty());
        assert_eq!(answer[0], b"TK_SYS_ACK");
        assert_eq!(answer[2], b"\"yes\"");
    }
    let client = connected(&context, zmq::REQ, &address);
    let answer = exchange(&client, &[b"no token", b"x"]);
    assert!(answer[2].starts_with(b"malformed-token"), "{answer:?}");
    stopper.stop();
    assert_eq!(answering.join().expect("no panic").unanswered, 0);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn without_a_locator_it_can_not_start_and_an_address_has_to_be_one() {
    let daemon = daemon()
        .config("embeddedLocator", false)
        .config("locatorAddress", "tcp://127.0.0.1:1")
        .start()
        .expect("a daemon");
    run(async {
        let connecting = Hub::builder().address(daemon.address());
        let connecting = connecting.keys(daemon.client_keys());
        let hub = connecting.timeout(Duration::from_millis(500));
        let hub = hub.connect().await.expect("a hub");
        let answers = || hub.answers("Prices").subjects(["exact:price"]);
        let error = answers().start().await.err().expect("no locator");
        assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
        assert!(error.to_string().contains("ServiceLocator"), "{error}");
        for address in ["localhost:1", "ipc:///tmp/prices"] {
            let error = answers().listen(address).start().await.err();
            let error = error.expect("no address to listen at");
            assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        }
        let taken = daemon.address();
        let error = answers().listen(taken).start().await.err();
        let error = error.expect("somebody else listens there");
        assert!(matches!(error, Error::Failed(_)), "{error}");
        assert!(error.to_string().contains(taken), "{error}");
    });
}
