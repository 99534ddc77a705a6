//! The tests' libzmq has no CURVE. With `EVENT_MANAGER_TEST_CURVE` in the environment (`just
//! curve-suite`), daemons of the tests admit nobody without keys, and their peers reach them by a
//! tunnel: a relay in this process that speaks NULL to the peer, and CURVE to the daemon.
//!
//! Peers who know the daemon's address ask for the tunnel's by [`to`]; who is called by the daemon gives
//! it that of [`before`] in place of their own. Without the variable both are the same address.

mod relay;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use event_manager::config::Config;
use event_manager_client::ClientKeys;
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use super::PATIENCE;
use super::bus::own_host;
use super::keys::{pair, write_secret};
use relay::{End, Side};

/// The pair of each daemon, that of each of its peers, and that with which daemons dial others: whoever
/// admitted its own would be told that this is a mistake.
const DAEMON: u8 = 201;
const PEER: u8 = 202;
const DIALLER: u8 = 203;

/// How often a tunnel looks for who isn't there.
const LOOK: Duration = Duration::from_millis(20);

/// Whether peers have CURVE.
pub fn is_on() -> bool {
    static ON: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("EVENT_MANAGER_TEST_CURVE").is_some());
    *ON
}

/// What is configured then: nobody is admitted without keys.
pub fn security() -> Value {
    note_use();
    let admitted = [PEER, DIALLER].map(|number| pair(number).public().to_string());
    json!({
        "mechanisms": "curve",
        "secretKey": secret("daemon", DAEMON),
        "clients": {"tests": {"keys": admitted}},
    })
}

/// The keys of clients that have CURVE themselves.
pub fn keys() -> Option<ClientKeys> {
    is_on().then(|| ClientKeys {
        own: pair(PEER),
        server: *pair(DAEMON).public(),
    })
}

/// The same for programs, as variables of the environment.
pub fn variables() -> Vec<(String, String)> {
    let Some(keys) = keys() else {
        return vec![];
    };
    let file = secret("peer", PEER).display().to_string();
    let server = keys.server.to_string();
    let variables = [
        ("EVENT_MANAGER_KEY", file),
        ("EVENT_MANAGER_SERVER_KEY", server),
    ];
    variables.map(|(name, value)| (name.into(), value)).into()
}

/// A file with a secret key; it is the same for all processes of the tests.
fn secret(name: &str, number: u8) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join(format!("tunnel-{name}.key_secret"));
    // As a whole: another process may read it already.
    let own = directory.join(format!("tunnel-{name}.{}", std::process::id()));
    static WRITING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = WRITING.lock().expect("no panic");
    write_secret(&own, number);
    std::fs::rename(own, &file).expect("a file");
    file
}

/// Where a peer connects that wants to reach the daemon at this address.
pub fn to(address: &str) -> String {
    let has_tunnel = address.starts_with("tcp://") || address.starts_with("ipc://");
    if !is_on() || !has_tunnel || is_spared(address) {
        return address.to_owned();
    }
    if address.starts_with("ipc://") {
        return format!("tcp://{}", host_and_port(address, Side::Accepted));
    }
    // libzmq's form with a source address: `tcp://source;target`.
    let (source, target) = match address.rsplit_once(';') {
        Some((source, target)) => (format!("{source};"), target),
        None => ("tcp://".into(), address.trim_start_matches("tcp://")),
    };
    source + &host_and_port(target, Side::Accepted)
}

/// What the daemon is told in place of this address, at which a peer without CURVE is bound.
pub fn before(address: &str) -> String {
    if !is_on() || !address.starts_with("tcp://") {
        return address.to_owned();
    }
    let target = address.trim_start_matches("tcp://");
    format!("tcp://{}", host_and_port(target, Side::Dialled))
}

