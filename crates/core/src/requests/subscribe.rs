//! SUBSCRIBE: `sub_id\0service_name\0subject…` → `sub_id\0pub_address\0pull_address`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::{Map, Value};

use super::subjects::{check_length, patterns};
use super::{Answer, Context, Happening, Host, Request, Settings};
use crate::broker::{
    DeliveryMode, OrderBy, RetryOptions, Service, ServiceKey, ServiceOptions, ServiceSettings,
    SubscribeError, WhenFull, event_subject, order, seconds, when_full,
};
use crate::security::Deed;
use event_manager_wire::api::SubscriptionTerms;
use event_manager_wire::messagebus::{Message, Nak, Positions, Rest, Token};
use event_manager_wire::model::{EventSubject, ServiceName, SubjectPattern, SubscriptionId};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Subscribe {
    /// One is made up if it is empty.
    #[serde(alias = "subscriptionId", alias = "sub_id")]
    id: String,
    #[serde(alias = "service_name")]
    service: String,
    subjects: Vec<String>,
    /// One more.
    subject: Option<String>,
    /// Where the events of a service that begins are kept, if not where the configuration says.
    delivery: Option<DeliveryMode>,
    #[serde(deserialize_with = "seconds")]
    ack_timeout: Option<Duration>,
    #[serde(deserialize_with = "retry")]
    retry: RetryOptions,
    #[serde(deserialize_with = "order")]
    order_by: Option<OrderBy>,
    #[serde(deserialize_with = "when_full")]
    when_full: Option<WhenFull>,
    #[serde(deserialize_with = "event_subject")]
    dead_letter_subject: Option<EventSubject>,
}

impl Subscribe {
    fn options(&self) -> ServiceOptions {
        ServiceOptions {
            ack_timeout: self.ack_timeout,
            retry: self.retry.clone(),
            order_by: self.order_by,
            when_full: self.when_full,
            dead_letter_subject: self.dead_letter_subject.clone(),
        }
    }
}

/// Whether who asks may have that. Dead letters come under their subject as if it published them; and
/// a subscription that is there may be another's.
fn judge(
    (id, service): (&str, &ServiceName),
    patterns: &BTreeSet<SubjectPattern>,
    dead_letters: Option<&EventSubject>,
    host: &mut dyn Host,
) -> Result<(), Nak> {
    host.judge(Deed::Serve(service.as_str()))?;
    let broker = host.context().broker;
    let key = broker.find(service);
    if key.is_some_and(|key| broker.routes.passes_on(key)) {
        let sentence = format!("{service} is a bridge's: what it gets is in the configuration");
        return Err(Nak::new("forbidden", sentence));
    }
    for pattern in patterns {
        host.judge(Deed::Subscribe(pattern))?;
    }
    if let Some(subject) = dead_letters {
        host.judge(Deed::Publish(subject.as_str().as_bytes()))?;
    }
    let id = SubscriptionId::new(id).ok();
    let before = id.and_then(|id| host.context().broker.service_of(&id).cloned());
    before.map_or(Ok(()), |before| host.judge(Deed::Serve(before.as_str())))
}

/// An object, named as in the configuration.
fn retry<'de, D: Deserializer<'de>>(value: D) -> Result<RetryOptions, D::Error> {
    let retry = RetryOptions::deserialize(value)?;
    match retry.why_wrong() {
        Some(why) => Err(D::Error::custom(why)),
        None => Ok(retry),
    }
}

impl Request for Subscribe {
    const POSITIONS: Positions =
        Positions::new(&["id", "service", "subjects"]).last_is(Rest::List(1));

    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let full = host.is_full();
        let options = self.options();
        let service = Self::POSITIONS.checked(asked, "service", &self.service, ServiceName::new)?;
        let subjects = self.subjects.into_iter().chain(self.subject);
        let patterns = patterns(subjects, &host.context().settings.limits)?;
        if patterns.is_empty() {
            return Err(Self::POSITIONS.missing(asked, "subjects"));
        }
        let letters = options.dead_letter_subject.as_ref();
        judge((&self.id, &service), &patterns, letters, host)?;
        let context = &mut host.context();
        let id = match &*self.id {
            "" => unused_id(context)?,
            id => Self::POSITIONS.checked(asked, "id", id, SubscriptionId::new)?,
        };
        // Who asks for that relies on it. Others' answers come at once, in the order of their requests.
        let is_promised = self.delivery == Some(DeliveryMode::Queue);
        if is_promised {
            can_be_promised(context, full)?;
        }
        check(&options, context, (&service, self.delivery))?;
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
            self.delivery,
            context.now,
            context.streamers,
        );
        let subscribed = subscribed.map_err(|error| refused(context, &service, error))?;
        context.broker.set_options(subscribed.service, &options);
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
        let mut answer = accepted(context.settings, &id, subscribed.port);
        // Only JSON has a place for them.
        if asked.named.is_some() {
            answer.named = terms(context, subscribed.service);
        }
        host.claim(&id);
        match is_promised {
            true => Ok(host.promise(&id, answer)),
            false => Ok(Answer::Now(answer)),
        }
    }
}

