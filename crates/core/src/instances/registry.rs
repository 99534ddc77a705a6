//! All instances that are known, and who of them leads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::history::{History, Turn, TurnKind};
use super::reading::{Kind, Said};
use super::state::{Facts, judge};
use event_manager_wire::api::InstanceState;

/// The most instances that are known.
pub const INSTANCES_MAX: usize = 1000;
/// New ids beyond so many in a second are refused.
pub const NEW_PER_SECOND_MAX: u32 = 100;
/// The latest pauses between heartbeats that are kept.
const PAUSES_MAX: usize = 10;
/// Of instances with the same lowest process id so many are told apart.
const LEADERS_MAX: usize = 16;

/// The time: by the clock that only goes on, and by the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub at: Instant,
    /// In milliseconds since 1970.
    pub wall_ms: u64,
}

/// What holds for all instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Between two heartbeats.
    pub interval: Duration,
    /// An instance that was not heard for so long is not alive.
    pub timeout: Duration,
    /// One that is gone is forgotten after so long.
    pub forget_after: Duration,
    /// Those that only other event managers hear don't count for who leads: instances here aren't told of them.
    pub only_here: bool,
}

/// By what way a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'a> {
    /// A connection of a publisher, whose number no other has.
    Link { number: u64, address: &'a str },
    /// A request or a bridge: no connection tells whether the instance is there.
    Unlinked,
    /// Another event manager.
    Hub,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Taken,
    /// There are too many instances, or too many new ones at once.
    TooMany,
    /// Only a heartbeat makes an instance known.
    Stranger,
}

/// What an earlier run knew of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Former {
    pub id: String,
    pub pid: Option<i64>,
    pub address: Option<String>,
    /// Where its connection came from.
    pub link: Option<String>,
    pub first_seen_ms: u64,
    pub last_seen_ms: u64,
    pub heartbeats: u64,
    pub missed: u64,
    pub events: u64,
    pub is_gone: bool,
}

/// An instance.
#[derive(Debug, Clone)]
pub struct Instance {
    known: Former,
    state: InstanceState,
    since_ms: u64,
    /// The latest pauses between heartbeats, in milliseconds.
    pauses_ms: VecDeque<u64>,
    heard_here: Option<Instant>,
    heard_beyond: Option<Instant>,
    /// Its connection, while that is open.
    link: Option<u64>,
    /// Since when nobody from its host has subscribed to heartbeats.
    deaf_since: Option<Instant>,
    /// It said that it ends.
    has_ended: bool,
    /// With which process id it could lead.
    candidate: Option<i64>,
    /// Nobody is elected before it is heard, or its time is over.
    is_awaited: bool,
}

impl Instance {
    fn new(known: Former, state: InstanceState, since_ms: u64) -> Self {
        Self {
            known,
            state,
            since_ms,
            pauses_ms: VecDeque::new(),
            heard_here: None,
            heard_beyond: None,
            link: None,
            deaf_since: None,
            has_ended: false,
            candidate: None,
            is_awaited: true,
        }
    }

    /// What is kept of it.
    pub fn known(&self) -> &Former {
        &self.known
    }

    pub fn state(&self) -> InstanceState {
        self.state
    }

    /// Since when it is so, in milliseconds since 1970.
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// The latest pauses between its heartbeats, in milliseconds, the oldest first.
    pub fn pauses_ms(&self) -> impl Iterator<Item = u64> {
        self.pauses_ms.iter().copied()
    }

    /// Whether a connection of ours brings its heartbeats.
    pub fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    fn heard_at(&self) -> Option<Instant> {
        self.heard_here.max(self.heard_beyond)
    }

