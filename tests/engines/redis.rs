//! Bridges to Redis Streams: the server, and what is special there.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::conformance::{Broker, Message, conforms};
use super::server::{self, Process, free_port};

/// Debian's redis-server, which syncs each write to its file before it answers.
struct Redis {
    process: Option<Process>,
    directory: TempDir,
    port: u16,
}

impl Broker for Redis {
    const TYPE: &str = "redis";
    const TO: &str = "orders";
    const KNOWS_IDS: bool = false;

    fn new() -> Self {
        Self {
            process: None,
            directory: TempDir::new().expect("a directory"),
            port: free_port(),
        }
    }

    fn start(&mut self) {
        self.start_with(&[]);
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn stand_still(&self) {
        self.process.as_ref().expect("it runs").stand_still();
    }

    fn go_on(&self) {
        self.process.as_ref().expect("it runs").go_on();
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn prepare(&self) {}

    fn read(&self, wanted: usize) -> Vec<Message> {
        Message::all(&self.client(&["read", Self::TO, &wanted.to_string()]))
    }

    fn too_many_bytes(&self) -> usize {
        // The server is started with a limit of 1 MiB.
        (1 << 20) + 1
    }
}

impl Redis {
    fn start_with(&mut self, more: &[&str]) {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--save", "", "--proto-max-bulk-len", "1mb", "--dir"])
            .arg(self.directory.path())
            .args(more);
        self.process = Some(Process::listening(&mut command, self.port));
    }

    fn client(&self, arguments: &[&str]) -> Value {
        server::client("redis_client.py", &self.url(), arguments)
    }
}

conforms!(Redis);
