//! Leases of clients that an engine keeps, for several daemons that serve at the same time: a thread that answers
//! LEASE.
//!
//! It does one request at a time, as each needs an answer or two of the engine. While the engine is away each
//! is refused when its time is over, which runs since it was read, so they don't add up.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::source::{CONNECT_MAX, Source};
use crate::ambient::{now, wall_clock_ms};
use crate::config::Config;
use crate::reactor::{Input, LEASES_WAITING_MAX, LeaseAsked, LeasesKept};
use crate::telemetry::Journal;
use event_manager_core::leases::candidate::{Answer, Ask};
use event_manager_core::leases::shared::{Deal, Kept, Next, Shared, Shown, Wish};
use event_manager_core::leases::tenure::Keeper;
use event_manager_core::leases::{Holder, Refused, TTL_MAX};
use event_manager_core::requests::{LeaseOp, LeaseRequest, lease_refused, lease_shown};
use event_manager_core::security::Identity;
use event_manager_wire::messagebus::{Message, Nak};
use event_manager_wire::model::{LeaseHolder, ServiceName};

/// How long a request waits until the engine is asked, and then for each answer of it.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How often it is seen whether the engine is there while nobody asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest that is taken for an entry, in bytes.
const BYTES_MAX: usize = 4096;

/// What the reactor gives requests to, and who takes them; `None` if the daemon keeps leases itself.
#[derive(Debug)]
pub struct Asked(mpsc::Receiver<LeaseAsked>, Arc<Keeper>);

/// The thread. It ends when the reactor has.
#[derive(Debug)]
pub struct Clients {
    thread: JoinHandle<()>,
}

impl Clients {
    /// The two ends of the channel to it; `None` if the daemon keeps leases itself.
    pub fn channel(config: &Config) -> Option<(LeasesKept, Asked)> {
        let engine = config.engines.get(&config.lease.source);
        let engine = engine.filter(|_| config.lease.is_active())?;
        let source = config.lease.source.clone();
        let kind = engine.kind().to_string();
        let keeper = Arc::new(Keeper::new(source, kind, config.lease.required));
        let (sender, requests) = mpsc::channel(LEASES_WAITING_MAX);
        let kept = LeasesKept {
            asked: sender,
            keeper: Arc::clone(&keeper),
        };
        Some((kept, Asked(requests, keeper)))
    }

    /// Starts it.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(
        config: &Config,
        Asked(requests, keeper): Asked,
        inputs: mpsc::Sender<Input>,
        journal: Journal,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let config = config.clone();
        let thread = std::thread::Builder::new()
            .name("leases".into())
            .spawn(move || {
                let answering = Answering {
                    name: config.lease.name.clone(),
                    source: Source::new(config, journal),
                    shared: Shared::default(),
                    keeper,
                };
                runtime.block_on(answering.run(requests, inputs));
            })?;
        Ok(Self { thread })
    }

    /// Waits for its end; whether without a panic.
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

struct Answering {
    /// `lease.name`, with which all entries begin.
    name: String,
    source: Source,
    shared: Shared,
    keeper: Arc<Keeper>,
}

impl Answering {
    async fn run(mut self, mut requests: mpsc::Receiver<LeaseAsked>, inputs: mpsc::Sender<Input>) {
        loop {
            match timeout(LOOK_EVERY, requests.recv()).await {
                Ok(None) => return,
                Ok(Some(asked)) => {
                    let ticket = asked.ticket;
                    let answer = self.answer(asked).await;
                    let input = Input::Answer { ticket, answer };
                    if inputs.send(input).await.is_err() {
                        return;
                    }
                }
                Err(_) => self.look().await,
            }
        }
    }

    /// Sees that the engine is there, so that it is known before somebody asks.
    async fn look(&mut self) {
        let found = match self.source.is_connected() {
            false => self.source.connect(now() + CONNECT_MAX).await,
            true => {
                let asked = self.source.ask(&self.name, &Ask::Read, now() + ANSWER_MAX);
                asked.await.map(|_| ())
            }
        };
        self.keeper.heard(found.err());
    }

    async fn answer(&mut self, asked: LeaseAsked) -> Message {
        let LeaseRequest { name, op } = asked.request;
        let mut deal = Deal::new(name.clone(), wish(op, asked.client));
        let done = self.done(&name, &mut deal, asked.at + ANSWER_MAX).await;
        let done = done.and_then(|done| match done {
            Ok(shown) => timely(shown, asked.at).map(Ok),
            Err(refused) => Ok(Err(refused)),
        });
        self.keeper.answered(done.is_err());
        match done {
            Ok(Ok(Shown { token, held, .. })) => {
                let held = held.as_ref().map(|(holder, left)| (holder, *left));
                lease_shown(&name, token, held)
            }
            Ok(Err(refused)) => lease_refused(&name, refused).into(),
            Err(why) => {
                let source = self.keeper.source();
                let sentence = format!(
                    "{name}: the engine {source} keeps leases, and it isn't known whether it has done this; ask again: {why}"
                );
                Nak::new("engine-failed", sentence).into()
            }
        }
    }

