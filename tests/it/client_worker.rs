//! The client library's worker, with a daemon.

use std::thread::JoinHandle;
use std::time::Duration;

use event_manager_client::{Client, Worker, WorkerDelivery as Delivery};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::support::peers::publish;
use super::support::program::{Site, wait_until};
use super::support::{PATIENCE, TestDaemon};

/// A runtime on a thread of its own, so that workers' tasks go on while a test waits for the daemon.
struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || drop(runtime.block_on(stopped)));
        Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Fails when it takes too long.
    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let result = self
            .handle
            .block_on(async { timeout(PATIENCE, work).await });
        result.expect("in time")
    }

    fn worker(&self, daemon: &TestDaemon, credit: u32) -> Worker {
        let client = Client::new(daemon.requests(), PATIENCE);
        let starting = Worker::start(client, "Billing", vec!["Order".into()], credit);
        self.run(starting).expect("a worker")
    }

    fn next(&self, worker: &mut Worker) -> Delivery {
        let delivery = self.run(worker.next()).expect("no end");
        delivery.expect("no error")
    }

    fn stop(&self, worker: Worker) {
        self.run(worker.stop(PATIENCE)).expect("an end");
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        let thread = self.thread.take().expect("a thread");
        assert!(thread.join().is_ok() || std::thread::panicking());
    }
}

fn data(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.frames()[1]).expect("text")
}

fn with_letters(directory: &TempDir) -> TestDaemon {
    TestDaemon::with(|config| config.state_dir = directory.path().to_owned())
}

#[test]
fn each_answer_has_its_effect() {
    let directory = TempDir::new().expect("a directory");
    let daemon = with_letters(&directory);
    let background = Background::start();
    let mut worker = background.worker(&daemon, 10);
    let publisher = daemon.publisher();
    for event in ["done", "later", "dropped", "never"] {
        publish(&publisher, "Order", event);
    }
    let first: Vec<_> = (0..4).map(|_| background.next(&mut worker)).collect();
    for delivery in first {
        assert_eq!(delivery.attempt(), 1);
        match data(&delivery) {
            "done" => delivery.ack(),
            "later" => delivery.nak(Some(Duration::from_millis(1)), "not yet"),
            "dropped" => drop(delivery),
            _ => delivery.term("it makes no sense"),
        }
    }
    let mut again = vec![];
    for _ in 0..2 {
        let delivery = background.next(&mut worker);
        assert_eq!(delivery.attempt(), 2);
        again.push(data(&delivery).to_owned());
        delivery.ack();
    }
    again.sort();
    assert_eq!(again, ["dropped", "later"]);
    daemon.wait_for_service("Billing", "all answers", |service| {
        let counters = &service.counters;
        (counters.delivered, counters.dead_lettered, counters.retries) == (3, 1, 2)
    });
    background.stop(worker);
    assert_eq!(daemon.status().services, []);
}

#[test]
fn what_a_worker_that_stops_has_goes_to_others_and_what_it_answers_counts() {
    let daemon = TestDaemon::start();
    let background = Background::start();
    let mut first = background.worker(&daemon, 3);
    let publisher = daemon.publisher();
    for event in ["1", "2", "3", "4"] {
        publish(&publisher, "Order", event);
    }
    let mine = background.next(&mut first);
    // Held by its task, or on their way to it.
    daemon.wait_for_service("Billing", "its credit used up", |service| {
        service.counters.in_flight == 3
    });
    let mut second = background.worker(&daemon, 10);
    let stopping = background.handle.spawn(first.stop(PATIENCE));
    let mut others = vec![];
    for _ in 0..3 {
        let delivery = background.next(&mut second);
        others.push(data(&delivery).to_owned());
        delivery.ack();
    }
    others.sort();
    assert_eq!(others, ["2", "3", "4"]);
    assert!(!stopping.is_finished());
    mine.ack();
    background.run(stopping).expect("no panic").expect("an end");
    daemon.wait_for_counter("Billing", |counters| counters.delivered, 4);
    let counters = daemon.service("Billing").counters;
    assert_eq!(counters.unconfirmed, 0);
    background.stop(second);
}

#[test]
fn a_worker_that_has_left_gets_its_last_events_and_then_an_end() {
    let daemon = TestDaemon::start();
    let background = Background::start();
    let mut worker = background.worker(&daemon, 2);
    let publisher = daemon.publisher();
    for event in ["1", "2", "3"] {
        publish(&publisher, "Order", event);
    }
    let first = background.next(&mut worker);
    let second = background.next(&mut worker);
    worker.leave();
    first.ack();
    second.ack();
    assert!(background.run(worker.next()).is_none());
    let service = daemon.wait_for_service("Billing", "both answers", |service| {
        service.counters.delivered == 2
    });
    assert_eq!(
        (service.counters.queued, service.counters.in_flight),
        (1, 0)
    );
    background.stop(worker);
}

#[test]
fn a_worker_subscribes_again_when_its_subscription_is_gone() {
    let daemon = TestDaemon::with(|config| config.subscription_ttl = Duration::from_secs(1));
    let background = Background::start();
    let mut worker = background.worker(&daemon, 1);
    let first = worker.subscribed().id;
    daemon.unsubscribe(&first);
    let again = wait_until(|| (worker.subscribed().id != first).then_some(()));
    again.expect("another subscription");
    publish(&daemon.publisher(), "Order", "1");
    background.next(&mut worker).ack();
    background.stop(worker);
}

/// The events behind those that were wanted were never given to it.
#[test]
fn the_command_takes_from_a_durable_service_what_it_prints_and_no_more() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }));
    let publisher = daemon.publisher();
    (1..=5).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    daemon.wait_for_counter("Billing", |counters| counters.queued, 5);
    let site = Site::of(&daemon);
    for (count, printed) in [("1", "Order\t1\n"), ("2", "Order\t2\nOrder\t3\n")] {
        let ended = site.run(&["worker", "Billing", "Order", "-n", count]);
        assert_eq!(
            (ended.code, &*ended.stdout),
            (Some(0), printed),
            "{ended:?}"
        );
    }
    let counters = daemon.service("Billing").counters;
    assert_eq!((counters.delivered, counters.queued), (3, 2));
    assert_eq!((counters.unconfirmed, counters.redelivered), (0, 0));
    let background = Background::start();
    let mut worker = background.worker(&daemon, 1);
    let delivery = background.next(&mut worker);
    assert_eq!((data(&delivery), delivery.attempt()), ("4", 1));
    drop(delivery);
    background.stop(worker);
}
