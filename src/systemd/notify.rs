//! Notification of the service manager.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The watchdog is fed this many times per timeout.
const WATCHDOG_PART: u32 = 3;
/// The longest interval between two status updates.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// Extra time for starting and stopping, beyond the configured times.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a send may wait for the manager to read.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The service manager, if it asked to be notified.
#[derive(Debug, Clone, Default)]
pub struct Manager {
    address: Option<OsString>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn from_env() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        Self {
            watchdog: sd_notify::watchdog_enabled().filter(|_| address.is_some()),
            address,
        }
    }

    /// Starting may take this long.
    pub fn starting(&self, wait: Duration) {
        self.tell(&[
            NotifyState::Status("waiting until a predecessor is gone"),
            NotifyState::ExtendTimeoutUsec(micros(wait + MARGIN)),
        ]);
    }

    /// All sockets are bound; or what was reloaded is in force.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The configuration is being reloaded; [`ready`](Self::ready) ends that.
    pub fn reloading(&self) {
        let mut state = vec![NotifyState::Reloading];
        state.extend(NotifyState::monotonic_usec_now());
        self.tell(&state);
    }

    /// We are stopping, which may take this long.
    pub fn stopping(&self, timeout: Duration) {
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Status("stopping: delivering queued events"),
            NotifyState::ExtendTimeoutUsec(micros(timeout + MARGIN)),
        ]);
    }

    /// A heartbeat for the reactor's loop, starting now.
    pub fn beat(&self, now: Instant) -> Beat {
        let socket = self.address.as_deref().and_then(|address| {
            let connected = connect(address).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            connected.inspect_err(complain).ok()
        });
        let interval = self.watchdog.map_or(STATUS_INTERVAL, |timeout| {
            (timeout / WATCHDOG_PART).min(STATUS_INTERVAL)
        });
        Beat {
            socket,
            feeds: self.watchdog.is_some(),
            interval,
            due: now,
        }
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        let Some(address) = &self.address else { return };
        let sent = connect(address).and_then(|socket| {
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
            socket.send(lines(state).as_bytes())
        });
        let _ = sent.inspect_err(complain);
    }
}

/// Feeds the watchdog and updates the status.
#[derive(Debug)]
pub struct Beat {
    socket: Option<UnixDatagram>,
    feeds: bool,
    interval: Duration,
    due: Instant,
}

impl Beat {
    /// Called once per turn of the loop. Notifies the manager when it is time to; never waits.
    pub fn turned(&mut self, now: Instant, status: impl FnOnce() -> String) {
        let Some(socket) = &self.socket else { return };
        if now < self.due {
            return;
        }
        self.due = now + self.interval;
        let status = status();
        let mut state = vec![NotifyState::Status(&status)];
        state.extend(self.feeds.then_some(NotifyState::Watchdog));
        // A manager that doesn't read now is notified the next time.
        let _ = socket.send(lines(&state).as_bytes());
    }

    /// The longest time allowed between two turns.
    pub fn interval(&self) -> Duration {
        self.interval
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

fn lines(state: &[NotifyState<'_>]) -> String {
    state.iter().map(|line| format!("{line}\n")).collect()
}

fn micros(time: Duration) -> u32 {
    time.as_micros().try_into().unwrap_or(u32::MAX)
}

fn complain(error: &io::Error) {
    tracing::warn!(target: "em.systemd", %error, "can't notify the service manager (NOTIFY_SOCKET)");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(watchdog: Option<Duration>) -> (Manager, UnixDatagram, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = Some(path.into());
        (Manager { address, watchdog }, socket, directory)
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 4096];
        let n = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    #[test]
    fn the_states_are_written_as_sd_notify_has_them() {
        let (manager, socket, _directory) = manager(None);
        manager.ready();
        assert_eq!(heard(&socket).unwrap(), "READY=1\n");
        manager.reloading();
        let reloading = heard(&socket).unwrap();
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        manager.stopping(Duration::from_secs(5));
        let stopping = heard(&socket).unwrap();
        assert!(stopping.starts_with("STOPPING=1\nSTATUS="), "{stopping}");
        assert!(
            stopping.ends_with("EXTEND_TIMEOUT_USEC=35000000\n"),
            "{stopping}"
        );
        assert_eq!(micros(Duration::MAX), u32::MAX);
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn a_loop_that_turns_feeds_the_watchdog_in_time() {
        let (manager, socket, _directory) = manager(Some(Duration::from_secs(3)));
        let origin = Instant::now();
        let mut beat = manager.beat(origin);
        let mut fed = vec![];
        for tenth in 0..=30 {
            beat.turned(origin + Duration::from_millis(tenth * 100), || {
                "2 services".into()
            });
            if let Some(text) = heard(&socket) {
                assert_eq!(text, "STATUS=2 services\nWATCHDOG=1\n");
                fed.push(tenth);
            }
        }
        assert_eq!(fed, [0, 10, 20, 30]);
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn a_manager_that_does_not_read_holds_up_nobody() {
        let (manager, _socket, _directory) = manager(None);
        let origin = Instant::now();
        let mut beat = manager.beat(origin);
        (0..10_000).for_each(|n| beat.turned(origin + STATUS_INTERVAL * n, String::new));
    }

    #[test]
    fn an_abstract_name_is_a_socket_too() {
        let name = format!("event-manager-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let address = Some(format!("@{name}").into());
        let manager = Manager {
            address,
            watchdog: None,
        };
        manager.ready();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(heard(&socket).unwrap(), "READY=1\n");
    }
}
