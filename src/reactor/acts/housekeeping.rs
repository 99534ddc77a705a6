//! What is done by time: the tick, timers of services' events, leases.

use std::time::{Duration, Instant};

use super::loops::Rings;
use super::persistence::Keeping;
use super::stalled::note_stalled_workers;
use crate::ambient::{both_clocks, chance, now};
use crate::config::Config;
use crate::reactor::hub::{Hub, SharedHub};
#[cfg(debug_assertions)]
use crate::reactor::state::durable::Durable;
use crate::systemd::Beat;
use crate::telemetry::Notable;
#[cfg(debug_assertions)]
use event_manager_core::broker::Broker;
use event_manager_core::broker::{ClockChange, ServiceKey};
use event_manager_core::queues::Clocks;

/// How often to look when nothing asks for more.
const TICK_MAX: Duration = Duration::from_millis(250);
/// A tick that comes this much too late means that our own loop hung.
const STALL_MIN: Duration = Duration::from_millis(500);
/// A wall clock that is set by less is not worth a word.
const JUMP_MIN_MS: u64 = 1000;

/// Ticks until it is aborted.
pub(crate) async fn keep_house(hub: SharedHub) {
    loop {
        let tick = {
            let hub = hub.borrow();
            tick_interval(&hub.config, hub.time.upkeep.beat.as_ref())
        };
        tokio::time::sleep(tick).await;
        hub.borrow_mut().tick(now(), tick);
    }
}

/// Sleeps until the next time that some service's events want: a retry, an end, a worker that took too
/// long.
pub(crate) async fn keep_time(hub: SharedHub) {
    let changed = hub.borrow().time.alarm.changed();
    loop {
        let next = hub.borrow_mut().next_timeout();
        tokio::select! {
            () = sleep_until(next) => hub.borrow_mut().handle_timeouts(),
            () = changed.notified() => {}
        }
    }
}

/// How long the store may not know yet that an event was given to a worker. Most are done by then.
const TRIES_DELAY: Duration = Duration::from_millis(50);

