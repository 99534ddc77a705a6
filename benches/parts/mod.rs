//! The parts whose cost is watched: each is set up, then run once. `instructions` counts what a run
//! takes, `micro` takes its time.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use event_manager::reactor::hot_path::HotPath;
use event_manager::store::{DiskDirectory, StateDir};
use event_manager_core::broker::{
    BindFailure, Broker, BrokerConfig, EndError, EndedService, PeerId, Policies, QueueLimits,
    RouteTable, ServiceKey, Streamers, Workers,
};
use event_manager_core::event_id::{Emitter, EventId};
use event_manager_core::log::{LogLimits, NewEvent, QueueLog};
use event_manager_core::requests::{
    Answer, Context, Emission, Happening, Host, LeaseRequest, LettersRequest, Settings, SyncEvent,
    find,
};
use event_manager_core::security::Deed;
use event_manager_core::seq::Seq;
use event_manager_wire::messagebus::{Message, Nak, decode, encode};
use event_manager_wire::model::{ServiceName, SubjectPattern, SubscriptionId};
use event_manager_zmtp::Limits;
use event_manager_zmtp::encode_message;
use tempfile::TempDir;

/// Events in a run, and picks of a dispatch.
pub const EVENTS: usize = 1000;

/// A data plane, and what its publisher sent.
pub struct Intake(HotPath, BytesMut);

impl Intake {
    fn new(path: HotPath, subjects: usize, size: usize) -> Self {
        let mut sent = BytesMut::new();
        for event in 0..EVENTS {
            let subject = format!("subject{:02}", event % subjects);
            sent.extend_from_slice(&encode_message(&[subject.as_bytes(), &vec![b'x'; size]]));
        }
        Self(path, sent)
    }

    /// Every event to each of so many subscribers.
    pub fn fan(subscribers: usize, size: usize) -> Self {
        let mut path = HotPath::new().unwrap();
        (0..subscribers).for_each(|_| path.subscribe("subject").unwrap());
        Self::new(path, 1, size)
    }

    /// Every event to one of so many workers.
    pub fn workers(workers: usize) -> Self {
        let mut path = HotPath::new().unwrap();
        path.serve("Service", "subject", workers, None).unwrap();
        Self::new(path, 1, 64)
    }

    /// Every event to one of so many workers that acknowledge.
    pub fn acknowledging(workers: usize) -> Self {
        let mut path = HotPath::new().unwrap();
        path.serve("Service", "subject", workers, Some(EVENTS as u32))
            .unwrap();
        Self::new(path, 1, 64)
    }

    /// Each event to another service.
    pub fn services(services: usize) -> Self {
        let mut path = HotPath::new().unwrap();
        for service in 0..services {
            let name = format!("Service{service}");
            path.serve(&name, &format!("subject{service:02}"), 1, None)
                .unwrap();
        }
        Self::new(path, services, 64)
    }

    /// Decodes, routes, appends; returns itself so that its end isn't part of the run.
    pub fn run(mut self) -> Self {
        self.0.take(std::mem::take(&mut self.1)).unwrap();
        self
    }

    /// Whether the events went where they should.
    pub fn check(mut self) {
        assert!(self.0.forget() >= EVENTS * 64);
    }
}

/// What workers say who hold events.
pub struct Acknowledged(HotPath, Vec<(PeerId, BytesMut)>);

impl Acknowledged {
    pub fn new(workers: usize) -> Self {
        let Intake(mut path, _) = Intake::acknowledging(workers).run();
        assert_eq!(path.held(), EVENTS);
        let said = path.acknowledgements();
        Self(path, said)
    }

    pub fn run(mut self) -> Self {
        for (worker, said) in std::mem::take(&mut self.1) {
            self.0.hear(worker, said).unwrap();
        }
        assert_eq!(self.0.held(), 0);
        self
    }
}

/// Events on their way through four workers that acknowledge, each of which holds 32.
pub struct Worked(HotPath, BytesMut);

