//! PUBLISH, a sync event: `data\0subject\0type\0sync\0source_id`, forwarded as it is.

use std::time::Duration;

use serde::Deserialize;

use super::subjects::check_length;
use super::{Answer, Host, Request};
use crate::security::Deed;
use event_manager_wire::messagebus::{
    DataType, Message, Nak, Positions, Rest, Token, Verbatim, given,
};
use event_manager_wire::model::ServiceName;

/// A hung service and a boundless timeout would hold a slot among the pending calls for ever.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Services to be called at the same time.
#[derive(Debug)]
pub struct SyncEvent {
    /// What it is about.
    pub subject: String,
    /// What each service is sent.
    pub message: Message,
    /// Whom to call.
    pub services: Vec<ServiceName>,
    /// How long to wait.
    pub timeout: Duration,
    /// The first ACK is the answer; nobody waits for the others.
    pub first: bool,
    /// What the services' answers may have together, in bytes.
    pub answers_bytes_max: usize,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answers {
    #[default]
    All,
    First,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Publish {
    payload: Verbatim,
    #[serde(deserialize_with = "given")]
    subject: Option<String>,
    r#type: Verbatim,
    sync: Verbatim,
    source_id: Verbatim,
    /// Whose answers are waited for.
    answers: Answers,
}

impl Request for Publish {
    const POSITIONS: Positions =
        Positions::new(&["payload", "subject", "type", "sync", "source_id"])
            .required(2)
            .last_is(Rest::Raw);

    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let missing = || Self::POSITIONS.missing(asked, "subject");
        let subject = self.subject.ok_or_else(missing)?;
        check_length(subject.as_bytes(), &host.context().settings.limits)?;
        host.judge(Deed::Publish(subject.as_bytes()))?;
        let context = host.context();
        let settings = context.settings;
        let services = context.broker.services_for(subject.as_bytes());
        // A type that is not known here may mean something to the services.
        let data_type = match asked.data_type {
            known if known.is_known() => DataType::Param,
            other => other,
        };
        // By position all of it goes on, whatever it may be.
        let data = match asked.data.is_empty() {
            false => asked.data.clone(),
            true => {
                let (payload, kind) = (&self.payload.0[..], &self.r#type.0[..]);
                let (sync, source) = (&self.sync.0[..], &self.source_id.0[..]);
                [payload, subject.as_bytes(), kind, sync, source]
                    .join(&0)
                    .into()
            }
        };
        let timeout = asked.timeout.unwrap_or(settings.publish_timeout);
        let event = SyncEvent {
            message: Message::new(Token::EVENT, data_type, data),
            services,
            timeout: timeout.min(TIMEOUT_MAX),
            first: self.answers == Answers::First,
            answers_bytes_max: settings.limits.message_bytes_max,
            subject,
        };
        Ok(host.call(event))
    }
}
