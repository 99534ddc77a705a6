//! The registry, fed with what passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Former;
use super::noted::Noted;
use super::shown;
use crate::ambient::{now, wall_clock_ms};
use crate::config::InstancesConfig;
use crate::reactor::{InstancesNews, Origin, Sighting};
use crate::state::KeptTurn;
use crate::telemetry::Journal;
use event_manager_core::instances::{
    FencePolicy, Fields, HISTORY_MAX, Happened, Heard, Kind, Now, Registry, Rules, Said, Turn,
    TurnKind, Way, read,
};
use event_manager_wire::api::InstancesPage;
use event_manager_zmtp::frames;

/// The least time between two writes of what changes with each heartbeat.
const SAVE_EVERY_MIN: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    config: InstancesConfig,
    fields: Fields,
    registry: Registry,
    noted: Noted,
    heartbeats: u64,
    /// Messages that were not taken, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// Instances of which something is to be kept.
    unsaved: BTreeSet<String>,
    /// It is to be kept soon.
    is_urgent: bool,
    saved_at: Instant,
    /// The number of the latest change of leadership that was kept.
    last_turn: u64,
    /// Something is otherwise than what is shown.
    has_changed: bool,
    is_fenced: bool,
}

impl Watch {
    pub(super) fn new(config: InstancesConfig, former: Former, journal: Journal) -> Self {
        let rules = Rules {
            interval: config.interval,
            timeout: config.timeout,
            forget_after: config.forget_after,
            only_here: config.fence == FencePolicy::Standby,
        };
        let fields = Fields {
            id: config.id.clone(),
            pid: config.pid.clone(),
            address: config.address.clone(),
        };
        let instances = former.instances.into_iter();
        let instances = instances.map(shown::former).collect();
        let turns = former.turns.iter();
        let turns = turns.filter_map(|(number, turn)| restored(number, turn));
        let registry = Registry::new(rules, instances, turns.collect(), time());
        Self {
            config,
            fields,
            last_turn: registry.last_turn(),
            registry,
            noted: Noted::new(journal),
            heartbeats: 0,
            refused: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            is_urgent: false,
            saved_at: now(),
            has_changed: true,
            is_fenced: false,
        }
    }

    /// Takes what the reactor has seen.
    pub(super) fn take(&mut self, sighting: Sighting) {
        let mut happened = vec![];
        match sighting {
            Sighting::Message(origin, message) => self.hear(&origin, &message, &mut happened),
            Sighting::Ended(link) => self.registry.link_ended(link, time(), &mut happened),
            Sighting::Listeners(addresses) => {
                let hosts = addresses.iter().filter_map(|address| host_of(address));
                let hosts = hosts.collect();
                self.registry.know_listeners(&hosts, host_of, time());
            }
        }
        self.note(&happened);
    }

    /// So many messages were too large, and for so many there was no room.
    pub(super) fn left_out(&mut self, (too_large, no_room): (u64, u64)) {
        for (reason, count) in [("oversized", too_large), ("busy", no_room)] {
            if count > 0 && self.refused.insert(reason, count) != Some(count) {
                self.has_changed = true;
            }
        }
    }

    /// Instances that are heard here may not lead, or they may.
    pub(super) fn set_fenced(&mut self, is_fenced: bool) {
        if std::mem::replace(&mut self.is_fenced, is_fenced) != is_fenced {
            let mut happened = vec![];
            self.registry.set_fenced(is_fenced, time(), &mut happened);
            self.has_changed = true;
            self.note(&happened);
        }
    }

    /// Whether any is heard here.
    pub(super) fn is_any_here(&self) -> bool {
        self.registry.is_any_here()
    }

    /// Time has passed.
    pub(super) fn tend(&mut self) {
        let mut happened = vec![];
        self.registry.tend(time(), &mut happened);
        self.note(&happened);
    }

    fn hear(&mut self, origin: &Origin, message: &[u8], happened: &mut Vec<Happened>) {
        self.has_changed = true;
        let said = match self.read(message) {
            Ok(Some(said)) => said,
            // A prefix that another one was observed with.
            Ok(None) => return,
            Err(reason) => return self.refuse(reason),
        };
        let way = match origin {
            Origin::Link(number, address) => Way::Link {
                number: *number,
                address,
            },
            Origin::Unlinked => Way::Unlinked,
            Origin::Hub => Way::Hub,
        };
        self.heartbeats += u64::from(said.kind == Kind::Heartbeat);
        match self.registry.hear(&said, way, time(), happened) {
            Heard::Taken => {}
            Heard::TooMany => self.refuse("too-many"),
            Heard::Stranger => self.refuse("stranger"),
        }
    }

