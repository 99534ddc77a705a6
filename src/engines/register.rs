//! What keeps an entry, for daemons of which one leads.

#[cfg(feature = "etcd")]
use super::etcd;
#[cfg(feature = "nats")]
use super::nats;
#[cfg(feature = "redis")]
use super::redis;
use super::{Failure, Pending, User, advised};
#[cfg(any(feature = "nats", feature = "redis", feature = "etcd"))]
use crate::config::EngineKind;
use event_manager_core::leases::candidate::{Answer, Ask};
pub use kept::{content_of, text_of};

/// Entries with names, in any store that compares and sets: an engine's, or one on which daemons agree among
/// themselves. A new one is made when this one fails.
pub trait Register {
    /// Asks for the entry of this name, and waits for the answer. Whoever doesn't wait any longer doesn't know
    /// whether it was done.
    fn ask<'a>(&'a mut self, name: &'a str, ask: &'a Ask<String>) -> Heard<'a>;
}

/// What is heard of an entry.
pub(super) type Heard<'a> = Pending<'a, Result<Answer<Vec<u8>>, Failure>>;

/// The entries at an engine. The one of this name may be read to see that the engine answers.
///
/// # Errors
/// Why it can't be reached: a sentence that says what to do, as far as that is known.
pub async fn register(user: User<'_>, name: &str) -> Result<Box<dyn Register>, String> {
    connected_register(user, name).await.map_err(advised)
}

async fn connected_register(user: User<'_>, name: &str) -> Result<Box<dyn Register>, String> {
    match user.engine.kind() {
        #[cfg(feature = "nats")]
        EngineKind::Nats => Ok(Box::new(nats::NatsRegister::connect(user).await?)),
        #[cfg(feature = "redis")]
        EngineKind::Redis => Ok(Box::new(redis::RedisRegister::connect(user).await?)),
        #[cfg(feature = "etcd")]
        EngineKind::Etcd => Ok(Box::new(etcd::EtcdRegister::connect(user, name).await?)),
        kind => {
            let _ = name;
            Err(format!("no lease is kept at {kind}"))
        }
    }
}

/// How the entry of a daemon that serves alone is kept.
mod kept {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use event_manager_core::leases::candidate::{Claim, Content, Process};

    /// The longest that is taken for anything, in bytes: a name of a host has at most 253.
    const BYTES_MAX: usize = 1024;

    /// What has no value is left out; releases that know fewer fields pass over the others.
    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Kept {
        /// Empty if it was released.
        holder: String,
        ttl_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        directory: Option<String>,
    }

    /// How it is kept; nobody's, of a directory that isn't known, is empty.
    pub fn text_of(content: &Content) -> String {
        let Content { claim, directory } = content;
        if claim.is_none() && directory.is_none() {
            return String::new();
        }
        let claim = claim.as_ref();
        let process = claim.and_then(|claim| claim.process.as_ref());
        let kept = Kept {
            holder: claim.map(|claim| claim.id.clone()).unwrap_or_default(),
            ttl_ms: claim.map_or(0, |claim| claim.ttl.as_millis() as u64),
            host: process.map(|process| process.host.clone()),
            pid: process.map(|process| process.pid),
            directory: directory.clone(),
        };
        serde_json::to_string(&kept).unwrap_or_default()
    }

    /// What is kept. What is none of ours counts as somebody's, who is waited for.
    pub fn content_of(text: &[u8]) -> Content {
        if text.is_empty() {
            return Content::default();
        }
        let kept = Some(text).filter(|text| text.len() <= BYTES_MAX);
        let kept = kept.and_then(|text| serde_json::from_slice(text).ok());
        let kept = kept.unwrap_or_else(|| Kept {
            holder: "somebody who is no event manager".into(),
            ttl_ms: 0,
            host: None,
            pid: None,
            directory: None,
        });
        let process = match (kept.host, kept.pid) {
            (Some(host), Some(pid)) => Some(Process { host, pid }),
            _ => process_in(&kept.holder),
        };
        let claim = (!kept.holder.is_empty()).then(|| Claim {
            ttl: Duration::from_millis(kept.ttl_ms.min(3_600_000)),
            id: kept.holder,
            process,
        });
        Content {
            claim,
            directory: kept.directory,
        }
    }

    /// The same in an id of the first release, which said it only there: `SERVICE@HOST/PID:RUN`.
    fn process_in(holder: &str) -> Option<Process> {
        let (named, _) = holder.rsplit_once(':')?;
        let (_, machine) = named.rsplit_once('@')?;
        let (host, pid) = machine.rsplit_once('/')?;
        Some(Process {
            host: host.into(),
            pid: pid.parse().ok()?,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn claim(host: Option<&str>) -> Claim {
            Claim {
                id: "EventManager@vm/12:00ff00ff00ff00ff".into(),
                ttl: Duration::from_secs(3),
                process: host.map(|host| Process {
                    host: host.into(),
                    pid: 12,
                }),
            }
        }

        #[test]
        fn what_is_kept_is_read_again() {
            for directory in [None, Some("00112233aabbccdd".to_owned())] {
                for claim in [None, Some(claim(Some("a name with @ and / in it")))] {
                    let directory = directory.clone();
                    let content = Content { claim, directory };
                    assert_eq!(content_of(text_of(&content).as_bytes()), content);
                }
            }
            assert_eq!(text_of(&Content::default()), "");
        }

        #[test]
        fn claims_of_the_first_release_and_of_strangers_are_read() {
            let text = br#"{"holder":"EventManager@vm/12:00ff00ff00ff00ff","ttlMs":3000}"#;
            let content = content_of(text);
            assert_eq!(content.claim, Some(claim(Some("vm"))));
            assert_eq!(content.directory, None);
            let long = format!(r#"{{"holder":"{}","ttlMs":3000}}"#, "x".repeat(BYTES_MAX));
            for strange in [&b"hello"[..], b"{}", b"\xff", long.as_bytes()] {
                let claim = content_of(strange).claim.expect("somebody");
                assert_eq!(
                    (&*claim.id, claim.process),
                    ("somebody who is no event manager", None)
                );
            }
        }

        /// What the first release makes of what this one keeps.
        #[test]
        fn the_first_release_reads_what_this_one_keeps() {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase")]
            struct First {
                holder: String,
                ttl_ms: u64,
            }
            let directory = Some("00112233aabbccdd".to_owned());
            let mut content = Content {
                claim: Some(claim(Some("vm"))),
                directory,
            };
            let read: First = serde_json::from_str(&text_of(&content)).unwrap();
            assert_eq!((&*read.holder, read.ttl_ms), (&*claim(None).id, 3000));
            // It waits for its own time then.
            content.claim = None;
            let read: First = serde_json::from_str(&text_of(&content)).unwrap();
            assert_eq!((&*read.holder, read.ttl_ms), ("", 0));
        }
    }
}
