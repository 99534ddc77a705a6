//! The backlog as a list, which is searched through for everything.

use super::*;

#[derive(Debug, Clone)]
pub(super) enum State {
    Waiting {
        due: Option<Instant>,
    },
    Held {
        worker: usize,
        id: DeliveryId,
        deadline: Instant,
        overtaken: bool,
        given_at: Instant,
        is_done: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) item: Item,
    pub(super) state: State,
}

impl Entry {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { due } => due,
            State::Held { .. } => None,
        }
    }

    pub(super) fn id_held_by(&self, by: usize) -> Option<DeliveryId> {
        match self.state {
            State::Held { worker, id, .. } if worker == by => Some(id),
            _ => None,
        }
    }

    /// In the order of its key: held, ready, or to be tried again.
    pub(super) fn in_order(&self) -> bool {
        self.due().is_none() || self.item.attempt > 0
    }
}

pub(super) struct Oracle {
    pub(super) policy: Policy,
    pub(super) all: Vec<Entry>,
    pub(super) back: i64,
    pub(super) front: i64,
    pub(super) last_id: u64,
    /// Until when the last word of each worker counts.
    pub(super) trusted: [Option<Instant>; WORKERS],
    /// What is in the backlog is in a log, too: it has sequence numbers.
    pub(super) logged: bool,
}

impl Oracle {
    pub(super) fn deadline_of(&self, entry: &Entry) -> Option<Instant> {
        match entry.state {
            State::Held {
                deadline,
                overtaken: true,
                ..
            } => Some(deadline),
            State::Held {
                deadline, worker, ..
            } => Some(self.trusted[worker].map_or(deadline, |trusted| deadline.max(trusted))),
            State::Waiting { .. } => None,
        }
    }

    /// The worker answered a delivery that it holds: what it got before is overtaken.
    pub(super) fn answered(&mut self, by: usize, answered: DeliveryId, now: Instant) {
        let end = now + self.policy.ack_timeout;
        self.trusted[by] = self.trusted[by].max(Some(end));
        for entry in &mut self.all {
            if let State::Held {
                worker,
                id,
                overtaken,
                deadline,
                ..
            } = &mut entry.state
                && *worker == by
                && *id < answered
                && !*overtaken
            {
                (*overtaken, *deadline) = (true, end);
            }
        }
    }

    pub(super) fn cost(&self, waiting: bool) -> usize {
        let chosen = self
            .all
            .iter()
            .filter(|entry| entry.is_waiting() == waiting);
        chosen.map(|entry| entry.item.cost()).sum()
    }

    pub(super) fn count(&self, waiting: bool) -> usize {
        self.all
            .iter()
            .filter(|entry| entry.is_waiting() == waiting)
            .count()
    }

    pub(super) fn add(&mut self, mut item: Item, at_back: bool) -> Result<Lost, Item> {
        if item.cost() > self.policy.limits.bytes_max || self.policy.limits.events_max == 0 {
            return Err(item);
        }
        if at_back {
            item.position = item.seq.map_or(self.back + 1, |seq| seq.0 as i64);
            self.back = self.back.max(item.position);
        } else {
            self.front -= 1;
            item.position = self.front;
        }
        let due = item.not_before;
        self.all.push(Entry {
            item,
            state: State::Waiting { due },
        });
        Ok(self.shrink())
    }