impl Worked {
    /// Of a hundred subjects; those of each are done one after the other, if they keep their order.
    pub fn new(by_subject: bool) -> Self {
        let mut path = HotPath::new().unwrap();
        path.serve("Service", "subject", 4, Some(32)).unwrap();
        if by_subject {
            path.order_by_subject("Service");
        }
        let Intake(path, sent) = Intake::new(path, 100, 64);
        Self(path, sent)
    }

    pub fn run(mut self) -> Self {
        self.0.take(std::mem::take(&mut self.1)).unwrap();
        let mut done = 0;
        while self.0.held() > 0 {
            done += self.0.held();
            for (worker, said) in self.0.acknowledgements() {
                self.0.hear(worker, said).unwrap();
            }
        }
        assert!(done >= EVENTS);
        self
    }
}

/// Events of durable services, each with a worker that acknowledges: to the store, to the workers, and what
/// these say. Each event is of another of the services.
pub struct Durable(HotPath, BytesMut);

impl Durable {
    pub fn of(services: usize) -> Self {
        let mut path = HotPath::new().unwrap();
        for service in 0..services {
            let (name, subject) = (format!("Service{service}"), format!("subject{service:02}"));
            path.serve_durable(&name, &subject, 1, EVENTS as u32)
                .unwrap();
        }
        let Intake(path, sent) = Intake::new(path, services, 64);
        Self(path, sent)
    }

    pub fn run(mut self) -> Self {
        self.0.take(std::mem::take(&mut self.1)).unwrap();
        // To the store; and, when that knows that they are given out, to the workers.
        self.0.commit();
        self.0.commit();
        assert_eq!(self.0.held(), EVENTS);
        for (worker, said) in self.0.acknowledgements() {
            self.0.hear(worker, said).unwrap();
        }
        assert_eq!(self.0.held(), 0);
        self.0.commit();
        self
    }
}

/// A log with events that wait, and what goes with it.
pub struct ReadBack {
    log: QueueLog<DiskDirectory>,
    _state: StateDir,
    _directory: TempDir,
}

impl ReadBack {
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let state = StateDir::lock(directory.path()).unwrap();
        let queue = state.queue(&ServiceName::new("Service").unwrap()).unwrap();
        let (mut log, _) = QueueLog::open(queue, "Service", LogLimits::default(), 0).unwrap();
        for _ in 0..EVENTS {
            let event = NewEvent {
                id: None,
                attributes: b"",
                body: &[b'x'; 64],
            };
            log.append(event, 0).unwrap();
        }
        log.commit(0).unwrap();
        Self {
            log,
            _state: state,
            _directory: directory,
        }
    }

    pub fn run(mut self) -> Self {
        let events = self.log.read(Seq::FIRST, EVENTS, u64::MAX).unwrap();
        assert_eq!(events.len(), EVENTS);
        self
    }
}

/// A data plane whose state is looked at.
pub struct Look(HotPath);

impl Look {
    /// So many services, each with so many subscriptions.
    pub fn at(services: usize, subscriptions: usize) -> Self {
        let mut path = HotPath::new().unwrap();
        for service in 0..services {
            let name = format!("Service{service}");
            path.serve(&name, &format!("subject{service:02}"), 1, None)
                .unwrap();
            for n in 1..subscriptions {
                let (id, subject) = (format!("{name}-{n}"), format!("subject{service:02}.{n}"));
                path.subscribe_service(&id, &name, &subject).unwrap();
            }
        }
        Self(path)
    }

    pub fn run(mut self) -> Self {
        assert!(self.0.look() > 0);
        self
    }

    /// The reactor's turn in which STATUS is asked for.
    pub fn asked(mut self) -> Self {
        assert!(self.0.asked_for_state() > 0);
        self
    }

