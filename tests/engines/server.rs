//! Servers of other brokers, and programs that use their public clients.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a server may take until it listens.
const START_MAX: Duration = Duration::from_secs(30);

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

/// A nats-server with JetStream, whose data outlives it.
pub struct Nats {
    child: Option<Child>,
    directory: TempDir,
    port: u16,
}

impl Nats {
    /// One that does not run yet.
    pub fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self {
            child: None,
            directory: TempDir::new().expect("a directory"),
            port: free.local_addr().expect("an address").port(),
        }
    }

    pub fn started() -> Self {
        let mut server = Self::new();
        server.start();
        server
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn start(&mut self) {
        let program = installed("nats-server");
        let mut command = Command::new(&program);
        command
            .args([
                "-js",
                "-a",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-sd",
            ])
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().expect("nats-server starts"));
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < START_MAX, "nats-server doesn't listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a kill");
        child.wait().expect("its end");
    }

    /// Its process stands still, all of its threads: it accepts connections, and never answers.
    pub fn stand_still(&self) {
        self.signal("-STOP");
        let tasks = format!("/proc/{}/task", self.pid());
        let begun = Instant::now();
        let all_stopped = || {
            let mut tasks = std::fs::read_dir(&tasks).expect("its threads");
            tasks.all(|task| {
                let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat"));
                // The state stands behind the name, which is in brackets.
                stat.is_ok_and(|stat| {
                    stat.rsplit(')')
                        .next()
                        .is_some_and(|rest| rest.starts_with(" T"))
                })
            })
        };
        while !all_stopped() {
            assert!(begun.elapsed() < START_MAX, "it doesn't stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn pid(&self) -> String {
        self.child.as_ref().expect("it runs").id().to_string()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid()]).status();
        assert!(sent.expect("kill").success());
    }

    /// Has a public client do something there; what it prints is JSON.
    pub fn client(&self, arguments: &[&str]) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines/nats_client.py");
        let output = Command::new(installed("venv/bin/python"))
            .arg(script)
            .arg(self.url())
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .expect("the client runs");
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// A file with a secret, which only we may read.
    pub fn secret(&self, text: &str) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.directory.path().join("secret");
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
}

impl Drop for Nats {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