    fn facts(&self, now: Instant, timeout: Duration, started_at: Instant) -> Facts {
        let within =
            |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) <= timeout);
        Facts {
            has_ended: self.known.is_gone,
            heard_here: within(self.heard_here),
            heard_beyond: within(self.heard_beyond),
            was_heard_here: self.heard_here.is_some() || self.known.link.is_some(),
            is_linked: self.link.is_some(),
            is_deaf: self.deaf_since.is_some() && !within(self.deaf_since),
            was_heard: self.heard_at().is_some(),
            has_had_time: now.saturating_duration_since(started_at) > timeout,
        }
    }

    /// Something came from it.
    fn hear(&mut self, said: &Said, way: Way<'_>, now: Now, rules: &Rules) {
        let before = self.heard_at();
        match way {
            Way::Link { number, address } => {
                self.link = Some(number);
                if self.known.link.as_deref() != Some(address) {
                    self.known.link = Some(address.to_owned());
                }
                self.heard_here = Some(now.at);
            }
            Way::Unlinked => self.heard_here = Some(now.at),
            Way::Hub => self.heard_beyond = Some(now.at),
        }
        let known = &mut self.known;
        known.last_seen_ms = now.wall_ms;
        if said.kind == Kind::Event {
            known.events += 1;
            return;
        }
        self.has_ended = said.kind == Kind::Shutdown;
        known.is_gone = self.has_ended;
        if self.has_ended {
            return;
        }
        known.heartbeats += 1;
        known.pid = said.pid;
        if said.address.is_some() {
            known.address.clone_from(&said.address);
        }
        if let Some(before) = before {
            let pause = now.at.saturating_duration_since(before);
            if self.pauses_ms.len() >= PAUSES_MAX {
                self.pauses_ms.pop_front();
            }
            self.pauses_ms.push_back(pause.as_millis() as u64);
            let beats = pause.as_millis() / rules.interval.as_millis().max(1);
            known.missed += (beats as u64).saturating_sub(1);
        }
    }
}

/// What is notable of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// An instance is otherwise than before; one that was not known was [`Unknown`](InstanceState::Unknown).
    Changed {
        id: String,
        from: InstanceState,
        to: InstanceState,
        /// It said itself that it ends.
        said: bool,
    },
    /// Another one leads, or it leads no more.
    Turned(Turn),
    /// By their own rule all of these lead.
    TwoLeaders { pid: i64, ids: Vec<String> },
}

/// All instances.
#[derive(Debug)]
pub struct Registry {
    rules: Rules,
    started_at: Instant,
    instances: BTreeMap<String, Instance>,
    /// Those that could lead.
    candidates: BTreeSet<(i64, String)>,
    leaders: BTreeSet<String>,
    history: History,
    /// Instances of which something changed that is to be kept.
    changed: BTreeSet<String>,
    /// Those that are awaited: as long as there are any, nobody is elected.
    awaited: usize,
    /// No instance that is heard here may lead.
    is_fenced: bool,
    /// New ids in the second that began then.
    new: (Instant, u32),
}

impl Registry {
    /// With what an earlier run knew.
    pub fn new(rules: Rules, former: Vec<Former>, turns: Vec<Turn>, now: Now) -> Self {
        let mut instances = BTreeMap::new();
        for known in former.into_iter().take(INSTANCES_MAX) {
            let state = match known.is_gone {
                true => InstanceState::Gone,
                false => InstanceState::Unknown,
            };
            let since_ms = known.last_seen_ms;
            instances.insert(known.id.clone(), Instance::new(known, state, since_ms));
        }
        let mut leaders = BTreeSet::new();
        let history = History::restore(turns);
        for turn in history.iter() {
            match turn.kind {
                TurnKind::Elected if instances.contains_key(&turn.instance) => {
                    leaders.insert(turn.instance.clone());
                }
                _ => {
                    leaders.remove(&turn.instance);
                }
            }
        }
        let mut awaited = 0;
        for instance in instances.values_mut() {
            // Whoever only other event managers heard has no part in it, and they may be cut off now.
            let was_here = instance.known.link.is_some() || leaders.contains(&instance.known.id);
            let counts = was_here || !rules.only_here;
            instance.is_awaited = counts && instance.state == InstanceState::Unknown;
            awaited += usize::from(instance.is_awaited);
        }
        Self {
            rules,
            started_at: now.at,
            instances,
            candidates: BTreeSet::new(),
            leaders,
            history,
            changed: BTreeSet::new(),
            awaited,
            is_fenced: false,
            new: (now.at, 0),
        }
    }

