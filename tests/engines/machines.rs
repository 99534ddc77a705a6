//! Machines of which one serves and the others stand by: the one that serves is cut off from all, is killed, or
//! stands still, again and again. Sockets of clients have all addresses; a worker has one for each, as its
//! acknowledgement has to reach who waits for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::conformance::Broker;
use super::faults::{rounds, shown};
use super::leases::engine_at;
use super::nats::Nats;
use super::support::network::{Machine, Network};
use super::support::peers::{connect, publish, socket};
use super::support::program::{Program, Serving, Site};
use super::support::shared_directory::SharedDirectory;
use super::support::way::Way;
use super::support::{PATIENCE, SERVICE_PORTS, TestDaemon};

const TTL: Duration = Duration::from_secs(3);

struct Host {
    machine: Machine,
    site: Site,
    _way: Way,
}

impl Host {
    fn new(broker: &impl Broker, network: &Network, directory: &SharedDirectory) -> Self {
        let machine = network.machine();
        let way = Way::from(&network.ours(), &broker.url());
        let its = machine.address.clone();
        let at = |port: u16| format!("tcp://{its}:{port}");
        let site = Site::configured(&json!({
            "pubAddress": at(5000), "subAddress": at(5001), "requestAddress": at(5002),
            "pullAddress": format!("tcp://{its}"), "publicHostname": its,
            "minStreamerPort": SERVICE_PORTS.start(), "maxStreamerPort": SERVICE_PORTS.start(),
            "stateDir": directory.of_next_machine(),
            "services": {"Billing": {"delivery": "queue", "subjects": ["Order"], "ackTimeout": 2}},
            "engines": {"main": engine_at(broker, &way.address())},
            "lease": {"source": "main", "ttl": TTL.as_secs()},
        }));
        Self {
            machine,
            site,
            _way: way,
        }
    }

    fn start(&self) -> Program {
        let program = self.site.command(&[]).get_program().to_owned();
        let shell = self.machine.shell().map(str::to_owned);
        self.site
            .start_in(&shell, &[program.to_str().expect("text")])
    }

    fn address(&self, port: u16) -> String {
        format!("tcp://{}:{port}", self.machine.address)
    }
}

/// Clients as there are many: sockets of libzmq, with the addresses of all machines.
struct Clients {
    publisher: zmq::Socket,
    subscriber: zmq::Socket,
    requester: zmq::Socket,
    workers: Vec<zmq::Socket>,
    published: usize,
    asked: usize,
    confirmed: BTreeSet<String>,
    worked: BTreeSet<String>,
}

impl Clients {
    fn of(machines: &[Host]) -> Self {
        let context = zmq::Context::new();
        let kinds = [zmq::PUB, zmq::SUB, zmq::DEALER];
        let [publisher, subscriber, requester] = kinds.map(|kind| socket(&context, kind));
        subscriber.set_subscribe(b"Live").expect("an option");
        requester.set_immediate(true).expect("an option");
        for machine in machines {
            connect(&publisher, &machine.address(5000));
            connect(&subscriber, &machine.address(5001));
            connect(&requester, &machine.address(5002));
        }
        for socket in [&subscriber, &requester] {
            socket.set_rcvtimeo(20).expect("an option");
        }
        let workers = machines.iter().map(|machine| {
            let worker = socket(&context, zmq::DEALER);
            connect(&worker, &machine.address(*SERVICE_PORTS.start()));
            let ready = r#"READY {"ack": true, "credit": 10}"#;
            worker.send(ready, 0).expect("a send");
            worker
        });
        let workers = workers.collect();
        Self {
            publisher,
            subscriber,
            requester,
            workers,
            published: 0,
            asked: 0,
            confirmed: BTreeSet::new(),
            worked: BTreeSet::new(),
        }
    }

    /// Publishes until the subscriber hears one.
    fn hear(&mut self) {
        until("the subscriber hears", || {
            self.published += 1;
            publish(&self.publisher, "Live", &self.published.to_string());
            self.subscriber.recv_multipart(0).ok()
        });
        while self.subscriber.recv_multipart(zmq::DONTWAIT).is_ok() {}
    }

