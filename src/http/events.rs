//! The latest notable events, a page at a time.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::pages::{JSON, answer, in_json};
use crate::telemetry::{Journal, RING_MAX};

const MAX_DEFAULT: usize = 100;

/// Which events are asked for, as EVENTS has it too.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only those after this number; without it the latest.
    after: Option<u64>,
    /// At most so many; from 1 to all that are remembered.
    max: Option<usize>,
}

pub(super) async fn events(
    State(journal): State<Journal>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(why) => return refused(&why.body_text()),
    };
    let max = wanted.max.unwrap_or(MAX_DEFAULT);
    if !(1..=RING_MAX).contains(&max) {
        return refused(&format!("max {max} is out of bounds"));
    }
    let page = journal.page(wanted.after, max);
    // It has nothing that JSON can't say.
    let page = serde_json::to_vec(&page).unwrap_or_default();
    answer(StatusCode::OK, JSON, page)
}

fn refused(why: &str) -> Response {
    let hint = format!("after (a number) and max (1 to {RING_MAX}) may be given, and nothing else");
    in_json(
        StatusCode::BAD_REQUEST,
        &json!({"error": why, "hint": hint}),
    )
}
