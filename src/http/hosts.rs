//! By which names the daemon may be asked.
//!
//! A web page that somebody reads can have its own name resolve to an address of this machine (DNS
//! rebinding): the browser then lets it read whatever is served there. The `Host` of its requests still
//! is its own name, so only names that can be meant for this daemon are answered.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;

use super::pages::in_json;
use crate::config::Config;

/// Of a name that is refused, so many characters are shown.
const SHOWN_CHARS_MAX: usize = 100;

/// The names that are answered beside those that nobody else can have.
#[derive(Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    pub(super) fn new(config: &Config) -> Self {
        let own = std::iter::once(&config.public_hostname);
        let all = own.chain(&config.http_hosts);
        Self(all.map(|name| normal(name).to_ascii_lowercase()).collect())
    }

    /// Whether this daemon may be asked by this name, without a port. An IP address can't be rebound,
    /// and a name without a dot is none of the public DNS: it is a machine's, a container's or a service's.
    fn knows(&self, host: &str) -> bool {
        let host = normal(host).to_ascii_lowercase();
        let is_address = host.parse::<IpAddr>().is_ok();
        let is_local = !host.contains('.') || host.ends_with(".localhost");
        is_address || is_local || self.0.iter().any(|known| is_match(known, &host))
    }
}

/// Without the brackets of an IPv6 address, or the dot behind a whole name.
fn normal(host: &str) -> &str {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let bare = bare.unwrap_or(host);
    bare.strip_suffix('.').unwrap_or(bare)
}

/// `*` knows all names, `*.example.com` those below `example.com`.
fn is_match(known: &str, host: &str) -> bool {
    match known.strip_prefix('*') {
        Some("") => true,
        Some(domain) => host.len() > domain.len() && host.ends_with(domain),
        None => known == host,
    }
}

/// The first name by which a request asks that is none of ours.
fn stranger(hosts: &Hosts, request: &Request) -> Option<String> {
    let headers = request.headers().get_all(header::HOST).iter();
    let mut written = headers.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let in_uri = request.uri().host();
    let foreign = |written: &String| {
        let authority = written.parse::<Authority>().ok();
        // An empty one names nobody; what is no authority is no name of ours.
        let known = authority.map(|authority| hosts.knows(authority.host()));
        !written.is_empty() && known != Some(true)
    };
    written
        .find(foreign)
        .or_else(|| in_uri.map(str::to_owned).filter(|host| !hosts.knows(host)))
}

/// Answers requests that ask by a name of ours. Probes may come by any, because they are answered by
/// little more than a status.
pub(super) async fn only_ours(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(host) = stranger(&hosts, &request) else {
        return next.run(request).await;
    };
    match request.uri().path() {
        "/livez" => next.run(request).await,
        "/readyz" => {
            let status = next.run(request).await.status();
            in_json(status, &json!({"ready": status == StatusCode::OK}))
        }
        _ => {
            let host: String = host.chars().take(SHOWN_CHARS_MAX).collect();
            let error = format!("{host:?} is no name of this daemon");
            let hint = "add it to httpHosts (EVENT_MANAGER_HTTP_HOSTS), or ask by an IP address";
            in_json(
                StatusCode::MISDIRECTED_REQUEST,
                &json!({"error": error, "hint": hint}),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_only_this_daemon_can_have_are_known() {
        let config = Config {
            public_hostname: "pos1.shop.example".into(),
            http_hosts: vec!["Watch.Example.".into(), "*.svc.cluster.local".into()],
            ..Config::default()
        };
        let hosts = Hosts::new(&config);
        for known in [
            "127.0.0.1",
            "10.1.2.3",
            "[::1]",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "event-manager",
            "pos1.shop.example",
            "POS1.shop.example.",
            "watch.example",
            "events.default.svc.cluster.local",
        ] {
            assert!(hosts.knows(known), "{known}");
        }
        for foreign in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "xpos1.shop.example",
            "pos1.shop.example.evil.example",
            "svc.cluster.local",
            ".svc.cluster.local.evil",
            "127.1.evil",
        ] {
            assert!(!hosts.knows(foreign), "{foreign}");
        }
        let all = Config {
            http_hosts: vec!["*".into()],
            ..Config::default()
        };
        assert!(Hosts::new(&all).knows("evil.example"));
    }
}
