//! Workers that others' frames stand before: of ROUTER/DEALER proxies, and the numbers of
//! `ZMQ_REQ_CORRELATE`.

use std::collections::BTreeSet;

use serde_json::json;

use super::support::TestDaemon;
use super::support::bus::Proxy;
use super::support::peers::{connect, connected, is_silent, publish, received, socket};
use super::support::raw::{MORE, RawPeer, frame, message};

const SERVICE: &str = "Billing";

fn start() -> (TestDaemon, String) {
    let daemon = TestDaemon::start();
    let address = daemon.subscribe("sub-1", SERVICE, &["Order"]).pull_address;
    (daemon, address)
}

fn publish_numbers(daemon: &TestDaemon, numbers: std::ops::Range<u32>) -> zmq::Socket {
    let publisher = daemon.publisher();
    numbers.for_each(|n| publish(&publisher, "Order", &n.to_string()));
    publisher
}

/// An event for a worker that acknowledges: its delivery's id, its attempt, its data.
fn held(worker: &zmq::Socket) -> (String, String, String) {
    let frames = worker.recv_multipart(0).expect("an event");
    let text = |at: usize| String::from_utf8(frames[at].clone()).expect("text");
    let head = text(0);
    let mut words = head.strip_prefix("EVENT ").expect("an event").split(' ');
    let mut word = || words.next().expect("a word").to_owned();
    (word(), word(), text(2))
}

#[test]
fn a_req_that_numbers_its_requests_is_a_worker() {
    let (daemon, address) = start();
    for ack in [false, true] {
        let worker = socket(&daemon.context, zmq::REQ);
        worker.set_req_correlate(true).expect("an option");
        connect(&worker, &address);
        let ready = if ack {
            r#"READY {"ack": true}"#
        } else {
            "READY"
        };
        worker.send(ready, 0).expect("a send");
        daemon.wait_for_ready(SERVICE, 1);
        let _publisher = publish_numbers(&daemon, 0..20);
        for n in 0..20 {
            if ack {
                let (id, attempt, data) = held(&worker);
                assert_eq!((attempt, data), ("1".into(), n.to_string()));
                worker.send(&format!("ACK {id}"), 0).expect("a send");
            } else {
                assert_eq!(received(&worker), n.to_string());
                worker.send("READY", 0).expect("a send");
            }
        }
        daemon.wait_for_service(SERVICE, "all done", |service| {
            service.counters.in_flight == 0 && service.queue.events == 0
        });
        assert_eq!(daemon.service(SERVICE).workers.connected, 1);
        drop(worker);
        daemon.wait_for_ready(SERVICE, 0);
    }
    assert_eq!(daemon.refused("unknown-worker-message"), 0);
}

#[test]
fn workers_behind_a_proxy_get_events_in_turn() {
    let (daemon, address) = start();
    let inner = Proxy::to(&address);
    let outer = Proxy::to(&inner.address);
    // Behind one proxy, behind two, and without any.
    let ways = [&inner.address, &inner.address, &outer.address, &address];
    let workers: Vec<_> = (1..)
        .zip(ways)
        .map(|(count, way)| {
            let worker = connected(&daemon.context, zmq::DEALER, way);
            worker.send("READY", 0).expect("a send");
            daemon.wait_for_ready(SERVICE, count);
            worker
        })
        .collect();
    let _publisher = publish_numbers(&daemon, 0..400);
    for n in 0..400 {
        assert_eq!(received(&workers[n % 4]), n.to_string());
    }
    let status = daemon.service(SERVICE);
    assert_eq!(status.workers.connected, 4);
    workers[0].send("BYE", 0).expect("a send");
    daemon.wait_for_ready(SERVICE, 3);
    drop(outer);
    assert_eq!(daemon.refused("unknown-worker-message"), 0);
}

