//! What is answered while the daemon stands by: that it lives, and isn't ready.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

use super::hosts::{Hosts, only_ours};
use super::pages::{answer, in_json};
use super::tokens::only_with_token;
use super::{Guards, serve};
use crate::config::Config;
use event_manager_wire::api::{Check, Readiness};
use serde_json::json;

/// A server that runs until the daemon serves.
#[derive(Debug)]
pub struct Standby {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Standby {
    /// Serves at this listener, which another server gets later.
    ///
    /// # Errors
    /// The system gives no thread, no descriptor or no event queue.
    pub fn start(listener: &TcpListener, guards: Guards, config: &Config) -> std::io::Result<Self> {
        let listener = listener.try_clone()?;
        let reason = format!(
            "it stands by for the lease {} (lease.source {})",
            config.lease.name, config.lease.source
        );
        let standby = Check { ok: false, reason };
        let readiness = Readiness {
            ready: false,
            checks: [("standby".to_owned(), standby)].into(),
        };
        let live = || async { in_json(StatusCode::OK, &json!({"live": true})) };
        let ready = json!(readiness);
        let unready = move || async move { in_json(StatusCode::SERVICE_UNAVAILABLE, &ready) };
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
