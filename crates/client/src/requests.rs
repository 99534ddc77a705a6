//! The requests as calls.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};

use super::LIMITS;
use super::connection::{Connection, Ended, Options, Refusals, TurnedAway};
use super::keys::ClientKeys;
use event_manager_wire::api::{
    CallResults, DeadLetters, EventsPage, InstancesPage, ServiceEnd, Status,
};
use event_manager_wire::messagebus::{DataType, Layout, Message, Token, decode, encode};
use event_manager_wire::model::{Endpoint, InvalidEndpoint};
use event_manager_zmtp::LocalSocket;

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(50);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered in time; holds the address.
    #[error("no event manager answers at {0}")]
    NoAnswer(String),
    /// It doesn't admit us.
    #[error("{address}: {why}")]
    TurnedAway {
        /// Where.
        address: String,
        /// What is known of the reason.
        why: TurnedAway,
    },
    /// The answer was no.
    #[error("{code}: {sentence}")]
    Nak {
        /// For programs: one of the codes of docs/protocol.md.
        code: String,
        /// Why, for people; its wording may change.
        sentence: String,
    },
    /// The answer makes no sense.
    #[error("the answer can't be read: {0}")]
    Garbled(String),
    /// The connection ended, or nothing was taken by it any more, before the daemon had all events.
    #[error("{lost} of {events} events may be lost: {why}")]
    MayBeLost {
        /// How many were sent, and not taken for certain.
        lost: u64,
        /// How many there were up to then.
        events: u64,
        /// The reason of the last connection that ended so.
        why: String,
    },
    /// Its address is none.
    #[error(transparent)]
    Address(#[from] InvalidEndpoint),
    /// The system gives no descriptors, or no thread.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// What a subscription is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The subscription's id.
    pub id: String,
    /// Where to publish.
    pub pub_address: String,
    /// Where to receive.
    pub pull_address: String,
}

/// Why nobody answers at an address.
pub(crate) fn no_answer(address: &str, refusals: &Refusals) -> ClientError {
    let address = address.to_owned();
    match refusals.last() {
        Some(why) => ClientError::TurnedAway { address, why },
        None => ClientError::NoAnswer(address),
    }
}

/// A client of the request socket; one request at a time. Its connection is kept for the next request.
pub struct Client {
    address: String,
    timeout: Duration,
    options: Options,
    connection: Option<Connection>,
}

impl Client {
    /// Requests go to this address and wait at most this long for their answers, and as long for
    /// somebody to listen there.
    pub fn new(address: impl Into<String>, timeout: Duration) -> Self {
        Self {
            address: address.into(),
            timeout,
            options: Options::new(LocalSocket::Req, LIMITS),
            connection: None,
        }
    }

    /// The same with CURVE, if there are keys.
    pub fn with_keys(mut self, keys: Option<ClientKeys>) -> Self {
        self.use_keys(keys);
        self
    }

    pub(crate) fn use_keys(&mut self, keys: Option<ClientKeys>) {
        self.options.keys = keys;
    }

    /// Where requests go.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and waits for its answer, `extra` longer than usual.
    ///
    /// # Errors
    /// [`ClientError`]; a NAK is an answer here.
    pub async fn ask(
        &mut self,
        request: &Message,
        extra: Duration,
    ) -> Result<Message, ClientError> {
        let answer = self
            .exchange(&encode(request, Layout::NATIVE), extra)
            .await?;
        decode(&answer)
            .map(|(answer, _)| answer)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }

    async fn exchange(
        &mut self,
        request: &[Bytes],
        extra: Duration,
    ) -> Result<Vec<Bytes>, ClientError> {
        let mut connection = self.connected().await?;
        let answer = match timeout(self.timeout + extra, connection.ask(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error @ (Ended::Frame(_) | Ended::Command(_)))) => {
                return Err(ClientError::Garbled(error.to_string()));
            }
            // What may still come goes with the connection.
            Ok(Err(_)) | Err(_) => return Err(self.no_answer()),
        };
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn connected(&mut self) -> Result<Connection, ClientError> {
        if let Some(mut kept) = self.connection.take() {
            // What has happened to it while nobody waited is seen now.
            tokio::task::yield_now().await;
            if kept.may_be_used().await {
                return Ok(kept);
            }
        }
        let address = self.address.parse::<Endpoint>()?.local();
        let mut refusals = Refusals::default();
        let dial = async {
            loop {
                match Connection::open(&address, &self.options).await {
                    Ok(connection) => return Some(connection),
                    Err(error) if refusals.note(&error).is_some() => return None,
                    Err(_) => sleep(RETRY).await,
                }
            }
        };
        let dialled = timeout(self.timeout, dial).await.ok().flatten();
        dialled.ok_or_else(|| no_answer(&self.address, &refusals))
    }

    fn no_answer(&self) -> ClientError {
        ClientError::NoAnswer(self.address.clone())
    }

