//! An entry in a bucket of JetStream's key-value store, as `nats kv` shows it.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, Stream};

use super::super::register::Heard;
use super::super::{Failure, Register, User};
use super::{CONNECTION_LOST, Link};
use event_manager_core::leases::candidate::{Answer, Ask, Entry};

/// The bucket, and the stream that it is.
const BUCKET: &str = "event-manager";

pub(in crate::engines) struct NatsRegister {
    link: Link,
    stream: Stream,
}

impl NatsRegister {
    /// Connects, and makes the bucket unless it is there.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(in crate::engines) async fn connect(user: User<'_>) -> Result<Self, String> {
        let link = Link::connect(user).await?;
        let config = Config {
            name: format!("KV_{BUCKET}"),
            description: Some("leases of event managers".into()),
            subjects: vec![format!("$KV.{BUCKET}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..Config::default()
        };
        let stream = link.stream(config).await?;
        if stream.cached_info().config.max_age != Duration::ZERO {
            return Err(format!(
                "the bucket {BUCKET} forgets its entries by the server's clock; make it anew without a TTL"
            ));
        }
        Ok(Self { link, stream })
    }

    async fn read(&self, subject: &str) -> Result<Answer<Vec<u8>>, Failure> {
        match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Answer::Is(Entry {
                revision: message.sequence,
                content: message.payload.to_vec(),
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Ok(Answer::Is(Entry::default()))
            }
            Err(error) => Err(Failure::Refused(error.to_string())),
        }
    }

    async fn put(
        &self,
        subject: String,
        expected: u64,
        text: String,
    ) -> Result<Answer<Vec<u8>>, Failure> {
        let message = PublishMessage::build()
            .payload(text.into())
            .expected_last_subject_sequence(expected);
        let sent = self.link.context.send_publish(subject, message);
        let stored = match sent.await {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(stored) => Ok(Answer::Stored(stored.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Ok(Answer::Changed)
            }
            Err(error) => Err(Failure::Lost(error.to_string())),
        }
    }
}

impl Register for NatsRegister {
    fn ask<'a>(&'a mut self, name: &'a str, ask: &'a Ask<String>) -> Heard<'a> {
        Box::pin(async move {
            let link = &self.link;
            let subject = format!("$KV.{BUCKET}.{name}");
            let asked = async {
                match ask {
                    Ask::Read => self.read(&subject).await,
                    Ask::Put(expected, text) => self.put(subject, *expected, text.clone()).await,
                }
            };
            tokio::select! {
                biased;
                // The library would wait for an answer that can't come any more.
                () = link.lost.notified() => Err(Failure::Lost(CONNECTION_LOST.into())),
                answer = link.heard(asked) => answer.unwrap_or_else(|why| Err(Failure::Refused(why))),
            }
        })
    }
}
