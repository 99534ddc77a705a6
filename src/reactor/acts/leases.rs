//! Leases: what requests do with them, and what is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;

use crate::ambient::{now, wall_clock_ms};
use crate::reactor::hub::Hub;
use crate::reactor::state::effects::{LEASES_WAITING_MAX, LeaseAsked, LeasesKept};
use crate::reactor::state::replies::ReturnAddress;
use crate::state::KeptLease;
use event_manager_core::leases::{Former, Holder};
use event_manager_core::requests::{LeaseOp, LeaseRequest, lease_refused, lease_shown};
use event_manager_core::security::Identity;
use event_manager_wire::messagebus::{Message, Nak};
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

    /// Gives a request to who asks the engine that keeps the leases, and answers later.
    pub(super) fn ask_for_lease(
        &mut self,
        request: LeaseRequest,
        kept: &LeasesKept,
        back: ReturnAddress,
    ) {
        let client = back.client.clone();
        let Some(ticket) = self.promise(back) else {
            return;
        };
        let asked = LeaseAsked {
            ticket,
            request,
            client,
            at: now(),
        };
        // If it has ended, nobody waits for answers any more.
        if let Err(TrySendError::Full(_)) = kept.asked.try_send(asked) {
            let why = format!(
                "{LEASES_WAITING_MAX} requests about leases wait for the engine {} already",
                kept.keeper.source()
            );
            self.complete(ticket, &Message::nak("busy", why));
        }
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
        let acquired = done.map_err(|refused| lease_refused(&name, refused))?;
        let view = self.leases.view(&name, now);
        let held = view.held.map(|(holder, left)| (&holder.name, left));
        let answer = lease_shown(&name, view.token, held);
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
