//! The subscriptions of a service, a part at a time.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::pages::{JSON, answer, in_json, unavailable};
use super::snapshot::{PATIENCE, Snapshots};
use event_manager_wire::model::{InvalidName, ServiceName, SubscriptionId};

/// So many are told at most, which is also the default: they take the reactor less than a millisecond.
const MAX: usize = 500;

/// Which subscriptions are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    service: String,
    /// Only those with ids behind this one.
    after: Option<String>,
    /// At most so many.
    max: Option<usize>,
}

pub(super) async fn subscriptions(
    State(snapshots): State<Arc<Snapshots>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(why) => return refused(&why.body_text()),
    };
    let (service, after) = match names(&wanted) {
        Ok(names) => names,
        Err(why) => return refused(&format!("a name {why}")),
    };
    let max = wanted.max.unwrap_or(MAX);
    if !(1..=MAX).contains(&max) {
        return refused(&format!("max {max} is out of bounds"));
    }
    match snapshots.subscriptions(service, after, max, PATIENCE).await {
        Ok(Some(part)) => {
            // It has nothing that JSON can't say.
            let part = serde_json::to_vec(&part).unwrap_or_default();
            answer(StatusCode::OK, JSON, part)
        }
        Ok(None) => {
            let error = format!("there is no service {}", wanted.service);
            let shown = json!({"error": error, "hint": "/stats names all services"});
            in_json(StatusCode::NOT_FOUND, &shown)
        }
        Err(why) => unavailable(&why),
    }
}

fn names(wanted: &Wanted) -> Result<(ServiceName, Option<SubscriptionId>), InvalidName> {
    let after = wanted.after.as_deref().map(SubscriptionId::new);
    Ok((ServiceName::new(&wanted.service)?, after.transpose()?))
}

fn refused(why: &str) -> Response {
    let hint = format!(
        "service (a name) has to be given, after (a subscription's id) and max (1 to {MAX}) may be, and nothing else"
    );
    in_json(
        StatusCode::BAD_REQUEST,
        &json!({"error": why, "hint": hint}),
    )
}