    fn read(&self, message: &[u8]) -> Result<Option<Said>, &'static str> {
        let first = frames(message).next().unwrap_or_default();
        let kinds = [
            (&self.config.heartbeat, Kind::Heartbeat),
            (&self.config.shutdown, Kind::Shutdown),
            (&self.config.event, Kind::Event),
        ];
        let is_it = |prefix: &str| !prefix.is_empty() && first.starts_with(prefix.as_bytes());
        let kind = kinds.into_iter().find(|(prefix, _)| is_it(prefix));
        let Some((_, kind)) = kind else {
            return Ok(None);
        };
        let said = read(kind, frames(message), &self.fields);
        said.map(Some).map_err(|unreadable| unreadable.name())
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    fn note(&mut self, happened: &[Happened]) {
        self.has_changed |= !happened.is_empty();
        self.is_urgent |= !happened.is_empty();
        for one in happened {
            self.noted.note(one, &self.registry);
        }
    }

    /// What is to be shown and kept, if anything is; `all` that is to be kept.
    pub(super) fn news(&mut self, all: bool) -> Option<InstancesNews> {
        let mut news = InstancesNews::default();
        self.unsaved.extend(self.registry.take_changed());
        let save_every = self.config.interval.max(SAVE_EVERY_MIN);
        let is_time = now().saturating_duration_since(self.saved_at) >= save_every;
        if all || self.is_urgent || is_time {
            self.saved_at = now();
            self.is_urgent = false;
            let unsaved = std::mem::take(&mut self.unsaved);
            news.instances = unsaved
                .into_iter()
                .map(|id| {
                    let kept = self.registry.get(&id).map(shown::kept);
                    (id, kept)
                })
                .collect();
            news.turns = self.turns_to_keep();
        }
        if self.has_changed {
            self.has_changed = false;
            let page = self.page();
            news.summary = Some(shown::summary(&page));
            news.page = Some(Arc::new(page));
        }
        let is_any = news.page.is_some() || !news.instances.is_empty() || !news.turns.is_empty();
        is_any.then_some(news)
    }

    /// Changes of leadership since the last time, and those that are too old now.
    fn turns_to_keep(&mut self) -> BTreeMap<String, Option<KeptTurn>> {
        let (before, last) = (self.last_turn, self.registry.last_turn());
        self.last_turn = last;
        let new = self.registry.history().filter(|turn| turn.number > before);
        let mut turns: BTreeMap<_, _> = new
            .map(|turn| (numbered(turn.number), Some(shown::kept_turn(turn))))
            .collect();
        // Each that came drove one out.
        for number in before + 1..=last {
            if let Some(old) = number.checked_sub(HISTORY_MAX as u64) {
                turns.entry(numbered(old)).or_insert(None);
            }
        }
        turns
    }

    fn page(&self) -> InstancesPage {
        let mut instances = shown::instances(&self.registry);
        instances.heartbeats = self.heartbeats;
        instances.fenced = self.is_fenced;
        let refused = self.refused.iter();
        instances.refused = refused
            .map(|(reason, count)| ((*reason).to_owned(), *count))
            .collect();
        InstancesPage {
            instances,
            history: self.registry.history().map(shown::turn).collect(),
        }
    }
}

/// In the order of numbers as texts, too.
fn numbered(number: u64) -> String {
    format!("{number:020}")
}

/// A change that was kept; what a later release wrote is left out.
fn restored(number: &str, turn: &KeptTurn) -> Option<Turn> {
    Some(Turn {
        number: number.parse().ok()?,
        at_ms: turn.at_ms,
        instance: turn.instance.clone(),
        pid: turn.pid,
        kind: TurnKind::from_name(&turn.kind)?,
    })
}

fn time() -> Now {
    Now {
        at: now(),
        wall_ms: wall_clock_ms(),
    }
}

/// The host of an address, if it is told by numbers.
pub(super) fn host_of(address: &str) -> Option<String> {
    let bare = address.strip_prefix("tcp://").unwrap_or(address);
    let at: SocketAddr = bare.parse().ok()?;
    Some(at.ip().to_string())
}
