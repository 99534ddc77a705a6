//! A daemon in this process, its peers over libzmq, and waiting without sleeping blindly.

pub mod bus;
pub mod clock;
pub mod healthy;
pub mod http;
pub mod keys;
pub mod logs;
pub mod manager;
pub mod network;
pub mod old;
pub mod other_machine;
pub mod peers;
pub mod process;
pub mod program;
pub mod raw;
pub mod raw_curve;
pub mod responder;
pub mod scheduler;
pub mod shared_directory;
pub mod tunnel;
pub mod way;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use event_manager::config::Config;
use event_manager::daemon::Daemon;
use event_manager::reactor::Bound;
use event_manager_client::blocking::Client;
use event_manager_wire::api::{Counters, Durable, ServiceStatus, Status};
use event_manager_wire::model::Endpoint;
use process::DaemonProcess;
use program::{Program, Serving, Site};
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine; only failures wait for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon on free ports, stopped at the end of the test. Every test ends by asserting the
/// accounting law.
pub struct TestDaemon {
    daemon: Option<Home>,
    pub context: zmq::Context,
}

/// Where a daemon runs.
enum Home {
    /// In this process, as most do.
    Here(Box<Daemon>),
    /// In one of its own.
    Process(DaemonProcess),
    /// As its users run it.
    Program(Serving),
}

impl Home {
    fn bound(&self) -> &Bound {
        match self {
            Self::Here(daemon) => daemon.bound(),
            Self::Process(process) => process.bound(),
            Self::Program(serving) => serving.bound(),
        }
    }

    fn http(&self) -> Option<SocketAddr> {
        match self {
            Self::Here(daemon) => daemon.http(),
            Self::Process(process) => process.http(),
            Self::Program(serving) => serving.http(),
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Here(daemon) => daemon.status().expect("its reactor runs"),
            Self::Process(process) => process.status(),
            Self::Program(serving) => serving.status(),
        }
    }

    fn stop(self) -> bool {
        match self {
            Self::Here(daemon) => daemon.stop(),
            Self::Process(process) => process.stop(),
            Self::Program(serving) => serving.stop(),
        }
    }
}

/// The ports of services, of which the system never gives one to a socket that takes any: a service that
/// comes back after a restart finds its own free.
pub const SERVICE_PORTS: RangeInclusive<u16> = 20_000..=20_499;

/// A configuration whose main sockets have ports that the system chooses, without a locator.
pub fn config() -> Config {
    let host = bus::host_of_test();
    let any = || vec![Endpoint::tcp(&*host, 0)];
    let mut config = Config {
        pub_addresses: any(),
        sub_addresses: any(),
        request_addresses: any(),
        http_address: None,
        pull_address: Endpoint::tcp(&*host, 0),
        streamer_ports: SERVICE_PORTS,
        public_hostname: host.clone(),
        drain_timeout: Duration::from_secs(2),
        subscriber_grace: Duration::ZERO,
        // Nobody keeps them alive here, and a busy machine is slow.
        subscription_ttl: Duration::from_secs(600),
        state_dir: Default::default(),
        ..Config::default()
    };
    config.locator.register = false;
    config.locator.embedded = false;
    if tunnel::is_on() {
        let keys = json!({"security": tunnel::security()}).to_string();
        let loaded = event_manager::config::parse("", &keys, &Default::default(), &[]);
        config.security = loaded.expect("a configuration").config.security;
    }
    config
}

