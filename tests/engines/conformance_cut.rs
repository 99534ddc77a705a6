//! Three machines, each with a daemon and four workers of one service whose queue is at an engine. By turns, one of
//! them is cut off from the network, or its daemon is killed, while publishers wait until the engine has each event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use event_manager_wire::api::BridgeState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance_served::{Delivered, Queues, Worker, settings, way};
use super::support::network::{self, Network};
use super::support::peers::{connected, socket};
use super::support::{PATIENCE, TestDaemon};

const ACK_TIMEOUT: Duration = Duration::from_secs(2);
const WORKERS: usize = 4;
const CREDIT: usize = 5;
/// What a daemon can have in hands.
const HELD: usize = WORKERS * CREDIT;

pub struct Run {
    pub rounds: usize,
    /// How many events go through between two of them.
    pub calm: usize,
    /// How much longer than `ackTimeout` others may wait for the events of who is cut off or killed. A short run
    /// says nothing of that.
    pub after_ack_timeout: Option<Duration>,
}

/// One of the machines, as those see it who work and publish there.
struct Place {
    directory: TempDir,
    /// Where its workers connect while the daemon runs, and which run it is.
    works: Mutex<(usize, Option<String>)>,
    /// Workers keep what they get.
    keeps: AtomicBool,
}

/// An event came to a worker.
#[derive(Clone, Copy)]
struct Came {
    place: usize,
    at: Instant,
}

#[derive(Default)]
struct Books {
    came: BTreeMap<String, Vec<Came>>,
    /// What workers of each place have and have not acknowledged.
    held: [BTreeSet<String>; 3],
    /// How often one came to each place.
    shares: [usize; 3],
    /// The answer was that the engine has it, or the disk of the daemon.
    confirmed: BTreeSet<String>,
    on_disk: BTreeSet<String>,
    unanswered: usize,
}

struct Bed {
    context: zmq::Context,
    places: [Place; 3],
    books: Mutex<Books>,
    publishing_ends: AtomicBool,
    all_ends: AtomicBool,
}

impl Bed {
    fn books<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut self.books.lock().expect("no panic"))
    }

    fn wait_for<T>(&self, what: &str, wanted: impl Fn(&mut Books) -> Option<T>) -> T {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            if let Some(found) = self.books(&wanted) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn settings<B: Queues>(&self, broker: &B, place: usize) -> Value {
        let directory = &self.places[place].directory;
        let more = json!({
            "ackTimeout": ACK_TIMEOUT.as_secs(), "retry": {"initialMs": 0, "maxDeliveries": 100},
        });
        let mut settings = settings(directory, broker, &more);
        // Its clients are on its machine, so that nothing cuts them off from it.
        for (key, name) in [
            ("pubAddress", "pub"),
            ("subAddress", "sub"),
            ("requestAddress", "requests"),
            ("pullAddress", "pull"),
        ] {
            settings[key] = json!(self.address(place, name));
        }
        settings
    }

    fn address(&self, place: usize, name: &str) -> String {
        format!(
            "ipc://{}/{name}",
            self.places[place].directory.path().display()
        )
    }

    fn is_working(&self, place: usize, daemon: Option<&TestDaemon>) {
        let mut works = self.places[place].works.lock().expect("no panic");
        *works = (
            works.0 + 1,
            daemon.map(|daemon| daemon.address_of("Billing")),
        );
    }
}

/// The four workers of a place, until all ends. New ones come when its daemon does.
fn work(bed: &Bed, place: usize) {
    let here = &bed.places[place];
    let (mut run, mut workers, mut held) = (0, vec![], Vec::<(usize, Delivered)>::new());
    while !bed.all_ends.load(Ordering::Relaxed) {
        let (now, address) = here.works.lock().expect("no panic").clone();
        if now != run {
            run = now;
            held.clear();
            let connect = |address: &String| Worker(connected(&bed.context, zmq::DEALER, address));
            workers = address
                .iter()
                .flat_map(|address| (0..WORKERS).map(|_| connect(address)))
                .collect();
            for worker in &workers {
                worker.say(&format!(
                    r#"READY {{"ack": true, "ids": true, "credit": {CREDIT}}}"#
                ));
            }
        }
        let mut polled: Vec<_> = workers
            .iter()
            .map(|worker| worker.0.as_poll_item(zmq::POLLIN))
            .collect();
        if zmq::poll(&mut polled, 5).expect("a poll") > 0 {
            let ready = polled.iter().enumerate();
            let ready: Vec<_> = ready
                .filter(|(_, item)| item.is_readable())
                .map(|(n, _)| n)
                .collect();
            for n in ready {
                let event = workers[n].receive();
                bed.books(|books| {
                    let came = Came {
                        place,
                        at: Instant::now(),
                    };
                    books.came.entry(event.data.clone()).or_default().push(came);
                    books.held[place].insert(event.data.clone());
                    books.shares[place] += 1;
                });
                held.push((n, event));
            }
        }
        if !here.keeps.load(Ordering::Relaxed) {
            for (n, event) in held.drain(..) {
                workers[n].ack(&event);
                bed.books(|books| books.held[place].remove(&event.data));
            }
        }
    }
}

