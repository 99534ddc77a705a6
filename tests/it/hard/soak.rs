//! A daemon under load, with a fault every few seconds. In the end both laws hold, all that was confirmed
//! was delivered, and memory is what it was.

mod mixed;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use event_manager_wire::api::QueueState;
use serde_json::{Value, json};

use super::bed::{Chance, End, Worker};
use super::disk::SmallDisk;
use crate::support::peers::{connect, connected, publish, socket};
use crate::support::process::settings;
use crate::support::program::{Serving, Site, wait_until};
use crate::support::{PATIENCE, TestDaemon, disk_of};

const MIB: u64 = 1 << 20;

/// Where the daemon of the moment is.
#[derive(Debug, Clone, Default)]
struct Whereabouts {
    /// How often it was started.
    run: u64,
    requests: String,
    workers: String,
    publishers: String,
    subscribers: String,
}

#[derive(Default)]
struct Soak {
    whereabouts: Mutex<Whereabouts>,
    ends: AtomicBool,
    number: AtomicU64,
    confirmed: Mutex<BTreeSet<u64>>,
    done: Mutex<BTreeSet<u64>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic")
}

impl Soak {
    fn whereabouts(&self) -> Whereabouts {
        locked(&self.whereabouts).clone()
    }

    /// It was started, and has this service.
    fn is_at(&self, daemon: &TestDaemon) {
        let mut whereabouts = locked(&self.whereabouts);
        *whereabouts = Whereabouts {
            run: whereabouts.run + 1,
            requests: daemon.requests(),
            workers: daemon.address_of("Billing"),
            publishers: daemon.publishers(),
            subscribers: daemon.subscribers(),
        };
    }

    fn goes_on(&self, run: u64) -> bool {
        !self.ends.load(Ordering::Relaxed) && locked(&self.whereabouts).run == run
    }

    fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Publishes, each event again with its id until it is confirmed.
    fn emit(&self, context: &zmq::Context, mut chance: Chance) {
        while !self.ends() {
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let mut request = json!({
                "token": "emit", "id": format!("soak-{number}"), "level": "disk",
                "subject": format!("Order.{}", number % 7), "payload": number.to_string(),
            });
            if chance.one_in(10) {
                request["payload"] = json!(format!("{number} {}", "x".repeat(20_000)));
            }
            while !self.ends() && !self.is_confirmed(context, &request) {
                std::thread::sleep(Duration::from_millis(20));
            }
            // Faults are what this is about: they should find a daemon that has time for them.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_confirmed(&self, context: &zmq::Context, request: &Value) -> bool {
        let client = connected(context, zmq::REQ, &self.whereabouts().requests);
        client.set_rcvtimeo(2000).expect("an option");
        client.send(&request.to_string(), 0).expect("a send");
        let answer = client.recv_bytes(0).unwrap_or_default();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let is_confirmed = answer["data"]["level"] == "disk";
        if is_confirmed {
            let number = request["payload"].as_str().map(number_of);
            locked(&self.confirmed).extend(number);
        }
        is_confirmed
    }

    /// Works, and now and then gives an event back or forgets it.
    fn work(&self, context: &zmq::Context, mut chance: Chance) {
        while !self.ends() {
            let whereabouts = self.whereabouts();
            let worker = Worker::join(context, &whereabouts.workers, 1 + chance.below(32) as u32);
            let stays = Instant::now() + Duration::from_millis(1000 + chance.below(20_000));
            while self.goes_on(whereabouts.run) && Instant::now() < stays {
                let Some(event) = worker.hold(50) else {
                    continue;
                };
                match chance.below(100) {
                    0 => {}
                    1..3 => worker.nak(&event),
                    _ => {
                        locked(&self.done).insert(number_of(&event.data));
                        worker.ack(&event);
                    }
                }
            }
        }
    }

    /// Subscribes to all and hardly reads.
    fn idle(&self, context: &zmq::Context) {
        while !self.ends() {
            let whereabouts = self.whereabouts();
            let subscriber = socket(context, zmq::SUB);
            subscriber.set_rcvhwm(10).expect("an option");
            subscriber.set_subscribe(b"").expect("an option");
            connect(&subscriber, &whereabouts.subscribers);
            while self.goes_on(whereabouts.run) {
                std::thread::sleep(Duration::from_millis(100));
                let _ = subscriber.recv_multipart(zmq::DONTWAIT);
            }
        }
    }

    /// Publishes as others do, unconfirmed, for the subscriber.
    fn publish(&self, context: &zmq::Context) {
        while !self.ends() {
            let whereabouts = self.whereabouts();
            let publisher = connected(context, zmq::PUB, &whereabouts.publishers);
            while self.goes_on(whereabouts.run) {
                (0..20).for_each(|_| publish(&publisher, "Weather", "it rains"));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// A worker that is well takes what is left.
    fn drain(&self, daemon: &TestDaemon) {
        let worker = Worker::join(&daemon.context, &self.whereabouts().workers, 100);
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            while let Some(event) = worker.hold(50) {
                locked(&self.done).insert(number_of(&event.data));
                worker.ack(&event);
            }
            let service = daemon.service("Billing");
            let counters = &service.counters;
            let is_open = disk_of(&service).state == QueueState::Ok;
            if counters.queued == 0 && counters.in_flight == 0 && is_open {
                return;
            }
            assert!(Instant::now() < deadline, "it waits for ever: {service:#?}");
        }
    }

    /// Each that was confirmed was delivered.
    fn loses_nothing(&self) {
        let (confirmed, done) = (locked(&self.confirmed), locked(&self.done));
        println!("{} confirmed, {} done", confirmed.len(), done.len());
        let lost: Vec<_> = confirmed.difference(&done).take(10).collect();
        assert!(lost.is_empty(), "confirmed, and never delivered: {lost:?}");
    }
}

/// How long it takes.
fn seconds() -> u64 {
    let seconds = std::env::var("EVENT_MANAGER_SOAK_SECONDS").ok();
    seconds.map_or(900, |text| text.parse().expect("a number"))
}

fn number_of(data: &str) -> u64 {
    let number = data.split(' ').next().expect("a word");
    number.parse().expect("a number")
}

fn resident_bytes(daemon: &TestDaemon) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", daemon.program().pid()));
    let statm = statm.expect("the process runs");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

/// The daemon, and what can be done to it.
struct Victim<'a> {
    soak: &'a Soak,
    site: Site,
    disk: SmallDisk,
    daemon: Option<TestDaemon>,
    silent: Vec<TcpStream>,
    reloads: u64,
}

fn keys(disk: &SmallDisk, reloads: u64) -> Value {
    let queue_events = if reloads.is_multiple_of(2) { 20 } else { 1000 };
    let retry = json!({"initialMs": 1, "maxMs": 100, "maxDeliveries": 100_000});
    json!({
        "stateDir": disk.path(),
        "drainTimeout": 0.5,
        "memoryLimit": 64 * MIB,
        "limits": {"maxMessageBytes": 100_000},
        "heartbeatInterval": 1,
        "budgets": {"subscriberOutboxBytes": MIB},
        "services": {"Billing": {
            "delivery": "queue", "subjects": ["Order"], "retry": retry,
            "ackTimeout": 1 + reloads % 2, "queueEvents": queue_events,
        }},
    })
}

impl<'a> Victim<'a> {
    fn new(soak: &'a Soak) -> Self {
        let disk = SmallDisk::mount("64m");
        let mut victim = Self {
            soak,
            site: Site::configured(&keys(&disk, 0)),
            disk,
            daemon: None,
            silent: vec![],
            reloads: 0,
        };
        victim.start();
        victim
    }

    fn daemon(&self) -> &TestDaemon {
        self.daemon.as_ref().expect("it runs")
    }

    fn start(&mut self) {
        let daemon = TestDaemon::of(Serving::ready(self.site.start(&[])));
        self.soak.is_at(&daemon);
        self.daemon = Some(daemon);
    }

    fn ports(&self) -> Vec<String> {
        let whereabouts = self.soak.whereabouts();
        let all = [
            whereabouts.requests,
            whereabouts.workers,
            whereabouts.publishers,
            whereabouts.subscribers,
        ];
        all.iter().map(|at| at.replace("tcp://", "")).collect()
    }

    fn hurt(&mut self, fault: u64, chance: &mut Chance) {
        let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
        match fault {
            0 => {
                self.daemon().program().signal("STOP");
                pause(500 + chance.below(2500));
                self.daemon().program().signal("CONT");
            }
            1 => {
                for port in self.ports().iter().cycle().take(40) {
                    let stream = TcpStream::connect(port).expect("a connection");
                    let now = Some(Duration::ZERO);
                    socket2::SockRef::from(&stream)
                        .set_linger(now)
                        .expect("an option");
                }
            }
            2 => {
                for port in self.ports() {
                    self.silent
                        .extend((0..5).map(|_| TcpStream::connect(&port).expect("one")));
                }
            }
            3 => {
                self.disk.fill(0);
                pause(1000 + chance.below(2000));
                self.disk.make_space();
            }
            4 => {
                self.reloads += 1;
                let keys = settings(&keys(&self.disk, self.reloads));
                self.site.write("config.json", &keys.to_string());
                self.daemon().program().signal("HUP");
            }
            5 => {
                let context = &self.daemon().context;
                for n in 0..60 {
                    let whereabouts = self.soak.whereabouts();
                    if n % 2 == 0 {
                        let worker = Worker::join(context, &whereabouts.workers, 4);
                        let _ = worker.hold(1);
                    } else {
                        drop(connected(context, zmq::SUB, &whereabouts.subscribers));
                    }
                }
            }
            6 => {
                let daemon = self.daemon.take().expect("it runs");
                assert!(daemon.stop());
                self.start();
            }
            _ => {
                let program = self.daemon.take().expect("it runs").into_program();
                program.signal("KILL");
                program.end();
                self.start();
            }
        }
    }
}

#[test]
#[ignore = "takes 15 minutes, or as many seconds as EVENT_MANAGER_SOAK_SECONDS says; needs root"]
fn a_soak_with_a_fault_every_ten_seconds() {
    let seconds = seconds();
    let mut chance = Chance::new();
    let (soak, context) = (Soak::default(), zmq::Context::new());
    let mut victim = Victim::new(&soak);
    let before = resident_bytes(victim.daemon());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut faults = [0; 8];
    std::thread::scope(|scope| {
        let (soak, context) = (&soak, &context);
        for _ in 0..4 {
            let chance = [chance.fork(), chance.fork()];
            let [emits, works] = chance;
            scope.spawn(move || soak.emit(context, emits));
            scope.spawn(move || soak.work(context, works));
        }
        scope.spawn(move || soak.publish(context));
        scope.spawn(move || soak.idle(context));
        // Should an assertion fail, the others end too.
        let _end = End(&soak.ends);
        while Instant::now() < end {
            let fault = chance.below(8);
            faults[fault as usize] += 1;
            victim.hurt(fault, &mut chance);
            std::thread::sleep(Duration::from_secs(10.min(seconds)));
        }
    });
    soak.drain(victim.daemon());
    println!("{seconds} s, faults {faults:?}, {before} bytes resident at first");
    soak.loses_nothing();
    victim.silent.clear();
    let bound = before * 6 / 5 + 16 * MIB;
    let is_back = wait_until(|| (resident_bytes(victim.daemon()) <= bound).then_some(()));
    let resident = resident_bytes(victim.daemon());
    assert!(
        is_back.is_some(),
        "{resident} bytes are resident, and {before} were"
    );
    println!("{resident} bytes resident in the end");
    // With it end both laws are asserted.
    drop(victim.daemon.take());
}