/// How a daemon dials others: daemons by CURVE, with a key of its own, publishers of libzmq by a tunnel.
pub fn dialling(config: &mut Config) {
    if !is_on() {
        return;
    }
    let mut dials_daemons = is_known(&config.locator.address.to_string());
    if dials_daemons {
        config.locator.server_key = Some(*pair(DAEMON).public());
    }
    let publishers = config.connect_publishers.iter_mut();
    for publisher in publishers.chain(&mut config.mesh.peers) {
        let address = publisher.address.to_string();
        if publisher.server_key.is_some() || !address.starts_with("tcp://") {
            continue;
        }
        let (address, server) = dialled(&address);
        dials_daemons |= server == DAEMON;
        publisher.server_key = Some(*pair(server).public());
        publisher.address = address.parse().expect("an address");
    }
    if dials_daemons {
        config.security.secret_key.insert(0, dialler());
    }
}

/// The same for a `config.json`.
pub fn dialling_of(settings: &mut Value) {
    let locator = settings["locatorAddress"].as_str().unwrap_or_default();
    let mut dials_daemons = is_known(locator);
    if dials_daemons {
        settings["locatorServerKey"] = json!(pair(DAEMON).public().to_string());
    }
    for list in ["/connectPublishers", "/mesh/peers"] {
        let all = settings.pointer_mut(list).and_then(Value::as_array_mut);
        for one in all.into_iter().flatten() {
            let Some(address) = one.as_str().filter(|one| one.starts_with("tcp://")) else {
                continue;
            };
            let (address, server) = dialled(address);
            dials_daemons |= server == DAEMON;
            *one = json!({"address": address, "serverKey": pair(server).public().to_string()});
        }
    }
    if dials_daemons {
        let daemon = settings["security"]["secretKey"].clone();
        settings["security"]["secretKey"] = json!([dialler(), daemon]);
    }
}

/// At which address who listens at this one is dialled, and the pair that it has there.
fn dialled(address: &str) -> (String, u8) {
    match is_known(address) {
        true => (address.to_owned(), DAEMON),
        false => (before(address), PEER),
    }
}

fn dialler() -> PathBuf {
    secret("dialler", DIALLER)
}

/// Addresses, each with the socket that listens there, if one did when it was noted: the system gives the
/// same ports to others later.
type Noted = LazyLock<Mutex<HashMap<String, Option<u64>>>>;

static DAEMONS: Noted = LazyLock::new(Mutex::default);
static SPARED: Noted = LazyLock::new(Mutex::default);

fn note(noted: &Noted, address: String) {
    let socket = listening_at(&address);
    noted.lock().expect("no panic").insert(address, socket);
}

fn is_noted(noted: &Noted, address: &str) -> bool {
    let then = noted.lock().expect("no panic").get(address).copied();
    let is_same = |then: u64| listening_at(address).is_none_or(|now| now == then);
    then.is_some_and(|then| then.is_none_or(is_same))
}

/// The socket that listens at an address of this machine.
fn listening_at(address: &str) -> Option<u64> {
    let target = address.trim_start_matches("tcp://").parse().ok()?;
    socket_in(&listening(), target)
}

/// A daemon listens there, or will.
pub fn is_daemon<'a>(addresses: impl IntoIterator<Item = &'a Endpoint>) {
    if is_on() {
        let addresses = addresses.into_iter().map(ToString::to_string);
        addresses.for_each(|address| note(&DAEMONS, address));
    }
}

fn is_known(address: &str) -> bool {
    is_noted(&DAEMONS, address)
}

/// Nobody reaches this address by a tunnel: it is no daemon's.
pub fn spare(address: &str) {
    if is_on() {
        note(&SPARED, address.to_owned());
    }
}

fn is_spared(address: &str) -> bool {
    is_noted(&SPARED, address)
}

