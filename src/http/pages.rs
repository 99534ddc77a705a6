//! What is served under which path.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::events::events;
use super::hosts::{Hosts, only_ours};
use super::instances::instances;
use super::metrics;
use super::snapshot::{PATIENCE, Snapshots};
use super::subscriptions::subscriptions;
use super::tokens::{Tokens, only_with_token};
use crate::telemetry::Journal;

/// A reactor that takes longer for an answer hangs.
const LIVE: Duration = Duration::from_secs(2);

pub(super) const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The page may load what lies beside it here, and nothing else. No text becomes markup or script,
/// whatever peers call themselves.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const PATHS: &str = "/, /livez, /readyz, /metrics, /stats, /subscriptions, /instances, /events";

pub(super) type Shared = State<Arc<Snapshots>>;

/// All paths. GET and HEAD, nothing else.
pub(super) fn router(
    snapshots: Snapshots,
    journal: Journal,
    hosts: Hosts,
    tokens: Option<Tokens>,
) -> Router {
    let style = || async { answer(StatusCode::OK, CSS, include_str!("dashboard.css")) };
    let script = || async { answer(StatusCode::OK, JAVASCRIPT, include_str!("dashboard.js")) };
    Router::new()
        .route("/", get(dashboard))
        .route("/dashboard.css", get(style))
        .route("/dashboard.js", get(script))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/stats", get(stats))
        .route("/subscriptions", get(subscriptions))
        .route("/instances", get(instances))
        .route("/events", get(events).with_state(journal))
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .with_state(Arc::new(snapshots))
        .layer(from_fn_with_state(tokens.map(Arc::new), only_with_token))
        .layer(from_fn_with_state(Arc::new(hosts), only_ours))
}

async fn dashboard() -> Response {
    let policy = (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    let page = answer(StatusCode::OK, HTML, include_str!("dashboard.html"));
    ([policy], page).into_response()
}

async fn livez(State(snapshots): Shared) -> Response {
    match snapshots.get(LIVE).await {
        Ok(_) => in_json(StatusCode::OK, &json!({"live": true})),
        Err(why) => {
            let shown = json!({"live": false, "reason": why.to_string()});
            in_json(StatusCode::SERVICE_UNAVAILABLE, &shown)
        }
    }
}

async fn readyz(State(snapshots): Shared) -> Response {
    let answer = snapshots.get(PATIENCE).await;
    let answer = answer.as_deref().map_err(|why| *why);
    let readiness = snapshots.watched.readiness(answer);
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    in_json(status, &json!(readiness))
}

async fn stats(State(snapshots): Shared) -> Response {
    match snapshots.get(PATIENCE).await {
        Ok(snapshot) => answer(StatusCode::OK, JSON, snapshot.stats(&snapshots.watched)),
        Err(why) => unavailable(&why),
    }
}

async fn metrics(State(snapshots): Shared, headers: HeaderMap) -> Response {
    let snapshot = match snapshots.get(PATIENCE).await {
        Ok(snapshot) => snapshot,
        Err(why) => return unavailable(&why),
    };
    let text = snapshot.metrics(&snapshots.watched);
    match wants_plain_text(&headers) {
        false => answer(StatusCode::OK, metrics::OPENMETRICS, text),
        true => {
            let plain = metrics::in_plain_text(&String::from_utf8_lossy(&text));
            answer(StatusCode::OK, metrics::PLAIN_TEXT, plain)
        }
    }
}

/// Whether it asks for the older format, and not for OpenMetrics too.
fn wants_plain_text(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT);
    let mut accepted = accepted.iter().filter_map(|value| value.to_str().ok());
    let all = accepted.by_ref().collect::<Vec<_>>().join(",");
    all.contains("text/plain") && !all.contains("application/openmetrics-text")
}

pub(super) fn unavailable(why: &dyn Display) -> Response {
    let hint = "the log says more; /livez tells whether the daemon turns";
    let shown = json!({"error": why.to_string(), "hint": hint});
    in_json(StatusCode::SERVICE_UNAVAILABLE, &shown)
}

async fn not_found(uri: Uri) -> Response {
    let error = format!("there is nothing at {}", uri.path());
    let shown = json!({"error": error, "hint": format!("there is {PATHS}")});
    in_json(StatusCode::NOT_FOUND, &shown)
}

async fn not_allowed(method: Method) -> Response {
    let error = format!("{method} is not possible: this only shows, and changes nothing");
    let shown = json!({"error": error, "hint": "GET or HEAD"});
    let refusal = in_json(StatusCode::METHOD_NOT_ALLOWED, &shown);
    ([(header::ALLOW, "GET, HEAD")], refusal).into_response()
}

pub(super) fn in_json(status: StatusCode, shown: &Value) -> Response {
    answer(status, JSON, shown.to_string())
}

/// No cache keeps it, and no browser guesses what it is.
pub(super) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body.into()).into_response()
}
