//! One of many services whose worker doesn't read.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::TestDaemon;
use crate::support::peers::{connect, socket};

const SERVICES: usize = 50;
/// Events of each service.
const EVENTS: usize = 300;
const EVENT_BYTES: usize = 1024;

/// The 99th percentile of the time that events of all services but the first took; the worker of the
/// first reads, or not.
fn p99(reads: bool) -> Duration {
    let daemon = TestDaemon::in_own_process(&json!({
        "services": {"*": {"queueBytes": 1 << 20}},
        "limits": {"maxMessageBytes": 1 << 20},
        "budgets": {"workerOutboxBytes": 256 << 10},
    }));
    let workers: Vec<_> = (0..SERVICES)
        .map(|n| {
            let service = format!("Service{n}");
            let subscribed = daemon.subscribe(&service, &service, &[&format!("Order.{n}.")]);
            let worker = socket(&daemon.context, zmq::DEALER);
            if n == 0 {
                // So that libzmq soon stops reading for it.
                worker.set_rcvhwm(1).expect("an option");
                worker.set_rcvbuf(4096).expect("an option");
            }
            connect(&worker, &subscribed.pull_address);
            worker.send("READY", 0).expect("a send");
            daemon.wait_for_ready(&service, 1);
            worker
        })
        .collect();
    let publisher = daemon.publisher();
    if !reads {
        let large = vec![0; 64 << 10];
        for _ in 0..400 {
            publisher
                .send_multipart([b"Order.0.", &large[..]], 0)
                .expect("a send");
        }
        daemon.wait_for("the stalled worker", |status| {
            let service = status.service("Service0").expect("it is subscribed");
            service.workers.stalled == 1 && status.publishers.events == 400
        });
    }
    let origin = Instant::now();
    let first = usize::from(!reads);
    let mut took = vec![];
    for _ in 0..EVENTS {
        for n in 0..SERVICES {
            let mut data = (origin.elapsed().as_nanos() as u64).to_be_bytes().to_vec();
            data.resize(EVENT_BYTES, 0);
            let subject = format!("Order.{n}.");
            publisher
                .send_multipart([subject.as_bytes(), &data], 0)
                .expect("a send");
        }
        for (n, worker) in workers.iter().enumerate().skip(first) {
            let event = worker.recv_multipart(0).expect("an event");
            let sent = u64::from_be_bytes(event[1][..8].try_into().expect("8 bytes"));
            if n > 0 {
                took.push(origin.elapsed() - Duration::from_nanos(sent));
            }
        }
    }
    took.sort();
    took[took.len() * 99 / 100]
}

#[test]
#[ignore = "it measures, and asserts nothing of time"]
fn what_one_stalled_service_costs_the_others() {
    let mut ratios: Vec<f64> = (0..7)
        .map(|_| {
            let (without, with) = (p99(true), p99(false));
            println!("p99: {with:?} with a stalled service, {without:?} without");
            with.as_secs_f64() / without.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!("ratios: {ratios:.3?}");
}
