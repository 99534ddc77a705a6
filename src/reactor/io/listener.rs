//! Bound sockets: what is listened on, and who may connect.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;

use super::stream::Stream;
use crate::systemd::{Inherited, Socket as Handed};
use event_manager_wire::model::{Endpoint, socket_name};

const BACKLOG: i32 = 4096;
/// How long accepting rests after another failure, lest it spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);
/// How long accepting rests when file descriptors have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    fn handed(socket: Handed) -> io::Result<Self> {
        Ok(match socket {
            Handed::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Handed::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }
}

/// Takes on what a listener accepts.
pub(crate) trait Door {
    /// A peer connected from this address.
    fn accepted(&self, stream: Stream, address: Rc<str>);
    /// The system has no descriptor for one that waits.
    fn out_of_descriptors(&self, error: &io::Error);
}

/// A listening socket. Its task accepts; closing it frees the port at once, whenever the task ends.
#[derive(Debug)]
pub(crate) struct Listener {
    bound: Rc<RefCell<Option<Bound>>>,
    task: RefCell<Option<AbortHandle>>,
    endpoint: Endpoint,
    /// The socket's file, which goes with it.
    path: Option<PathBuf>,
}

impl Listener {
    /// Binds and listens, or takes the socket that the service manager has bound there. Connections
    /// wait until [`accept`](Self::accept) is called.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn bind(endpoint: &Endpoint, inherited: &mut Inherited) -> io::Result<Self> {
        let handed = inherited.take(endpoint)?;
        let (bound, endpoint, path) = match (handed, endpoint) {
            // Its file, if it has one, is the service manager's.
            (Some(handed), _) => (Bound::handed(handed)?, endpoint.clone(), None),
            (None, Endpoint::Tcp { host, port }) => {
                let listener = TcpListener::from_std(listen_tcp(host, *port)?)?;
                let port = listener.local_addr()?.port();
                (Bound::Tcp(listener), endpoint.with_port(port), None)
            }
            (None, Endpoint::Ipc(path)) => {
                let name = socket_name(path);
                let is_file = matches!(name, Cow::Borrowed(_));
                let bound = Bound::Unix(bind_unix(&name)?);
                (bound, endpoint.clone(), is_file.then(|| path.clone()))
            }
        };
        let bound = Rc::new(RefCell::new(Some(bound)));
        Ok(Self {
            bound,
            task: RefCell::default(),
            endpoint,
            path,
        })
    }

    /// What it is bound to; the port is the real one.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn accept(&self, door: Rc<dyn Door>) {
        let task = tokio::task::spawn_local(accept_all(Rc::clone(&self.bound), door));
        *self.task.borrow_mut() = Some(task.abort_handle());
    }

    pub(crate) fn close(&self) {
        // While we listen still, so that the file can't be another process's yet. Once only: later it
        // may be.
        if let Some(path) = &self.path
            && self.bound.borrow().is_some()
        {
            let _ = std::fs::remove_file(path);
        }
        self.bound.borrow_mut().take();
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Listens on a host, `*` for all addresses, and port, 0 for one of the system's choice. The socket
/// doesn't block.
///
/// # Errors
/// Those of the system.
pub fn listen_tcp(host: &str, port: u16) -> io::Result<std::net::TcpListener> {
    if host == "*" {
        // One socket for both families where the machine has IPv6.
        let all = |ip: IpAddr| listen(SocketAddr::new(ip, port));
        all(Ipv6Addr::UNSPECIFIED.into()).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
            _ if out_of_descriptors(&error) => Err(error),
            _ => all(Ipv4Addr::UNSPECIFIED.into()),
        })
    } else {
        let mut addresses = (host, port).to_socket_addrs()?;
        let first = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        listen(first)
    }
}

/// The same place with addresses instead of a host's name, which is looked up now: who binds there
/// again and again doesn't wait for a name server. The first is the one to bind.
///
/// # Errors
/// The name is not known, or nobody can say.
pub(crate) fn resolved(endpoint: &Endpoint) -> io::Result<Vec<Endpoint>> {
    let (host, port) = match endpoint {
        Endpoint::Tcp { host, port } if host != "*" => (host.as_str(), *port),
        _ => return Ok(vec![endpoint.clone()]),
    };
    let host_of = |address: SocketAddr| match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => address.ip().to_string(),
    };
    let found = (host, port).to_socket_addrs()?;
    let found: Vec<_> = found
        .map(|address| Endpoint::tcp(host_of(address), port))
        .collect();
    if found.is_empty() {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    Ok(found)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket's file outlives a process that was killed: one that nobody listens on is replaced. Other
/// files refuse connections too, and are not ours to remove.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = || {
        path.symlink_metadata()
            .is_ok_and(|found| found.file_type().is_socket())
    };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_socket() => {
            match probe_unix(path) {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)
                }
                _ => Err(error),
            }
        }
        result => result,
    }
}

/// Whether somebody listens there. It doesn't wait for one whose backlog is full: that is a listener.
fn probe_unix(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// EMFILE and ENFILE, which have no kind of their own.
fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

async fn accept_one(bound: &RefCell<Option<Bound>>) -> Option<io::Result<(Stream, Rc<str>)>> {
    std::future::poll_fn(|context| {
        let bound = bound.borrow();
        Poll::Ready(Some(match &*bound {
            None => return Poll::Ready(None),
            Some(Bound::Tcp(listener)) => match listener.poll_accept(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result.map(|(stream, address)| {
                    (Stream::tcp(stream), canonical(address).to_string().into())
                }),
            },
            Some(Bound::Unix(listener)) => match listener.poll_accept(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => {
                    result.map(|(stream, _)| (Stream::Unix(stream), "ipc".into()))
                }
            },
        }))
    })
    .await
}

/// An IPv4 peer of a socket for both families, as people write it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn accept_all(bound: Rc<RefCell<Option<Bound>>>, door: Rc<dyn Door>) {
    // Given up when descriptors run out, so that what waits can be accepted, and closed: left alone
    // it would keep the listener readable and its clients hoping.
    let mut reserve = File::open("/dev/null").ok();
    while let Some(result) = accept_one(&bound).await {
        match result {
            Ok((stream, address)) => door.accepted(stream, address),
            Err(error) if out_of_descriptors(&error) => {
                reserve.take();
                let turned_away = try_accept(&bound);
                reserve = File::open("/dev/null").ok();
                door.out_of_descriptors(&error);
                if !turned_away {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
            // The connection was gone before it was accepted, or the kernel has no memory just now.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Accepts and closes one waiting connection; whether there was one.
fn try_accept(bound: &RefCell<Option<Bound>>) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match &*bound.borrow() {
        Some(Bound::Tcp(listener)) => {
            matches!(listener.poll_accept(&mut context), Poll::Ready(Ok(_)))
        }
        Some(Bound::Unix(listener)) => {
            matches!(listener.poll_accept(&mut context), Poll::Ready(Ok(_)))
        }
        None => false,
    }
}
