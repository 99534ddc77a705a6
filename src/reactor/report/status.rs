//! The daemon's state: what the STATUS request and the diagnostic record show.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::oneshot;

use super::clients::{clients_status, mechanisms, stored_by_client};
use super::lease::{held_lease, kept_leases};
use super::slow::{service_of, slow_peers};
use crate::ambient::{now, wall_clock_ms};
use crate::config::Config;
use crate::reactor::hub::Hub;
use crate::reactor::state::accounts::{Accounts, Published};
use crate::reactor::state::durable::{Durable, why_durable};
use crate::reactor::state::effects::{ENTRIES_MAX, Lists, Room, SubjectsAsked, SubscriptionsAsked};
use crate::reactor::state::memory::waiting_bytes;
use crate::reactor::state::peer::Role;
use crate::reactor::state::peers::Peers;
use crate::reactor::state::upstream::Dialled;
use crate::reactor::state::watchdog::Watchdog;
use event_manager_core::broker::{
    Account, Broker, Histogram, Interest, Service, ServiceKey, SubscriptionView,
};
use event_manager_wire::api::{self, Counters, ServiceStatus, Status};

/// Workers of a service that are named.
const NAMED_WORKERS_SHOWN: usize = 32;
/// Peers of ZMTP 2.0 that are named.
const OLD_PEERS_SHOWN: usize = 64;
/// Services that are looked at in one turn, at about 2 µs each.
const SERVICES_PER_TURN: usize = 25;
/// Entries of their lists after which the turn is over, at about 0.5 µs each.
const ENTRIES_PER_TURN: usize = 125;

/// A look at the state, put together in turns between which events are routed.
#[derive(Debug)]
pub(crate) struct Look {
    /// Services that were not looked at yet, the next last.
    ahead: Vec<ServiceKey>,
    told: Vec<(ServiceKey, ServiceStatus)>,
    /// From before any service was looked at: what is counted here, services have seen in every look.
    published: Published,
    room: Room,
}

impl Look {
    /// Whether all services were looked at.
    pub(crate) fn is_over(&self) -> bool {
        self.ahead.is_empty()
    }
}

impl Hub {
    /// Answers who asks for the state, unless they have gone.
    pub(crate) fn tell_status(&mut self, lists: Lists, reply: oneshot::Sender<Status>) {
        if !reply.is_closed() {
            let _ = reply.send(self.status(lists));
        }
    }

    /// The same for who asks for a part of a service's subscriptions.
    pub(crate) fn tell_subscriptions(&self, asked: SubscriptionsAsked) {
        let service = self
            .broker
            .find(&asked.service)
            .map(|key| &self.broker[key]);
        let _ = asked.reply.send(service.map(|service| {
            let after = asked.after.as_ref();
            let all = self.broker.subscriptions_of(service, after, now());
            let mut all = all.peekable();
            let (mut entries, mut subscriptions) = (0, vec![]);
            // One may have as many subjects as it likes; it is told of whole.
            while subscriptions.len() < asked.max
                && entries < ENTRIES_MAX
                && let Some(view) = all.next()
            {
                entries += 1 + view.patterns.len();
                subscriptions.push(subscription(view));
            }
            let last = all.peek().and(subscriptions.last());
            api::Subscriptions {
                service: asked.service.to_string(),
                next: last.map(|last| last.id.clone()),
                subscriptions,
            }
        }));
    }

    /// The same for who asks for a part of what a service wants.
    pub(crate) fn tell_subjects(&self, asked: SubjectsAsked) {
        let key = self.broker.find(&asked.service);
        let _ = asked.reply.send(key.map(|key| {
            let all = self.broker[key].patterns_behind(asked.after.as_ref());
            all.take(asked.max.min(ENTRIES_MAX)).cloned().collect()
        }));
    }

    /// The state, without what single workers do.
    pub(crate) fn status(&mut self, lists: Lists) -> Status {
        let mut look = self.begin_look(lists);
        while !look.is_over() {
            self.look_on(&mut look);
        }
        self.end_look(look)
    }

    pub(crate) fn begin_look(&self, lists: Lists) -> Look {
        let mut ahead: Vec<_> = self.broker.services().map(|(key, _)| key).collect();
        ahead.reverse();
        Look {
            told: Vec::with_capacity(ahead.len()),
            ahead,
            published: self.accounts.published,
            room: lists.room(),
        }
    }