    /// All instances, by their ids.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// Whether any is heard here, and not only by other event managers.
    pub fn is_any_here(&self) -> bool {
        let is_here = |one: &Instance| {
            let is_heard = matches!(one.state, InstanceState::Alive | InstanceState::Deaf);
            is_heard && one.heard_here.is_some()
        };
        self.instances().any(is_here)
    }

    /// The one with this id.
    pub fn get(&self, id: &str) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// Who leads by the instances' own rule, as far as it is known; there may be several.
    pub fn leaders(&self) -> impl Iterator<Item = &str> {
        self.leaders.iter().map(String::as_str)
    }

    /// Who led when, the oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Turn> {
        self.history.iter()
    }

    /// The number of the latest change.
    pub fn last_turn(&self) -> u64 {
        self.history.last()
    }

    /// Ids of instances of which something changed since this was asked last, or that are forgotten.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// An instance said something.
    pub fn hear(
        &mut self,
        said: &Said,
        way: Way<'_>,
        now: Now,
        happened: &mut Vec<Happened>,
    ) -> Heard {
        if !self.instances.contains_key(&said.id) {
            if said.kind != Kind::Heartbeat {
                return Heard::Stranger;
            }
            if !self.make_room(now) {
                return Heard::TooMany;
            }
            let known = Former {
                id: said.id.clone(),
                first_seen_ms: now.wall_ms,
                ..Former::default()
            };
            let instance = Instance::new(known, InstanceState::Unknown, now.wall_ms);
            self.instances.insert(said.id.clone(), instance);
            self.awaited += 1;
        }
        let rules = self.rules;
        if let Some(instance) = self.instances.get_mut(&said.id) {
            instance.hear(said, way, now, &rules);
        }
        self.changed.insert(said.id.clone());
        self.renew(&said.id, now, happened);
        self.elect(now, happened);
        Heard::Taken
    }

    /// A connection ended.
    pub fn link_ended(&mut self, number: u64, now: Now, happened: &mut Vec<Happened>) {
        let of_it = |instance: &&mut Instance| instance.link == Some(number);
        let mut ids = vec![];
        for instance in self.instances.values_mut().filter(of_it) {
            instance.link = None;
            ids.push(instance.known.id.clone());
        }
        ids.iter().for_each(|id| self.renew(id, now, happened));
        self.elect(now, happened);
    }

    /// Who subscribes to heartbeats here connects from these hosts. `host_of` is that of an address.
    pub fn know_listeners(
        &mut self,
        hosts: &BTreeSet<String>,
        host_of: impl Fn(&str) -> Option<String>,
        now: Now,
    ) {
        for instance in self.instances.values_mut() {
            let link = instance.link.and(instance.known.link.as_deref());
            let host = link.and_then(&host_of);
            instance.deaf_since = match host {
                Some(host) if !hosts.contains(&host) => instance.deaf_since.or(Some(now.at)),
                _ => None,
            };
        }
    }

    /// From now on no instance that is heard here may lead, or they may.
    pub fn set_fenced(&mut self, is_fenced: bool, now: Now, happened: &mut Vec<Happened>) {
        self.is_fenced = is_fenced;
        self.tend(now, happened);
    }

    /// Time has passed.
    pub fn tend(&mut self, now: Now, happened: &mut Vec<Happened>) {
        let forget_after = self.rules.forget_after.as_millis() as u64;
        let is_old = |instance: &Instance| {
            let since = now.wall_ms.saturating_sub(instance.known.last_seen_ms);
            instance.state == InstanceState::Gone && since > forget_after
        };
        let all = self.instances.values();
        let old = all.filter(|instance| is_old(instance));
        let old: Vec<_> = old.map(|old| old.known.id.clone()).collect();
        old.iter().for_each(|id| self.forget(id));
        let ids: Vec<_> = self.instances.keys().cloned().collect();
        ids.iter().for_each(|id| self.renew(id, now, happened));
        self.elect(now, happened);
    }

    /// Room for one more: of those that are gone, the one that was heard longest ago makes it.
    fn make_room(&mut self, now: Now) -> bool {
        if now.at.saturating_duration_since(self.new.0) >= Duration::from_secs(1) {
            self.new = (now.at, 0);
        }
        if self.new.1 >= NEW_PER_SECOND_MAX {
            return false;
        }
        if self.instances.len() >= INSTANCES_MAX {
            let gone = self.instances.values();
            let gone = gone.filter(|instance| instance.state == InstanceState::Gone);
            let oldest = gone.min_by_key(|instance| instance.known.last_seen_ms);
            let Some(oldest) = oldest.map(|instance| instance.known.id.clone()) else {
                return false;
            };
            self.forget(&oldest);
        }
        self.new.1 += 1;
        true
    }

    /// One that is gone, and so neither leads nor could.
    fn forget(&mut self, id: &str) {
        self.instances.remove(id);
        self.changed.insert(id.to_owned());
    }

    /// Judges an instance anew.
    fn renew(&mut self, id: &str, now: Now, happened: &mut Vec<Happened>) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        let facts = instance.facts(now.at, self.rules.timeout, self.started_at);
        let (from, to) = (instance.state, judge(facts));
        if from != to {
            instance.state = to;
            instance.since_ms = now.wall_ms;
            // None is unknown again that was known once.
            let was_awaited = std::mem::take(&mut instance.is_awaited);
            self.awaited -= usize::from(was_awaited);
            self.changed.insert(id.to_owned());
            // Until its next heartbeat, also over a restart.
            instance.known.is_gone = to == InstanceState::Gone;
            happened.push(Happened::Changed {
                id: id.to_owned(),
                from,
                to,
                said: instance.has_ended,
            });
        }
        let is_free = match facts.heard_here {
            true => !self.is_fenced,
            false => !self.rules.only_here,
        };
        let candidate = instance.known.pid.filter(|_| to.is_heard() && is_free);
        let before = std::mem::replace(&mut instance.candidate, candidate);
        if before != candidate {
            if let Some(pid) = before {
                self.candidates.remove(&(pid, id.to_owned()));
            }
            self.candidates
                .extend(candidate.map(|pid| (pid, id.to_owned())));
        }
    }

    /// Those with the lowest process id lead.
    fn elect(&mut self, now: Now, happened: &mut Vec<Happened>) {
        if self.awaited > 0 {
            return;
        }
        let lowest = self.candidates.first().map(|(pid, _)| *pid);
        let leading = self.candidates.iter();
        let leading = leading.take_while(|(pid, _)| Some(*pid) == lowest);
        let leading = leading.take(LEADERS_MAX).map(|(_, id)| id);
        if leading.clone().eq(self.leaders.iter()) {
            return;
        }
        let leading: BTreeSet<_> = leading.cloned().collect();
        let before = std::mem::replace(&mut self.leaders, leading);
        for id in before.difference(&self.leaders) {
            let instance = self.instances.get(id);
            let kind = match instance {
                Some(one) if self.is_fenced && one.state.is_heard() => TurnKind::Fenced,
                Some(one) if one.state.is_heard() => TurnKind::Resigned,
                Some(one) if one.has_ended => TurnKind::Resigned,
                _ => TurnKind::Timeout,
            };
            let pid = instance.and_then(|instance| instance.known.pid);
            self.history.add(now.wall_ms, id, pid, kind);
            happened.extend(
                self.history
                    .iter()
                    .next_back()
                    .cloned()
                    .map(Happened::Turned),
            );
        }
        for id in self.leaders.difference(&before) {
            self.history.add(now.wall_ms, id, lowest, TurnKind::Elected);
            happened.extend(
                self.history
                    .iter()
                    .next_back()
                    .cloned()
                    .map(Happened::Turned),
            );
        }
        if let (Some(pid), true) = (lowest, self.leaders.len() > 1) {
            let ids = self.leaders.iter().cloned().collect();
            happened.push(Happened::TwoLeaders { pid, ids });
        }
    }
}