    /// One of those in which it tells the rest.
    pub fn part(self) -> Self {
        assert!(self.0.part_of_subscriptions("Service0") > 0);
        self
    }
}

/// Confirmed events for a service with a worker.
pub struct Emit(HotPath, PeerId, Vec<Bytes>);

impl Emit {
    pub fn new() -> Self {
        let mut path = HotPath::new().unwrap();
        path.serve("Service", "subject", 1, None).unwrap();
        let requester = path.requester().unwrap();
        let requests = (0..EVENTS).map(|n| {
            let data = format!("event-{n}\0memory\0subject\0{}", "x".repeat(256));
            encode_message(&[&b""[..], b"2.101", b"2", data.as_bytes()])
        });
        let requests = requests.collect();
        Self(path, requester, requests)
    }

    pub fn run(mut self) -> Self {
        for request in &self.2 {
            self.0.ask(self.1, request).unwrap();
        }
        self
    }

    /// Whether each went to the worker, and was answered.
    pub fn check(mut self) {
        assert!(self.0.forget() >= EVENTS * 300);
    }
}

/// Routes of services, and the subjects that are looked up.
pub struct Lookup(RouteTable, Vec<String>);

impl Lookup {
    /// 90 services, and 1,000 subjects that were not looked up before, or were.
    pub fn new(known: bool) -> Self {
        let mut table = RouteTable::default();
        for service in 0..90 {
            want(&mut table, service, &format!("order.{service:02}"));
            want(&mut table, service, &format!("glob:*.created.{service:02}"));
        }
        let subjects = (0..1000)
            .map(|n| format!("order.{:02}.created.{n:03}", n % 90))
            .collect();
        let lookup = Self(table, subjects);
        if known { lookup.run() } else { lookup }
    }

    /// A service that wants all, others with so many globs that match nothing, and 1,000 new subjects.
    pub fn among_globs(globs: u32, deep: bool) -> Self {
        let mut table = RouteTable::default();
        want(&mut table, 0, "order");
        for n in 1..=globs {
            let glob = match deep {
                false => format!("glob:order.*.shipped.{n}"),
                true => format!("glob:**.shipped.{n}.**"),
            };
            want(&mut table, n, &glob);
        }
        let subjects = (0..1000)
            .map(|n| format!("order.{n:03}.created.{:02}", n % 90))
            .collect();
        Self(table, subjects)
    }

    /// 1,000 of so many subjects, all of which were looked up before, in turn.
    pub fn of_many(subjects: usize) -> Self {
        let mut table = RouteTable::default();
        want(&mut table, 0, "order");
        let all = (0..subjects).map(|n| format!("order.created.{n:06}"));
        // Twice: while their number grows, some of the first make room for others.
        let Self(table, mut all) = Self(table, all.collect()).run().run();
        all.truncate(1000);
        Self(table, all)
    }

    pub fn run(mut self) -> Self {
        for subject in &self.1 {
            assert_eq!(self.0.route(subject.as_bytes()).services.len(), 1);
        }
        self
    }
}

fn want(table: &mut RouteTable, service: u32, written: &str) {
    let pattern = SubjectPattern::parse(written, 1024).unwrap();
    table.add(&pattern, ServiceKey(service));
}

/// Workers of one service, each of which reports what it has done.
pub struct Dispatch(Workers);

impl Dispatch {
    pub fn new(workers: u32) -> Self {
        let mut all = Workers::default();
        for slot in 0..workers {
            let key = all.join(PeerId { slot, serial: 0 }, false);
            all.ready(key);
        }
        Self(all)
    }

    pub fn run(mut self) -> Self {
        for _ in 0..EVENTS {
            let (worker, _) = self.0.pick().unwrap();
            self.0.ready(worker);
        }
        self
    }
}

struct Unbound;

impl Streamers for Unbound {
    fn open(&mut self, _: ServiceKey, port: u16) -> Result<u16, BindFailure> {
        Ok(port)
    }
}

