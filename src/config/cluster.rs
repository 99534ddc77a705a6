//! Daemons that are to agree among themselves on who serves. That is not built: the key says what to use.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::units::{Unit, list};

/// The most members, and the bytes of one.
const MEMBERS_MAX: usize = 64;
const MEMBER_BYTES_MAX: usize = 255;

/// The cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterConfig {
    /// All who would vote; none is all that is taken.
    #[serde(with = "Members")]
    pub members: Vec<String>,
}

impl ClusterConfig {
    /// Why that is no cluster, if it is meant to be one.
    pub(super) fn why_not(&self) -> Option<&'static str> {
        match self.members.len() {
            0 => None,
            1 => Some("cluster.members names one, which has nobody to agree with: leave it out"),
            2 => Some(
                "cluster.members names two, and two can't elect: when the line between them breaks, each sees what it would see if the other were dead, so both would serve, or none. Keep the lease at a third (lease.source: nats or etcd with three servers), or have a person decide (lease.source \"hand\" and event-manager promote)",
            ),
            _ => Some(
                "cluster.members: a vote among event managers is not built; use lease.source with an engine, nats or etcd",
            ),
        }
    }
}

/// Addresses: a list, or none.
struct Members;

impl Unit for Members {
    type Of = Vec<String>;

    fn read(value: &Value) -> Result<Vec<String>, String> {
        if value.is_null() {
            return Ok(vec![]);
        }
        let all = list(value, "a list of addresses")?;
        if all.len() > MEMBERS_MAX || all.iter().any(|one| one.len() > MEMBER_BYTES_MAX) {
            return Err(format!(
                "at most {MEMBERS_MAX} addresses of at most {MEMBER_BYTES_MAX} bytes are wanted"
            ));
        }
        Ok(all.into_iter().map(str::to_owned).collect())
    }

    fn show(of: &Vec<String>) -> Value {
        json!(of)
    }
}
