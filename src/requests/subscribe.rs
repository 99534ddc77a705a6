//! SUBSCRIBE: `sub_id\0service_name\0subject…` → `sub_id\0pub_address\0pull_address`.

use super::fields::{Fields, checked_id};
use super::{Context, Happening, Nak, Outcome};
use crate::broker::{DeliveryMode, Service, SubscribeError};
use crate::messagebus::{Message, Token};
use crate::model::SubscriptionId;

pub(super) const NAMES: &[&str] = &[
    "id",
    "subscriptionId",
    "sub_id",
    "service",
    "service_name",
    "subject",
    "subjects",
    "delivery",
];

pub(super) fn handle(request: &Message, context: &mut Context<'_>) -> Result<Outcome, Nak> {
    let fields = Fields::read(request, true, &context.settings.limits)?;
    let service = fields.service()?;
    let patterns = fields.patterns(&context.settings.limits)?;
    if patterns.is_empty() {
        let sentence = "field 3 and on are subjects; one empty subject is everything";
        return Err(Nak::new("missing-field", sentence));
    }
    let id = match fields.id.as_deref() {
        None | Some("") => unused_id(context)?,
        Some(id) => checked_id(id)?,
    };
    if fields.delivery == Some(DeliveryMode::Queue) && !context.settings.has_store {
        let sentence = "delivery: there is no queue without a state directory (stateDir)";
        return Err(Nak::new("no-store", sentence));
    }
    let found = context.broker.find(&service);
    let found = found.and_then(|key| context.broker.service(key));
    // A durable one may have had none.
    let opened = found.and_then(Service::port).is_none();
    let is_known = context.broker.service_of(&id) == Some(&service);
    let subjects = match is_known {
        true => vec![],
        false => patterns.iter().map(ToString::to_string).collect(),
    };
    let subscribed = context.broker.subscribe(
        &id,
        &service,
        patterns,
        fields.delivery,
        context.now,
        context.streamers,
    );
    let subscribed = subscribed.map_err(|error| {
        if let SubscribeError::NoPort(why) = &error {
            context.happened.push(Happening::NoPort {
                service: service.clone(),
                why: why.clone(),
            });
        }
        Nak::new(code_of(&error), error)
    })?;
    context.ended.extend(subscribed.ended);
    if !is_known || opened {
        context.happened.push(Happening::Subscribed {
            id: id.clone(),
            service,
            subjects,
            port: subscribed.port,
            opened,
        });
    }
    let settings = context.settings;
    let pull_address = format!("{}{}", settings.pull_address_prefix, subscribed.port);
    let fields = [id.as_str(), &settings.pub_address, &pull_address];
    Ok(Outcome::Reply(Message::param(Token::ACK, fields)))
}

fn code_of(error: &SubscribeError) -> &'static str {
    match error {
        SubscribeError::Reserved(_) => "invalid-name",
        SubscribeError::NoPort(_) => "no-port",
        SubscribeError::TooMany(_) => "too-many-subscriptions",
        SubscribeError::TooManyPatterns(_) => "too-many-subjects",
        SubscribeError::Delivery(_) => "in-use",
    }
}

/// Made up for a client that didn't choose one. It differs from those of an earlier run, whose
/// clients may still use theirs.
fn unused_id(context: &mut Context<'_>) -> Result<SubscriptionId, Nak> {
    loop {
        let number = context.broker.next_number();
        let id = checked_id(&format!("{}-{number}", context.settings.id_prefix))?;
        if !context.broker.is_subscribed(&id) {
            return Ok(id);
        }
    }
}