/// Whether a service may have these options.
fn check(
    options: &ServiceOptions,
    context: &Context<'_>,
    (service, delivery): (&ServiceName, Option<DeliveryMode>),
) -> Result<(), Nak> {
    if let Some(subject) = &options.dead_letter_subject {
        check_length(subject.as_str().as_bytes(), &context.settings.limits)?;
    }
    if options.is_empty() {
        return Ok(());
    }
    let settings = context.broker.settings_with(service, delivery, options);
    let settings = settings.map_err(|error| Nak::new(code_of(&error), error))?;
    go_together(options, &settings)
}

/// Says that there is no subscription, and notes it where somebody can mend it.
fn refused(context: &mut Context<'_>, service: &ServiceName, error: SubscribeError) -> Nak {
    if let SubscribeError::NoPort(why) = &error {
        context.happened.push(Happening::NoPort {
            service: service.clone(),
            why: why.clone(),
        });
    }
    Nak::new(code_of(&error), error)
}

/// Checks the options beside all else that is in force for the service.
fn go_together(options: &ServiceOptions, settings: &ServiceSettings) -> Result<(), Nak> {
    let delivery = settings.delivery;
    if options.when_full.is_some_and(|what| !delivery.allows(what)) {
        let name = delivery.name();
        let sentence =
            format!("\"whenFull\": the service's delivery is {name:?}, which has another");
        return Err(Nak::new("invalid-field", sentence));
    }
    let (said, retry) = (&options.retry, &settings.policy.retry);
    // What the configuration overrides is no fault of the client.
    let is_in_force =
        |said: Option<u64>, time: Duration| said.map(Duration::from_millis) == Some(time);
    let is_said =
        is_in_force(said.initial_ms, retry.initial) || is_in_force(said.max_ms, retry.max);
    if retry.initial > retry.max && is_said {
        let sentence = format!(
            "\"retry\": the service's initialMs {} is above maxMs {}",
            retry.initial.as_millis(),
            retry.max.as_millis()
        );
        return Err(Nak::new("invalid-field", sentence));
    }
    Ok(())
}

/// Says where events come from, and where the service's workers connect.
fn accepted(settings: &Settings, id: &SubscriptionId, port: u16) -> Message {
    let pull_address = format!("{}{port}", settings.pull_address_prefix);
    let fields = [id.as_str(), &settings.pub_address, &pull_address];
    Message::param(Token::ACK, fields)
}

/// What the subscription's client and its workers have to know, in JSON.
fn terms(context: &Context<'_>, service: ServiceKey) -> Option<Map<String, Value>> {
    let service = &context.broker[service];
    let millis = |time: Duration| time.as_millis() as u64;
    let terms = SubscriptionTerms {
        ttl_ms: millis(context.broker.subscription_ttl()),
        ack_timeout_ms: millis(service.queue.policy().ack_timeout),
        delivery: service.delivery().name().to_owned(),
        dead_letter_subject: service.dead_letter_subject().into_owned(),
        version: context.settings.version.to_string(),
    };
    match serde_json::to_value(terms) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

/// Whether there can be a queue on disk, and whether one more may wait for it.
fn can_be_promised(context: &Context<'_>, full: Option<Nak>) -> Result<(), Nak> {
    if !context.settings.has_store {
        let sentence = "delivery: there is no queue without a state directory: stateDir is empty, or can't be used (EM-0505 in the log says why)";
        return Err(Nak::new("no-store", sentence));
    }
    full.map_or(Ok(()), Err)
}

fn code_of(error: &SubscribeError) -> &'static str {
    match error {
        SubscribeError::Reserved(_) | SubscribeError::TooLong(_) => "invalid-name",
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
        let id = format!("{}-{number}", context.settings.id_prefix);
        let id = SubscriptionId::new(&id);
        let id = id.map_err(|error| Nak::new("invalid-name", format!("the made-up id {error}")))?;
        if !context.broker.is_subscribed(&id) {
            return Ok(id);
        }
    }
}