    /// Sends a request as an object of JSON; the answer's fields, `data` among them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask_json(&mut self, request: &Value) -> Result<Map<String, Value>, ClientError> {
        let request = [request.to_string().into()];
        let answer = self.exchange(&request, Duration::ZERO).await?;
        let garbled = |error: serde_json::Error| ClientError::Garbled(error.to_string());
        let [object] = &answer[..] else {
            return Err(ClientError::Garbled("it is no JSON".to_owned()));
        };
        let mut fields: Map<String, Value> = serde_json::from_slice(object).map_err(garbled)?;
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (token, code, sentence) = (text("token"), text("code"), text("error"));
        match Token::from_name(&token) {
            Some(token) if token.is(Token::ACK) => Ok(fields),
            _ => Err(ClientError::Nak { code, sentence }),
        }
    }

    async fn confirmed(&mut self, request: &Message) -> Result<Message, ClientError> {
        let answer = self.ask(request, Duration::ZERO).await?;
        if answer.token.is(Token::ACK) {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer.data).into_owned();
        let (code, sentence) = text.split_once(": ").unwrap_or(("refused", &text));
        Err(ClientError::Nak {
            code: code.to_owned(),
            sentence: sentence.to_owned(),
        })
    }

    /// Subscribes a service; an empty id gets one made up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn subscribe(
        &mut self,
        id: &str,
        service: &str,
        subjects: &[String],
    ) -> Result<Subscribed, ClientError> {
        let fields = [id, service]
            .into_iter()
            .chain(subjects.iter().map(String::as_str));
        let answer = self
            .confirmed(&Message::param(Token::SUBSCRIBE, fields))
            .await?;
        let text = String::from_utf8_lossy(&answer.data);
        let mut fields = text.split('\0').map(str::to_owned);
        let mut field = || {
            fields
                .next()
                .ok_or_else(|| ClientError::Garbled(text.replace('\0', " ")))
        };
        Ok(Subscribed {
            id: field()?,
            pub_address: field()?,
            pull_address: field()?,
        })
    }

    /// Refreshes a subscription.
    ///
    /// # Errors
    /// [`ClientError`]; after the NAK `unknown-subscription` it is time to subscribe again.
    pub async fn keep_alive(&mut self, id: &str) -> Result<(), ClientError> {
        self.confirmed(&Message::param(Token::KEEP_ALIVE, [id]))
            .await
            .map(drop)
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn unsubscribe(&mut self, id: &str) -> Result<(), ClientError> {
        self.confirmed(&Message::param(Token::UNSUBSCRIBE, [id]))
            .await
            .map(drop)
    }

    /// Ends a durable service that has no subscription, and what waits for it; how many dead letters
    /// of it are kept, if the daemon can tell.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn end(&mut self, service: &str) -> Result<Option<u64>, ClientError> {
        let answer = self
            .confirmed(&Message::param(Token::END, [service]))
            .await?;
        let answer: ServiceEnd = serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))?;
        Ok(answer.dead_letters)
    }

    /// Publishes a sync event and waits for all services; whether all said yes, and the results.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn publish_sync(
        &mut self,
        subject: &str,
        data: &str,
        timeout: Duration,
    ) -> Result<(bool, CallResults), ClientError> {
        let mut request = Message::param(
            Token::PUBLISH,
            [data, subject, "", "1", "event-manager call"],
        );
        request.timeout = Some(timeout);
        let answer = self.ask(&request, timeout).await?;
        let text = String::from_utf8_lossy(&answer.data);
        match serde_json::from_str(&text) {
            Ok(results) => Ok((answer.token.is(Token::ACK), results)),
            Err(_) => {
                let (code, sentence) = text.split_once(": ").unwrap_or(("refused", &text));
                Err(ClientError::Nak {
                    code: code.to_owned(),
                    sentence: sentence.to_owned(),
                })
            }
        }
    }

    /// What the daemon says of itself: the answer to STATUS.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        let status = self.status_json().await?;
        serde_json::from_value(status).map_err(|error| ClientError::Garbled(error.to_string()))
    }

    /// The daemon's state as it sends it, with fields that are not known here.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status_json(&mut self) -> Result<Value, ClientError> {
        let answer = self
            .confirmed(&Message::new(Token::STATUS, DataType::Empty, ""))
            .await?;
        serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }

    /// The first `max` notable events after a number, or the latest without one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(
        &mut self,
        after: Option<u64>,
        max: usize,
    ) -> Result<EventsPage, ClientError> {
        let after = after.map(|after| after.to_string()).unwrap_or_default();
        let fields = [after.as_str(), &max.to_string()];
        let answer = self
            .confirmed(&Message::param(Token::EVENTS, fields))
            .await?;
        serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }

    /// The instances of other programs that the daemon observes, and so many of the latest changes of who
    /// leads.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn instances(&mut self, history: usize) -> Result<InstancesPage, ClientError> {
        let history = history.to_string();
        let answer = self
            .confirmed(&Message::param(Token::INSTANCES, [&*history]))
            .await?;
        serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }

    /// Lists, shows, replays or purges dead letters.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn dead_letters(
        &mut self,
        op: &str,
        service: &str,
        options: &Value,
    ) -> Result<DeadLetters, ClientError> {
        let fields = [op, service, &options.to_string()];
        let answer = self.confirmed(&Message::param(Token::DLQ, fields)).await?;
        serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }
}