impl TestDaemon {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// Starts with changes to [`config`].
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        tunnel::dialling(&mut config);
        let daemon = Daemon::start(config).expect("the daemon starts");
        Self::at(Home::Here(Box::new(daemon)))
    }

    /// Starts in a process of its own, with keys of `config.json` over those of [`config`].
    pub fn in_own_process(settings: &Value) -> Self {
        Self::at(Home::Process(DaemonProcess::start(settings, None)))
    }

    /// The same with a wall clock that can be set, on another machine if one is given.
    #[allow(dead_code, reason = "for the tests with engines")]
    pub fn in_own_process_with_clock(
        settings: &Value,
        clock: &clock::Clock,
        machine: Option<&network::Machine>,
    ) -> Self {
        let variables = clock.variables();
        let process = match machine {
            Some(machine) => DaemonProcess::start_at(settings, machine, &variables),
            None => DaemonProcess::start_among(settings, None, &variables),
        };
        Self::at(Home::Process(process))
    }

    /// The same at another machine.
    pub fn in_own_process_at(settings: &Value, machine: &network::Machine) -> Self {
        let process = DaemonProcess::start_at(settings, machine, &[]);
        Self::at(Home::Process(process))
    }

    /// The same with a limit on file descriptors.
    pub fn in_own_process_with_fds(settings: &Value, fds_max: u64) -> Self {
        Self::at(Home::Process(DaemonProcess::start(settings, Some(fds_max))))
    }

    /// Starts the program itself, with the `config.json` that is there.
    pub fn serving(site: &Site) -> Self {
        Self::at(Home::Program(Serving::ready(site.start(&[]))))
    }

    /// The program, which is ready.
    pub fn of(serving: Serving) -> Self {
        Self::at(Home::Program(serving))
    }

    pub fn program(&self) -> &Program {
        match self.daemon() {
            Home::Program(serving) => &serving.program,
            _ => panic!("it is no program"),
        }
    }

    /// The program, which runs on: nobody stops it now.
    pub fn into_program(mut self) -> Program {
        match self.daemon.take() {
            Some(Home::Program(serving)) => serving.program,
            _ => panic!("it is no program"),
        }
    }

    fn at(home: Home) -> Self {
        let bound = home.bound();
        tunnel::is_daemon(bound.subscribers.iter().chain(&bound.locator));
        Self {
            daemon: Some(home),
            context: zmq::Context::new(),
        }
    }

    fn daemon(&self) -> &Home {
        self.daemon.as_ref().expect("it runs until it is dropped")
    }

    /// Its process, if it has one of its own.
    pub fn process(&self) -> &DaemonProcess {
        match self.daemon() {
            Home::Process(process) => process,
            _ => panic!("it is no process of this kind"),
        }
    }

    /// Where it listens.
    pub fn bound(&self) -> &Bound {
        self.daemon().bound()
    }

    pub fn publishers(&self) -> String {
        self.daemon().bound().publishers[0].to_string()
    }

    pub fn subscribers(&self) -> String {
        self.daemon().bound().subscribers[0].to_string()
    }

    pub fn requests(&self) -> String {
        self.daemon().bound().requests[0].to_string()
    }

    pub fn locator(&self) -> String {
        self.daemon()
            .bound()
            .locator
            .as_ref()
            .expect("an embedded locator")
            .to_string()
    }

    /// Where it serves HTTP.
    pub fn http(&self) -> SocketAddr {
        self.daemon().http().expect("it serves HTTP")
    }

    pub fn status(&self) -> Status {
        self.daemon().status()
    }

    /// The client of the command line.
    pub fn client(&self, timeout: Duration) -> Client {
        Client::new(self.requests(), timeout).with_keys(tunnel::keys())
    }

    /// The status of one service, which is there.
    pub fn service(&self, name: &str) -> ServiceStatus {
        let found = self.find_service(name);
        found.unwrap_or_else(|| panic!("there is no service {name}"))
    }

    /// The status of one service, if it is there.
    pub fn find_service(&self, name: &str) -> Option<ServiceStatus> {
        let mut services = self.status().services.into_iter();
        services.find(|service| service.name == name)
    }

    /// Where the workers of a service connect.
    pub fn address_of(&self, service: &str) -> String {
        let address = self.service(service).address;
        address.unwrap_or_else(|| panic!("{service} has no port"))
    }

    /// Waits until the status is as wanted, and returns that one.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{what} did not come: {status:#?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a service is as wanted, and returns how it is then.
    pub fn wait_for_service(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&ServiceStatus) -> bool,
    ) -> ServiceStatus {
        let status = self.wait_for(&format!("{name}: {what}"), |status| {
            status.service(name).is_some_and(&wanted)
        });
        status.service(name).expect("it was there").clone()
    }

    /// Waits until a service has counted so many events.
    pub fn wait_for_counter(&self, service: &str, counter: fn(&Counters) -> u64, count: u64) {
        self.wait_for_service(service, &format!("a counter of {count}"), |found| {
            counter(&found.counters) == count
        });
    }

    /// Waits until so many subscriptions of plain subscribers are in force.
    pub fn wait_for_subscriptions(&self, count: u64) {
        self.wait_for("subscriptions", |status| {
            status.subscribers.subscriptions == count
        });
    }

    /// Waits until so many workers of a service said READY.
    pub fn wait_for_ready(&self, service: &str, count: u64) {
        self.wait_for_service(service, "ready workers", |found| {
            found.workers.ready == count
        });
    }

    /// How often something was refused or discarded for this reason.
    pub fn refused(&self, reason: &str) -> u64 {
        self.status().refused(reason)
    }

    /// Kills a daemon that has a process of its own, with SIGKILL; when it returns, that has ended.
    pub fn kill(mut self) {
        assert!(
            matches!(self.daemon(), Home::Process(_)),
            "it has no process of its own"
        );
        drop(self.daemon.take());
    }

    /// Stops the daemon; whether all its threads ended well.
    pub fn stop(mut self) -> bool {
        assert_law(&self.status());
        assert_nothing_waits_in_vain(|| self.status());
        self.daemon.take().expect("it runs").stop()
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        let Some(daemon) = self.daemon.take() else {
            return;
        };
        if std::thread::panicking() {
            // Its test has failed. Another panic would end all the others with it.
            let _ = catch_unwind(AssertUnwindSafe(|| daemon.stop()));
            return;
        }
        let status = daemon.status();
        assert_nothing_waits_in_vain(|| daemon.status());
        let ended_well = daemon.stop();
        assert_law(&status);
        assert!(ended_well, "a thread of the daemon panicked");
    }
}

