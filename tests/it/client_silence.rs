//! The client library's hub while nothing comes any more, and nobody says why.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use event_manager_client::Hub;
use tokio::time::sleep;

use super::client_examples;
use super::client_hub::{daemon, hub, next, run};
use super::support::PATIENCE;
use super::support::process::signal;
use super::support::program::wait_until;

const HEARTBEAT: Duration = Duration::from_millis(200);

/// Forwards connections, until it is cut: then those that there are get nothing any more, and are not closed.
struct Proxy {
    address: String,
    is_cut: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
}

impl Proxy {
    fn new(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("tcp://{}", listener.local_addr().expect("it is bound"));
        let to = to.strip_prefix("tcp://").expect("a TCP address").to_owned();
        let is_cut = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (cuts, counted) = (Arc::clone(&is_cut), Arc::clone(&accepted));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&to) else {
                    return;
                };
                counted.fetch_add(1, Ordering::SeqCst);
                // A connection is cut once; those that come later are not.
                let is_old = Arc::new(AtomicBool::new(false));
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let from = from.try_clone().expect("a descriptor");
                    let to = to.try_clone().expect("a descriptor");
                    let (cuts, is_old) = (Arc::clone(&cuts), Arc::clone(&is_old));
                    std::thread::spawn(move || forward(from, to, &cuts, &is_old));
                }
            }
        });
        Self {
            address,
            is_cut,
            accepted,
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, cuts: &AtomicBool, is_old: &AtomicBool) {
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        if cuts.load(Ordering::SeqCst) {
            is_old.store(true, Ordering::SeqCst);
        }
        if !is_old.load(Ordering::SeqCst) && to.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn an_emit_on_a_connection_that_was_cut_silently_is_sent_again_on_another() {
    let daemon = daemon().durable().start().expect("a daemon");
    let proxy = Proxy::new(daemon.address());
    run(async {
        let connecting = Hub::builder().address(&proxy.address).timeout(PATIENCE);
        let connecting = connecting.keys(daemon.client_keys());
        let hub = connecting.heartbeat(HEARTBEAT).connect().await;
        let hub = hub.expect("a hub");
        let starting = hub.service("Billing").subjects(["exact:Order"]).durable();
        let mut service = starting.start().await.expect("a service");
        assert_eq!(proxy.accepted.load(Ordering::SeqCst), 1);
        proxy.is_cut.store(true, Ordering::SeqCst);
        let emitting = async { hub.emit("Order", &1).id("o-1").await };
        let mending = async {
            // It is asked for several times before it is given up.
            sleep(HEARTBEAT).await;
            proxy.is_cut.store(false, Ordering::SeqCst);
        };
        let (receipt, ()) = tokio::join!(emitting, mending);
        assert_eq!(receipt.expect("a receipt").services, 1);
        assert!(proxy.accepted.load(Ordering::SeqCst) > 1);
        next(&mut service).await.ack();
        service.drain(PATIENCE).await;
        daemon.wait_idle().expect("idle");
    });
}

#[test]
fn a_daemon_that_was_stopped_for_longer_than_it_is_waited_for_is_worked_for_again() {
    let daemon = daemon().durable().start().expect("a daemon");
    let pid = daemon.pid().expect("it runs");
    run(async {
        let connecting = Hub::builder().address(daemon.address()).timeout(PATIENCE);
        let connecting = connecting.keys(daemon.client_keys());
        let hub = connecting.heartbeat(HEARTBEAT).connect().await;
        let hub = hub.expect("a hub");
        let starting = hub.service("Billing").subjects(["exact:Order"]).durable();
        let mut service = starting.start().await.expect("a service");
        let mut events = hub.subscribe(["Order"]).await.expect("a subscription");
        hub.publish("Order", &0).await.expect("room");
        hub.flush().await.expect("taken");
        next(&mut service).await.ack();
        events.next().await.expect("an event");
        signal(pid, "STOP");
        let emitting = async { hub.emit("Order", &1).id("o-1").await };
        let going_on = async {
            sleep(HEARTBEAT * 6).await;
            signal(pid, "CONT");
        };
        let (receipt, ()) = tokio::join!(emitting, going_on);
        receipt.expect("a receipt");
        loop {
            let delivery = next(&mut service).await;
            let is_it = delivery.json::<u8>().expect("a number") == 1;
            assert!(is_it || delivery.attempt() > 1, "{delivery:?}");
            delivery.ack();
            if is_it {
                break;
            }
        }
        // The plain subscriber is there again as soon as it can be.
        loop {
            hub.publish("Order", &2).await.expect("room");
            hub.flush().await.expect("taken");
            let event = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
            if let Ok(Some(event)) = event
                && event.body() == b"2"
            {
                break;
            }
        }
    });
}

#[test]
fn a_worker_that_was_stopped_beyond_its_lease_works_again() {
    client_examples::build();
    let daemon = daemon()
        .durable()
        .config("subscriptionTtl", 1)
        .start()
        .expect("a daemon");
    let worker = client_examples::start(&daemon, "worker", &["2"]);
    run(async {
        let hub = hub(&daemon).await;
        let is_ready = async |count: u64| {
            let status = hub.status().await.expect("a status");
            let service = status.service("Billing");
            service.is_some_and(|service| {
                service.workers.ready == count && service.subscriptions.len() as u64 == count
            })
        };
        let until = async |count: u64| {
            while !is_ready(count).await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let order = |number: u32| serde_json::json!({"number": number, "cents": 950});
        until(1).await;
        hub.publish("order.created", &order(1)).await.expect("room");
        hub.flush().await.expect("taken");
        daemon.wait_idle().expect("idle");
        signal(worker.id(), "STOP");
        // Its subscription is over; its connection isn't yet.
        loop {
            let status = hub.status().await.expect("a status");
            let service = status.service("Billing").expect("it is durable");
            if service.subscriptions.is_empty() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        hub.publish("order.created", &order(2)).await.expect("room");
        hub.flush().await.expect("taken");
        signal(worker.id(), "CONT");
    });
    let ended = worker.wait_with_output().expect("an end");
    let printed = String::from_utf8(ended.stdout).expect("text");
    assert_eq!(printed, "order 1 costs 950\norder 2 costs 950\n");
    wait_until(|| daemon.wait_idle().ok()).expect("idle");
}
