//! What is measured.

use std::time::Duration;

/// How a scenario is run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// As fast as a window of events under way allows.
    Flow,
    /// The same with events kept on disk until a worker acknowledges them.
    Durable,
    /// The same in memory.
    Acknowledged,
    /// The same, each answered when it is accepted, or when it is on disk; it may have an id of its own.
    Confirmed { on_disk: bool, has_id: bool },
    /// As many calls as the window has, each over when all services have answered.
    Called,
    /// So many events are on disk when the broker starts; then its workers come.
    CatchUp { events: u64 },
    /// In turns without and with events that no worker can do; each takes a worker so long.
    Poisoned { is_durable: bool, work: Duration },
    /// At a fixed rate, now and then beside as many events for a durable service.
    BesideDurable { per_second: u32 },
    /// At a fixed rate, now and then beside somebody who asks for something all the time.
    Asked { per_second: u32, what: Asked },
    /// As fast as a window allows, with libzmq's sockets at both ends.
    LibzmqEnds,
    /// At a fixed rate, for latency.
    Paced { per_second: u32 },
    /// One of two subscribers doesn't read.
    Stalled,
    /// Connected peers, nothing to do.
    Idle { peers: usize },
    /// Peers that connect and subscribe all at once.
    Storm { peers: usize },
    /// So many events wait, as nobody takes them.
    Waiting { events: u64 },
    /// From exec to ready.
    Start,
}

/// What somebody asks for all the time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Asked {
    /// The metrics.
    Metrics,
    /// `/stats`, so often, where so many other services have so many subjects each.
    Stats {
        services: usize,
        each: usize,
        per_second: u32,
    },
    /// SUBSCRIBE to a service with so many patterns, and after all answers a pause.
    Subscribe { patterns: usize, pause: Duration },
}

/// Who gets an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// Each of so many subscribers.
    Fan(usize),
    /// One of so many workers of a service.
    Workers(usize),
    /// Each of so many services, which have one worker each.
    Services(usize),
    /// One of so many services, in turn.
    OneService(usize),
}

impl Pattern {
    /// How many connections receive.
    pub fn receivers(self) -> usize {
        match self {
            Self::Fan(n) | Self::Workers(n) | Self::Services(n) | Self::OneService(n) => n,
        }
    }

    /// The group of a receiver: each event goes to one of each group that it is for.
    pub fn group(self, receiver: usize) -> usize {
        match self {
            Self::Workers(_) => 0,
            _ => receiver,
        }
    }

    /// How many groups there are.
    pub fn groups(self) -> usize {
        match self {
            Self::Workers(_) => 1,
            _ => self.receivers(),
        }
    }

    /// Whether the event at this position of a block is for a group.
    pub fn is_for(self, event: usize, group: usize) -> bool {
        match self {
            Self::OneService(n) => event % n == group,
            _ => true,
        }
    }
}

/// One line of the results.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: String,
    pub kind: Kind,
    pub pattern: Pattern,
    pub publishers: usize,
    /// Bytes of an event's payload.
    pub size: usize,
    /// How many events one write of a publisher holds at most; none: as many as the socket takes.
    pub events_per_write: Option<usize>,
    /// How many events may be under way; none: a MiB of them.
    pub window: Option<u64>,
    /// How many subjects events have, of those that match.
    pub subjects: usize,
    /// How many patterns with wildcards there are beside, none of which matches.
    pub globs: usize,
    /// Events with the same subject keep their order.
    pub is_ordered: bool,
    /// What it is compared with, by the CPU time of a delivery: each round has both, one after the other.
    pub against: Option<Box<Scenario>>,
}

impl Scenario {
    /// How many events may be under way: if nothing else is said a MiB, but few enough that nobody's queue is
    /// full.
    pub fn window_events(&self) -> u64 {
        let usual = ((1 << 20) / self.size).clamp(8, 8192) as u64;
        self.window.unwrap_or(usual)
    }

    /// The subject of an event, by its position in a block. All have the same length.
    pub fn subject(&self, event: usize) -> String {
        match self.pattern {
            Pattern::OneService(n) => subject_of(event % n),
            _ if self.subjects > 1 => format!("{}.{:06}", subject_of(0), event % self.subjects),
            _ => subject_of(0),
        }
    }

