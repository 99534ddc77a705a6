//! Instances of other programs, and who of them led when.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::pages::{JSON, Shared, answer, in_json, unavailable};
use event_manager_core::instances::HISTORY_MAX;
use event_manager_wire::api::InstancesPage;

/// What is asked for, as INSTANCES has it too.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// So many of the latest changes of who leads.
    #[serde(default)]
    history: usize,
}

pub(super) async fn instances(
    State(snapshots): Shared,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Query(wanted)) if wanted.history <= HISTORY_MAX => wanted,
        Ok(Query(wanted)) => {
            return refused(&format!("history {} is out of bounds", wanted.history));
        }
        Err(why) => return refused(&why.body_text()),
    };
    let page = match snapshots.instances().await {
        Ok(page) => page,
        Err(why) => return unavailable(&why),
    };
    let left_out = page.history.len().saturating_sub(wanted.history);
    let page = InstancesPage {
        instances: page.instances.clone(),
        history: page.history[left_out..].to_vec(),
    };
    // It has nothing that JSON can't say.
    let page = serde_json::to_vec(&page).unwrap_or_default();
    answer(StatusCode::OK, JSON, page)
}

fn refused(why: &str) -> Response {
    let hint = format!("history (0 to {HISTORY_MAX}) may be given, and nothing else");
    in_json(
        StatusCode::BAD_REQUEST,
        &json!({"error": why, "hint": hint}),
    )
}
