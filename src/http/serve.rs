//! Connections: how many, how long, how large.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinSet, LocalSet};

use super::timed::Timed;
use super::tls::{Handshake, Tls};
use crate::ambient::now;
use crate::config::HTTP_CONNECTIONS_MAX;

/// How long a connection may take for a request's head, and be idle between two.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a response may take, from when the peer's buffers are full.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// A request's head, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long accepting rests after a failure, lest it spins: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves in a thread of its own, until it is told to stop.
///
/// # Errors
/// The system gives no thread or no event queue.
pub(super) fn start(
    listener: StdListener,
    routed: (Router, Option<Tls>),
) -> io::Result<(oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("http".into())
        .spawn(move || run(&runtime, listener, routed, stopped))?;
    Ok((stop, thread))
}

fn run(
    runtime: &Runtime,
    listener: StdListener,
    (router, tls): (Router, Option<Tls>),
    stopped: oneshot::Receiver<()>,
) {
    LocalSet::new().block_on(runtime, async {
        tokio::select! {
            () = accept_all(listener, router, tls) => {}
            _ = stopped => {}
        }
    });
}

async fn accept_all(listener: StdListener, router: Router, mut tls: Option<Tls>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(target: "em.http", "HTTP is not served: {error}"),
    };
    let mut connections = Connections::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let handshake = tls.as_mut().map(Tls::handshake);
                    connections.admit(stream, handshake, &router);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(ended) = connections.tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                connections.open.remove(&id);
            }
        }
    }
}

/// The open connections.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
}

struct Open {
    task: AbortHandle,
    /// When its last request began, or it was opened.
    since: Rc<Cell<Instant>>,
}

impl Connections {
    /// If there are as many as may be, the one that has asked nothing for longest makes room: those
    /// that only hold a connection keep out nobody who asks.
    fn admit(&mut self, stream: TcpStream, handshake: Option<Handshake>, router: &Router) {
        if self.open.len() >= HTTP_CONNECTIONS_MAX {
            let idlest = self.open.iter().min_by_key(|(_, open)| open.since.get());
            if let Some(open) = idlest
                .map(|(id, _)| *id)
                .and_then(|id| self.open.remove(&id))
            {
                open.task.abort();
            }
        }
        let since = Rc::new(Cell::new(now()));
        let conversation = converse(stream, handshake, router.clone(), Rc::clone(&since));
        let task = self.tasks.spawn_local(conversation);
        self.open.insert(task.id(), Open { task, since });
    }
}

async fn converse(
    stream: TcpStream,
    handshake: Option<Handshake>,
    router: Router,
    since: Rc<Cell<Instant>>,
) {
    // Fails when the peer has gone.
    let _ = stream.set_nodelay(true);
    let stream = Timed::new(stream, WRITE_TIME);
    let Some(handshake) = handshake else {
        return answer_all(stream, router, since).await;
    };
    match tokio::time::timeout(HEAD_TIME, handshake.accept(stream)).await {
        Ok(Ok(stream)) => answer_all(stream, router, since).await,
        Ok(Err(error)) => tracing::debug!(target: "em.http", "no TLS: {error}"),
        Err(_) => tracing::debug!(target: "em.http", "no TLS in time"),
    }
}

async fn answer_all(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    router: Router,
    since: Rc<Cell<Instant>>,
) {
    let pages = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        since.set(now());
        pages.call(request)
    });
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = conversation {
        tracing::debug!(target: "em.http", "an HTTP connection ended: {error}");
    }
}
