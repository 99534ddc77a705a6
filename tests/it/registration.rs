//! The daemon as a client of the ServiceLocator, and its startup guard.

use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_manager::config::GuardTimeoutAction;
use event_manager::daemon::{Daemon, StartError};
use event_manager::outbound::RegistrationState;
use event_manager_core::locator::{Directory, LocatorTokens, answer};
use event_manager_wire::messagebus::{Message, Token, decode, encode};
use event_manager_wire::model::{Endpoint, ServiceName};

use super::support::logs;
use super::support::peers::socket;
use super::support::program::wait_until;
use super::support::raw::tcp_address;
use super::support::{PATIENCE, TestDaemon, config};

/// A ServiceLocator over libzmq, apart from the daemon.
struct Locator {
    address: Endpoint,
    stop: zmq::Socket,
    thread: Option<JoinHandle<Directory>>,
    asked: mpsc::Receiver<Token>,
}

impl Locator {
    fn start(context: &zmq::Context) -> Self {
        Self::bound(context, "tcp://127.0.0.1:*")
    }

    fn bound(context: &zmq::Context, at: &str) -> Self {
        Self::with(context, at, LocatorTokens::default(), Directory::new(100))
    }

    fn with(
        context: &zmq::Context,
        at: &str,
        tokens: LocatorTokens,
        mut directory: Directory,
    ) -> Self {
        let router = socket(context, zmq::ROUTER);
        let deadline = Instant::now() + PATIENCE;
        // The port of one that just ended is free in a moment.
        while router.bind(at).is_err() {
            assert!(Instant::now() < deadline, "{at} is not free");
            std::thread::yield_now();
        }
        let address: Endpoint = router
            .get_last_endpoint()
            .expect("bound")
            .expect("a text")
            .parse()
            .expect("an address");
        super::support::tunnel::spare(&address.to_string());
        let (stop, stopped) = (socket(context, zmq::PAIR), socket(context, zmq::PAIR));
        // The name of one that just ended is free in a moment, as its port is.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("inproc://stop-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        stopped.bind(&name).expect("a free name");
        stop.connect(&name).expect("a name");
        let (told, asked) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            loop {
                let mut items = [
                    router.as_poll_item(zmq::POLLIN),
                    stopped.as_poll_item(zmq::POLLIN),
                ];
                zmq::poll(&mut items, -1).expect("a poll");
                if items[1].is_readable() {
                    return directory;
                }
                let mut frames = router.recv_multipart(0).expect("a request");
                let request: Vec<Bytes> =
                    frames.split_off(2).into_iter().map(Bytes::from).collect();
                let (request, layout) = decode(&request).expect("a message");
                // Whoever doesn't look at what was asked has ended.
                let _ = told.send(request.token);
                let reply = answer(
                    &request,
                    &tokens,
                    &mut directory,
                    &|_| Ok(()),
                    Instant::now(),
                );
                frames.extend(encode(&reply, layout).iter().map(|frame| frame.to_vec()));
                router.send_multipart(frames, 0).expect("a send");
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
            asked,
        }
    }

    fn wait_until_asked(&self, token: Token) {
        let deadline = Instant::now() + PATIENCE;
        while self
            .asked
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .expect("a request")
            != token
        {}
    }

    /// Ends it; what was registered.
    fn stop(mut self) -> Directory {
        self.end().expect("it runs")
    }

    fn end(&mut self) -> Option<Directory> {
        let thread = self.thread.take()?;
        self.stop.send("stop", 0).expect("a send");
        Some(thread.join().expect("no panic"))
    }
}

impl Drop for Locator {
    fn drop(&mut self) {
        self.end();
    }
}

fn registered_with(locator: &Endpoint, ttl: Duration) -> TestDaemon {
    TestDaemon::with(|config| {
        config.locator.register = true;
        config.locator.address = locator.clone();
        config.locator.ttl = ttl;
    })
}

/// Starts a daemon that tells its registration's state.
fn registering(locator: &Endpoint, tokens: LocatorTokens) -> Daemon {
    let mut config = config();
    config.locator.register = true;
    config.locator.address = locator.clone();
    config.locator.ttl = Duration::from_millis(600);
    config.locator.tokens = tokens;
    Daemon::start(config).expect("it starts")
}

