//! DLQ: `op\0service[\0options]`, the options a JSON object. Dead letters.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Answer, Host, Request};
use crate::security::Deed;
use crate::seq::Seq;
use event_manager_wire::messagebus::{Message, Nak, Positions, Rest, ranged};
use event_manager_wire::model::ServiceName;

/// The most letters that one request looks at.
const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 100;

/// What is done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LettersOp {
    /// Shows what happened to each.
    List,
    /// Shows their frames too.
    Show,
    /// Puts their events back into the service's queue.
    Replay,
    /// Deletes them.
    Purge,
}

/// A request about a service's dead letters.
#[derive(Debug)]
pub struct LettersRequest {
    pub op: LettersOp,
    /// Whose letters.
    pub service: ServiceName,
    /// The lowest sequence number to look at.
    pub from: Seq,
    /// The most letters to look at; at most 1000.
    pub limit: usize,
    /// Only those that died of this.
    pub reason: Option<String>,
    /// Only those whose subject begins with this.
    pub subject: Option<String>,
    /// Only those that were kept before this time, in milliseconds since 1970.
    pub before: Option<u64>,
    /// Only those with these sequence numbers.
    pub seqs: Option<BTreeSet<Seq>>,
    /// Changes nothing.
    pub dry_run: bool,
}

impl LettersRequest {
    /// Whether letters are taken out of their queue.
    pub fn changes(&self) -> bool {
        !self.dry_run && matches!(self.op, LettersOp::Replay | LettersOp::Purge)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dlq {
    op: LettersOp,
    #[serde(default)]
    service: String,
    #[serde(default)]
    from: Seq,
    #[serde(default, deserialize_with = "ranged::<_, 1, LIMIT_MAX>")]
    limit: Option<u64>,
    reason: Option<String>,
    subject: Option<String>,
    before: Option<u64>,
    seqs: Option<BTreeSet<Seq>>,
    #[serde(default)]
    dry_run: bool,
}

impl Request for Dlq {
    const POSITIONS: Positions =
        Positions::new(&["op", "service", "options"]).last_is(Rest::Options);

    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let service = Self::POSITIONS.checked(asked, "service", &self.service, ServiceName::new)?;
        host.judge(Deed::Serve(service.as_str()))?;
        Ok(host.letters(LettersRequest {
            op: self.op,
            service,
            from: self.from,
            limit: self.limit.unwrap_or(LIMIT_DEFAULT) as usize,
            reason: self.reason,
            subject: self.subject,
            before: self.before,
            seqs: self.seqs,
            dry_run: self.dry_run,
        }))
    }
}
