//! Another event manager: events go there as EMIT, and are confirmed when they are on its disk.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::{Failure, Outcome, Outgoing, Outlet, Pending, Sent, User};
use crate::keys::own_pair;
use event_manager_client::{
    ClientKeys, Connection, ConnectionEvent, Ended, OpenError, Options, Receipt, TurnedAway,
};
use event_manager_wire::messagebus::{Layout, Message, Token, decode, encode, split_envelope};
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::{LocalSocket, encode_frame, frames, frames_of};

/// Another silence, and the connection is given up.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Answers are at most so long, but for one who means no good.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// NAKs that say that it will never take this event, by their codes.
const NEVER: [&str; 4] = [
    "too-large",
    "invalid-subject",
    "invalid-field",
    "invalid-utf8",
];

/// A connection to the request socket of another event manager.
pub(super) struct HubOutlet {
    connection: Connection,
    /// How many batches were sent: an answer to an earlier one is none to this.
    batches: u64,
}

impl HubOutlet {
    /// Connects to the first address where somebody answers.
    ///
    /// # Errors
    /// Why nobody does, and what to do.
    pub(super) async fn connect(user: User<'_>) -> Result<Self, String> {
        let mut options = Options::new(LocalSocket::Dealer, user.limits)
            .with_keys(keys(user)?)
            .of_hub(user.hub_id);
        options.limits.message_bytes_max = ANSWER_BYTES_MAX;
        options.heartbeat = HEARTBEAT;
        let mut problems = vec![];
        for url in user.engine.servers() {
            let address: Endpoint = match url.parse() {
                Ok(address) => address,
                Err(error) => return Err(format!("{url}: {error}")),
            };
            match Connection::open(&address, &options).await {
                Ok(connection) => {
                    return Ok(Self {
                        connection,
                        batches: 0,
                    });
                }
                Err(error) => problems.push(format!("{url} can't be used: {}", explained(&error))),
            }
        }
        Err(problems.join("; "))
    }

    async fn exchange(&mut self, batch: &[Outgoing], stall: Duration) -> Sent {
        self.batches += 1;
        for (index, event) in batch.iter().enumerate() {
            let request = request(self.batches, index, event);
            self.connection.send_encoded(&request);
        }
        let mut answers = vec![None; batch.len()];
        let mut missing = batch.len();
        let mut silence = None;
        while missing > 0 {
            let answer = match timeout(stall, self.answer()).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(ended)) => {
                    silence = Some(Failure::Lost(format!("the connection was lost: {ended}")));
                    break;
                }
                Err(_) => {
                    let why = format!("nothing was confirmed for {stall:?}");
                    silence = Some(Failure::Refused(why));
                    break;
                }
            };
            let of_batch = answer.filter(|answer| answer.batch == self.batches);
            if let Some(answer) = of_batch
                && let Some(slot @ None) = answers.get_mut(answer.index)
            {
                *slot = Some(answer.result);
                missing -= 1;
            }
        }
        let mut problem = None;
        let outcomes = answers.into_iter().map(|answer| match answer {
            Some(Ok(outcome)) => outcome,
            Some(Err(why)) => {
                problem.get_or_insert(why);
                Outcome::Unknown
            }
            None => Outcome::Unknown,
        });
        let outcomes = outcomes.collect();
        Sent {
            outcomes,
            failure: silence.or(problem.map(Failure::Refused)),
        }
    }

    /// Waits for an answer; `None` if what came is none to an event.
    async fn answer(&mut self) -> Result<Option<Answer>, Ended> {
        Ok(match self.connection.next().await? {
            ConnectionEvent::Message(message) => Answer::read(&message),
            _ => None,
        })
    }
}

/// The keys, if the engine has a server key.
fn keys(user: User<'_>) -> Result<Option<ClientKeys>, String> {
    let Some(server) = user.engine.server_key() else {
        return Ok(None);
    };
    let own = own_pair(user.security).map_err(|error| error.to_string())?;
    let own = own.ok_or(
        "serverKey is set, but this daemon has no keys of its own: set security.secretKey (event-manager keys init)",
    )?;
    Ok(Some(ClientKeys { own, server }))
}

fn explained(error: &OpenError) -> String {
    match error {
        OpenError::TurnedAway(why) => format!("{why}; {}", advice(*why)),
        other => other.to_string(),
    }
}

fn advice(why: TurnedAway) -> &'static str {
    match why {
        TurnedAway::WithoutKeys => {
            "give the engine its serverKey, and put our public key into its security.keysDir"
        }
        other => other.advice(),
    }
}

/// Names an event of a batch; it reads as no token.
fn correlation(batch: u64, index: usize) -> String {
    format!("#{batch}.{index:04}")
}

/// An EMIT with the event's own frames. It has an envelope, which its answer has too.
fn request(batch: u64, index: usize, event: &Outgoing) -> BytesMut {
    let emit = Message::param(Token::EMIT, [event.id.as_str(), "disk", "{}"]);
    let event: Vec<&[u8]> = frames(&event.event).collect();
    let mut head = vec![Bytes::from(correlation(batch, index)), Bytes::new()];
    head.extend(encode(&emit, Layout::NATIVE));
    // Behind the timeout, which an EMIT with frames has to have.
    head.resize(2 + 4, Bytes::new());
    let all = head.iter().map(|frame| &frame[..]).chain(event);
    let mut all = all.peekable();
    let mut message = BytesMut::new();
    while let Some(frame) = all.next() {
        encode_frame(&mut message, frame, all.peek().is_some());
    }
    message
}

/// What became of an event; the sentence of an error says why nothing is known, or what to do.
#[derive(Debug)]
struct Answer {
    batch: u64,
    index: usize,
    result: Result<Outcome, String>,
}

impl Answer {
    fn read(message: &Bytes) -> Option<Self> {
        let all = frames_of(message);
        let (envelope, answer) = split_envelope(&all);
        let correlation = std::str::from_utf8(envelope.first()?).ok()?;
        let (batch, index) = correlation.strip_prefix('#')?.split_once('.')?;
        let (answer, _) = decode(answer).ok()?;
        let text = String::from_utf8_lossy(&answer.data);
        Some(Self {
            batch: batch.parse().ok()?,
            index: index.parse().ok()?,
            result: match answer.token.is(Token::ACK) {
                true => Ok(accepted(&text)),
                false => refused(&text),
            },
        })
    }
}

fn accepted(text: &str) -> Outcome {
    let receipt: Receipt = serde_json::from_str(text).unwrap_or_default();
    match receipt.duplicate {
        true => Outcome::Known,
        false => Outcome::Stored,
    }
}

fn refused(text: &str) -> Result<Outcome, String> {
    let code = text.split_once(':').map_or(text, |(code, _)| code);
    match NEVER.contains(&code) {
        true => Ok(Outcome::Refused(text.to_owned())),
        false => Err(format!("it doesn't take events: {text}")),
    }
}

impl Outlet for HubOutlet {
    fn send<'a>(&'a mut self, batch: &'a [Outgoing], stall: Duration) -> Pending<'a, Sent> {
        Box::pin(self.exchange(batch, stall))
    }

    fn lost(&mut self) -> Pending<'_, String> {
        Box::pin(async {
            loop {
                if let Err(ended) = self.answer().await {
                    return format!("the connection was lost: {ended}");
                }
            }
        })
    }
}
