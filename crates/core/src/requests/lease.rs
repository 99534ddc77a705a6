//! LEASE: `op\0name\0holder\0ttlMs\0leaseToken`. Acquires, renews, releases or shows a lease.

use std::time::Duration;

use serde::Deserialize;

use super::{Answer, Host, Request};
use crate::leases::{TTL_MAX, TTL_MIN};
use crate::security::Deed;
use event_manager_wire::messagebus::{Message, Nak, Positions, ranged};
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
