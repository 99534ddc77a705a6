//! Leases: what requests do with them, and what is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ambient::{now, wall_clock_ms};
use crate::reactor::hub::Hub;
use crate::state::KeptLease;
use event_manager_core::leases::{Former, Holder, LEASES_MAX, Refused};
use event_manager_core::requests::{LeaseOp, LeaseRequest};
use event_manager_core::security::Identity;
use event_manager_wire::api::Lease;
use event_manager_wire::messagebus::{DataType, Message, Nak};
use event_manager_wire::model::{LeaseHolder, ServiceName};

/// What becomes of a request about a lease.
pub(super) enum Answered {
    Now(Message),
    /// When the state database has the lease of this name.
    WhenWritten(ServiceName, Message),
}

impl Hub {
    /// Those of an earlier run are held for their whole time from now on.
    pub(crate) fn restore_leases(&mut self, kept: &BTreeMap<String, KeptLease>) {
        let now = now();
        for (name, lease) in kept {
            let Ok(name) = ServiceName::new(name) else {
                // The one without a name.
                self.leases.restore_highest(lease.token);
                continue;
            };
            let client = lease.client.as_deref().and_then(Identity::from_written);
            let holder = lease.holder.as_deref().map(LeaseHolder::new);
            let holder = holder.and_then(Result::ok).zip(client);
            let former = Former {
                token: lease.token,
                ttl: Duration::from_millis(lease.ttl_ms),
                holder: holder.map(|(name, client)| Holder { name, client }),
            };
            self.leases.restore(name, former, now);
        }
        self.saved.leases.restore(kept.clone());
    }

    /// Does what a client asks.
    pub(super) fn lease(
        &mut self,
        request: LeaseRequest,
        client: Identity,
    ) -> Result<Answered, Nak> {
        let LeaseRequest { name, op } = request;
        // Read anew, as a lease counts from when its request is done.
        let now = now();
        if self.saved.writer.is_none() {
            let why = "leases need a state database (stateDir): a token that was given must never be given again";
            return Err(Nak::new("no-state", why));
        }
        let by = |name: LeaseHolder| Holder {
            name,
            client: client.clone(),
        };
        let done = match op {
            LeaseOp::Get => Ok(None),
            LeaseOp::Acquire { holder, ttl } => {
                let floor = wall_clock_ms();
                self.leases
                    .acquire(&name, by(holder), ttl, floor, now)
                    .map(Some)
            }
            LeaseOp::Renew { holder, token } => {
                let renewed = self.leases.renew(&name, &by(holder), token, now);
                renewed.map(|()| None)
            }
            LeaseOp::Release { holder, token } => {
                let released = self.leases.release(&name, &by(holder), token, now);
                released.map(|()| {
                    self.keep_lease(&name);
                    None
                })
            }
        };
        let acquired = done.map_err(|refused| why_not(&name, refused))?;
        let view = self.leases.view(&name, now);
        let shown = Lease {
            name: name.to_string(),
            holder: view.held.map(|(holder, _)| holder.name.to_string()),
            token: view.token,
            expires_in_ms: view.held.map_or(0, |(_, left)| left.as_millis() as u64),
        };
        // It has nothing that JSON can't say.
        let shown = serde_json::to_string(&shown).unwrap_or_default();
        let answer = Message::ack(DataType::String, shown);
        let Some(forgotten) = acquired else {
            return Ok(Answered::Now(answer));
        };
        if let Some(forgotten) = forgotten {
            self.saved.leases.set(forgotten.to_string(), None);
            let highest = KeptLease {
                token: self.leases.highest(),
                ..KeptLease::default()
            };
            self.saved.leases.set(String::new(), Some(highest));
        }
        self.keep_lease(&name);
        Ok(Answered::WhenWritten(name, answer))
    }

    fn keep_lease(&mut self, name: &ServiceName) {
        let kept = self.leases.kept(name).map(|lease| KeptLease {
            token: lease.token,
            ttl_ms: lease.ttl.as_millis() as u64,
            holder: lease.holder.as_ref().map(|holder| holder.name.to_string()),
            client: lease.holder.as_ref().map(|holder| holder.client.written()),
        });
        self.saved.leases.set(name.to_string(), kept);
    }
}

fn why_not(name: &ServiceName, refused: Refused) -> Nak {
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
