//! Servers of other brokers, and programs that use their public clients.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::process::signal;

/// How long a server may take until it listens: RabbitMQ needs half a minute on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);

/// A file that `just engines` has installed.
pub fn installed(name: &str) -> PathBuf {
    let directory = std::env::var_os("EVENT_MANAGER_ENGINES").expect(
        "EVENT_MANAGER_ENGINES: run these tests by `just engines`, which installs the servers",
    );
    let path = PathBuf::from(directory).join(name);
    assert!(
        path.exists(),
        "{} is missing: run `just engines`",
        path.display()
    );
    path
}

/// The nats-server that the tests use: the one that is installed, or what `EVENT_MANAGER_NATS` names.
pub fn nats_server() -> PathBuf {
    let other = std::env::var_os("EVENT_MANAGER_NATS");
    other.map_or_else(|| installed("nats-server"), PathBuf::from)
}

/// The Redis: Debian's, or what `EVENT_MANAGER_REDIS` names.
pub fn redis_server() -> PathBuf {
    let other = std::env::var_os("EVENT_MANAGER_REDIS");
    other.map_or_else(|| "redis-server".into(), PathBuf::from)
}

/// A port that nobody uses, and that nobody gets who asks for any: a server that starts again still finds
/// it free, and who tries to reach it meanwhile never meets itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let from = std::process::id() * 64;
    loop {
        let next = from + NEXT.fetch_add(1, Ordering::Relaxed);
        // The system gives those from 32768 on.
        let port = u16::try_from(12_000 + next % 20_000).expect("it fits");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Has a public client do something at a server; what it prints is JSON.
pub fn client(script: &str, url: &str, arguments: &[&str]) -> Value {
    let scripts = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines"));
    let output = Command::new(installed("venv/bin/python"))
        .arg(scripts.join(script))
        .arg(url)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("the client runs");
    assert!(
        output.status.success(),
        "{script} {arguments:?}: {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A file with a secret, which only we may read.
pub fn secret(directory: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join("secret");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .expect("a file");
    file.write_all(text.as_bytes()).expect("a write");
    path
}

/// A server's process, which ends with this.
pub struct Process(Child);

impl Process {
    /// Starts it; when this returns, it listens on this port.
    pub fn listening(command: &mut Command, port: u16) -> Self {
        Self::listening_at(command, "127.0.0.1", port)
    }

    /// The same at another address of this machine.
    pub fn listening_at(command: &mut Command, host: &str, port: u16) -> Self {
        let name = command.get_program().to_owned();
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        let begun = Instant::now();
        while TcpStream::connect((host, port)).is_err() {
            if let Some(status) = child.try_wait().expect("its state") {
                panic!("{} has ended: {status}", name.display());
            }
            assert!(
                begun.elapsed() < START_MAX,
                "{} doesn't listen",
                name.display()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    /// All of its threads stand still: it accepts connections, and never answers.
    pub fn stand_still(&self) {
        signal(self.0.id(), "STOP");
    }

    /// It goes on.
    pub fn go_on(&self) {
        signal(self.0.id(), "CONT");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
