//! A worker's subscription: made, renewed, and made again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_manager_wire::messagebus::{Layout, Message, Token, encode};
use event_manager_wire::model::{Backoff, Endpoint};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::link::Terms;
use super::shared::Shared;
use crate::Error;
use crate::ambient::chance;
use crate::hub::State;
use crate::hub::asking::{Asker, Line, Patience};

/// Waits after a SUBSCRIBE that was refused for now.
const AGAIN: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];
/// A connection that ended may do so because the lease is over; but the daemon may be ending, too.
const BEFORE_LOOK: Duration = Duration::from_millis(50);
/// If an older daemon doesn't say.
const TTL: Duration = Duration::from_secs(60);
/// The same for a service's `ackTimeout`: a daemon's default.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// What a subscription asks for.
pub(super) struct Wish {
    pub(super) id: String,
    pub(super) service: String,
    pub(super) subjects: Vec<String>,
    /// How the service is to work: further fields of SUBSCRIBE.
    pub(super) options: Map<String, Value>,
}

/// What the daemon says beside the addresses, in milliseconds; an older one doesn't.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Beside {
    ttl_ms: Option<u64>,
    ack_timeout_ms: Option<u64>,
}

impl Wish {
    pub(super) fn what(&self) -> String {
        format!("SUBSCRIBE of {:?}", self.service)
    }

    pub(super) async fn subscribe(
        &self,
        asker: &Asker,
        patience: Patience,
    ) -> Result<Terms, Error> {
        let mut request = self.options.clone();
        for (name, value) in [
            ("token", json!("subscribe")),
            ("id", json!(self.id)),
            ("service", json!(self.service)),
            ("subjects", json!(self.subjects)),
        ] {
            request.insert(name.to_owned(), value);
        }
        let request = [Bytes::from(Value::Object(request).to_string())];
        let answer = asker.ask(&|| self.what(), &request, patience, true).await?;
        let unreadable = |why: String| Error::Decode {
            what: format!("the answer to {}", self.what()),
            why,
        };
        let fields = answer.fields();
        let address = fields
            .get(2)
            .map(|field| String::from_utf8_lossy(field).into_owned());
        let address = address.ok_or_else(|| unreadable("it has no address".into()))?;
        let address: Endpoint = address
            .parse()
            .map_err(|error| unreadable(format!("{error}")))?;
        let named = Value::Object(answer.named.unwrap_or_default());
        let beside: Beside = serde_json::from_value(named).unwrap_or_default();
        let ms = |ms: Option<u64>| ms.filter(|ms| *ms > 0).map(Duration::from_millis);
        let ttl = match ms(beside.ttl_ms) {
            Some(ttl) => ttl,
            None => {
                let seconds = asker.status(patience).await?.subscription_ttl_seconds;
                Duration::try_from_secs_f64(seconds)
                    .ok()
                    .filter(|ttl| !ttl.is_zero())
                    .unwrap_or(TTL)
            }
        };
        let ack_timeout = ms(beside.ack_timeout_ms).unwrap_or(ACK_TIMEOUT);
        Ok(Terms {
            address: asker.as_reached(address),
            ack_timeout,
            ttl,
        })
    }
}

/// Whether the same SUBSCRIBE is never answered otherwise.
fn is_final(code: &str) -> bool {
    let finals = ["in-use", "no-store", "missing-field"];
    finals.contains(&code) || code.starts_with("invalid-") || code.starts_with("malformed-")
}

pub(super) struct Lease {
    pub(super) asker: Arc<Asker>,
    pub(super) wish: Arc<Wish>,
    /// Of the connection by which it was made.
    pub(super) generation: u64,
    pub(super) terms: watch::Sender<Terms>,
    pub(super) lost: Arc<Notify>,
    pub(super) shared: Arc<Shared>,
}

impl Lease {
    /// Until the daemon refuses to go on.
    pub(super) async fn keep(mut self) {
        if let Err(error) = self.renew().await {
            self.shared.end(Some(error));
        }
    }

    async fn renew(&mut self) -> Result<(), Error> {
        let mut line = self.asker.line();
        loop {
            let every = self.terms.borrow().ttl / 3;
            let known = self.generation;
            let has_connected = async {
                let is_new =
                    |line: &Line| line.state == State::Connected && line.generation != known;
                line.wait_for(is_new).await.map(|line| line.generation).ok()
            };
            tokio::select! {
                connected = has_connected => {
                    // The daemon may be another one, which doesn't know us.
                    let closed = Error::Closed { may_be_taken: false };
                    self.generation = connected.ok_or(closed)?;
                    self.subscribe().await?;
                    continue;
                }
                () = sleep(every) => {}
                () = self.lost.notified() => sleep(BEFORE_LOOK).await,
            }
            let request = encode(
                &Message::param(Token::KEEP_ALIVE, [self.wish.id.as_str()]),
                Layout::NATIVE,
            );
            let what = || format!("KEEP_ALIVE of {:?}", self.wish.service);
            let kept = self
                .asker
                .ask(&what, &request, Patience::of(every), true)
                .await;
            match kept {
                Ok(_) | Err(Error::NoAnswer { .. }) => {}
                Err(Error::Nak { .. }) => self.subscribe().await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn subscribe(&self) -> Result<(), Error> {
        let mut again = Backoff::new(AGAIN[0], AGAIN[1]);
        loop {
            match self
                .wish
                .subscribe(&self.asker, Patience::of(Duration::MAX))
                .await
            {
                Ok(terms) => {
                    self.terms.send_if_modified(|known| {
                        let is_other = *known != terms;
                        *known = terms;
                        is_other
                    });
                    return Ok(());
                }
                Err(Error::Nak { code, .. }) if !is_final(&code) => {
                    sleep(again.next_delay(chance())).await
                }
                Err(error) => return Err(error),
            }
        }
    }
}