    /// How a request ends; or why that isn't known.
    async fn done(
        &mut self,
        name: &ServiceName,
        deal: &mut Deal,
        until: Instant,
    ) -> Result<Result<Shown, Refused>, String> {
        let entry = entry_of(&self.name, name);
        loop {
            let ask = match self.shared.next(deal, wall_clock_ms(), now()) {
                Next::Done(done) => return Ok(done),
                Next::Ask(ask) => ask,
            };
            let heard = match now() < until {
                true => self.heard(&entry, &ask).await,
                false => Err("others were asked for or changed it all the time".into()),
            };
            let (answer, problem) = match heard {
                Ok(answer) => (answer, None),
                Err(why) => (Answer::Unknown, Some(why)),
            };
            self.shared.hear(deal, &ask, answer, now());
            if let Some(why) = problem {
                return Err(why);
            }
        }
    }

    /// What the engine says.
    async fn heard(&mut self, entry: &str, ask: &Ask<Kept>) -> Result<Answer<Kept>, String> {
        let asked = async {
            self.source.connect(now() + ANSWER_MAX).await?;
            let ask = ask.with(text_of);
            self.source.ask(entry, &ask, now() + ANSWER_MAX).await
        };
        let heard = asked.await;
        self.keeper.heard(heard.as_ref().err().cloned());
        heard.map(|answer| answer.with(|text| kept_of(&text)))
    }
}

fn wish(op: LeaseOp, client: Identity) -> Wish {
    let by = |name: LeaseHolder| Holder { name, client };
    match op {
        LeaseOp::Acquire { holder, ttl } => Wish::Acquire(by(holder), ttl),
        LeaseOp::Renew { holder, token } => Wish::Renew(by(holder), token),
        LeaseOp::Release { holder, token } => Wish::Release(by(holder), token),
        LeaseOp::Get => Wish::Get,
    }
}

/// What is given counts from when the request was read: what is left of it, or that nothing is.
fn timely(shown: Shown, read_at: Instant) -> Result<Shown, String> {
    let (Some(given), Some((holder, _))) = (shown.given, &shown.held) else {
        return Ok(shown);
    };
    let left = (read_at + given).saturating_duration_since(now());
    let held = Some((holder.clone(), left));
    match left.is_zero() {
        true => Err("it was done when the lease's time was over already".into()),
        false => Ok(Shown { held, ..shown }),
    }
}

/// The entry of a lease: letters, digits, `-` and `_` as they are, other bytes as `=` and their number. So it
/// is a key for all engines, and that of no daemon.
fn entry_of(all: &str, lease: &ServiceName) -> String {
    let mut entry = format!("{all}.");
    for byte in lease.as_str().bytes() {
        match byte {
            b'-' | b'_' => entry.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => entry.push(char::from(byte)),
            _ => entry.push_str(&format!("={byte:02X}")),
        }
    }
    entry
}

/// How it is kept.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    token: u64,
    /// None if it was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    /// Whose connection it asked by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(default)]
    ttl_ms: u64,
}

fn text_of(kept: &Kept) -> String {
    let held = kept.held.as_ref();
    let written = Written {
        token: kept.token,
        holder: held.map(|(holder, _)| holder.name.to_string()),
        client: held.map(|(holder, _)| holder.client.written()),
        ttl_ms: held.map_or(0, |(_, ttl)| ttl.as_millis() as u64),
    };
    // It has nothing that JSON can't say.
    serde_json::to_string(&written).unwrap_or_default()
}

/// What is kept. What can't be read is nobody's: whoever holds such a lease can't renew it either.
fn kept_of(text: &[u8]) -> Kept {
    let text = Some(text).filter(|text| text.len() <= BYTES_MAX);
    let written = text.and_then(|text| serde_json::from_slice::<Written>(text).ok());
    let Some(written) = written else {
        return Kept::default();
    };
    let client = written.client.as_deref().and_then(Identity::from_written);
    let name = written.holder.as_deref().map(LeaseHolder::new);
    let holder = name.and_then(Result::ok).zip(client);
    let ttl = Duration::from_millis(written.ttl_ms).min(TTL_MAX);
    Kept {
        token: written.token,
        held: holder.map(|(name, client)| (Holder { name, client }, ttl)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_strange_things_are_nobodys() {
        let holder = Holder {
            name: LeaseHolder::new("a \"strange\" name").expect("a name"),
            client: Identity::Client("till-1".into()),
        };
        let held = Some((holder, Duration::from_secs(3)));
        for held in [held, None] {
            let kept = Kept { token: 7, held };
            assert_eq!(kept_of(text_of(&kept).as_bytes()), kept);
        }
        let long = format!(r#"{{"token": 1, "holder": "{}"}}"#, "x".repeat(BYTES_MAX));
        for strange in [&b""[..], b"hello", b"{}", b"\xff", long.as_bytes()] {
            assert_eq!(kept_of(strange), Kept::default());
        }
    }

    #[test]
    fn each_name_has_an_entry_of_its_own_that_is_a_key_everywhere() {
        let entry = |name: &str| entry_of("x-1", &ServiceName::new(name).expect("a name"));
        assert_eq!(entry("Job-1_b"), "x-1.Job-1_b");
        assert_eq!(entry("a.b *>=\u{e4}"), "x-1.a=2Eb=20=2A=3E=3D=C3=A4");
    }
}
