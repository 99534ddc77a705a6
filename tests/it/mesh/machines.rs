//! Five hubs, each on a machine of its own: one has a slow line, one stands still, and clients and a hub come and go.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::support::network::{self, Machine, Network};
use super::super::support::peers::{connected, publish, received};
use super::super::support::{PATIENCE, TestDaemon};
use super::{others, subscriber, wait_linked};

const HUBS: usize = 5;
const SLOW: usize = 3;
const STILL: usize = 4;
/// Between two events of one publisher.
const PACE: Duration = Duration::from_millis(1);

struct Run {
    /// Of each hub, and each phase.
    events: u64,
    /// How often a client joins and leaves.
    joins: usize,
    /// Whether what others have may not come later because of two that are slow.
    judges_times: bool,
}

/// What the subscriber of a hub has heard of each other hub, and how long the last of it took.
#[derive(Default)]
struct Heard {
    next: [u64; HUBS],
    times: Vec<Duration>,
}

/// Where those are whose machines all have the same files.
fn settings(directory: &TempDir, machines: &[Machine], own: usize) -> Value {
    let at = |machine: &Machine| format!("tcp://{}:5001", machine.address);
    let ipc = |name: &str| format!("ipc://{}/{name}", directory.path().display());
    let others = machines.iter().enumerate().filter(|(n, _)| *n != own);
    let peers: Vec<_> = others.map(|(_, machine)| at(machine)).collect();
    json!({
        "pubAddress": ipc("pub"), "subAddress": [ipc("sub"), at(&machines[own])],
        "requestAddress": ipc("requests"), "pullAddress": ipc("pull"),
        "mesh": {"peers": peers},
        // Who stands still, or is far away, is not dead.
        "heartbeatInterval": 300,
    })
}

/// Hears all, in the order of each publisher, until it is over.
fn hear(socket: &zmq::Socket, heard: &Mutex<Heard>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        if socket.poll(zmq::POLLIN, 20).expect("a poll") == 0 {
            continue;
        }
        let event = received(socket);
        let words: Vec<u64> = event
            .split(' ')
            .map(|n| n.parse().expect("a number"))
            .collect();
        let &[from, n, at] = &*words else {
            panic!("{event}");
        };
        let from = usize::try_from(from).expect("it fits");
        let mut heard = heard.lock().expect("no panic");
        assert_eq!(n, heard.next[from], "of {from}: not all, or twice");
        heard.next[from] += 1;
        if from < SLOW {
            let at = Duration::from_micros(at);
            heard.times.push(begun().elapsed().saturating_sub(at));
        }
    }
}

/// One clock for all threads.
fn begun() -> Instant {
    static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BEGUN.get_or_init(Instant::now)
}

