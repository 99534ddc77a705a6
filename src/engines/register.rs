//! What keeps an entry, for daemons of which one leads.

#[cfg(feature = "etcd")]
use super::etcd;
#[cfg(feature = "nats")]
use super::nats;
#[cfg(feature = "redis")]
use super::redis;
use super::{Failure, Pending, User};
#[cfg(any(feature = "nats", feature = "redis", feature = "etcd"))]
use crate::config::EngineKind;
use event_manager_core::leases::candidate::{Answer, Ask};
#[cfg(any(feature = "nats", feature = "redis", feature = "etcd"))]
pub(super) use kept::{claim_of, text_of};

/// Any store that compares and sets will do: an engine's, or one on which daemons agree among themselves. A
/// new one is made when this one fails.
pub trait Register {
    /// Asks, and waits for the answer. Whoever doesn't wait any longer doesn't know whether it was done.
    fn ask<'a>(&'a mut self, ask: &'a Ask) -> Pending<'a, Result<Answer, Failure>>;
}

/// The entry of this name at an engine.
///
/// # Errors
/// Why it can't be reached: a sentence that says what to do, as far as that is known.
pub async fn register(user: User<'_>, name: &str) -> Result<Box<dyn Register>, String> {
    match user.engine.kind() {
        #[cfg(feature = "nats")]
        EngineKind::Nats => Ok(Box::new(nats::NatsRegister::connect(user, name).await?)),
        #[cfg(feature = "redis")]
        EngineKind::Redis => Ok(Box::new(redis::RedisRegister::connect(user, name).await?)),
        #[cfg(feature = "etcd")]
        EngineKind::Etcd => Ok(Box::new(etcd::EtcdRegister::connect(user, name).await?)),
        kind => {
            let _ = name;
            Err(format!("no lease is kept at {kind}"))
        }
    }
}

/// How an entry is kept.
#[cfg(any(feature = "nats", feature = "redis", feature = "etcd"))]
mod kept {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use event_manager_core::leases::candidate::Claim;

    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Kept {
        holder: String,
        ttl_ms: u64,
    }

    /// How a claim is kept; nobody's is empty.
    pub(in crate::engines) fn text_of(claim: Option<&Claim>) -> String {
        let kept = claim.map(|claim| Kept {
            holder: claim.id.clone(),
            ttl_ms: claim.ttl.as_millis() as u64,
        });
        let text = kept.and_then(|kept| serde_json::to_string(&kept).ok());
        text.unwrap_or_default()
    }

    /// What is kept. What is none of ours counts as somebody's, who is waited for.
    pub(in crate::engines) fn claim_of(text: &[u8]) -> Option<Claim> {
        if text.is_empty() {
            return None;
        }
        let kept = serde_json::from_slice(text).unwrap_or_else(|_| Kept {
            holder: "somebody who is no event manager".into(),
            ttl_ms: 0,
        });
        Some(Claim {
            id: kept.holder,
            ttl: Duration::from_millis(kept.ttl_ms.min(3_600_000)),
        })
    }
}
