//! What is answered while the daemon stands by: that it lives, and isn't ready.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{oneshot, watch};

use super::hosts::{Hosts, only_ours};
use super::pages::{answer, in_json};
use super::tokens::only_with_token;
use super::{Guards, serve};
use crate::config::Config;
use event_manager_core::leases::tenure::Obstacle;
use event_manager_wire::api::{Check, Readiness};
use serde_json::json;

/// A server that runs until the daemon serves.
#[derive(Debug)]
pub struct Standby {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Standby {
    /// Serves at this listener, which another server gets later. What keeps the daemon from taking over is in
    /// `obstacle`.
    ///
    /// # Errors
    /// The system gives no thread, no descriptor or no event queue.
    pub fn start(
        listener: &TcpListener,
        guards: Guards,
        config: &Config,
        obstacle: watch::Receiver<Option<Obstacle>>,
    ) -> std::io::Result<Self> {
        let listener = listener.try_clone()?;
        let reason = format!(
            "it stands by for the lease {} (lease.source {})",
            config.lease.name, config.lease.source
        );
        let live = || async { in_json(StatusCode::OK, &json!({"live": true})) };
        let unready = move || async move {
            let readiness = readiness(reason, obstacle.borrow().clone());
            in_json(StatusCode::SERVICE_UNAVAILABLE, &json!(readiness))
        };
        let other = || async {
            let text =
                "{\"error\":\"this daemon stands by\",\"hint\":\"there is /livez and /readyz\"}";
            answer(StatusCode::SERVICE_UNAVAILABLE, super::pages::JSON, text)
        };
        let router = Router::new()
            .route("/livez", get(live))
            .route("/readyz", get(unready))
            .fallback(other)
            .layer(from_fn_with_state(
                guards.tokens.map(Arc::new),
                only_with_token,
            ))
            .layer(from_fn_with_state(Arc::new(Hosts::new(config)), only_ours));
        let tls = guards.tls;
        let (stop, thread) = serve::start(listener, (router, tls))?;
        Ok(Self { stop, thread })
    }

    /// Ends all connections.
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// It isn't ready, and as long as there is an obstacle, it can't be.
fn readiness(reason: String, obstacle: Option<Obstacle>) -> Readiness {
    let failed = |name: &str, reason| (name.to_owned(), Check { ok: false, reason });
    let obstacle = obstacle.map(|Obstacle { check, why }| failed(check, why));
    Readiness {
        ready: false,
        checks: [failed("standby", reason)]
            .into_iter()
            .chain(obstacle)
            .collect(),
    }
}