fn p99(heard: &[Mutex<Heard>]) -> Duration {
    let take = |heard: &Mutex<Heard>| std::mem::take(&mut heard.lock().expect("no panic").times);
    let mut times: Vec<_> = heard[..SLOW].iter().flat_map(take).collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Waits until the subscribers of these hubs have heard all of those.
fn wait_for_all(heard: &[Mutex<Heard>], at: &[usize], of: &[usize], sent: &[u64; HUBS]) {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let heard = |hub: usize| heard[hub].lock().expect("no panic").next;
        let has_all = |hub: &&usize| of.iter().all(|from| heard(**hub)[*from] == sent[*from]);
        let Some(waiting) = at.iter().find(|hub| !has_all(hub)) else {
            return;
        };
        assert!(
            Instant::now() < deadline,
            "hub {waiting} has heard {:?} of {sent:?}",
            heard(*waiting)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[expect(clippy::print_stderr, reason = "figures for people")]
fn share_their_events(run: &Run) {
    if !network::can_be_had() {
        eprintln!("not shown, as it needs root and iproute2");
        return;
    }
    let network = Network::new();
    let machines: Vec<_> = (0..HUBS).map(|_| network.machine()).collect();
    let directories = [(); HUBS].map(|()| TempDir::new().expect("a directory"));
    let start = |n: usize| {
        TestDaemon::in_own_process_at(&settings(&directories[n], &machines, n), &machines[n])
    };
    let mut hubs: Vec<_> = (0..HUBS).map(start).collect();
    hubs.iter().for_each(|hub| wait_linked(hub, HUBS - 1));
    let subscribers: Vec<_> = hubs
        .iter()
        .enumerate()
        .map(|(n, hub)| subscriber(hub, &others(&hubs, n), "Order"))
        .collect();
    let publishers: Vec<_> = hubs.iter().map(TestDaemon::publisher).collect();
    let heard = [(); HUBS].map(|()| Mutex::<Heard>::default());
    let are_over = [(); HUBS].map(|()| AtomicBool::new(false));
    let sent = Cell::new([0; HUBS]);
    let send = |from: usize| {
        let (at, mut numbers) = (begun().elapsed().as_micros(), sent.get());
        let event = format!("{from} {} {at}", numbers[from]);
        publish(&publishers[from], "Order", &event);
        numbers[from] += 1;
        sent.set(numbers);
    };
    std::thread::scope(|scope| {
        let _over = Over(&are_over);
        for ((socket, heard), is_over) in subscribers.into_iter().zip(&heard).zip(&are_over) {
            scope.spawn(move || hear(&socket, heard, is_over));
        }
        let phase = || {
            for _ in 0..run.events {
                (0..HUBS).for_each(send);
                std::thread::sleep(PACE);
            }
        };
        let all: Vec<_> = (0..HUBS).collect();
        phase();
        wait_for_all(&heard, &all, &all, &sent.get());
        let before = p99(&heard);

        machines[SLOW].set_rate("10kbit");
        hubs[STILL].process().signal("STOP");
        phase();
        wait_for_all(&heard, &all[..SLOW], &all[..SLOW], &sent.get());
        let meanwhile = p99(&heard);
        let waiting = heard[SLOW].lock().expect("no panic").next;
        hubs[STILL].process().signal("CONT");
        machines[SLOW].set_rate("1gbit");
        wait_for_all(&heard, &all, &all, &sent.get());
        for hub in &hubs {
            let counters = hub.status().subscribers.counters;
            assert_eq!(counters.dropped_total(), 0, "{counters:?}");
        }
        eprintln!(
            "{HUBS} hubs, {} events of each, all heard once by all; on the slow line {waiting:?} had come by then; \
             p99 of the others {before:?} before, {meanwhile:?} meanwhile",
            2 * run.events
        );

        let bytes = unwanted(&hubs[0], &publishers[0], &machines[1]);
        eprintln!("1000 unwanted events of 1 KiB: {bytes} bytes on the link");

        // Who joins and leaves, and a hub that ends and starts again, cost those who stay nothing.
        let stay = &all[..STILL];
        are_over[STILL].store(true, Ordering::Relaxed);
        for join in 0..run.joins {
            let hub = join % STILL;
            let prefix = ["", "Order", "Order.x", "Other"][join / STILL % 4];
            let client = connected(&hubs[hub].context, zmq::SUB, &hubs[hub].subscribers());
            client.set_subscribe(prefix.as_bytes()).expect("an option");
            for _ in 0..5 {
                stay.iter().copied().for_each(send);
                std::thread::sleep(PACE);
            }
            if join % 50 == 25 {
                let hub = hubs.pop().expect("the last");
                assert!(hub.stop());
                stay.iter().copied().for_each(send);
                hubs.push(start(STILL));
            }
        }
        wait_for_all(&heard, stay, stay, &sent.get());
        eprintln!("{} joined and left, nobody else missed any", run.joins);
        let bound = before.mul_f64(1.25) + Duration::from_millis(1);
        assert!(
            !run.judges_times || meanwhile <= bound,
            "{before:?} before, {meanwhile:?} meanwhile"
        );
    });
}

/// How many bytes go to a machine while so many events are published at another that nobody there wants.
fn unwanted(hub: &TestDaemon, publisher: &zmq::Socket, other: &Machine) -> u64 {
    let unmatched = hub.status().publishers.unmatched;
    let (bytes, begun) = (other.received_bytes(), Instant::now());
    let body = "x".repeat(1024);
    (0..1000).for_each(|_| publish(publisher, "Noise", &body));
    hub.wait_for("all of it", |status| {
        status.publishers.unmatched >= unmatched + 1000
    });
    let bytes = other.received_bytes() - bytes;
    // Each hub says once a second that it is there.
    let of_traces = 1000 * (begun.elapsed().as_secs() + 2);
    assert!(bytes < of_traces, "{bytes} bytes");
    bytes
}

/// Says that all is over, also when the test fails.
struct Over<'a>(&'a [AtomicBool; HUBS]);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let each = self.0.iter();
        each.for_each(|is_over| is_over.store(true, Ordering::Relaxed));
    }
}

#[test]
fn a_slow_line_and_a_hub_that_stands_still_hold_up_nobody_else() {
    share_their_events(&Run {
        events: 300,
        joins: 40,
        judges_times: false,
    });
}

#[test]
#[ignore = "it takes minutes, and root (just mesh-machines)"]
fn ten_thousand_events_of_each_and_a_thousand_joins() {
    share_their_events(&Run {
        events: 5000,
        joins: 1000,
        judges_times: true,
    });
}
