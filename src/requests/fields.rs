//! Fields of requests, by position or by name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Nak;
use crate::broker::DeliveryMode;
use crate::messagebus::Message;
use crate::model::{Limits, ServiceName, SubjectPattern, SubscriptionId, excerpt};

/// What is shown of a subject that is none.
const SUBJECT_SHOWN_BYTES_MAX: usize = 40;

/// What the fields of SUBSCRIBE and its kin say, unchecked.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) id: Option<String>,
    pub(super) service: Option<String>,
    pub(super) subjects: Vec<String>,
    pub(super) delivery: Option<DeliveryMode>,
}

fn utf8(field: &[u8], what: &str) -> Result<String, Nak> {
    let text = std::str::from_utf8(field);
    text.map(str::to_owned)
        .map_err(|_| Nak::new("invalid-utf8", format!("the {what} is not UTF-8")))
}

impl Fields {
    /// `sub_id\0[service_name\0]subject…`, with or without a NUL at the end, or the fields of a JSON
    /// object: `id`, `service`, `subjects`, `delivery`.
    pub(super) fn read(request: &Message, has_service: bool, limits: &Limits) -> Result<Self, Nak> {
        if let Some(named) = request.named.as_ref().filter(|named| !named.is_empty()) {
            return Self::named(named);
        }
        // Before they are taken apart: a field costs many times the one byte that it takes on the wire.
        let max = limits.subscriptions_per_peer_max;
        let nuls = request.data.iter().filter(|byte| **byte == 0).count();
        if nuls > max.saturating_add(2) {
            let sentence = format!(
                "{nuls} fields; at most {max} subjects are possible (limits.maxSubscriptionsPerPeer)"
            );
            return Err(Nak::new("too-many-subjects", sentence));
        }
        let fields = request.fields();
        let mut fields = fields.into_iter();
        let id = fields
            .next()
            .map(|field| utf8(field, "subscription's id"))
            .transpose()?;
        let service = match has_service {
            true => fields
                .next()
                .map(|field| utf8(field, "service's name"))
                .transpose()?,
            false => None,
        };
        let mut subjects = fields
            .map(|field| utf8(field, "subject"))
            .collect::<Result<Vec<_>, _>>()?;
        // Many clients end the last field with a NUL too. That must not turn some subjects into
        // everything, nor an UNSUBSCRIBE of all into one of nothing.
        if (subjects.len() > 1 || !has_service) && subjects.last().is_some_and(String::is_empty) {
            subjects.pop();
        }
        Ok(Self {
            id,
            service,
            subjects,
            delivery: None,
        })
    }

    fn named(named: &serde_json::Map<String, Value>) -> Result<Self, Nak> {
        let mut fields = Self::default();
        for (name, value) in named {
            let wrong = |wanted| Nak::new("invalid-field", format!("{name:?}: {wanted} is wanted"));
            let text = || {
                value
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| wrong("a text"))
            };
            match name.as_str() {
                "id" | "subscriptionId" | "sub_id" => fields.id = Some(text()?),
                "service" | "service_name" => fields.service = Some(text()?),
                "subject" => fields.subjects.push(text()?),
                "subjects" => {
                    let list = value.as_array().ok_or_else(|| wrong("a list of texts"))?;
                    for subject in list {
                        let subject = subject.as_str().ok_or_else(|| wrong("a list of texts"))?;
                        fields.subjects.push(subject.to_owned());
                    }
                }
                "delivery" => {
                    let mode = DeliveryMode::named(&text()?);
                    fields.delivery = Some(mode.ok_or_else(|| wrong("\"live\" or \"queue\""))?);
                }
                // The table of requests says which it may have.
                _ => {}
            }
        }
        Ok(fields)
    }

    /// The id, which has to be there.
    pub(super) fn id(&self) -> Result<SubscriptionId, Nak> {
        match self.id.as_deref() {
            None | Some("") => Err(Nak::new(
                "missing-field",
                "field 1 is the subscription's id",
            )),
            Some(id) => checked_id(id),
        }
    }

    pub(super) fn service(&self) -> Result<ServiceName, Nak> {
        match self.service.as_deref() {
            None | Some("") => Err(Nak::new("missing-field", "field 2 is the service's name")),
            Some(name) => ServiceName::new(name)
                .map_err(|error| Nak::new("invalid-name", format!("the service's name {error}"))),
        }
    }

    /// One empty subject is everything; none at all is for the caller to judge.
    pub(super) fn patterns(&self, limits: &Limits) -> Result<BTreeSet<SubjectPattern>, Nak> {
        let parse = |subject: &String| {
            SubjectPattern::parse(subject, limits.subject_bytes_max).map_err(|error| {
                let shown = excerpt(subject, SUBJECT_SHOWN_BYTES_MAX);
                Nak::new("invalid-subject", format!("the subject {shown:?} {error}"))
            })
        };
        self.subjects.iter().map(parse).collect()
    }
}

pub(super) fn checked_id(id: &str) -> Result<SubscriptionId, Nak> {
    SubscriptionId::new(id)
        .map_err(|error| Nak::new("invalid-name", format!("the subscription's id {error}")))
}
