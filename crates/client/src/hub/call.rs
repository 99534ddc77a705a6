//! Sync events: services answer them.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use event_manager_wire::api::{CallResult, CallResults, CallStatus};
use event_manager_wire::messagebus::Token;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Hub;
use super::asking::{Patience, nak};
use crate::Error;

/// How much longer than the services the daemon may take.
const BESIDE: Duration = Duration::from_secs(2);
/// The daemon waits for no service for longer.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// What a service answered to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Who answered.
    pub service: String,
    /// How it answered.
    pub status: CallStatus,
    /// Its answer, or why there is none.
    pub data: Bytes,
}

impl Reply {
    fn of(result: CallResult) -> Self {
        let binary = result.data_base64.and_then(|text| BASE64.decode(text).ok());
        let data = binary.unwrap_or_else(|| result.data.unwrap_or_default().into_bytes());
        Self {
            service: result.service,
            status: result.status,
            data: data.into(),
        }
    }

    /// Its answer as JSON of a type.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.data).map_err(|error| Error::Decode {
            what: format!("the answer of {:?}", self.service),
            why: error.to_string(),
        })
    }
}

/// A call that is about to be made: [`first`](Self::first) or [`all`](Self::all) does it. It is never sent
/// twice.
#[must_use = "it is made by `first` or `all`"]
pub struct Call<'a> {
    hub: &'a Hub,
    subject: String,
    body: Result<Bytes, Error>,
    timeout: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(hub: &'a Hub, subject: &str, body: Result<Bytes, Error>) -> Self {
        Self {
            hub,
            subject: subject.to_owned(),
            body,
            timeout: Duration::from_secs(30),
        }
    }

    /// How long services may take, 30 s without it; at most an hour.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(TIMEOUT_MAX);
        self
    }

    /// The first answer that is a yes, as JSON of a type.
    ///
    /// # Errors
    /// [`Error::NoResponders`], [`Error::CallTimeout`], [`Error::CallRefused`], [`Error::Decode`], and
    /// those of all requests.
    pub async fn first<T: DeserializeOwned>(self) -> Result<T, Error> {
        self.first_reply().await?.json()
    }

    /// The same, as it came.
    ///
    /// # Errors
    /// Those of [`first`](Self::first).
    pub async fn first_reply(self) -> Result<Reply, Error> {
        let subject = self.subject.clone();
        let replies = self.replies("first").await?;
        if let Some(yes) = replies.iter().find(|reply| reply.status == CallStatus::Ack) {
            return Ok(yes.clone());
        }
        let told: Vec<_> = replies
            .iter()
            .map(|reply| format!("{}: {}", reply.service, reply.status.name()))
            .collect();
        let told = match told.is_empty() {
            true => "no service is subscribed to it".to_owned(),
            false => told.join(", "),
        };
        let has = |status| replies.iter().any(|reply| reply.status == status);
        Err(if has(CallStatus::Timeout) || has(CallStatus::Unknown) {
            Error::CallTimeout { subject, told }
        } else if has(CallStatus::Nak) {
            Error::CallRefused { subject, replies }
        } else {
            Error::NoResponders { subject, told }
        })
    }

    /// What all services answered; none, if none is subscribed.
    ///
    /// # Errors
    /// Those of all requests.
    pub async fn all(self) -> Result<Vec<Reply>, Error> {
        self.replies("all").await
    }

    async fn replies(self, answers: &str) -> Result<Vec<Reply>, Error> {
        let body = self.body?;
        let payload = std::str::from_utf8(&body).map_err(|_| {
            Error::InvalidArgument(format!(
                "the body of a call has to be text, which that of {:?} is not",
                self.subject
            ))
        })?;
        let mut request = json!({
            "token": "publish", "subject": self.subject, "payload": payload, "sync": "1",
            "source_id": self.hub.name(),
            "timeout": u64::try_from(self.timeout.as_micros()).unwrap_or(u64::MAX),
        });
        if answers == "first" {
            request["answers"] = json!(answers);
        }
        let what = || format!("the call of {:?}", self.subject);
        let patience = Patience::of(self.timeout.saturating_add(BESIDE));
        let request = [Bytes::from(request.to_string())];
        let answer = self
            .hub
            .asker()?
            .ask_once(&what, &request, patience, false)
            .await?;
        match serde_json::from_slice::<CallResults>(&answer.data) {
            Ok(results) => Ok(results.results.into_iter().map(Reply::of).collect()),
            Err(_) if answer.token.is(Token::NAK) => Err(nak(what(), &answer)),
            Err(error) => Err(Error::Decode {
                what: format!("the answer to {}", what()),
                why: error.to_string(),
            }),
        }
    }
}