    /// Looks at the next services: so many that what is routed hardly waits for it.
    pub(crate) fn look_on(&self, look: &mut Look) {
        let now = now();
        let enough = look.room.left().saturating_sub(ENTRIES_PER_TURN);
        for _ in 0..SERVICES_PER_TURN {
            let Some(key) = look.ahead.pop() else { return };
            // It may have ended since the look began.
            if let Some(service) = self.broker.service(key) {
                let status = self.service_status(key, service, &mut look.room, now);
                look.told.push((key, status));
            }
            if look.room.left() < enough {
                return;
            }
        }
    }

    /// The rest of the state, and what was seen of services. Those that have ended meanwhile count among
    /// the retired now.
    pub(crate) fn end_look(&mut self, look: Look) -> Status {
        let now = now();
        self.broker.routes.subjects.name_largest();
        let stored = stored_by_client(&self.broker, &self.durable.queues);
        let (clients, denied_to_others) = clients_status(&self.clients, &self.peers, stored);
        let told = look.told.into_iter();
        let services = told.filter(|(key, _)| self.broker.service(*key).is_some());
        Status {
            service: self.config.locator.service_name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_ms: self.time.started_at_ms(),
            wall_clock_ms: wall_clock_ms(),
            uptime_seconds: self.time.uptime(now).as_secs_f64(),
            subscription_ttl_seconds: self.config.subscription_ttl.as_secs_f64(),
            draining: self.phase.is_draining(),
            addresses: self.site.addresses.clone(),
            services: services.map(|(_, status)| status).collect(),
            retired_services: counters(self.broker.retired(), 0, 0),
            publishers: self.publishers_status(look.published),
            mesh: self.mesh_status(),
            subscribers: subscribers_status(
                &self.peers,
                &self.accounts,
                self.saved.subscribers.audience.remembered(),
                self.config.budgets.subscriber_outbox_bytes,
            ),
            security: api::Security {
                clients,
                denied_to_others,
                ..self.site.security(&self.config.security)
            },
            connections: connections_status(&self.peers),
            memory: api::Memory {
                waiting_bytes: waiting_bytes(&self.peers, &self.broker) as u64,
                half_received_bytes: self.peers.half_received_bytes() as u64,
                limit_bytes: self.config.memory_limit as u64,
            },
            store: store_status(&self.durable),
            state_dir: Some(self.config.state_dir.display().to_string()),
            state: self.saved.status(),
            traces: self.notes.tracer().status(),
            bridges: self.site.bridges.clone(),
            instances: self.site.instances_summary.clone(),
            lease: held_lease(&self.site, now),
            leases: kept_leases(&self.site),
            pending_calls: self.requests.replies.len() as u64,
            peers: api::Peers {
                refused: named(
                    self.notes
                        .refused()
                        .iter()
                        .map(|(name, times)| (*name, *times)),
                ),
                refused_again: self.notes.refused_again(now),
                slow: slow_peers(&self.peers, &self.broker, &self.config),
                zmtp: zmtp_spoken(&self.peers, &self.broker),
                mechanisms: mechanisms(self.peers.iter()),
            },
        }
    }

    fn service_status(
        &self,
        key: ServiceKey,
        service: &Service,
        room: &mut Room,
        now: Instant,
    ) -> ServiceStatus {
        let (patterns, ids) = (service.patterns(), service.subscriptions());
        let (subject_count, subscription_count) = (patterns.len() as u64, ids.len() as u64);
        let subjects = patterns
            .take(room.of_service())
            .take_while(|_| room.take(1));
        let subjects = subjects.map(ToString::to_string).collect();
        let subscriptions = self.broker.subscriptions_of(service, None, now);
        let subscriptions = subscriptions
            .take(room.of_service())
            .take_while(|view| room.take(1 + view.patterns.len()))
            .map(subscription)
            .collect();
        let queue = &service.queue;
        let limits = queue.limits();
        let (connected, ready, stalled) = service.workers.census();
        ServiceStatus {
            name: service.name().to_string(),
            port: service.port(),
            address: service
                .port()
                .map(|port| format!("{}{port}", self.site.settings.pull_address_prefix)),
            no_port: service.lacks_port().map(str::to_owned),
            subjects,
            subject_count,
            dead_letter_subject: service.dead_letter_subject().into_owned(),
            subscriptions,
            subscription_count,
            workers: api::Workers {
                connected: connected as u64,
                ready: ready as u64,
                stalled: stalled as u64,
                named: named_workers(service, &self.peers),
            },
            queue: api::Queue {
                events: queue.len() as u64,
                bytes: queue.bytes() as u64,
                budget_bytes: limits.bytes_max as u64,
                budget_events: limits.events_max as u64,
            },
            consume_seconds: histogram(&service.consumed),
            held: api::Held {
                events: queue.held() as u64,
                bytes: queue.held_bytes() as u64,
            },
            durable: durable_status(service, &self.durable, &self.config),
            dispatch: dispatch_status(key, service, &self.time.upkeep.watchdog, now),
            counters: counters(&service.account, service.queued(), queue.held()),
        }
    }