/// Publishes one event after the other at a place, each until it is answered or the daemon is lost.
fn publish(bed: &Bed, place: usize) {
    let run_of = || bed.places[place].works.lock().expect("no panic").clone();
    let mut number = 0;
    while !bed.publishing_ends.load(Ordering::Relaxed) {
        let (run, address) = run_of();
        if address.is_none() {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let requester = socket(&bed.context, zmq::REQ);
        requester
            .connect(&bed.address(place, "requests"))
            .expect("an address");
        while run_of().0 == run && !bed.publishing_ends.load(Ordering::Relaxed) {
            let id = format!("{place}-{number}");
            number += 1;
            let request = json!({
                "token": "emit", "subject": "Order", "payload": id, "id": id, "level": "engine",
            });
            requester.send(&request.to_string(), 0).expect("a send");
            while requester.poll(zmq::POLLIN, 20).expect("a poll") == 0 && run_of().0 == run {}
            if requester.poll(zmq::POLLIN, 0).expect("a poll") == 0 {
                bed.books(|books| books.unanswered += 1);
                break;
            }
            let answer = requester.recv_bytes(0).expect("an answer");
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            let is_confirmed = answer["data"]["level"] == "engine";
            assert!(
                is_confirmed || answer["data"]["level"] == "disk",
                "{answer}"
            );
            bed.books(|books| match is_confirmed {
                true => books.confirmed.insert(id),
                false => books.on_disk.insert(id),
            });
            // What waits on a disk while its machine is cut off is to be a few.
            std::thread::sleep(Duration::from_millis(if is_confirmed { 1 } else { 50 }));
        }
    }
}

/// Says that all is over, also when the test fails.
struct Ends<'a>(&'a Bed);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        for ends in [&self.0.publishing_ends, &self.0.all_ends] {
            ends.store(true, Ordering::Relaxed);
        }
    }
}

/// What was seen.
#[derive(Default)]
struct Figures {
    /// How long others waited for the events of who was cut off, and who was killed.
    waited: [Vec<Duration>; 2],
    /// How many came again in each round.
    again: Vec<usize>,
    /// Of those that came while all were there.
    shares: [usize; 3],
}

