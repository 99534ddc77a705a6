//! A service manager, as far as a daemon sees of it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::PATIENCE;
use super::program::{Program, Site};

/// Where a service manager listens.
pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _directory: TempDir,
}

impl Manager {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self {
            socket,
            path,
            _directory: directory,
        }
    }

    /// Its socket's file, in a directory of its own.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it would start a daemon with these keys.
    pub fn site(&self, keys: &Value) -> Site {
        let path = self.path.to_str().expect("text");
        Site::configured(keys).with("NOTIFY_SOCKET", path)
    }

    /// The next message, if one comes within this time.
    pub fn within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).expect("a socket");
        let mut bytes = [0; 4096];
        let n = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    /// The next message that is no sign of life.
    pub fn next(&self) -> String {
        loop {
            let message = self.within(PATIENCE).expect("the daemon tells of itself");
            if !message.starts_with("STATUS=serving") && !message.starts_with("STATUS=stopping: ") {
                return message;
            }
        }
    }

    /// Waits until it is told that all is bound.
    pub fn ready(&self) {
        assert_eq!(self.next(), "READY=1\n");
    }

    /// Has the daemon read its configuration again; when it returns, that is done.
    pub fn reload(&self, program: &Program) {
        program.signal("HUP");
        self.reloaded();
    }

    /// Waits until a reload is done.
    pub fn reloaded(&self) {
        let message = self.next();
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let time: u64 = time.expect(&message).trim().parse().expect("a number");
        assert!(time > 0);
        self.ready();
    }
}