/// Tells who counts them that this test has a daemon that admits nobody without keys.
pub fn note_use() {
    if let Some(file) = std::env::var_os("EVENT_MANAGER_TEST_CURVE_USED")
        && let Some(test) = std::thread::current().name()
    {
        let file = std::fs::OpenOptions::new().append(true).open(file);
        let line = format!("{test}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("a file");
    }
}

/// The tunnels, by what is at their other end, and which of its ends has no CURVE.
type Tunnels = HashMap<(String, Side), Tunnel>;

/// Where one begins, and whether it listens there.
#[derive(Clone)]
struct Tunnel {
    address: SocketAddr,
    listens: watch::Receiver<bool>,
}

/// Where the tunnel begins that leads there. There is one for each, as long as the process.
fn host_and_port(target: &str, plain: Side) -> String {
    static TUNNELS: LazyLock<Mutex<Tunnels>> = LazyLock::new(Mutex::default);
    let tunnel = {
        let mut tunnels = TUNNELS.lock().expect("no panic");
        let tunnel = tunnels
            .entry((target.to_owned(), plain))
            .or_insert_with(|| begin(target.to_owned(), plain));
        tunnel.clone()
    };
    let deadline = Instant::now() + PATIENCE;
    while !*tunnel.listens.borrow() && is_there(target) {
        assert!(Instant::now() < deadline, "a tunnel to {target}");
        std::thread::sleep(LOOK / 4);
    }
    tunnel.address.to_string()
}

/// A listener at an address that nobody else is ever given, though it may be closed for a while.
fn listener() -> TcpListener {
    static HOST: LazyLock<String> = LazyLock::new(own_host);
    static PORT: AtomicU16 = AtomicU16::new(1024);
    loop {
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        if let Ok(listener) = TcpListener::bind((HOST.as_str(), port)) {
            return listener;
        }
    }
}

fn begin(target: String, plain: Side) -> Tunnel {
    let listener = listener();
    let address = listener.local_addr().expect("it is bound");
    // Who connects where nobody is is refused, as without a tunnel.
    let mut listener = is_there(&target).then_some(listener);
    let (listening, listens) = watch::channel(false);
    runtime().spawn(async move {
        loop {
            if !is_there(&target) {
                drop(listener.take());
                wait_for(&target).await;
            }
            if let Some(listener) = open(&mut listener, address) {
                listening.send_replace(true);
                serve(listener, &target, plain).await;
                listening.send_replace(false);
            }
        }
    });
    Tunnel { address, listens }
}

/// The listener that is there, or a new one.
fn open(
    listener: &mut Option<TcpListener>,
    address: SocketAddr,
) -> Option<tokio::net::TcpListener> {
    let bind = || TcpListener::bind(address).expect("nobody else takes it");
    let listener = listener.take().unwrap_or_else(bind);
    listener.set_nonblocking(true).expect("an option");
    tokio::net::TcpListener::from_std(listener).ok()
}

/// Relays each connection, until there is nobody at the other end.
async fn serve(listener: tokio::net::TcpListener, target: &str, plain: Side) {
    let nobody = Arc::new(Notify::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection").0,
            () = nobody.notified() => match is_there(target) {
                true => continue,
                false => return,
            },
        };
        let (target, nobody) = (target.to_owned(), Arc::clone(&nobody));
        let accepted = accepted.into_std().expect("a connection");
        runtime().spawn(async move {
            let accepted = TcpStream::from_std(accepted).expect("a runtime");
            let dialled = match target.strip_prefix("ipc://") {
                Some(path) => dial_unix(path).await.map(End::of_unix),
                None => dial(&accepted, &target).await.map(End::of_tcp),
            };
            match dialled {
                Ok(dialled) => relay::relay(End::of_tcp(accepted), dialled, plain).await,
                Err(_) => nobody.notify_one(),
            }
        });
    }
}