/// Tells the store now and then how often events were tried.
pub(crate) async fn keep_tries(hub: SharedHub) {
    let wanted = hub.borrow().durable.tries_wanted();
    loop {
        wanted.notified().await;
        tokio::time::sleep(TRIES_DELAY).await;
        hub.borrow_mut().note_tries();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Hub {
    pub(crate) fn plan_timeout(&mut self, key: ServiceKey) {
        let (service, timetable) = self.broker.with_timetable(key);
        self.time.alarm.plan(key, service, timetable);
    }

    /// Until when the clock's task may sleep.
    fn next_timeout(&mut self) -> Option<Instant> {
        let first = [
            self.broker.timetable.first(),
            self.requests.emissions.next_due(),
            self.clients.next_payment(),
        ];
        let first = first.into_iter().flatten().min();
        self.time.alarm.begin_again(first);
        first
    }

    fn handle_timeouts(&mut self) {
        // What was due by the clock as it was may not be so any more.
        self.look_at_clock();
        let now = now();
        self.tend_audience(now);
        self.tend_paused(now);
        self.deliver_scheduled(now);
        for key in self.broker.timetable.take_due(now) {
            let service = &mut self.broker[key];
            let before = service.account.dropped;
            let aftermath = service.handle_timeout(now, chance);
            self.notes.dropped_since(service, &before);
            self.finish(key, aftermath);
            self.dispatch(key);
        }
    }

    /// Looks whether the wall clock was set. To be called before times of it are converted, and before
    /// anything goes that waits for one; else it would be looked at with the next tick alone.
    pub(crate) fn look_at_clock(&mut self) -> Clocks {
        let (here, wall_ms, took) = both_clocks();
        if let Some(change) = self.time.look(Clocks { here, wall_ms }, took) {
            let jump_ms = change.forward_ms;
            if jump_ms.unsigned_abs() >= JUMP_MIN_MS {
                self.notes.note(&Notable::ClockJumped { jump_ms });
            }
            self.clock_was_set(change);
        }
        self.time.clocks(here)
    }

    /// The wall clock was set: what goes or ends at a time of that clock does so earlier or later.
    fn clock_was_set(&mut self, change: ClockChange) {
        let now = now();
        self.requests.emissions.clock_was_set(change, now);
        self.durable.queues.clock_was_set(change, now);
        self.requests
            .emissions
            .next_due()
            .inspect(|at| self.time.alarm.set(*at));
        let keys: Vec<_> = self.broker.services().map(|(key, _)| key).collect();
        for key in keys {
            let (service, timetable) = self.broker.with_timetable(key);
            service.clock_was_set(change, now);
            self.time.alarm.plan(key, service, timetable);
        }
    }

    /// The time is noted, as near as anything but timers has to know it.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.time.now = now;
        self.notes.now = now;
    }

    /// Tells the service manager that the loop turns: it is the loop itself that does.
    fn show_life(&mut self) {
        if let Some(mut beat) = self.time.upkeep.beat.take() {
            beat.turned(self.time.now, || self.status_line());
            self.time.upkeep.beat = Some(beat);
        }
    }

    fn tick(&mut self, now: Instant, tick: Duration) {
        let since_tick = now.saturating_duration_since(self.time.upkeep.ticked_at);
        let late = since_tick.saturating_sub(tick);
        let stalled = if late >= STALL_MIN {
            late
        } else {
            Duration::ZERO
        };
        if !stalled.is_zero() {
            self.notes.note(&Notable::LoopStalled {
                stalled_ms: stalled.as_millis() as u64,
            });
            self.broker.handle_stall(stalled);
        }
        self.set_now(now);
        self.time.upkeep.ticked_at = now;
        self.give_up_on_engines();
        #[cfg(debug_assertions)]
        {
            check_timetable(&self.broker);
            check_queues(&self.broker, &self.durable);
        }
        self.look_at_clock();
        note_stalled_workers(
            &mut self.peers,
            &self.broker,
            &mut self.notes,
            &mut self.time,
            &self.config,
        );
        self.check_heartbeats(stalled);
        self.expire_leases();
        self.tend_audience(now);
        Rings::of(self).tend(now);
        self.tend_mesh(now);
        self.tend_observer(now);
        self.tend_grace();
        Keeping::of(self).tend(now);
        self.tend_promises();
        self.tend_clients();
        self.seek_ports();
        self.tend_queues();
        self.watch_services();
        self.show_life();
    }

    fn expire_leases(&mut self) {
        let now = self.time.now;
        self.site
            .directory
            .iter_mut()
            .for_each(|locator| locator.expire(now));
        for (id, service, ended) in self.broker.handle_timeout(self.time.now) {
            self.notes.subscription_expired(&service, &id);
            if let Some(service) = ended {
                self.close_service(&service);
            }
        }
    }
}

fn tick_interval(config: &Config, beat: Option<&Beat>) -> Duration {
    let heartbeat = config.heartbeat_interval;
    let beat = beat.map_or(TICK_MAX, Beat::interval);
    let wanted = [heartbeat / 8, config.subscription_ttl / 8, beat / 2];
    let wanted = wanted.into_iter().filter(|wanted| !wanted.is_zero());
    let shortest = wanted.min().unwrap_or(TICK_MAX);
    shortest.clamp(Duration::from_millis(10), TICK_MAX)
}

/// No service wants attention before the time that is noted for it, or it would wait for ever.
#[cfg(debug_assertions)]
fn check_timetable(broker: &Broker) {
    for (key, service) in broker.services() {
        let (wanted, noted) = (service.poll_timeout(), broker.timetable.at(key));
        let is_noted = wanted.is_none_or(|wanted| noted.is_some_and(|noted| noted <= wanted));
        assert!(is_noted, "{}: {wanted:?} {noted:?}", service.name());
    }
}

/// Nobody looks for durable services whose queues are not open, but for those that failed.
#[cfg(debug_assertions)]
fn check_queues(broker: &Broker, durable: &Durable) {
    let queues = &durable.queues;
    let services = broker.services();
    for (_, service) in services.filter(|(_, service)| service.spill.is_some()) {
        let name = service.name();
        assert!(
            queues.is_known(name) || !queues.has_store(),
            "{name}: its queue is not open"
        );
    }
}
