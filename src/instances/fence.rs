//! The fence: a heartbeat of an instance that is none, by which no instance here takes itself for the leader.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, json};
use tokio::sync::{mpsc, oneshot};

use crate::ambient::now;
use crate::config::InstancesConfig;
use crate::lease::Turn;
use crate::reactor::Input;
use crate::telemetry::{Journal, Notable};
use event_manager_core::instances::{Fence, FencePolicy, Links};

/// The id of the instance that is none.
const ID: &str = "event-manager-fence";
/// Below the process id of any.
const PID: i64 = -1;
/// In each interval it is said so often that they may not lead,
const TIMES: u32 = 5;
/// and at least this often: whoever has just started, or was not connected, leads until it hears that.
const SAID_EVERY_MAX: Duration = Duration::from_millis(500);

/// Tells instances here whether they may lead.
pub(super) struct Teller {
    fence: Fence,
    is_on: bool,
    config: InstancesConfig,
    /// The lease that decides, if one does.
    turn: Option<Turn>,
    told_at: Option<Instant>,
    journal: Journal,
}

impl Teller {
    pub(super) fn new(config: &InstancesConfig, turn: Option<Turn>, journal: Journal) -> Self {
        Self {
            fence: Fence::new(config.fence, config.interval),
            is_on: config.fence != FencePolicy::Off,
            config: config.clone(),
            turn,
            told_at: None,
            journal,
        }
    }

    /// Whether they may not lead.
    pub(super) fn is_up(&self) -> bool {
        self.fence.is_up()
    }

    /// Whether there is somebody here who could lead.
    pub(super) fn know_of_instances(&self, are_any: bool) {
        if let Some(turn) = &self.turn {
            turn.want(are_any);
        }
    }

    /// Waits until it has to be judged anew before its time.
    pub(super) async fn changed(&mut self) {
        match &mut self.turn {
            Some(turn) => turn.changed().await,
            None => std::future::pending().await,
        }
    }

    /// When the lease is over that decides, if it is held and isn't renewed.
    pub(super) fn over_at(&self) -> Option<Instant> {
        self.turn.as_ref()?.held_until(now())
    }

    /// The event manager ends: as nobody tells them any more who leads elsewhere, they may not.
    pub(super) async fn end(&mut self, inputs: &mpsc::Sender<Input>) {
        if self.turn.is_some() {
            // It fails if the reactor has ended.
            let _ = inputs.send(Input::TellHere(self.heartbeat())).await;
        }
    }

    /// Judges anew, and tells them. `None` if the reactor has ended.
    pub(super) async fn tend(&mut self, inputs: &mpsc::Sender<Input>) -> Option<()> {
        if !self.is_on {
            return Some(());
        }
        let (reply, answer) = oneshot::channel();
        inputs.send(Input::AskLinks(reply)).await.ok()?;
        let links = answer.await.ok()?;
        let has_changed = match &self.turn {
            Some(turn) => {
                let is_held = turn.held_until(now()).is_some();
                self.fence.judge_by_lease(is_held)
            }
            None => self.fence.judge(links, now()),
        };
        let is_first = self.told_at.is_none();
        if has_changed || is_first {
            self.note(links);
        }
        let said_every = (self.config.interval / TIMES).min(SAID_EVERY_MAX);
        let is_time = self.told_at.is_none_or(|at| now() >= at + said_every);
        let frames = match (self.fence.is_up(), has_changed) {
            (true, true) => self.heartbeat(),
            (true, false) if is_time => self.heartbeat(),
            (false, true) => self.shutdown(),
            _ => return Some(()),
        };
        self.told_at = Some(now());
        inputs.send(Input::TellHere(frames)).await.ok()
    }

    fn note(&self, Links { others, linked }: Links) {
        let (others, linked) = (others as u64, linked as u64);
        self.journal.note(&match self.fence.is_up() {
            true => Notable::Fenced {
                linked,
                others,
                why: match self.turn {
                    Some(_) => "this event manager doesn't hold the lease (lease.name)",
                    None => {
                        "this event manager and those that are linked are not more than half of all"
                    }
                },
            },
            false => Notable::FenceLifted { linked, others },
        });
    }

    fn heartbeat(&self) -> Vec<Bytes> {
        let mut fields = Map::new();
        fields.insert(self.config.id.clone(), json!(ID));
        fields.insert(self.config.pid.clone(), json!(PID));
        fields.insert(self.config.address.clone(), json!(""));
        frames(&self.config.heartbeat, fields)
    }

    /// That instance ends.
    fn shutdown(&self) -> Vec<Bytes> {
        let mut fields = Map::new();
        fields.insert(self.config.id.clone(), json!(ID));
        fields.insert(self.config.pid.clone(), json!(PID));
        frames(&self.config.shutdown, fields)
    }
}

/// The message that begins so: an object of JSON that goes on, or a subject before one.
fn frames(begin: &str, fields: Map<String, serde_json::Value>) -> Vec<Bytes> {
    let object = json!(fields).to_string();
    let text = match begin.starts_with('{') {
        false => return vec![begin.to_owned().into(), object.into()],
        true => begin.trim_end().trim_end_matches(','),
    };
    let rest = object.strip_prefix('{').unwrap_or(&object);
    let separator = match text {
        "{" => "",
        _ => ", ",
    };
    vec![format!("{text}{separator}{rest}").into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_begins_as_the_others_do_and_is_json() {
        let fields = || Map::from_iter([("pid".to_owned(), json!(-1))]);
        for begin in [r#"{"type": "heartbeat""#, r#"{"type": "heartbeat", "#, "{"] {
            let [frame] = &frames(begin, fields())[..] else {
                panic!("{begin}");
            };
            let object: serde_json::Value = serde_json::from_slice(frame).unwrap();
            assert_eq!(object["pid"], -1, "{begin}");
            assert!(begin == "{" || object["type"] == "heartbeat");
            assert!(frame.starts_with(begin.trim_end().trim_end_matches(',').as_bytes()));
        }
        let subject = frames("apscheduler.heartbeat", fields());
        assert_eq!(subject, ["apscheduler.heartbeat", "{\"pid\":-1}"]);
    }
}