    fn publishers_status(&self, published: Published) -> api::Publishers {
        let subjects = &self.broker.routes.subjects;
        let named = subjects.named().map(|named| api::SubjectEvents {
            subject: named.subject.into(),
            events: named.events,
        });
        api::Publishers {
            connected: count(&self.peers, |role| matches!(role, Role::Publisher)),
            events: published.events,
            bytes: published.bytes,
            unmatched: published.unmatched,
            held: self.saved.subscribers.status(),
            dialled: self.upstream.publishers().map(Dialled::status).collect(),
            dialled_are_required: self.config.require_publishers,
            subjects: api::Subjects {
                named: named.collect(),
                other_events: subjects.unnamed_events(),
            },
            emit_seconds: times(&self.accounts.publish_times.emits),
            call_seconds: times(&self.accounts.publish_times.calls),
        }
    }

    fn mesh_status(&self) -> api::Mesh {
        let mesh = &self.upstream.mesh;
        let asked = mesh.interest.as_ref().map_or(0, Interest::len);
        let links = self.upstream.dialled.iter();
        let hubs = self.peers.iter().filter_map(|peer| match &peer.role {
            Role::Subscriber {
                prefixes,
                hub: Some(hub),
            } => Some(hub.status(&peer.address, prefixes.len(), peer.outbox.bytes())),
            _ => None,
        });
        api::Mesh {
            hub: mesh.id.to_string(),
            events_sent: self.accounts.written_to_hubs,
            links: links.filter_map(|link| link.link_status(asked)).collect(),
            hubs: hubs.collect(),
        }
    }

    /// What matters most, on one line.
    pub(crate) fn status_line(&self) -> String {
        let services = self.broker.services();
        let (mut count, mut workers, mut waiting, mut dropped) = (0, 0, 0, 0);
        for (_, service) in services {
            count += 1;
            workers += service.workers.census().1;
            waiting += service.queued() + service.queue.held() as u64 + service.account.in_flight;
            dropped += service.account.dropped.total();
        }
        dropped +=
            self.broker.retired().dropped.total() + self.accounts.subscribers.dropped.total();
        waiting += self.accounts.subscribers.in_flight;
        let doing = if self.phase.is_draining() {
            "stopping"
        } else {
            "serving"
        };
        format!(
            "{doing}: services {count}, workers {workers}, connections {}, events published {}, under way {waiting}, dropped {dropped}",
            self.peers.connections.open(),
            self.accounts.published.events
        )
    }
}

fn subscription(view: SubscriptionView<'_>) -> api::Subscription {
    api::Subscription {
        id: view.id.to_string(),
        subjects: view.patterns.iter().map(ToString::to_string).collect(),
        expires_in_seconds: view.expires_in.as_secs_f64(),
    }
}

fn connections_status(peers: &Peers) -> api::Connections {
    api::Connections {
        open: peers.connections.open() as u64,
        unfinished: peers.connections.unfinished() as u64,
        max: peers.connections.max() as u64,
        fds_max: rlimit::Resource::NOFILE.get_soft().ok(),
        requesters: count(peers, |role| matches!(role, Role::Requester { .. })),
        outbox_bytes: peers.iter().map(|peer| peer.outbox.bytes() as u64).sum(),
    }
}

fn store_status(durable: &Durable) -> api::Store {
    api::Store {
        kept: durable.queues.has_store(),
        waiting_bytes: durable.queues.appending_bytes() as u64,
        failed: durable
            .queues
            .failures()
            .map(|(queue, reason)| (queue.to_string(), reason.to_owned()))
            .collect(),
    }
}

fn named_workers(service: &Service, peers: &Peers) -> Vec<api::NamedWorker> {
    let introduced = service.workers.introduced().take(NAMED_WORKERS_SHOWN);
    let named = introduced.map(|worker| api::NamedWorker {
        name: worker.introduction.name.as_deref().map(str::to_owned),
        client: worker.introduction.client.as_deref().map(str::to_owned),
        address: peers[worker.peer].address.to_string(),
        ready: worker.ready,
        credit: worker.credit,
        held_events: worker.credit.map_or(0, |_| worker.outstanding),
    });
    named.collect()
}

