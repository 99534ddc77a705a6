//! LEASE: `op\0name\0holder\0ttlMs\0leaseToken`. Acquires, renews, releases or shows a lease.

use std::time::Duration;

use serde::Deserialize;

use super::{Answer, Host, Request};
use crate::leases::{LEASES_MAX, Refused, TTL_MAX, TTL_MIN};
use crate::security::Deed;
use event_manager_wire::api;
use event_manager_wire::messagebus::{DataType, Message, Nak, Positions, ranged};
use event_manager_wire::model::{LeaseHolder, ServiceName};

const MIN_MS: u64 = TTL_MIN.as_millis() as u64;
const MAX_MS: u64 = TTL_MAX.as_millis() as u64;
const DEFAULT_MS: u64 = 10_000;

/// What is done with a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOp {
    Acquire { holder: LeaseHolder, ttl: Duration },
    Renew { holder: LeaseHolder, token: u64 },
    Release { holder: LeaseHolder, token: u64 },
    Get,
}

/// A request about a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    pub name: ServiceName,
    pub op: LeaseOp,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Acquire,
    Renew,
    Release,
    Get,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lease {
    op: Op,
    #[serde(default)]
    name: String,
    #[serde(default)]
    holder: String,
    #[serde(default, deserialize_with = "ranged::<_, MIN_MS, MAX_MS>")]
    ttl_ms: Option<u64>,
    /// Its token: `token` is that of the message.
    lease_token: Option<u64>,
}

impl Request for Lease {
    const POSITIONS: Positions =
        Positions::new(&["op", "name", "holder", "ttlMs", "leaseToken"]).required(1);

    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let name = Self::POSITIONS.checked(asked, "name", &self.name, ServiceName::new)?;
        host.judge(Deed::Serve(name.as_str()))?;
        let holder = || Self::POSITIONS.checked(asked, "holder", &self.holder, LeaseHolder::new);
        let token = || {
            let missing = || Self::POSITIONS.missing(asked, "leaseToken");
            self.lease_token.ok_or_else(missing)
        };
        let op = match self.op {
            Op::Acquire => LeaseOp::Acquire {
                holder: holder()?,
                ttl: Duration::from_millis(self.ttl_ms.unwrap_or(DEFAULT_MS)),
            },
            Op::Renew => LeaseOp::Renew {
                holder: holder()?,
                token: token()?,
            },
            Op::Release => LeaseOp::Release {
                holder: holder()?,
                token: token()?,
            },
            Op::Get => LeaseOp::Get,
        };
        host.lease(LeaseRequest { name, op })
    }
}

/// The answer that says how a lease is: its token, who holds it, and for how long still.
pub fn lease_shown(
    name: &ServiceName,
    token: u64,
    held: Option<(&LeaseHolder, Duration)>,
) -> Message {
    let shown = api::Lease {
        name: name.to_string(),
        holder: held.map(|(holder, _)| holder.to_string()),
        token,
        expires_in_ms: held.map_or(0, |(_, left)| left.as_millis() as u64),
    };
    // It has nothing that JSON can't say.
    let shown = serde_json::to_string(&shown).unwrap_or_default();
    Message::ack(DataType::String, shown)
}

/// The answer to who can't have it, renew it or give it back.
pub fn lease_refused(name: &ServiceName, refused: Refused) -> Nak {
    match refused {
        Refused::Held(holder, left) => {
            let ms = left.as_millis();
            let sentence =
                format!("{holder} holds the lease {name}, for {ms} ms if it isn't renewed");
            Nak::new("held", sentence)
        }
        Refused::Lost => {
            let sentence = format!(
                "the lease {name} isn't held by this client under this name with this token: its time was over, or it was released"
            );
            Nak::new("lost", sentence)
        }
        Refused::Full => {
            let sentence = format!("{LEASES_MAX} leases are held already");
            Nak::new("full", sentence)
        }
    }
}