/// Whoever is cut off or killed by turns, nothing that was confirmed is lost. Without root it can't be shown.
#[expect(clippy::print_stderr, reason = "a figure for people")]
pub fn machines_are_cut_off_and_daemons_killed<B: Queues>(run: &Run) {
    if !network::can_be_had() {
        eprintln!("{}: not shown, as it needs root and iproute2", B::TYPE);
        return;
    }
    let network = Network::new();
    let broker = B::started_at(&network.ours());
    let machines = [(); 3].map(|()| network.machine());
    let bed = Bed {
        context: zmq::Context::new(),
        places: [(); 3].map(|()| Place {
            directory: TempDir::new().expect("a directory"),
            works: Mutex::default(),
            keeps: AtomicBool::default(),
        }),
        books: Mutex::default(),
        publishing_ends: AtomicBool::default(),
        all_ends: AtomicBool::default(),
    };
    let start = |n: usize| {
        let daemon = TestDaemon::in_own_process_at(&bed.settings(&broker, n), &machines[n]);
        wait_until_it_works(&daemon);
        bed.is_working(n, Some(&daemon));
        daemon
    };
    let mut daemons = [0, 1, 2].map(|n| Some(start(n)));
    let mut figures = Figures::default();
    std::thread::scope(|scope| {
        let _ends = Ends(&bed);
        for place in 0..3 {
            let bed = &bed;
            scope.spawn(move || work(bed, place));
            scope.spawn(move || publish(bed, place));
        }
        for round in 0..run.rounds {
            let (victim, is_cut) = (round % 3, round % 2 == 0);
            let daemon = || daemons[victim].as_ref().expect("it runs");
            daemon().wait_for_ready("Billing", WORKERS as u64);
            calm(&bed, run.calm, &mut figures);
            // Its workers have all that they may, and have acknowledged nothing of it.
            let keeps = &bed.places[victim].keeps;
            keeps.store(true, Ordering::Relaxed);
            bed.wait_for("its workers have all", |books| {
                (books.held[victim].len() >= HELD).then_some(())
            });
            let begun = Instant::now();
            if is_cut {
                machines[victim].set_cut(true);
            } else {
                bed.is_working(victim, None);
                daemons[victim].take().expect("it runs").kill();
            }
            let held = bed.books(|books| std::mem::take(&mut books.held[victim]));
            // Those that are cut off go on with what they have.
            keeps.store(false, Ordering::Relaxed);
            let waited = bed.wait_for("others have them", |books| {
                let others = |event: &String| {
                    let mut came = books.came[event].iter();
                    let other = came.find(|came| came.place != victim && came.at > begun);
                    other.map(|came| came.at - begun)
                };
                let all: Option<Vec<_>> = held.iter().map(others).collect();
                all?.into_iter().max()
            });
            figures.waited[usize::from(!is_cut)].push(waited);
            if is_cut {
                machines[victim].set_cut(false);
                wait_until_it_works(daemons[victim].as_ref().expect("it runs"));
            } else {
                daemons[victim] = Some(start(victim));
            }
            figures.again.push(bed.books(|books| {
                let again =
                    |came: &&Vec<Came>| came.len() > 1 && came.iter().any(|came| came.at > begun);
                books.came.values().filter(again).count()
            }));
        }
        bed.publishing_ends.store(true, Ordering::Relaxed);
        bed.wait_for("what is confirmed has come", |books| {
            let mut wanted = books.confirmed.iter().chain(&books.on_disk);
            wanted
                .all(|event| books.came.contains_key(event))
                .then_some(())
        });
        let deadline = Instant::now() + PATIENCE;
        while broker.waiting("Billing") > 0 {
            assert!(Instant::now() < deadline, "something is not acknowledged");
        }
    });
    judge(B::TYPE, run, &bed, &figures);
}

fn wait_until_it_works(daemon: &TestDaemon) {
    daemon.wait_for("both ways", |status| {
        ["in", "out"].map(|direction| way(status, direction).state) == [BridgeState::Running; 2]
    });
}

/// So many events go through while all are there.
fn calm(bed: &Bed, events: usize, figures: &mut Figures) {
    let before = bed.books(|books| books.shares);
    let since = |books: &Books| [0, 1, 2].map(|n| books.shares[n] - before[n]);
    let shares = bed.wait_for("events go through", |books| {
        let shares = since(books);
        (shares.iter().sum::<usize>() >= events).then_some(shares)
    });
    for (all, one) in figures.shares.iter_mut().zip(shares) {
        *all += one;
    }
}

#[expect(clippy::print_stderr, reason = "figures for people")]
fn judge(engine: &str, run: &Run, bed: &Bed, figures: &Figures) {
    let longest = figures
        .waited
        .each_ref()
        .map(|waited| waited.iter().max().copied().unwrap_or_default());
    let again = figures.again.iter().max().copied().unwrap_or_default();
    bed.books(|books| {
        let twice = books.came.values().map(|came| came.len() - 1).sum::<usize>();
        eprintln!(
            "{engine}: {} rounds, {} events confirmed by the engine, {} by a disk, {} not answered, none lost; \
             others had what {HELD} were in hands of after {:?} at most (cut off) and {:?} (killed); {twice} came \
             again, in one round {again} at most; {:?} came to each while all were there",
            run.rounds, books.confirmed.len(), books.on_disk.len(), books.unanswered, longest[0], longest[1],
            figures.shares,
        );
    });
    eprintln!("{engine}: again in each round {:?}", figures.again);
    let Some(after) = run.after_ack_timeout else {
        return;
    };
    assert!(
        longest.iter().all(|waited| *waited <= ACK_TIMEOUT + after),
        "{longest:?}"
    );
    let third = figures.shares.iter().sum::<usize>() / 3;
    let is_even = |share: &usize| share.abs_diff(third) * 5 <= third;
    assert!(
        figures.shares.iter().all(is_even),
        "shares: {:?}",
        figures.shares
    );
}