/// The queue on disk of a service that is durable.
pub fn disk_of(service: &ServiceStatus) -> &Durable {
    service.durable.as_ref().expect("it is durable")
}

/// `matched = delivered + queued + in flight + dead-lettered + expired + dropped + returned`, everywhere.
pub fn assert_law(status: &Status) {
    let faults = status.peers.refused.get("internal-error");
    assert!(
        faults.is_none(),
        "{faults:?} connections ended in a panic of the daemon"
    );
    let books = status.services.iter().map(|service| &service.counters);
    for counters in books.chain([&status.subscribers.counters, &status.retired_services]) {
        let ended = counters.dead_lettered + counters.expired + counters.dropped_total();
        let ended = ended + counters.returned;
        let right = counters.delivered + counters.queued + counters.in_flight + ended;
        assert_eq!(
            counters.matched, right,
            "the accounting law is broken: {counters:#?}"
        );
    }
}

/// Nothing that is due waits while a worker could take it. What is on its way to or from the disk takes
/// a moment, so each service is looked at until it has nothing due, no free worker, or gives out events.
pub fn assert_nothing_waits_in_vain(status: impl Fn() -> Status) {
    let deadline = Instant::now() + PATIENCE;
    let mut suspects: BTreeMap<String, u64> = BTreeMap::new();
    let mut is_first = true;
    while is_first || !suspects.is_empty() {
        let services = status().services;
        let mut waiting = BTreeMap::new();
        for service in &services {
            let (dispatch, counters) = (&service.dispatch, &service.counters);
            let waits = dispatch.due_events != 0 && dispatch.free_workers != 0;
            let gone = counters.delivered + counters.in_flight;
            if waits && (is_first || suspects.get(&service.name) == Some(&gone)) {
                waiting.insert(service.name.clone(), gone);
            }
        }
        (suspects, is_first) = (waiting, false);
        assert!(
            Instant::now() < deadline,
            "events are due and a worker is free: {services:#?}"
        );
        if !suspects.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
