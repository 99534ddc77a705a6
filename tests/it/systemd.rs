//! Under a service manager: what it is told, when, and the sockets that it keeps. The test plays it.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::support::PATIENCE;
use super::support::TestDaemon;
use super::support::peers::publish;
use super::support::program::{Serving, Site};

/// Where a service manager listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self {
            socket,
            path,
            _directory: directory,
        }
    }

    fn site(&self, keys: &Value) -> Site {
        let path = self.path.to_str().expect("text");
        Site::configured(keys).with("NOTIFY_SOCKET", path)
    }

    /// The next message, if one comes within this time.
    fn within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).expect("a socket");
        let mut bytes = [0; 4096];
        let n = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    /// The next message that is no sign of life.
    fn next(&self) -> String {
        loop {
            let message = self.within(PATIENCE).expect("the daemon tells of itself");
            if !is_beat(&message) {
                return message;
            }
        }
    }
}

fn is_beat(message: &str) -> bool {
    message.starts_with("STATUS=serving") || message.starts_with("STATUS=stopping: ")
}

#[test]
fn it_is_told_of_the_start_reloads_and_the_end_in_their_order() {
    let manager = Manager::new();
    let requests = manager.path.with_file_name("requests");
    let address = format!("ipc://{}", requests.display());
    let site = manager.site(&json!({"requestAddress": address}));
    let program = site.start(&[]);
    assert_eq!(manager.next(), "READY=1\n");
    // It is bound when it says so, not some time later.
    UnixStream::connect(&requests).expect("somebody listens");
    let serving = Serving::ready(program);
    for _ in 0..2 {
        serving.program.signal("HUP");
        let reloading = manager.next();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let time: u64 = time.expect(&reloading).trim().parse().expect("a number");
        assert!(time > 0);
        assert_eq!(manager.next(), "READY=1\n");
    }
    assert!(serving.stop());
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
    // drainTimeout is 2 s.
    assert!(
        stopping.ends_with("EXTEND_TIMEOUT_USEC=32000000\n"),
        "{stopping}"
    );
}

#[test]
fn its_status_has_figures() {
    let manager = Manager::new();
    let site = manager.site(&json!({})).with("WATCHDOG_USEC", "300000");
    let daemon = TestDaemon::serving(&site);
    daemon.subscribe("1", "Billing", &["Order"]);
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "x");
    let deadline = Instant::now() + PATIENCE;
    let wanted = "STATUS=serving: 1 services with 0 workers, 2 connections; 1 events published, 1 under way, 0 dropped\nWATCHDOG=1\n";
    loop {
        let message = manager.within(PATIENCE).expect("a status");
        if message == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{message}");
    }
}

/// A service's socket is bound by the reactor. Where a file is there already, it looks whether
/// somebody listens at it, and hangs if somebody does, but takes no more connections.
#[test]
fn the_watchdog_starves_when_the_reactor_hangs_and_nothing_else_does() {
    let manager = Manager::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("service");
    let trap = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let trap_path = format!("{}-7001", path.display());
    let address = socket2::SockAddr::unix(&trap_path).expect("an address");
    trap.bind(&address).expect("a file");
    trap.listen(0).expect("a socket");
    let _fills_it = UnixStream::connect(&trap_path).expect("room for one");
    let site = manager
        .site(&json!({
            "pullAddress": format!("ipc://{}", path.display()),
            "minStreamerPort": 7001,
            "maxStreamerPort": 7001,
        }))
        .with("WATCHDOG_USEC", "600000");
    let daemon = TestDaemon::serving(&site);
    assert_eq!(manager.next(), "READY=1\n");
    let fed = |message: &str| message.ends_with("\nWATCHDOG=1\n");
    for _ in 0..3 {
        let message = manager.within(PATIENCE);
        assert!(message.as_deref().is_some_and(fed), "{message:?}");
    }

    let asks = daemon.requester();
    let request = ["TK_EVENT_MANAGER_SUBSCRIBE", "2", "1\0Billing\0Order"];
    asks.send_multipart(request, 0).expect("a send");
    let deadline = Instant::now() + PATIENCE;
    while manager.within(Duration::from_millis(600)).is_some() {
        assert!(Instant::now() < deadline, "the reactor does not hang");
    }
    // The rest of the process runs on: it still hears signals, and says so.
    daemon.program().signal("HUP");
    let reloading = manager.within(PATIENCE).expect("the main thread lives");
    assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
    assert_eq!(manager.within(Duration::from_millis(900)), None);

    drop(trap.accept().expect("the daemon's look"));
    assert_eq!(manager.next(), "READY=1\n");
    let message = manager.within(PATIENCE);
    assert!(message.as_deref().is_some_and(fed), "{message:?}");
}
