//! What operators are told of instances.

use crate::ambient::now;
use crate::telemetry::{Bursts, Journal, Notable};
use event_manager_core::instances::{Happened, Instance, Registry, Turn, TurnKind};
use event_manager_wire::api::InstanceState;

/// Notes what happened, at most one event of a burst of each instance.
pub(super) struct Noted {
    journal: Journal,
    bursts: Bursts,
}

impl Noted {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            journal,
            bursts: Bursts::default(),
        }
    }

    pub(super) fn note(&mut self, happened: &Happened, registry: &Registry) {
        match happened {
            Happened::Changed { id, from, to, said } => {
                let instance = registry.get(id);
                self.changed(id, (*from, *to), *said, instance);
            }
            Happened::Turned(turn) => self.turned(turn),
            Happened::TwoLeaders { pid, ids } => {
                if let Some(suppressed) = self.bursts.admit("two-leaders", now()) {
                    self.journal.note(&Notable::TwoLeaders {
                        ids: &ids.join(", "),
                        pid: *pid,
                        suppressed,
                    });
                }
            }
        }
    }

    fn changed(
        &mut self,
        id: &str,
        (from, to): (InstanceState, InstanceState),
        said: bool,
        instance: Option<&Instance>,
    ) {
        let kind = match to {
            // It is heard, as before, but now otherwise.
            InstanceState::Alive => "joined",
            other => other.name(),
        };
        let Some(suppressed) = self.bursts.admit(&format!("{kind}:{id}"), now()) else {
            return;
        };
        let known = instance.map(Instance::known);
        let link = known.and_then(|known| known.link.as_deref());
        let link = link.unwrap_or("mesh");
        let before = from.name();
        let why;
        let notable = match to {
            InstanceState::Unknown => return,
            InstanceState::Alive => Notable::InstanceJoined {
                id,
                pid: known.and_then(|known| known.pid),
                link,
                before,
                suppressed,
            },
            InstanceState::Silent => Notable::InstanceSilent {
                id,
                link,
                suppressed,
            },
            InstanceState::Gone => Notable::InstanceGone {
                id,
                said,
                before,
                suppressed,
            },
            InstanceState::CutOff => {
                why = format!(
                    "{id} was heard here from {link}, and now only another event manager hears it"
                );
                Notable::PartitionSuspected {
                    id,
                    state: to.name(),
                    why: &why,
                    suppressed,
                }
            }
            InstanceState::Deaf => {
                why = format!(
                    "{id} is heard from {link}, but nobody there subscribes to heartbeats here: it hears no others, and will take itself for the only one"
                );
                Notable::PartitionSuspected {
                    id,
                    state: to.name(),
                    why: &why,
                    suppressed,
                }
            }
        };
        self.journal.note(&notable);
    }

    fn turned(&mut self, turn: &Turn) {
        let (id, pid, number) = (&*turn.instance, turn.pid, turn.number);
        let key = format!("{}:{id}", turn.kind.name());
        let Some(suppressed) = self.bursts.admit(&key, now()) else {
            return;
        };
        self.journal.note(&match turn.kind {
            TurnKind::Elected => Notable::LeaderElected {
                id,
                pid,
                number,
                suppressed,
            },
            kind => Notable::LeaderResigned {
                id,
                pid,
                number,
                how: kind.name(),
                suppressed,
            },
        });
    }
}
