//! Confirmed events.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use event_manager_wire::messagebus::{DataType, Layout, Message, Token, encode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Hub;
use super::asking::Patience;
use crate::Error;

/// How certain an answer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The event is accepted.
    #[default]
    Memory,
    /// It is on disk in each durable service that it matched.
    Disk,
    /// Beyond that, the engine has it, of each service that has its queue at one.
    Engine,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Engine => "engine",
        }
    }
}

/// What became of a confirmed event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Receipt {
    /// The event's id: what was given, or what the client made up.
    pub id: String,
    /// How many services it matched.
    pub services: u64,
    /// The level that was reached: memory, if it matched no durable service.
    pub level: Level,
    /// The daemon had this id already, and this event was not published again.
    pub duplicate: bool,
    /// Why the level is not the one that was asked for: what keeps an engine from having it, if it does.
    pub reason: Option<String>,
}

/// An event that is about to be emitted: `.await` does it.
#[must_use = "it is emitted when it is awaited"]
pub struct Emit<'a> {
    hub: &'a Hub,
    subject: String,
    body: Result<Bytes, Error>,
    id: Option<String>,
    level: Level,
    ttl: Option<Duration>,
    deliver_at: Option<SystemTime>,
    headers: BTreeMap<String, String>,
    timeout: Duration,
}

impl<'a> Emit<'a> {
    pub(super) fn new(hub: &'a Hub, subject: &str, body: Result<Bytes, Error>) -> Self {
        Self {
            hub,
            subject: subject.to_owned(),
            body,
            id: None,
            level: Level::Memory,
            ttl: None,
            deliver_at: None,
            headers: BTreeMap::new(),
            timeout: hub.timeout(),
        }
    }

    /// The event's id, at most 255 bytes: within the daemon's `dedupWindow` it is published once. Without
    /// one, one is made up.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// What the answer means.
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Services' workers don't get it later than this, from 1 ms to a year.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Nobody gets it before this time of the daemon's clock.
    pub fn deliver_at(mut self, time: SystemTime) -> Self {
        self.deliver_at = Some(time);
        self
    }

    /// A header, in a third frame of JSON.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// How long it is sent again and again; `Duration::MAX` is for ever. Without it, the hub's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn send(self) -> Result<Receipt, Error> {
        let body = self.body?;
        if self.subject.contains('\0') {
            let sentence = format!("the subject {:?} contains a NUL", self.subject);
            return Err(Error::InvalidArgument(sentence));
        }
        let id = match self.id {
            Some(id) if id.contains('\0') => {
                return Err(Error::InvalidArgument(format!(
                    "the id {id:?} contains a NUL"
                )));
            }
            Some(id) if !id.is_empty() => id,
            // It has to be one: it is sent again with it.
            _ => crate::ambient::unique(),
        };
        let mut options = Map::new();
        if let Some(ttl) = self.ttl {
            options.insert("ttl".into(), json!(ttl.as_secs_f64()));
        }
        if let Some(time) = self.deliver_at {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            let ms = since.unwrap_or_default().as_millis();
            options.insert(
                "deliverAt".into(),
                json!(u64::try_from(ms).unwrap_or(u64::MAX)),
            );
        }
        let mut frames = vec![Bytes::from(self.subject.clone()), body];
        if !self.headers.is_empty() {
            frames.push(json!(self.headers).to_string().into());
        }
        let level = self.level.name();
        let data = match options.is_empty() {
            true => format!("{id}\0{level}"),
            false => format!("{id}\0{level}\0{}", Value::Object(options)),
        };
        let message = Message::new(Token::EMIT, DataType::Param, data);
        let request = encode(&Message { frames, ..message }, Layout::NATIVE);
        let what = || format!("EMIT of {:?} with the id {id:?}", self.subject);
        let asker = self.hub.asker()?;
        let answer = asker
            .ask(&what, &request, Patience::of(self.timeout), true)
            .await
            .map_err(|error| match error {
                // It counts the event's frames as its own.
                Error::Nak { code, sentence, .. } if code == "malformed-message" => {
                    let what = format!("{}, which has the event's frames behind it", what());
                    Error::TooOld { what, sentence }
                }
                error => error,
            })?;
        serde_json::from_slice(&answer.data).map_err(|error| Error::Decode {
            what: format!("the answer to {}", what()),
            why: error.to_string(),
        })
    }
}

impl<'a> IntoFuture for Emit<'a> {
    type Output = Result<Receipt, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