fn durable_status(service: &Service, durable: &Durable, config: &Config) -> Option<api::Durable> {
    let spill = service.spill.as_ref()?;
    let failure = durable.queues.failure(service.name());
    let unreadable = durable.queues.unreadable(service.name());
    let (state, reason) = match (failure, unreadable) {
        (Some(reason), _) => (api::QueueState::Failed, Some(reason)),
        (None, Some(reason)) => (api::QueueState::Unreadable, Some(reason)),
        // What is in it isn't known yet.
        (None, None) if !spill.is_open() => (api::QueueState::Opening, None),
        (None, None) => (api::QueueState::Ok, None),
    };
    Some(api::Durable {
        state,
        reason: reason.map(str::to_owned),
        because: why_durable(service, config),
        pending_events: spill.pending() as u64,
        on_disk_only_events: spill.on_disk_alone(),
        bytes: durable.queues.queue_holds(service.name()),
        retention_bytes: config.policy_of(service.name()).retention.bytes_max,
    })
}

/// What of a service could go, and to whom.
fn dispatch_status(
    key: ServiceKey,
    service: &Service,
    watchdog: &Watchdog,
    now: Instant,
) -> api::Dispatch {
    let stuck = watchdog.stuck_for(key, now);
    api::Dispatch {
        due_events: service.due_events(now),
        free_workers: service.free_workers() as u64,
        waits_for_disk: service.waits_for_disk(),
        stuck_ms: stuck.map(|stuck| stuck.as_millis() as u64),
    }
}

fn subscribers_status(
    peers: &Peers,
    accounts: &Accounts,
    remembered: u64,
    budget: usize,
) -> api::Subscribers {
    let mut status = api::Subscribers {
        remembered,
        prefix_bytes: accounts.prefixes.bytes() as u64,
        counters: counters(&accounts.subscribers, 0, 0),
        ..api::Subscribers::default()
    };
    let outbox = &mut status.outbox;
    outbox.peak_bytes = accounts.outbox_peak_bytes as u64;
    outbox.budget_bytes = budget as u64;
    for peer in peers.iter() {
        if let Role::Subscriber { prefixes, .. } = &peer.role {
            let bytes = peer.outbox.bytes() as u64;
            status.connected += 1;
            status.subscriptions += prefixes.len() as u64;
            outbox.bytes += bytes;
            outbox.largest_bytes = outbox.largest_bytes.max(bytes);
        }
    }
    status
}

fn count(peers: &Peers, wanted: fn(&Role) -> bool) -> u64 {
    let wanted = peers.iter().filter(|peer| wanted(&peer.role));
    wanted.count() as u64
}

/// How many peers speak each version of ZMTP, and who speaks one of before 3.0.
fn zmtp_spoken(peers: &Peers, broker: &Broker) -> api::ZmtpVersions {
    let mut versions = BTreeMap::<&str, u64>::new();
    let mut old = vec![];
    for peer in peers.iter() {
        *versions.entry(peer.zmtp.version.name()).or_default() += 1;
        if !peer.zmtp.version.has_commands() && old.len() < OLD_PEERS_SHOWN {
            old.push(api::OldPeer {
                address: peer.address.to_string(),
                role: peer.role.name().to_owned(),
                service: service_of(peer, broker).map(str::to_owned),
                socket_type: peer.zmtp.socket_type.name().to_owned(),
                identity: peer.zmtp.identity.escape_ascii().to_string(),
            });
        }
    }
    api::ZmtpVersions {
        versions: named(versions),
        old,
    }
}

/// Durations of what was done, and of what was refused.
fn times([done, refused]: &[Histogram; 2]) -> api::RequestTimes {
    api::RequestTimes {
        ack: histogram(done),
        nak: histogram(refused),
    }
}

fn histogram(histogram: &Histogram) -> api::Histogram {
    api::Histogram {
        counts: histogram.counts().to_vec(),
        sum: histogram.sum_us() as f64 / 1e6,
    }
}

fn counters(account: &Account, queued: u64, held: usize) -> Counters {
    Counters {
        matched: account.matched,
        delivered: account.delivered,
        queued,
        in_flight: account.in_flight + held as u64,
        dead_lettered: account.dead_lettered,
        expired: account.expired,
        dropped: named(account.dropped.iter().map(|(reason, n)| (reason.name(), n))),
        returned: account.returned,
        unconfirmed: account.unconfirmed,
        retries: account.retries,
        redelivered: account.redelivered,
        letters_lost: account.letters_lost,
    }
}

/// Counts by name.
fn named<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    let counts = counts.into_iter();
    counts.map(|(name, n)| (name.to_owned(), n)).collect()
}