/// From the peer's own address, as far as it is one of this machine.
async fn dial(accepted: &TcpStream, target: &str) -> std::io::Result<TcpStream> {
    let addresses = tokio::net::lookup_host(target).await?;
    let mut last = std::io::ErrorKind::AddrNotAvailable.into();
    let mut source = accepted.peer_addr()?;
    source.set_port(0);
    for address in addresses {
        let socket = match address.is_ipv4() {
            true => TcpSocket::new_v4()?,
            false => TcpSocket::new_v6()?,
        };
        if address.is_ipv4() && source.ip() != Ipv4Addr::LOCALHOST {
            socket.bind(source)?;
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_unix(path: &str) -> std::io::Result<UnixStream> {
    let path = match path.strip_prefix('@') {
        Some(name) => format!("\0{name}"),
        None => path.to_owned(),
    };
    UnixStream::connect(path).await
}

/// Those who wait until somebody listens at an address, by its port: they are many, and most for ever.
type Waiting = HashMap<u16, Vec<(SocketAddrV4, oneshot::Sender<()>)>>;

/// Waits until somebody listens there. One thread looks for all who wait: the table is long.
async fn wait_for(target: &str) {
    static WAITING: LazyLock<Arc<Mutex<Waiting>>> = LazyLock::new(|| {
        let waiting = Arc::<Mutex<Waiting>>::default();
        let theirs = Arc::clone(&waiting);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(LOOK);
                tell_who_waits(&mut theirs.lock().expect("no panic"));
            }
        });
        waiting
    });
    let target: SocketAddrV4 = target.parse().expect("an address");
    let (tell, told) = oneshot::channel();
    {
        let mut waiting = WAITING.lock().expect("no panic");
        let at_port = waiting.entry(target.port()).or_default();
        at_port.push((target, tell));
    }
    told.await.expect("the thread goes on");
}

fn tell_who_waits(waiting: &mut Waiting) {
    if waiting.is_empty() {
        return;
    }
    let listening = listening();
    for port in listening.keys().map(SocketAddrV4::port) {
        let Some(all) = waiting.remove(&port) else {
            continue;
        };
        let (there, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(target, _)| socket_in(&listening, *target).is_some());
        if !others.is_empty() {
            waiting.insert(port, others);
        }
        for (_, tell) in there {
            // A tunnel waits as long as its runtime lives.
            let _ = tell.send(());
        }
    }
}

/// Whether somebody listens at an address of this machine, as far as the system's table tells: to
/// connect would be noticed there.
fn is_there(target: &str) -> bool {
    let target = target.parse();
    target.map_or(true, |target| socket_in(&listening(), target).is_some())
}

/// Who listens on this machine, and by which socket.
type Listening = HashMap<SocketAddrV4, u64>;

fn socket_in(listening: &Listening, target: SocketAddrV4) -> Option<u64> {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, target.port());
    let found = listening.get(&target).or_else(|| listening.get(&any));
    found.copied()
}

fn listening() -> Listening {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.into_iter().flat_map(listeners_of).collect()
}

/// The listeners of a table of the system. They are its first lines, and all others may be very many.
fn listeners_of(table: &str) -> Vec<(SocketAddrV4, u64)> {
    const LISTENS: &str = " 0A ";
    let lines = BufReader::new(File::open(table).expect("Linux")).lines();
    let lines = lines.map(|line| line.expect("a table")).skip(1);
    let listeners = lines.take_while(|line| line.contains(LISTENS));
    let address = |line: String| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (host, port) = fields.get(1)?.split_once(':')?;
        // Who listens at :: does so at 0.0.0.0.
        let host = u128::from_str_radix(host, 16).ok()?;
        let host = u32::try_from(host).ok()?.to_ne_bytes();
        let port = u16::from_str_radix(port, 16).ok()?;
        let socket = fields.get(9)?.parse().ok()?;
        Some((SocketAddrV4::new(host.into(), port), socket))
    };
    listeners.filter_map(address).collect()
}

/// One of several, each with a thread: a connection that is flooded holds up few others.
fn runtime() -> &'static Handle {
    static RUNTIMES: LazyLock<[Handle; 16]> = LazyLock::new(|| std::array::from_fn(|_| start()));
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    &RUNTIMES[NEXT.fetch_add(1, Ordering::Relaxed) % RUNTIMES.len()]
}

fn start() -> Handle {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}