fn wait_for_state(daemon: &Daemon, state: RegistrationState) {
    let deadline = Instant::now() + PATIENCE;
    while daemon.registration() != state {
        assert!(Instant::now() < deadline, "never {state:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn name() -> ServiceName {
    ServiceName::new("EventManager").expect("a name")
}

#[test]
fn it_registers_refreshes_and_unregisters() {
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    let daemon = registered_with(&locator.address, Duration::from_millis(600));
    for _ in 0..6 {
        locator.wait_until_asked(Token::REGISTER);
    }
    assert!(daemon.stop());
    locator.wait_until_asked(Token::UNREGISTER);
    assert_eq!(locator.stop().locate(&name(), Instant::now()), None);
}

#[test]
fn it_registers_again_when_the_locator_comes_back() {
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    let address = locator.address.clone();
    let daemon = registered_with(&address, Duration::from_millis(600));
    locator.wait_until_asked(Token::REGISTER);
    let mut directory = locator.stop();
    assert_eq!(
        directory.locate(&name(), Instant::now()),
        Some(&daemon.requests()[..])
    );
    let again = Locator::bound(&context, &address.to_string());
    again.wait_until_asked(Token::REGISTER);
}

#[test]
fn it_works_without_a_locator_and_registers_when_one_comes() {
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    let address = locator.address.clone();
    locator.stop();
    let daemon = registered_with(&address, Duration::from_millis(600));
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let late = Locator::bound(&context, &address.to_string());
    late.wait_until_asked(Token::REGISTER);
}

#[test]
fn it_does_not_ask_when_told_not_to() {
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    let daemon = TestDaemon::with(|config| config.locator.address = locator.address.clone());
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert!(daemon.stop());
    assert!(locator.asked.try_recv().is_err());
}

#[test]
fn it_stays_listed_beyond_its_time_to_live() {
    const TTL: Duration = Duration::from_millis(600);
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    let begun = Instant::now();
    let daemon = registered_with(&locator.address, TTL);
    locator.wait_until_asked(Token::REGISTER);
    while begun.elapsed() < TTL * 3 {
        locator.wait_until_asked(Token::REGISTER);
    }
    let directory = locator.stop();
    let mut listed = directory.list(None, Instant::now());
    let (listed, address, registered) = listed.next().expect("it is listed");
    assert_eq!((listed, address), (&name(), &*daemon.requests()));
    assert!(registered.expires_at <= Instant::now() + TTL);
}

#[test]
fn a_refusal_is_tried_again() {
    let context = zmq::Context::new();
    let mut directory = Directory::new(1);
    let other = ServiceName::new("Other").expect("a name");
    let while_full = Duration::from_millis(500);
    let begun = Instant::now();
    directory
        .register(&other, "tcp://other:1", while_full, begun)
        .expect("there is room");
    let tokens = LocatorTokens::default();
    let locator = Locator::with(&context, "tcp://127.0.0.1:*", tokens, directory);
    let daemon = registering(&locator.address, tokens);
    locator.wait_until_asked(Token::REGISTER);
    wait_for_state(&daemon, RegistrationState::Registered);
    assert!(begun.elapsed() >= while_full);
    assert!(daemon.stop());
}

#[test]
fn a_sites_own_tokens_are_spoken() {
    let context = zmq::Context::new();
    let tokens = LocatorTokens {
        register: Token::new(0x33, 0x11),
        locate: Token::new(0x33, 0x12),
        unregister: Token::new(0x33, 0x13),
        list: Token::new(0x33, 0x14),
    };
    let locator = Locator::with(&context, "tcp://127.0.0.1:*", tokens, Directory::new(100));
    let daemon = registering(&locator.address, tokens);
    locator.wait_until_asked(tokens.register);
    wait_for_state(&daemon, RegistrationState::Registered);
    assert!(daemon.stop());
    locator.wait_until_asked(tokens.unregister);
    assert_eq!(locator.stop().list(None, Instant::now()).count(), 0);
}

#[test]
fn a_loss_and_a_return_are_logged_once() {
    logs::keep();
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    let address = locator.address.clone();
    let told = |text| {
        let lines = logs::lines_with(text);
        let at = format!("locator={address}");
        lines.iter().filter(|line| line.contains(&at)).count()
    };
    let (lost, there) = ("not registered, trying again", "registered with the ");
    let daemon = registering(&address, LocatorTokens::default());
    wait_for_state(&daemon, RegistrationState::Registered);
    locator.stop();
    wait_for_state(&daemon, RegistrationState::Trying);
    // Several tries find nobody.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!((told(lost), told(there)), (1, 1));
    let again = Locator::bound(&context, &address.to_string());
    wait_for_state(&daemon, RegistrationState::Registered);
    again.wait_until_asked(Token::REGISTER);
    again.wait_until_asked(Token::REGISTER);
    assert_eq!((told(lost), told(there)), (1, 2));
    assert!(daemon.stop());
}

/// A locator that accepts and never answers leaves time to deliver what waits.
#[test]
fn a_hung_locator_does_not_take_the_events_time() {
    let context = zmq::Context::new();
    let hung = socket(&context, zmq::ROUTER);
    hung.bind("tcp://127.0.0.1:*").expect("a free port");
    let address = hung.get_last_endpoint().expect("bound").expect("a text");
    let daemon = registering(
        &address.parse().expect("an address"),
        LocatorTokens::default(),
    );
    hung.recv_multipart(0).expect("a registration");
    let begun = Instant::now();
    assert!(daemon.stop());
    let took = begun.elapsed();
    assert!(took < config().drain_timeout * 3 / 4, "{took:?}");
}

/// Starts a guarded daemon beside this locator.
fn guarded(
    locator: &Endpoint,
    on_timeout: GuardTimeoutAction,
    timeout_ms: u64,
) -> Result<Daemon, StartError> {
    let mut config = config();
    config.locator.address = locator.clone();
    config.startup_guard.enabled = true;
    config.startup_guard.timeout = Duration::from_millis(timeout_ms);
    config.startup_guard.on_timeout = on_timeout;
    Daemon::start(config)
}

fn refusal(result: Result<Daemon, StartError>) -> String {
    match result {
        Err(StartError::Guard(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Registers an address as that of a predecessor.
fn register(context: &zmq::Context, locator: &Endpoint, address: &str) {
    let client = super::support::peers::connected(context, zmq::REQ, &locator.to_string());
    let request = Message::param(Token::REGISTER, ["EventManager", address, "60000"]);
    let frames = encode(&request, event_manager_wire::messagebus::Layout::NATIVE);
    client
        .send_multipart(frames.iter().map(|frame| &frame[..]), 0)
        .expect("a send");
    client.recv_multipart(0).expect("an answer");
}

#[test]
fn the_guard_lets_nobody_in_beside_a_living_predecessor() {
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    let predecessor = registered_with(&locator.address, Duration::from_secs(30));
    locator.wait_until_asked(Token::REGISTER);
    let why = refusal(guarded(&locator.address, GuardTimeoutAction::Exit, 1000));
    assert!(why.contains(&predecessor.requests()), "{why}");
    let proceeded = guarded(&locator.address, GuardTimeoutAction::Proceed, 1000);
    assert!(proceeded.expect("it proceeds").stop());
    // While it waits, the predecessor ends.
    let waiting = {
        let address = locator.address.clone();
        std::thread::spawn(move || guarded(&address, GuardTimeoutAction::Exit, 20_000))
    };
    locator.wait_until_asked(Token::LOCATE);
    assert!(predecessor.stop());
    assert!(waiting.join().expect("no panic").expect("it starts").stop());
}

#[test]
fn the_guard_goes_on_when_the_predecessor_is_gone() {
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    let nobody = guarded(&locator.address, GuardTimeoutAction::Exit, 20_000);
    assert!(nobody.expect("nobody is registered").stop());
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    register(&context, &locator.address, &format!("tcp://{free}"));
    let crashed = guarded(&locator.address, GuardTimeoutAction::Exit, 20_000);
    assert!(crashed.expect("its connection is refused").stop());
}

#[test]
fn to_the_guard_unreachable_is_not_dead() {
    let context = zmq::Context::new();
    let locator = Locator::start(&context);
    // Its port is open, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp://{}", silent.local_addr().expect("bound"));
    register(&context, &locator.address, &address);
    let why = refusal(guarded(&locator.address, GuardTimeoutAction::Exit, 1000));
    assert!(
        why.contains(&address) && why.contains("does not mean that it is gone"),
        "{why}"
    );
    let nowhere = locator.address.clone();
    locator.stop();
    // libzmq closes its port in a moment, in a thread of its own.
    let text = nowhere.to_string();
    let refused = || TcpStream::connect(tcp_address(&text)).err();
    wait_until(refused).expect("the port is closed");
    let why = refusal(guarded(&nowhere, GuardTimeoutAction::Exit, 1000));
    assert!(why.contains("nobody listens"), "{why}");
}