#[test]
fn reqs_behind_a_proxy_get_one_event_for_each_ready() {
    let (daemon, address) = start();
    let proxy = Proxy::to(&address);
    for correlates in [false, true] {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let worker = socket(&daemon.context, zmq::REQ);
                worker.set_req_correlate(correlates).expect("an option");
                connect(&worker, &proxy.address);
                worker
            })
            .collect();
        let _publisher = publish_numbers(&daemon, 0..300);
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            for worker in &workers {
                worker.send("READY", 0).expect("a send");
            }
            for worker in &workers {
                assert!(seen.insert(received(worker)));
            }
        }
        assert_eq!(seen.len(), 300);
        daemon.wait_for_service(SERVICE, "nothing to do", |service| {
            service.counters.in_flight == 0
        });
    }
    // None for each request.
    let connected = daemon.service(SERVICE).workers.connected;
    assert!(connected <= 6, "{connected}");
}

#[test]
fn workers_behind_a_proxy_acknowledge_their_own() {
    let (daemon, address) = start();
    let proxy = Proxy::to(&address);
    let workers: Vec<_> = (1..3)
        .map(|count| {
            let worker = connected(&daemon.context, zmq::DEALER, &proxy.address);
            let ready = format!(r#"READY {{"ack": true, "credit": {count}}}"#);
            worker.send(&ready, 0).expect("a send");
            daemon.wait_for_ready(SERVICE, count);
            worker
        })
        .collect();
    let _publisher = publish_numbers(&daemon, 0..10);
    let first = held(&workers[0]);
    let second = [held(&workers[1]), held(&workers[1])];
    assert!(
        workers.iter().all(|worker| is_silent(worker, 50)),
        "beyond their credits"
    );
    // What another holds is not theirs.
    workers[0]
        .send(&format!("ACK {}", second[0].0), 0)
        .expect("a send");
    daemon.wait_for("a word on another's", |_| {
        daemon.refused("unknown-delivery") == 1
    });
    workers[1].send("NONSENSE", 0).expect("a send");
    assert!(received(&workers[1]).starts_with("ERROR workers say"));
    assert!(is_silent(&workers[0], 20));
    workers[0]
        .send(&format!("NAK {} 0 again", first.0), 0)
        .expect("a send");
    let (id, attempt, data) = held(&workers[0]);
    assert_eq!((attempt.as_str(), &data), ("2", &first.2));
    // One leaves, the other does all the rest.
    workers[1].send("BYE", 0).expect("a send");
    for (id, ..) in &second {
        workers[1].send(&format!("ACK {id}"), 0).expect("a send");
    }
    workers[0].send(&format!("ACK {id}"), 0).expect("a send");
    for _ in 3..10 {
        let (id, ..) = held(&workers[0]);
        workers[0].send(&format!("ACK {id}"), 0).expect("a send");
    }
    daemon.wait_for_counter(SERVICE, |c| c.delivered, 10);
    assert!(is_silent(&workers[1], 20));
}

/// A proxy by hand, which reads nothing: of what waits for its workers nothing is lost when it goes.
#[test]
fn what_a_proxy_leaves_behind_goes_to_others() {
    let durable = json!({SERVICE: {"delivery": "queue"}});
    for (keys, acks) in [(json!({}), false), (json!({}), true), (durable, true)] {
        let directory = tempfile::tempdir().expect("a directory");
        let daemon = TestDaemon::in_own_process(&json!({
            "stateDir": directory.path(), "services": keys, "budgets": {"workerOutboxBytes": 4_000_000},
        }));
        let address = daemon.subscribe("sub-1", SERVICE, &["Order"]).pull_address;
        let mut proxy = RawPeer::met(&address, "DEALER");
        let routed = |route: &str, word: &str| {
            [frame(MORE, route.as_bytes()), frame(0, word.as_bytes())].concat()
        };
        let third = match acks {
            true => r#"READY {"ack": true, "credit": 100}"#,
            false => "READY",
        };
        // Three ways, and one that is the proxy's own.
        proxy.send(&message(&["READY"]));
        for (route, word) in [("a", "READY"), ("bb", "READY"), ("ccc", third)] {
            proxy.send(&routed(route, word));
        }
        proxy.settle();
        assert_eq!(daemon.service(SERVICE).workers.ready, 4);
        const EVENTS: usize = 400;
        let publisher = daemon.publisher();
        let body = "x".repeat(50_000);
        for n in 0..EVENTS {
            publish(&publisher, "Order", &format!("{n} {body}"));
        }
        daemon.wait_for_counter(SERVICE, |c| c.matched, EVENTS as u64);
        daemon.wait_for_service(SERVICE, "a stalled proxy", |service| {
            service.workers.stalled == 4
        });
        // It has read some, and dies in the middle of one.
        for _ in 0..10 {
            proxy.read_message();
        }
        drop(proxy);
        daemon.wait_for_ready(SERVICE, 0);
        let status = daemon.service(SERVICE);
        let last = daemon.worker(SERVICE, &address);
        let mut seen = BTreeSet::new();
        let written = status.counters.delivered as usize;
        for _ in written..EVENTS {
            let data = received(&last);
            let n: usize = data
                .split(' ')
                .next()
                .expect("a number")
                .parse()
                .expect("a number");
            assert!(seen.insert(n), "twice: {n}");
        }
        assert!(written < EVENTS - 20, "{written}");
        assert!(is_silent(&last, 50));
    }
}

#[test]
fn the_workers_of_one_connection_are_bounded() {
    const MAX: u64 = 256;
    let (daemon, address) = start();
    let mut proxy = RawPeer::met(&address, "DEALER");
    for n in 0..3 * MAX {
        let route = format!("worker {n}");
        proxy.send(&[frame(MORE, route.as_bytes()), frame(0, b"READY")].concat());
    }
    proxy.settle();
    assert_eq!(daemon.service(SERVICE).workers.connected, MAX);
    let long = "x".repeat(255);
    let way = frame(MORE, long.as_bytes()).repeat(5);
    proxy.send(&[way, frame(0, b"READY")].concat());
    proxy.settle();
    assert_eq!(daemon.refused("unknown-worker-message"), 1);
    // Those that spoke last are there.
    let _publisher = publish_numbers(&daemon, 0..MAX as u32);
    let routes: BTreeSet<_> = (0..MAX).map(|_| proxy.read_message()[0].clone()).collect();
    assert_eq!(routes.len(), MAX as usize);
    let first = (0..MAX - 1).map(|n| format!("worker {n}").into_bytes());
    let kept = first.filter(|route| routes.contains(route)).count();
    assert!(kept <= 1, "{kept}");
}

/// A durable service's events are done when they are written to the proxy; and a proxy that connects
/// again after a restart is no worker until somebody behind it says so.
#[test]
fn a_proxy_is_not_presumed_to_be_a_worker_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("it is bound").port()
    };
    let keys = json!({
        "stateDir": directory.path(), "services": {SERVICE: {"delivery": "queue"}},
        "minStreamerPort": port, "maxStreamerPort": port,
    });
    let daemon = TestDaemon::in_own_process(&keys);
    let address = daemon.subscribe("sub-1", SERVICE, &["Order"]).pull_address;
    let proxy = Proxy::to(&address);
    let context = zmq::Context::new();
    let worker = connected(&context, zmq::DEALER, &proxy.address);
    worker.send("READY", 0).expect("a send");
    daemon.wait_for_ready(SERVICE, 1);
    let publisher = publish_numbers(&daemon, 0..3);
    for n in 0..3 {
        assert_eq!(received(&worker), n.to_string());
    }
    daemon.wait_for_counter(SERVICE, |c| c.delivered, 3);
    daemon.wait_for("all written", |status| status.state.written);
    drop(publisher);
    assert!(daemon.stop());
    let daemon = TestDaemon::in_own_process(&keys);
    daemon.wait_for_service(SERVICE, "the proxy", |service| {
        service.workers.connected == 1
    });
    let _publisher = publish_numbers(&daemon, 3..6);
    daemon.wait_for_service(SERVICE, "what waits", |service| service.queue.events == 3);
    assert!(is_silent(&worker, 400));
    worker.send("READY", 0).expect("a send");
    for n in 3..6 {
        assert_eq!(received(&worker), n.to_string());
    }
    daemon.wait_for_counter(SERVICE, |c| c.delivered, 3);
}
