//! The requests as calls.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::messagebus::{DataType, Layout, Message, Token, decode, encode};

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered in time; holds the address.
    #[error("no event manager answers at {0}")]
    NoAnswer(String),
    /// The answer was no.
    #[error("{code}: {sentence}")]
    Nak {
        /// For programs.
        code: String,
        /// For people.
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
    /// libzmq, such as a malformed address.
    #[error("{0}: {1}")]
    Socket(String, zmq::Error),
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

/// A client of the request socket. Blocking; one request at a time.
pub struct Client {
    context: zmq::Context,
    address: String,
    timeout: Duration,
    socket: Option<zmq::Socket>,
}

impl Client {
    /// Requests go to this address and wait at most this long for their answers.
    pub fn new(context: zmq::Context, address: impl Into<String>, timeout: Duration) -> Self {
        Self {
            context,
            address: address.into(),
            timeout,
            socket: None,
        }
    }

    /// Where requests go.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and waits for its answer, `extra` longer than usual.
    ///
    /// # Errors
    /// [`ClientError`]; a NAK is an answer here.
    pub fn ask(&mut self, request: &Message, extra: Duration) -> Result<Message, ClientError> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.connect().map_err(|error| self.socket_error(error))?,
        };
        let wait_ms = (self.timeout + extra)
            .as_millis()
            .try_into()
            .unwrap_or(i64::MAX);
        let frames = encode(request, Layout::NATIVE);
        let exchange = || -> zmq::Result<Option<Vec<Vec<u8>>>> {
            socket.send_multipart(frames.iter().map(|frame| &frame[..]), 0)?;
            if socket.poll(zmq::POLLIN, wait_ms)? == 0 {
                return Ok(None);
            }
            socket.recv_multipart(0).map(Some)
        };
        // A REQ that got no answer can't ask again: it is dropped.
        let answer = exchange().map_err(|error| self.socket_error(error))?;
        let frames = answer.ok_or_else(|| ClientError::NoAnswer(self.address.clone()))?;
        self.socket = Some(socket);
        let frames: Vec<Bytes> = frames.into_iter().map(Bytes::from).collect();
        decode(&frames)
            .map(|(answer, _)| answer)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }

    fn connect(&self) -> zmq::Result<zmq::Socket> {
        let socket = self.context.socket(zmq::REQ)?;
        socket.set_linger(0)?;
        socket.set_sndtimeo(self.timeout.as_millis().try_into().unwrap_or(i32::MAX))?;
        socket.set_ipv6(self.address.contains('['))?;
        // Where nobody listens, sending fails after the timeout, however long an answer may take.
        socket.set_immediate(true)?;
        socket.connect(&self.address)?;
        Ok(socket)
    }

    fn socket_error(&self, error: zmq::Error) -> ClientError {
        match error {
            zmq::Error::EAGAIN => ClientError::NoAnswer(self.address.clone()),
            error => ClientError::Socket(self.address.clone(), error),
        }
    }

    fn confirmed(&mut self, request: &Message) -> Result<Message, ClientError> {
        let answer = self.ask(request, Duration::ZERO)?;
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
    pub fn subscribe(
        &mut self,
        id: &str,
        service: &str,
        subjects: &[String],
    ) -> Result<Subscribed, ClientError> {
        let fields = [id, service]
            .into_iter()
            .chain(subjects.iter().map(String::as_str));
        let answer = self.confirmed(&Message::param(Token::SUBSCRIBE, fields))?;
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
    pub fn keep_alive(&mut self, id: &str) -> Result<(), ClientError> {
        self.confirmed(&Message::param(Token::KEEP_ALIVE, [id]))
            .map(drop)
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn unsubscribe(&mut self, id: &str) -> Result<(), ClientError> {
        self.confirmed(&Message::param(Token::UNSUBSCRIBE, [id]))
            .map(drop)
    }

    /// Ends a durable service that has no subscription, and what waits for it; how many dead letters
    /// of it are kept, if the daemon can tell.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn end(&mut self, service: &str) -> Result<Option<u64>, ClientError> {
        let answer = self.confirmed(&Message::param(Token::END, [service]))?;
        let answer: Value = serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))?;
        Ok(answer["deadLetters"].as_u64())
    }

    /// Publishes a sync event and waits for all services; whether all said yes, and the results.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn publish_sync(
        &mut self,
        subject: &str,
        data: &str,
        timeout: Duration,
    ) -> Result<(bool, Value), ClientError> {
        let mut request = Message::param(
            Token::PUBLISH,
            [data, subject, "", "1", "event-manager call"],
        );
        request.timeout = Some(timeout);
        let answer = self.ask(&request, timeout)?;
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

    /// The daemon's state.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<Value, ClientError> {
        let answer = self.confirmed(&Message::new(Token::STATUS, DataType::Empty, ""))?;
        serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }

    /// The first `max` notable events after a number, or the latest without one; the answer as the
    /// daemon gives it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn events(&mut self, after: Option<u64>, max: usize) -> Result<Value, ClientError> {
        let after = after.map(|after| after.to_string()).unwrap_or_default();
        let fields = [after.as_str(), &max.to_string()];
        let answer = self.confirmed(&Message::param(Token::EVENTS, fields))?;
        serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }

    /// Lists, shows, replays or purges dead letters; the answer as the daemon gives it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn dead_letters(
        &mut self,
        op: &str,
        service: &str,
        options: &Value,
    ) -> Result<Value, ClientError> {
        let fields = [op, service, &options.to_string()];
        let answer = self.confirmed(&Message::param(Token::DLQ, fields))?;
        serde_json::from_slice(&answer.data)
            .map_err(|error| ClientError::Garbled(error.to_string()))
    }
}