/// A request to subscribe, and the broker that gets it.
pub struct Subscribe(Broker, Vec<Bytes>);

/// A daemon of a broker alone.
struct Deciding<'a> {
    broker: &'a mut Broker,
    streamers: Unbound,
    settings: &'a Settings,
    ended: Vec<EndedService>,
    happened: Vec<Happening>,
}

impl Host for Deciding<'_> {
    fn context(&mut self) -> Context<'_> {
        Context {
            broker: self.broker,
            streamers: &mut self.streamers,
            ended: &mut self.ended,
            happened: &mut self.happened,
            now: Instant::now(),
            settings: self.settings,
        }
    }

    fn judge(&mut self, _: Deed<'_>) -> Result<(), Nak> {
        Ok(())
    }

    fn event_id(&self, said: Bytes) -> EventId {
        EventId::of(Emitter::Anybody, said)
    }

    fn claim(&mut self, _: &SubscriptionId) {}

    fn is_stopping(&self) -> bool {
        false
    }

    fn is_full(&self) -> Option<Nak> {
        None
    }

    fn status(&mut self) -> Answer {
        unreachable!()
    }

    fn events(&mut self, _: Option<u64>, _: usize) -> String {
        unreachable!()
    }

    fn instances(&mut self, _: usize) -> String {
        unreachable!()
    }

    fn lease(&mut self, _: LeaseRequest) -> Result<Answer, Nak> {
        unreachable!()
    }

    fn call(&mut self, _: SyncEvent) -> Answer {
        unreachable!()
    }

    fn emit(&mut self, _: &Emission) -> Answer {
        unreachable!()
    }

    fn letters(&mut self, _: LettersRequest) -> Answer {
        unreachable!()
    }

    fn promise(&mut self, _: &SubscriptionId, _: Message) -> Answer {
        unreachable!()
    }

    fn end(&mut self, _: &ServiceName) -> Result<Answer, EndError> {
        unreachable!()
    }
}

impl Subscribe {
    /// The service is new, or has so many patterns of others.
    pub fn beside(patterns: usize) -> Self {
        let mut broker = Broker::new(BrokerConfig {
            streamer_ports: 5002..=5100,
            subscription_ttl: Duration::from_secs(60),
            subscriptions_max: 100_000,
            patterns_per_service_max: 100_000,
            policies: Policies::live(QueueLimits {
                bytes_max: 1 << 20,
                events_max: 1000,
            }),
        });
        let service = ServiceName::new("Billing").unwrap();
        for n in 0..patterns {
            let id = SubscriptionId::new(&format!("other-{n}")).unwrap();
            let pattern = SubjectPattern::parse(&format!("Order{n:06}"), 1024).unwrap();
            let patterns = [pattern].into();
            let subscribed =
                broker.subscribe(&id, &service, patterns, None, Instant::now(), &mut Unbound);
            subscribed.unwrap();
        }
        let frames: [&[u8]; 3] = [b"2.1", b"2", b"sub-1\0Billing\0OrderCreated\0OrderPaid"];
        Self(broker, frames.map(Bytes::from_static).to_vec())
    }

    pub fn run(mut self) -> Self {
        let settings = Settings {
            pub_address: "tcp://localhost:5000".into(),
            pull_address_prefix: "tcp://localhost:".into(),
            id_prefix: "sub".into(),
            limits: Limits::default(),
            has_store: false,
            version: env!("CARGO_PKG_VERSION"),
            publish_timeout: Duration::from_secs(30),
        };
        let (request, layout) = decode(&self.1).unwrap();
        let mut host = Deciding {
            broker: &mut self.0,
            streamers: Unbound,
            settings: &settings,
            ended: vec![],
            happened: vec![],
        };
        let Answer::Now(answer) = find(request.token).unwrap().answer(&request, &mut host) else {
            panic!("no answer")
        };
        assert!(encode(&answer, layout).len() >= 3);
        self
    }
}