    /// Has an event confirmed: the request is sent again until it is answered, as its id allows.
    fn emit(&mut self) {
        self.asked += 1;
        let id = format!("e-{}", self.asked);
        let request = json!({
            "token": "emit", "subject": "Order", "payload": id, "id": id, "level": "disk",
        });
        until("an EMIT is answered", || {
            let frames = [vec![], request.to_string().into_bytes()];
            let _ = self.requester.send_multipart(frames, zmq::DONTWAIT);
            let answer = self.requester.recv_multipart(0).ok()?;
            let answer: Value = serde_json::from_slice(answer.last()?).expect("JSON");
            // One that was asked twice is answered twice.
            (answer["data"]["id"] == *id).then_some(())
        });
        self.confirmed.insert(id);
    }

    /// The worker has all that was confirmed. It says nothing but its answers.
    fn work(&mut self) {
        until("the worker has all", || {
            let mut items: Vec<_> = self
                .workers
                .iter()
                .map(|one| one.as_poll_item(zmq::POLLIN))
                .collect();
            zmq::poll(&mut items, 20).expect("a poll");
            for worker in &self.workers {
                while let Ok(frames) = worker.recv_multipart(zmq::DONTWAIT) {
                    let word = String::from_utf8_lossy(&frames[0]).into_owned();
                    let delivery = word.split(' ').nth(1).expect("its number");
                    let _ = worker.send(&format!("ACK {delivery}"), zmq::DONTWAIT);
                    let event = String::from_utf8_lossy(&frames[2]).into_owned();
                    self.worked.insert(event);
                }
            }
            self.confirmed.is_subset(&self.worked).then_some(())
        });
    }

    /// How long each of them takes until it goes on.
    fn go_on(&mut self) -> [Duration; 3] {
        [Self::hear, Self::emit, Self::work].map(|goes_on| {
            let begun = Instant::now();
            goes_on(self);
            begun.elapsed()
        })
    }
}

fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
    }
}

/// What befalls the machine that serves.
#[derive(Debug, Clone, Copy)]
enum Fault {
    CutOff,
    Killed,
    Stopped,
}

#[test]
#[ignore = "10 s for each of EVENT_MANAGER_ROUNDS, and it needs root (just standby-machines)"]
fn another_machine_serves_whatever_befalls_the_first() {
    let (broker, directory) = (Nats::started(), SharedDirectory::new());
    let network = Network::new();
    let machines = [(); 2].map(|()| Host::new(&broker, &network, &directory));
    let mut clients = Clients::of(&machines);
    let mut serves = 0;
    let mut serving = Serving::ready(machines[0].start());
    let (mut taken_over, mut went_on) = (vec![], [vec![], vec![], vec![]]);
    for round in 0..rounds() {
        let fault = [Fault::CutOff, Fault::Killed, Fault::Stopped][round % 3];
        let standby = machines[1 - serves].start();
        standby.logged("EM-0711");
        clients.go_on();
        (0..20).for_each(|_| clients.emit());
        let begun = Instant::now();
        match fault {
            Fault::CutOff => machines[serves].machine.set_cut(true),
            Fault::Killed => serving.program.signal("KILL"),
            Fault::Stopped => serving.program.signal("STOP"),
        }
        let next = Serving::ready(standby);
        taken_over.push(begun.elapsed());
        for (times, time) in went_on.iter_mut().zip(clients.go_on()) {
            times.push(time);
        }
        match fault {
            Fault::CutOff => machines[serves].machine.set_cut(false),
            Fault::Killed => {}
            Fault::Stopped => {
                std::thread::sleep(Duration::from_secs(10).saturating_sub(begun.elapsed()));
                serving.program.signal("CONT");
            }
        }
        let ended = serving.program.end();
        let expected = (!matches!(fault, Fault::Killed)).then_some(76);
        assert_eq!(ended.code, expected, "{fault:?}: {ended:#?}");
        (serves, serving) = (1 - serves, next);
    }
    clients.go_on();
    let count = clients.confirmed.len();
    let daemon = TestDaemon::of(serving);
    daemon.wait_for_service("Billing", "its queue", |found| {
        found.counters.queued + found.counters.in_flight == 0
    });
    println!("{} rounds, {count} confirmed, none lost", rounds());
    println!("served after: {}", shown(taken_over));
    for (who, times) in ["PUB and SUB", "DEALER that asks", "worker"]
        .iter()
        .zip(went_on)
    {
        println!("{who}, from then: {}", shown(times));
    }
}
