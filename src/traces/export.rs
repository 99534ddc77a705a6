//! Sends spans to a collector, on a thread of its own.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::otlp::{self, Resource};
use super::span::Span;
use super::tracer::Tracer;
use crate::ambient::{chance, now};
use crate::config::TracesConfig;
use crate::telemetry::Bursts;
use event_manager_wire::model::{Backoff, Endpoint};

/// Spans that may wait; further ones are dropped.
const WAITING_MAX: usize = 4096;
/// Spans in a request.
const BATCH_MAX: usize = 512;
/// How long a span waits for others to go with it.
const LINGER: Duration = Duration::from_millis(250);
/// How long a collector may take for a request.
const POST_TIME: Duration = Duration::from_secs(5);
/// What is read of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Between two tries to send the same spans.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A running exporter.
#[derive(Debug)]
pub struct Exporter {
    /// Until when to send what waits.
    stop: watch::Sender<Option<Instant>>,
    /// Disconnected when that is done.
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Exporter {
    /// A tracer, and what sends its spans; one that is off if no collector is configured.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(config: &TracesConfig, resource: Resource) -> io::Result<(Tracer, Option<Self>)> {
        let Some(endpoint) = &config.endpoint else {
            return Ok((Tracer::default(), None));
        };
        let (tracer, spans) = Tracer::channel(config.traceparent.clone(), WAITING_MAX);
        let (stop, stopped) = watch::channel(None);
        let (running, ended) = channel();
        let sending = Sending {
            endpoint: endpoint.clone(),
            resource,
            tracer: tracer.clone(),
            spans,
            batch: vec![],
            stop: stopped,
            bursts: Bursts::default(),
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("traces".into())
            .spawn(move || {
                runtime.block_on(sending.run());
                // A name server that doesn't answer may hold one of its threads.
                runtime.shutdown_background();
                drop(running);
            })?;
        let exporter = Self {
            stop,
            ended,
            thread,
        };
        Ok((tracer, Some(exporter)))
    }

    /// Sends what waits, for at most this long, and ends.
    pub fn stop(self, within: Duration) {
        self.stop.send_replace(Some(now() + within));
        // It keeps to the time itself; this is for a thread that gets no turn.
        let ended = self.ended.recv_timeout(within * 2);
        if ended == Err(RecvTimeoutError::Disconnected) {
            let _ = self.thread.join();
        }
    }
}

/// Why a collector did not take spans.
#[derive(Debug)]
enum NotTaken {
    /// It may yet.
    Later(String),
    /// It will not take these.
    Never(String),
}

struct Sending {
    endpoint: Endpoint,
    resource: Resource,
    tracer: Tracer,
    spans: mpsc::Receiver<Span>,
    /// What is sent now.
    batch: Vec<Span>,
    stop: watch::Receiver<Option<Instant>>,
    bursts: Bursts,
}

impl Sending {
    async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            self.gather().await;
            if self.batch.is_empty() {
                return;
            }
            let sent = self.batch.len() as u64;
            match self.post_in_time().await {
                Ok(rejected) => {
                    let rejected = rejected.min(sent);
                    self.tracer.exported(sent - rejected);
                    self.tracer.refused(rejected);
                }
                Err(NotTaken::Never(why)) => {
                    self.log(&why);
                    self.tracer.refused(sent);
                }
                Err(NotTaken::Later(why)) => {
                    self.log(&why);
                    if self.is_stopping() {
                        return self.give_up();
                    }
                    let pause = tokio::time::sleep(backoff.next_delay(chance()));
                    let _ = unless_stopped(&mut self.stop, pause).await;
                    continue;
                }
            }
            backoff.reset();
            self.batch.clear();
        }
    }

    /// Fills the batch: with what comes soon after its first span, and with what is there at the end.
    /// If it is empty then, this is the end.
    async fn gather(&mut self) {
        if self.batch.is_empty() {
            let first = self.spans.recv_many(&mut self.batch, BATCH_MAX);
            let _ = unless_stopped(&mut self.stop, first).await;
            let linger = tokio::time::sleep(LINGER);
            if !self.batch.is_empty() && !self.is_stopping() {
                let _ = unless_stopped(&mut self.stop, linger).await;
            }
        }
        while self.batch.len() < BATCH_MAX
            && let Ok(span) = self.spans.try_recv()
        {
            self.batch.push(span);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Nobody takes them, and the time is up.
    fn give_up(&mut self) {
        let waiting = std::iter::from_fn(|| self.spans.try_recv().ok()).count();
        self.tracer.dropped((self.batch.len() + waiting) as u64);
    }

    /// Sends the batch, in the time for a request and the time that is left; how many spans were
    /// refused then.
    async fn post_in_time(&mut self) -> Result<u64, NotTaken> {
        let body = otlp::request(&self.resource, &self.batch);
        let endpoint = self.endpoint.clone();
        let mut post = pin!(timeout(POST_TIME, post(endpoint, body)));
        let answer = match unless_stopped(&mut self.stop, &mut post).await {
            Ok(answer) => Ok(answer),
            Err(deadline) => timeout_at(deadline.into(), post).await,
        };
        let late = |_| NotTaken::Later("it doesn't answer in time".into());
        answer.and_then(|answer| answer).map_err(late)?
    }

    fn log(&mut self, why: &str) {
        if let Some(suppressed) = self.bursts.admit("export", now()) {
            let endpoint = self.endpoint.to_string().replacen("tcp", "http", 1);
            tracing::warn!(target: "em.traces", suppressed, "the collector {endpoint} accepts no spans: {why}");
        }
    }
}

/// What comes of something, or until when to end if that is wanted first.
async fn unless_stopped<T>(
    stop: &mut watch::Receiver<Option<Instant>>,
    work: impl Future<Output = T>,
) -> Result<T, Instant> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        stopped = stop.wait_for(Option::is_some) => {
            // Without anybody who could say so, it is wanted at once.
            Err(stopped.ok().and_then(|deadline| *deadline).unwrap_or_else(now))
        }
    }
}

/// One request on a connection of its own; how many spans were refused.
async fn post(endpoint: Endpoint, body: String) -> Result<u64, NotTaken> {
    let later = |error: &dyn std::fmt::Display| NotTaken::Later(error.to_string());
    let Endpoint::Tcp { host, port } = &endpoint else {
        return Err(NotTaken::Never("it is no address of TCP".into()));
    };
    let connected = TcpStream::connect((host.as_str(), *port)).await;
    let stream = connected.map_err(|error| later(&error))?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut requests, connection) = shaken.map_err(|error| later(&error))?;
    // Ends with this function.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let authority = endpoint.to_string();
    let request = Request::post("/v1/traces")
        .header(HOST, authority.trim_start_matches("tcp://"))
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .map_err(|error| NotTaken::Never(error.to_string()))?;
    let answered = requests.send_request(request).await;
    let response = answered.map_err(|error| later(&error))?;
    let status = response.status();
    if status.is_success() {
        let answer = to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
        // It took them; an answer that can't be read says no more.
        return Ok(otlp::rejected(&answer.unwrap_or_default()));
    }
    let sentence = format!("it answers {status}");
    match status.as_u16() {
        429 | 502..=504 => Err(NotTaken::Later(sentence)),
        _ => Err(NotTaken::Never(sentence)),
    }
}
