//! The brokers, each in a file: how it is started, and what its clients say.

mod event_manager;
mod mosquitto;
pub mod nats;
mod original;
mod rabbitmq;
mod redis;
pub mod zmtp;

use std::net::TcpStream;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::client::{Publisher, Receiver};
use crate::poisoned::Poison;
use crate::process::Process;
use crate::scenario::{Kind, Pattern, Scenario};
use redis::Synced;

/// Connects one more subscriber; when it returns, the subscription is live.
pub type Connect = Box<dyn Fn() -> Result<TcpStream>>;

/// Connects the workers of a scenario, who take events at once.
pub type Workers = Box<dyn Fn() -> Result<Vec<Receiver>>>;

/// A broker that runs, with clients whose subscriptions are live.
pub struct Setup {
    pub process: Process,
    pub publishers: Vec<Publisher>,
    pub receivers: Vec<Receiver>,
    /// The broker answers publishers.
    pub publishers_hear: bool,
    connect: Option<Connect>,
    /// Where libzmq's PUB and SUB connect.
    pub zmtp: Option<(String, String)>,
    /// The port of its metrics, and that of its requests.
    pub http: Option<u16>,
    pub requests: Option<u16>,
    /// How the workers connect that are not to be there from the beginning.
    pub workers: Option<Workers>,
    /// Connections that are there, and no more.
    others: Vec<TcpStream>,
    /// Services that are called, in a process of their own.
    pub services: Option<Process>,
    /// What acknowledging workers refuse.
    pub poison: Rc<Poison>,
    /// What the broker keeps; it goes after its process.
    state: Option<TempDir>,
}

impl Setup {
    fn new(process: Process, publishers: Vec<Publisher>, receivers: Vec<Receiver>) -> Self {
        Self {
            process,
            publishers,
            receivers,
            publishers_hear: false,
            connect: None,
            zmtp: None,
            http: None,
            requests: None,
            workers: None,
            others: vec![],
            services: None,
            poison: Rc::default(),
            state: None,
        }
    }

    /// How one more subscriber connects.
    pub fn subscriber(&self) -> Result<&Connect> {
        self.connect.as_ref().context("a broker with subscribers")
    }
}

pub trait Broker {
    fn name(&self) -> &'static str;

    /// Whether it can do what a scenario asks.
    fn supports(&self, scenario: &Scenario) -> bool;

    /// What has to be installed first, if something has to.
    fn missing(&self) -> Option<String> {
        None
    }

    /// Whether it takes so long to start that it is measured in the first round only.
    fn starts_slowly(&self) -> bool {
        false
    }

    /// Starts it and connects the clients of a scenario.
    fn set_up(&self, scenario: &Scenario) -> Result<Setup>;

    /// Starts it; returns when it serves clients.
    fn start_alone(&self) -> Result<Process> {
        bail!("{} isn't measured alone", self.name())
    }
}

/// All of them, ours first.
pub fn all() -> Vec<Box<dyn Broker>> {
    vec![
        Box::new(event_manager::EventManager),
        Box::new(zmtp::Relay),
        Box::new(zmtp::ZmqProxy),
        Box::new(zmtp::LibzmqServices),
        Box::new(original::Original),
        Box::new(nats::Nats { jetstream: false }),
        Box::new(nats::Nats { jetstream: true }),
        Box::new(redis::Redis { synced: None }),
        Box::new(redis::Redis {
            synced: Some(Synced::EverySecond),
        }),
        Box::new(redis::Redis {
            synced: Some(Synced::Always),
        }),
        Box::new(mosquitto::Mosquitto),
        Box::new(rabbitmq::RabbitMq),
    ]
}

/// The program's path, if it is installed.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let candidates =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    candidates
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

fn missing_program(name: &str) -> Option<String> {
    program(name)
        .is_none()
        .then(|| format!("{name} is not installed; see benches/install-peers"))
}

/// Subscribers that are as many as the scenario says, without anything that only event brokers for
/// ZeroMQ know.
fn is_plain_fan(scenario: &Scenario) -> bool {
    matches!(scenario.pattern, Pattern::Fan(_))
        && scenario.subjects == 1
        && !matches!(
            scenario.kind,
            Kind::LibzmqEnds
                | Kind::Start
                | Kind::BesideDurable { .. }
                | Kind::Asked { .. }
                | Kind::Waiting { .. }
        )
}

/// The same with many subjects, which a broker has to match by more than equality.
fn has_subjects(scenario: &Scenario) -> bool {
    let Scenario { kind, pattern, .. } = scenario;
    scenario.subjects > 1 && *kind == Kind::Flow && matches!(pattern, Pattern::Fan(_))
}

fn is_workers(scenario: &Scenario) -> bool {
    matches!(scenario.pattern, Pattern::Workers(_)) && scenario.kind == Kind::Flow
}

/// Whether events are to be on disk until they are acknowledged.
fn is_durable(scenario: &Scenario) -> bool {
    scenario.kind == Kind::Durable && matches!(scenario.pattern, Pattern::Workers(_))
}

fn is_services(scenario: &Scenario) -> bool {
    let of_services = matches!(
        scenario.pattern,
        Pattern::Services(_) | Pattern::OneService(_)
    );
    of_services && scenario.kind == Kind::Flow
}
