//! Services whose queue is another broker's: `"delivery": "engine"`.

use std::time::Duration;

use super::fields::Fields;
use super::pattern::NamePattern;
use crate::config::engine_kinds::EngineKind;
use crate::config::engines::Engines;
use crate::config::meant::suggestion;
use event_manager_core::broker::DeliveryMode;
use event_manager_wire::model::ServiceName;

/// What stands before the name of a service in that of the service in which its events wait.
const SPOOL_PREFIX: &str = "engine.";
/// After which time RabbitMQ takes back what is not acknowledged, unless it is told otherwise.
const RABBIT_MAX: Duration = Duration::from_secs(30 * 60);

/// By which engine a service is served, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedBy<'a> {
    /// The engine's name.
    pub engine: &'a str,
    /// How many events are taken and not settled, at most.
    pub in_flight_max: u32,
}

/// The durable service in which a service's events wait to go to its engine.
pub fn spool_of(service: &ServiceName) -> Option<ServiceName> {
    ServiceName::new(&format!("{SPOOL_PREFIX}{service}")).ok()
}

/// Why a service can't be what an entry says, and which field that is; `all` is what is in force for it.
pub(super) fn why_not(
    pattern: &NamePattern,
    own: &Fields,
    all: &Fields,
    engines: &Engines,
) -> Option<(&'static str, String)> {
    if all.delivery() != DeliveryMode::Engine {
        let strange = [
            ("engine", own.engine.is_some()),
            ("maxInFlight", own.max_in_flight.is_some()),
        ];
        let (field, _) = strange.into_iter().find(|(_, is_said)| *is_said)?;
        return Some((field, "only with delivery \"engine\"".into()));
    }
    let Some(name) = pattern.exact() else {
        let is_own = own.delivery == Some(DeliveryMode::Engine);
        let why = "only with an exact name, not with a glob: each has a queue of its own";
        return is_own.then(|| ("delivery", why.into()));
    };
    let refused = |field, why: &str| Some((field, why.to_owned()));
    if own.delivery != Some(DeliveryMode::Engine) {
        return None;
    }
    let Some(used) = &own.engine else {
        return refused("delivery", "engine is missing, the name of one of engines");
    };
    let Some(engine) = engines.get(used) else {
        let hint = suggestion(used, engines.names());
        return Some(("engine", format!("engines has none of this name{hint}")));
    };
    if own.subjects.is_none() {
        return refused("delivery", "subjects is missing: what goes to its queue");
    }
    let letters = spool_of(name).and_then(|spool| spool.dead_letters());
    if letters.is_none() {
        let longest = ServiceName::BYTES_MAX - SPOOL_PREFIX.len() - ServiceName::DEAD_LETTERS.len();
        let why = format!(
            "the name of such a service has at most {longest} bytes, where each / and % is three"
        );
        return Some(("delivery", why));
    }
    if all.order_by.flatten().is_some() {
        let why = "not with delivery \"engine\": daemons that share a queue keep no order by key; set it to null, or keep the queue here (delivery \"queue\")";
        return refused("orderBy", why);
    }
    let kind = engine.kind();
    if !kind.serves() {
        let why = format!(
            "services can't have their queue at {kind}: use nats, redis or rabbitmq, or delivery \"queue\" and a bridge"
        );
        return Some(("engine", why));
    }
    let longest = all.ack_timeout().saturating_mul(all.retry().max_deliveries);
    if kind == EngineKind::RabbitMq && longest > RABBIT_MAX {
        let why = format!(
            "ackTimeout times retry.maxDeliveries are {} s: RabbitMQ gives to others what is not acknowledged after {} s; make them shorter",
            longest.as_secs(),
            RABBIT_MAX.as_secs()
        );
        return Some(("delivery", why));
    }
    None
}

#[cfg(test)]
#[cfg(all(feature = "nats", feature = "rabbitmq"))]
mod tests;