    /// Patterns that match nothing, which nats reads alike.
    pub fn globs(&self) -> impl Iterator<Item = String> {
        let subject = subject_of(0);
        (0..self.globs).map(move |n| format!("{subject}.*.shipped.{n}"))
    }

    /// How many get an event.
    pub fn deliveries(&self) -> f64 {
        match self.pattern {
            Pattern::Fan(n) | Pattern::Services(n) => n as f64,
            Pattern::Workers(_) | Pattern::OneService(_) => 1.0,
        }
    }

    /// What a receiver asks for.
    pub fn subject_for(&self, receiver: usize) -> String {
        match self.pattern {
            Pattern::OneService(_) => subject_of(receiver),
            _ => subject_of(0),
        }
    }
}

fn subject_of(n: usize) -> String {
    format!("sub{n:04}")
}

fn named_size(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        0x10_0000.. => format!("{} MiB", size >> 20),
        _ => format!("{} KiB", size >> 10),
    }
}

/// All scenarios, in the order of the report.
pub fn all() -> Vec<Scenario> {
    let scenario = |name: &str, kind, pattern, size| Scenario {
        name: format!("{name}, {}", named_size(size)),
        kind,
        pattern,
        publishers: 1,
        size,
        events_per_write: None,
        window: None,
        subjects: 1,
        globs: 0,
        is_ordered: false,
        against: None,
    };
    let mut all = vec![];
    for size in [64, 256, 1 << 10, 16 << 10, 1 << 20] {
        all.push(scenario("1 to 1", Kind::Flow, Pattern::Fan(1), size));
    }
    for size in [64, 256, 1 << 10, 16 << 10, 1 << 20] {
        all.push(scenario("1 to 8", Kind::Flow, Pattern::Fan(8), size));
    }
    all.push(Scenario {
        publishers: 32,
        events_per_write: Some(4),
        ..scenario("32 to 1, small writes", Kind::Flow, Pattern::Fan(1), 256)
    });
    all.push(Scenario {
        window: Some(1),
        ..scenario("one in flight: 1 to 1", Kind::Flow, Pattern::Fan(1), 256)
    });
    for (services, window) in [(1, 1), (1, 64), (10, 32)] {
        let (plural, calls) = (if services > 1 { "s" } else { "" }, window);
        let name = format!("called: {services} service{plural}, {calls} in flight");
        all.push(Scenario {
            window: Some(window),
            ..scenario(&name, Kind::Called, Pattern::Services(services), 256)
        });
    }
    for (name, on_disk, has_id, window) in [
        ("accepted, 1024 in flight", false, false, 1024),
        (
            "accepted, each with an id, 1024 in flight",
            false,
            true,
            1024,
        ),
        ("on disk, 64 in flight", true, false, 64),
        ("on disk, one in flight", true, false, 1),
    ] {
        let name = format!("confirmed: {name}");
        let kind = Kind::Confirmed { on_disk, has_id };
        all.push(Scenario {
            window: Some(window),
            ..scenario(&name, kind, Pattern::Workers(1), 256)
        });
    }
    for size in [64, 256, 1 << 10] {
        all.push(scenario("4 workers", Kind::Flow, Pattern::Workers(4), size));
    }
    for size in [64, 1 << 10] {
        all.push(scenario(
            "durable: 4 workers",
            Kind::Durable,
            Pattern::Workers(4),
            size,
        ));
    }
    let events = 500_000;
    all.push(Scenario {
        against: Some(Box::new(scenario(
            "",
            Kind::Durable,
            Pattern::Workers(4),
            64,
        ))),
        ..scenario(
            "durable: catch up from disk",
            Kind::CatchUp { events },
            Pattern::Workers(4),
            64,
        )
    });
    for (name, pattern) in [
        ("20 durable services, all match", Pattern::Services(20)),
        ("20 durable services, each its own", Pattern::OneService(20)),
    ] {
        let one = scenario("", Kind::Durable, Pattern::Services(1), 256);
        all.push(Scenario {
            against: Some(Box::new(one)),
            ..scenario(name, Kind::Durable, pattern, 256)
        });
    }
    let unordered = Scenario {
        subjects: 1000,
        ..scenario("", Kind::Acknowledged, Pattern::Workers(4), 64)
    };
    all.push(Scenario {
        name: "orderBy of 1,000 subjects: 4 workers, 64 B".into(),
        is_ordered: true,
        against: Some(Box::new(unordered.clone())),
        ..unordered
    });
    for (name, is_durable, work_us) in [
        ("1 % poison: 4 workers", false, 0),
        ("1 % poison, durable: 4 workers", true, 0),
        ("1 % poison: 4 workers at work for 20 us", false, 20),
        ("1 % poison, durable: 4 workers at work for 20 us", true, 20),
    ] {
        let work = Duration::from_micros(work_us);
        let kind = Kind::Poisoned { is_durable, work };
        all.push(scenario(name, kind, Pattern::Workers(4), 256));
    }
    for services in [10, 50, 90] {
        let name = format!("{services} services, all match");
        all.push(scenario(
            &name,
            Kind::Flow,
            Pattern::Services(services),
            256,
        ));
    }
    for services in [10, 50, 90] {
        let name = format!("{services} services, one matches");
        let one = scenario("", Kind::Flow, Pattern::Fan(1), 256);
        all.push(Scenario {
            against: Some(Box::new(one)),
            ..scenario(&name, Kind::Flow, Pattern::OneService(services), 256)
        });
    }
    for (subjects, others) in [(5_000, 4_000), (100_000, 4_000)] {
        let of = |subjects: usize| Scenario {
            subjects,
            ..scenario(
                &format!("{subjects} subjects"),
                Kind::Flow,
                Pattern::Fan(1),
                64,
            )
        };
        all.push(Scenario {
            against: Some(Box::new(of(others))),
            ..of(subjects)
        });
    }
    // More than are remembered, so each is new.
    let new = Scenario {
        subjects: 300_000,
        ..scenario("new subjects", Kind::Flow, Pattern::Fan(1), 64)
    };
    all.push(Scenario {
        name: "new subjects beside 1,000 globs, 64 B".into(),
        globs: 1_000,
        against: Some(Box::new(new.clone())),
        ..new
    });
    for size in [64, 1 << 10] {
        all.push(scenario(
            "libzmq at both ends",
            Kind::LibzmqEnds,
            Pattern::Fan(1),
            size,
        ));
    }
    for per_second in [2_000, 20_000] {
        let name = format!("latency at {per_second}/s");
        all.push(scenario(
            &name,
            Kind::Paced { per_second },
            Pattern::Fan(1),
            256,
        ));
    }
    all.push(scenario(
        "live beside durable, 2000/s each",
        Kind::BesideDurable { per_second: 2_000 },
        Pattern::Fan(1),
        256,
    ));
    let stats = |per_second| Asked::Stats {
        services: 500,
        each: 200,
        per_second,
    };
    let subscribe = |pause| Asked::Subscribe {
        patterns: 10_000,
        pause,
    };
    for (name, per_second, what) in [
        ("metrics read 1000 times a second", 20_000, Asked::Metrics),
        // As a dashboard and those who collect metrics do.
        (
            "stats of 100,000 subscriptions read 10 times a second",
            2_000,
            stats(10),
        ),
        (
            "stats of 100,000 subscriptions read 1000 times a second",
            2_000,
            stats(1000),
        ),
        (
            "SUBSCRIBE to 10,000 patterns, 64 in flight",
            2_000,
            subscribe(Duration::ZERO),
        ),
        // The machine has time for all of them.
        (
            "SUBSCRIBE to 10,000 patterns, 64 at once every 10 ms",
            2_000,
            subscribe(Duration::from_millis(10)),
        ),
    ] {
        let name = format!("{name}, {per_second}/s");
        let kind = Kind::Asked { per_second, what };
        all.push(scenario(&name, kind, Pattern::Fan(1), 256));
    }
    all.push(scenario(
        "one subscriber stalled",
        Kind::Stalled,
        Pattern::Fan(2),
        1 << 10,
    ));
    let bare = |name: &str, kind| Scenario {
        name: name.into(),
        ..scenario("", kind, Pattern::Fan(1), 64)
    };
    all.push(bare("1,000 idle peers", Kind::Idle { peers: 1000 }));
    all.push(bare(
        "1,000 peers connect at once",
        Kind::Storm { peers: 1000 },
    ));
    let waiting = Kind::Waiting { events: 1_000_000 };
    all.push(bare("1,000,000 events wait", waiting));
    all.push(Scenario {
        subjects: 1000,
        is_ordered: true,
        ..bare("1,000,000 events of 1,000 keys wait", waiting)
    });
    all.push(bare("start", Kind::Start));
    all
}
