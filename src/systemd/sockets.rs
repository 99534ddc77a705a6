//! Listening sockets that the service manager bound, and keeps while we don't run.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::PathBuf;

use listenfd::ListenFd;
use socket2::SockRef;

use event_manager_wire::model::Endpoint;

/// A listening socket passed by the service manager.
#[derive(Debug)]
pub enum Socket {
    /// Of TCP, for IPv4, IPv6 or both.
    Tcp(TcpListener),
    /// With a file.
    Unix(UnixListener),
}

/// All of them. They stay here: a listener gets a duplicate, so that it can be closed and opened
/// again.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(Socket, bool)>,
}

impl Inherited {
    /// Those named by the environment (`LISTEN_FDS`, `LISTEN_PID`). The variables are removed, so call
    /// this before there are other threads. Anything that is not a listening stream socket is left
    /// alone, and described in the second part.
    pub fn from_env() -> (Self, Vec<String>) {
        let mut fds = ListenFd::from_env();
        let (mut sockets, mut unusable) = (vec![], vec![]);
        for index in 0..fds.len() {
            let unix =
                |fds: &mut ListenFd| fds.take_unix_listener(index).map(|s| s.map(Socket::Unix));
            let tcp = |fds: &mut ListenFd| fds.take_tcp_listener(index).map(|s| s.map(Socket::Tcp));
            match unix(&mut fds).or_else(|_| tcp(&mut fds)) {
                Ok(Some(socket)) if socket.listens() => sockets.push((socket, false)),
                Ok(Some(socket)) => unusable.push(format!("{} does not listen", socket.address())),
                Ok(None) => {}
                Err(error) => unusable.push(error.to_string()),
            }
        }
        (Self { sockets }, unusable)
    }

    /// A duplicate of the socket that is bound to this address, with its real port, if there is one.
    /// It doesn't block.
    ///
    /// # Errors
    /// The system's: no descriptors are left.
    pub fn take(&mut self, wanted: &Endpoint) -> io::Result<Option<Socket>> {
        for (socket, is_used) in &mut self.sockets {
            if !socket.is_at(wanted) {
                continue;
            }
            let duplicate = match socket {
                Socket::Tcp(listener) => {
                    listener.set_nonblocking(true)?;
                    Socket::Tcp(listener.try_clone()?)
                }
                Socket::Unix(listener) => {
                    listener.set_nonblocking(true)?;
                    Socket::Unix(listener.try_clone()?)
                }
            };
            *is_used = true;
            return Ok(Some(duplicate));
        }
        Ok(None)
    }

    /// Whether one is bound to this address.
    pub fn has(&self, wanted: &Endpoint) -> bool {
        self.sockets.iter().any(|(socket, _)| socket.is_at(wanted))
    }

    /// Those that were not taken.
    pub fn unused(&self) -> impl Iterator<Item = &Socket> {
        let unused = self.sockets.iter().filter(|(_, is_used)| !is_used);
        unused.map(|(socket, _)| socket)
    }
}

impl Socket {
    /// Whether it is bound to this address, with its real port.
    pub fn is_at(&self, wanted: &Endpoint) -> bool {
        match (self, wanted) {
            (Self::Tcp(listener), Endpoint::Tcp { host, port }) => listener
                .local_addr()
                .is_ok_and(|at| at.port() == *port && is_host(at, host)),
            (Self::Unix(listener), Endpoint::Ipc(path)) => listener
                .local_addr()
                .is_ok_and(|at| written(&at).as_ref() == Some(path)),
            _ => false,
        }
    }

    fn listens(&self) -> bool {
        let listens = match self {
            Self::Tcp(listener) => SockRef::from(listener).is_listener(),
            Self::Unix(listener) => SockRef::from(listener).is_listener(),
        };
        listens.unwrap_or(false)
    }

    /// Its address, for people.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or("tcp://?".into(), |at| format!("tcp://{at}")),
            Self::Unix(listener) => {
                let path = listener.local_addr().ok().and_then(|at| written(&at));
                path.map_or("ipc://?".into(), |path| format!("ipc://{}", path.display()))
            }
        }
    }
}

/// A Unix domain socket's address as `ipc://` has it.
fn written(at: &UnixAddr) -> Option<PathBuf> {
    match (at.as_pathname(), at.as_abstract_name()) {
        (Some(path), _) => Some(path.to_owned()),
        (None, Some(name)) => Some(OsStr::from_bytes(&[b"@", name].concat()).into()),
        _ => None,
    }
}

/// Whether binding to this host could give a socket bound to this address: a name may have several.
fn is_host(at: SocketAddr, host: &str) -> bool {
    if host == "*" {
        return at.ip().is_unspecified();
    }
    let same = |ip: IpAddr| ip.to_canonical() == at.ip().to_canonical();
    let all = (host, at.port()).to_socket_addrs();
    all.is_ok_and(|mut all| all.any(|one| same(one.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited(address: &str) -> (Inherited, u16) {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = vec![(Socket::Tcp(listener), false)];
        (Inherited { sockets }, port)
    }

    #[test]
    fn a_socket_is_known_by_its_address() {
        let (mut local, port) = inherited("127.0.0.1:0");
        for other in [
            Endpoint::tcp("*", port),
            Endpoint::tcp("127.0.0.2", port),
            Endpoint::tcp("127.0.0.1", port - 1),
            Endpoint::tcp("127.0.0.1", 0),
            Endpoint::Ipc("x".into()),
        ] {
            assert!(local.take(&other).unwrap().is_none(), "{other}");
        }
        assert_eq!(local.unused().count(), 1);
        let named = Endpoint::tcp("localhost", port);
        assert!(local.take(&named).unwrap().is_some());
        let wanted = Endpoint::tcp("127.0.0.1", port);
        drop(local.take(&wanted).unwrap().unwrap());
        // A closed listener can be opened again.
        assert!(local.take(&wanted).unwrap().is_some());
        assert_eq!(local.unused().count(), 0);
    }

    #[test]
    fn a_socket_for_all_is_one_for_all() {
        let (mut all, port) = inherited("0.0.0.0:0");
        assert!(
            all.take(&Endpoint::tcp("127.0.0.1", port))
                .unwrap()
                .is_none()
        );
        assert!(all.take(&Endpoint::tcp("*", port)).unwrap().is_some());
    }

    #[test]
    fn a_socket_with_a_file_is_known_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let sockets = vec![(Socket::Unix(listener), false)];
        let mut inherited = Inherited { sockets };
        let other = Endpoint::Ipc(directory.path().join("other"));
        assert!(inherited.take(&other).unwrap().is_none());
        assert!(inherited.take(&Endpoint::Ipc(path)).unwrap().is_some());
    }
}