    pub(super) fn shrink(&mut self) -> Lost {
        let mut lost = Lost::default();
        let limits = self.policy.limits;
        while self.policy.when_full != WhenFull::Spill
            && (self.cost(true) > limits.bytes_max || self.count(true) > limits.events_max)
        {
            let waiting = self
                .all
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.is_waiting());
            let position = |(_, entry): &(usize, &Entry)| entry.item.position;
            let victim = match self.policy.when_full {
                WhenFull::DropOldest => waiting.min_by_key(position),
                _ => waiting.max_by_key(position),
            };
            let victim = victim.unwrap().0;
            lost.add(&self.all.remove(victim).item);
        }
        lost
    }

    /// The index of the next that may go, whether alone or not.
    pub(super) fn next_of_all(&self, now: Instant) -> Option<usize> {
        let both = [false, true].map(|alone| self.next(alone, now));
        let position = |index: &usize| self.all[*index].item.position;
        both.into_iter().flatten().min_by_key(position)
    }

    /// The index of the next that may go alone, or of the others.
    pub(super) fn next(&self, alone: bool, now: Instant) -> Option<usize> {
        let may_go = |entry: &Entry| {
            let is_first_of_its_key = entry.item.key.is_none()
                || self.all.iter().all(|other| {
                    other.item.key != entry.item.key
                        || other.is_waiting()
                            && (!other.in_order() || other.item.position >= entry.item.position)
                });
            let goes_alone = entry.item.attempt >= self.policy.retry.max_deliveries;
            entry.is_waiting()
                && goes_alone == alone
                && entry.due().is_none()
                && entry.item.expires_at.is_none_or(|end| end > now)
                && is_first_of_its_key
        };
        let all = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, entry)| may_go(entry));
        all.min_by_key(|(_, entry)| entry.item.position)
            .map(|(index, _)| index)
    }

    /// Gives a worker the one with this index.
    pub(super) fn hold(
        &mut self,
        index: Option<usize>,
        worker: usize,
        now: Instant,
    ) -> Option<Delivery> {
        let index = index?;
        if self.ids_of(worker).is_empty() {
            self.trusted[worker] = None;
        }
        self.last_id += 1;
        let id = DeliveryId(self.last_id);
        let entry = &mut self.all[index];
        entry.item.attempt += 1;
        entry.item.first_at = entry.item.first_at.or(Some(now));
        entry.state = State::Held {
            worker,
            id,
            deadline: now + self.policy.ack_timeout,
            overtaken: false,
            given_at: now,
            is_done: false,
        };
        Some(Delivery {
            id,
            attempt: entry.item.attempt,
            seq: entry.item.seq,
            body: entry.item.body.clone(),
        })
    }

    pub(super) fn held(&self, worker: usize, id: DeliveryId) -> Result<usize, UnknownDelivery> {
        let found = self
            .all
            .iter()
            .position(|entry| entry.id_held_by(worker) == Some(id));
        found.ok_or(UnknownDelivery)
    }

    pub(super) fn ack(
        &mut self,
        by: usize,
        id: DeliveryId,
        now: Instant,
    ) -> Result<Acked, UnknownDelivery> {
        if let Ok(index) = self.held(by, id) {
            self.answered(by, id, now);
            let entry = self.all.remove(index);
            let State::Held { given_at, .. } = entry.state else {
                panic!("it is held")
            };
            return Ok(Acked::Done(Settled {
                given_at: Some(given_at),
                late: false,
                item: entry.item,
            }));
        }
        let late = Some((worker(by), id));
        let found = self
            .all
            .iter()
            .position(|entry| entry.item.late.as_deref() == late.as_ref());
        let index = found.ok_or(UnknownDelivery)?;
        if let State::Held { is_done, .. } = &mut self.all[index].state {
            *is_done = true;
            return Ok(Acked::HeldAgain);
        }
        let item = self.all.remove(index).item;
        Ok(Acked::Done(Settled {
            given_at: item.first_at,
            late: true,
            item,
        }))
    }

    /// The item in this position wasn't done.
    pub(super) fn fail(
        &mut self,
        index: usize,
        delay: Duration,
        by_time: bool,
        (detail, is_sure): (&str, bool),
        now: Instant,
        outcome: &mut Outcome,
    ) -> bool {
        let entry = self.all[index].clone();
        let State::Held {
            worker: by,
            id,
            given_at,
            is_done,
            ..
        } = entry.state
        else {
            panic!("only what is held can fail")
        };
        if by_time {
            self.all[index].item.late = Some(Box::new((worker(by), id)));
        }
        let entry = self.all[index].clone();
        if is_done {
            self.all.remove(index);
            outcome.done.add(&entry.item);
            return false;
        }
        if entry.item.attempt >= self.policy.retry.max_deliveries && is_sure {
            self.all.remove(index);
            outcome.dead.push(DeadLetter {
                item: entry.item,
                reason: DeadReason::MaxDeliveries,
                detail: detail.into(),
                last_at: given_at,
            });
            return false;
        }
        if entry.item.expires_at.is_some_and(|end| end <= now) {
            self.all.remove(index);
            outcome.expired.add(&entry.item);
            return false;
        }
        self.all[index].state = State::Waiting {
            due: (delay > Duration::ZERO).then(|| now + delay),
        };
        true
    }

    pub(super) fn backoff(&self, index: usize, chance: f64) -> Duration {
        let whole = ms(100) * 2u32.pow(self.all[index].item.attempt - 1);
        let whole = whole.min(ms(300));
        if chance == 0.0 { whole / 2 } else { whole }
    }

    pub(super) fn nak(
        &mut self,
        worker: usize,
        id: DeliveryId,
        delay: Option<Duration>,
        now: Instant,
        chance: f64,
    ) -> Result<Outcome, UnknownDelivery> {
        let index = self.held(worker, id)?;
        self.answered(worker, id, now);
        let delay = delay.unwrap_or_else(|| self.backoff(index, chance));
        let mut outcome = Outcome::default();
        outcome.retries = self
            .fail(index, delay, false, ("no", true), now, &mut outcome)
            .into();
        outcome.dropped = self.shrink();
        Ok(outcome)
    }

    pub(super) fn term(
        &mut self,
        worker: usize,
        id: DeliveryId,
        now: Instant,
    ) -> Result<Outcome, UnknownDelivery> {
        let index = self.held(worker, id)?;
        self.answered(worker, id, now);
        let Entry {
            item,
            state: State::Held {
                given_at, is_done, ..
            },
        } = self.all.remove(index)
        else {
            panic!("it is held")
        };
        let mut outcome = Outcome::default();
        if is_done {
            outcome.done.add(&item);
            return Ok(outcome);
        }
        outcome.dead.push(DeadLetter {
            item,
            reason: DeadReason::Terminated,
            detail: "never".into(),
            last_at: given_at,
        });
        Ok(outcome)
    }

    pub(super) fn hear(&mut self, worker: usize, now: Instant) {
        self.trusted[worker] = self.trusted[worker].max(Some(now + self.policy.ack_timeout));
    }

    pub(super) fn wip(
        &mut self,
        worker: usize,
        id: DeliveryId,
        now: Instant,
    ) -> Result<(), UnknownDelivery> {
        self.hear(worker, now);
        let index = self.held(worker, id)?;
        if let State::Held { deadline, .. } = &mut self.all[index].state {
            *deadline = (now + self.policy.ack_timeout).max(*deadline);
        }
        Ok(())
    }

    pub(super) fn ids_of(&self, worker: usize) -> Vec<DeliveryId> {
        let mut ids: Vec<_> = self
            .all
            .iter()
            .filter_map(|entry| entry.id_held_by(worker))
            .collect();
        ids.sort();
        ids
    }

    pub(super) fn release(
        &mut self,
        worker: usize,
        unwritten: &[DeliveryId],
        now: Instant,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let gone = self::worker(worker);
        let written = self.ids_of(worker).into_iter();
        let written = written.filter(|id| !unwritten.contains(id)).count();
        let late = |entry: &Entry| {
            entry
                .item
                .late
                .as_deref()
                .is_some_and(|late| late.0 == gone)
        };
        let is_sure = written <= 1 && !self.all.iter().any(late);
        for entry in &mut self.all {
            if entry.is_waiting() {
                entry.item.late.take_if(|late| late.0 == gone);
            }
        }
        for id in self.ids_of(worker) {
            let index = self.held(worker, id).unwrap();
            let item = &mut self.all[index].item;
            if unwritten.contains(&id) {
                item.attempt -= 1;
                if item.attempt == 0 {
                    item.first_at = None;
                }
            }
            let again = self.fail(
                index,
                Duration::ZERO,
                false,
                ("its worker left", is_sure),
                now,
                &mut outcome,
            );
            outcome.retries += u64::from(again && !unwritten.contains(&id));
        }
        for entry in &mut self.all {
            if !entry.is_waiting() {
                entry.item.late.take_if(|late| late.0 == gone);
            }
        }
        outcome.dropped = self.shrink();
        outcome
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, chance: f64) -> Outcome {
        let mut outcome = Outcome::default();
        let mut ended: Vec<_> = self
            .all
            .iter()
            .filter(|entry| {
                entry.is_waiting() && entry.item.expires_at.is_some_and(|end| end <= now)
            })
            .map(|entry| (entry.item.expires_at, entry.item.position))
            .collect();
        ended.sort();
        for (_, position) in ended {
            let index = self
                .all
                .iter()
                .position(|entry| entry.item.position == position)
                .unwrap();
            outcome.expired.add(&self.all.remove(index).item);
        }
        let mut overdue: Vec<_> = self
            .all
            .iter()
            .filter_map(|entry| {
                let deadline = self.deadline_of(entry).filter(|end| *end <= now)?;
                let State::Held { worker, id, .. } = entry.state else {
                    return None;
                };
                Some((deadline, id, worker))
            })
            .collect();
        overdue.sort();
        let is_sure = |(_, id, by): &(Instant, DeliveryId, usize)| {
            let index = self.held(*by, *id).unwrap();
            let State::Held { overtaken, .. } = self.all[index].state else {
                panic!("it is held")
            };
            overtaken || self.ids_of(*by).len() == 1
        };
        let sure: Vec<_> = overdue.iter().map(is_sure).collect();
        for ((_, id, by), is_sure) in overdue.into_iter().zip(sure) {
            let index = self.held(by, id).unwrap();
            outcome.timed_out.push((worker(by), id));
            let delay = self.backoff(index, chance);
            let again = self.fail(
                index,
                delay,
                true,
                ("not acknowledged in time", is_sure),
                now,
                &mut outcome,
            );
            outcome.retries += u64::from(again);
        }
        for entry in &mut self.all {
            if let State::Waiting { due } = &mut entry.state {
                *due = due.filter(|due| *due > now);
            }
        }
        outcome.dropped = self.shrink();
        outcome
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.all.iter().flat_map(|entry| match entry.state {
            State::Waiting { due } => [due, entry.item.expires_at],
            State::Held { .. } => [self.deadline_of(entry), None],
        });
        deadlines.flatten().min()
    }

    pub(super) fn keys(&self) -> usize {
        let keys = self
            .all
            .iter()
            .filter(|entry| entry.in_order())
            .filter_map(|entry| entry.item.key);
        keys.collect::<std::collections::HashSet<_>>().len()
    }
}
