//! Each metric, with its name and what it says. docs/operations.md has the same.

use std::collections::BTreeMap;
use std::fmt;

use super::{Labels, Page, State};
use crate::api::{Counters, Dialled, QueueState, ServiceStatus, Status, Subjects, Subscribers};
use crate::broker::DropReason;

fn truth(value: bool) -> f64 {
    u8::from(value).into()
}

/// The whole process.
pub(super) fn daemon(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let status = &state.snapshot.status;
    page.gauges(
        "event_manager_build_info",
        "The version, as a label; always 1",
        [(vec![("version", &*status.version)], 1.0)],
    )?;
    page.gauge("event_manager_up", "The reactor turns; always 1", 1.0)?;
    page.gauge(
        "event_manager_ready",
        "All checks of readiness pass",
        truth(state.readiness.ready),
    )?;
    let checks = state.readiness.checks.iter();
    page.gauges(
        "event_manager_ready_check",
        "One check of readiness passes",
        checks.map(|(name, check)| (vec![("check", &**name)], truth(check.ok))),
    )?;
    page.gauge(
        "event_manager_registered",
        "The ServiceLocator has our registration",
        truth(state.is_registered),
    )?;
    page.gauge(
        "event_manager_uptime_seconds",
        "Time since the start",
        status.uptime_seconds,
    )?;
    let memory = &status.memory;
    page.gauge(
        "event_manager_memory_waiting_bytes",
        "What waits for all peers and services together",
        memory.waiting_bytes as f64,
    )?;
    page.gauge(
        "event_manager_memory_half_received_bytes",
        "Received of messages that are not whole, as part of what waits",
        memory.half_received_bytes as f64,
    )?;
    page.gauge(
        "event_manager_memory_limit_bytes",
        "What may wait for all together (memoryLimit); 0 is no limit",
        memory.limit_bytes as f64,
    )?;
    page.gauge(
        "event_manager_store_failed_queues",
        "Queues on disk that take no events",
        status.store.failed.len() as f64,
    )?;
    page.gauge(
        "event_manager_store_waiting_bytes",
        "What waits for the disk",
        status.store.waiting_bytes as f64,
    )?;
    connections(page, status)
}

fn connections(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let connections = &status.connections;
    page.gauge(
        "event_manager_connections_open",
        "Connections of all kinds but HTTP",
        connections.open as f64,
    )?;
    page.gauge(
        "event_manager_connections_max",
        "How many there may be",
        connections.max as f64,
    )?;
    page.gauge(
        "event_manager_outbox_bytes",
        "What waits to be written to all peers",
        connections.outbox_bytes as f64,
    )?;
    page.gauge(
        "event_manager_pending_calls",
        "Requests that wait for their answers",
        status.pending_calls as f64,
    )?;
    let versions = status.peers.zmtp.versions.iter();
    page.gauges(
        "event_manager_peers_connected",
        "Peers whose handshake is done, by the version of ZMTP that they speak",
        versions.map(|(version, peers)| (vec![("zmtp", &**version)], *peers as f64)),
    )?;
    let refused = status.peers.refused.iter();
    page.counters(
        "event_manager_peers_refused",
        "Connections and messages that were turned away",
        refused.map(|(reason, times)| (vec![("reason", &**reason)], *times)),
    )
}

/// What the system says of the process, under the names that all exporters use.
pub(super) fn process(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let process = state.snapshot.process;
    if let Some(seconds) = process.cpu_seconds {
        let kind = prometheus_client::metrics::MetricType::Counter;
        let (name, help) = ("process_cpu_seconds", "Processor time that was used");
        let mut family = page.encoder.encode_descriptor(name, help, None, kind)?;
        family.encode_counter::<super::NoLabelSet, _, f64>(&seconds, None)?;
    }
    let gauges = [
        (
            "process_resident_memory_bytes",
            "Memory that is resident",
            process.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            "Memory that has addresses",
            process.virtual_bytes,
        ),
        (
            "process_open_fds",
            "Open file descriptors",
            process.open_fds,
        ),
        ("process_max_fds", "How many may be open", process.max_fds),
        ("process_threads", "Threads", process.threads),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            page.gauge(name, help, value as f64)?;
        }
    }
    page.gauge(
        "process_start_time_seconds",
        "When it started, since 1970",
        state.snapshot.status.started_at_ms as f64 / 1e3,
    )
}

/// Publishers and subscribers.
pub(super) fn forwarder(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let publishers = &status.publishers;
    page.gauge(
        "event_manager_publishers_connected",
        "Publishers that are connected",
        publishers.connected as f64,
    )?;
    page.gauge(
        "event_manager_publishers_held",
        "Publishers wait after a start for the subscribers of the run before",
        truth(publishers.held.is_some()),
    )?;
    dialled(page, &publishers.dialled)?;
    page.counter(
        "event_manager_published_events",
        "Events that came from publishers, and by EMIT",
        publishers.events,
    )?;
    page.counter(
        "event_manager_published_bytes",
        "Their bytes",
        publishers.bytes,
    )?;
    page.counter(
        "event_manager_unmatched_events",
        "Events from publishers that nobody asked for",
        publishers.unmatched,
    )?;
    page.counters(
        "events_published",
        "Events that came, by subject: those with the most, and other",
        by_subject(&publishers.subjects)
            .into_iter()
            .map(|(subject, events)| (vec![("subject", subject)], events)),
    )?;
    let kinds = [
        ("emit", &publishers.emit_seconds),
        ("call", &publishers.call_seconds),
    ];
    let answers = kinds.iter().flat_map(|(kind, times)| {
        [("ack", &times.ack), ("nak", &times.nak)]
            .map(|(answer, took)| (vec![("kind", *kind), ("answer", answer)], took))
    });
    page.histograms(
        "event_publish_duration_seconds",
        "From a request that publishes (EMIT, PUBLISH) to its answer",
        answers,
    )?;
    subscribers(page, &status.subscribers)
}

/// No two subjects with the same text: one that is no text, or is called `other`, may be written as
/// another is.
fn by_subject(subjects: &Subjects) -> BTreeMap<&str, u64> {
    let mut all = BTreeMap::from([("other", subjects.other_events)]);
    for named in &subjects.named {
        *all.entry(&named.subject).or_default() += named.events;
    }
    all
}

/// Publishers that we connect to. The configuration names them, so that there are few.
fn dialled(page: &mut Page<'_>, dialled: &[Dialled]) -> fmt::Result {
    fn labels(one: &Dialled) -> Labels<'_> {
        vec![("publisher", &one.address)]
    }
    let each = || dialled.iter();
    page.gauges(
        "event_manager_dialled_publisher_connected",
        "A publisher of connectPublishers is connected",
        each().map(|one| (labels(one), truth(one.connected))),
    )?;
    page.counters(
        "event_manager_dialled_publisher_connections",
        "How often it was connected",
        each().map(|one| (labels(one), one.connections)),
    )
}

fn subscribers(page: &mut Page<'_>, subscribers: &Subscribers) -> fmt::Result {
    page.gauge(
        "event_manager_subscribers_connected",
        "Subscribers that are connected",
        subscribers.connected as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_prefixes",
        "What they have subscribed to",
        subscribers.subscriptions as f64,
    )?;
    let outbox = &subscribers.outbox;
    page.gauge(
        "event_manager_subscriber_outbox_bytes",
        "What waits for subscribers",
        outbox.bytes as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_largest_bytes",
        "What waits for the one for whom the most waits",
        outbox.largest_bytes as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_peak_bytes",
        "The most that ever waited for one",
        outbox.peak_bytes as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_budget_bytes",
        "What may wait for one (budgets.subscriberOutboxBytes)",
        outbox.budget_bytes as f64,
    )?;
    let counters = &subscribers.counters;
    page.counter(
        "event_manager_subscriber_events_matched",
        "Events that subscribers asked for, once for each of them",
        counters.matched,
    )?;
    page.counter(
        "event_manager_subscriber_events_delivered",
        "Of these, written to their sockets",
        counters.delivered,
    )?;
    page.counters(
        "event_manager_subscriber_events_dropped",
        "Of these, given up",
        by_reason(counters, SUBSCRIBER_DROPS)
            .into_iter()
            .map(|(reason, events)| (vec![("reason", reason)], events)),
    )?;
    page.gauge(
        "event_manager_subscriber_events_in_flight",
        "Of these, in their outboxes",
        counters.in_flight as f64,
    )
}

/// Why events for subscribers are dropped.
const SUBSCRIBER_DROPS: &[DropReason] = &[
    DropReason::SlowSubscriber,
    DropReason::SubscriberLost,
    DropReason::MemoryLimit,
];
/// Why those of services are.
const LIVE_DROPS: &[DropReason] = &[
    DropReason::QueueFull,
    DropReason::TooLarge,
    DropReason::MemoryLimit,
];
const DURABLE_DROPS: &[DropReason] = &[
    DropReason::TooLarge,
    DropReason::RetentionBytes,
    DropReason::RetentionAge,
    DropReason::Damaged,
    DropReason::StoreFailed,
];

/// Drops by reason. Those to be expected are there before they occur: a rate sees no rise in a series
/// that begins with it.
fn by_reason<'s>(counters: &'s Counters, expected: &[DropReason]) -> BTreeMap<&'s str, u64> {
    let mut all: BTreeMap<_, _> = expected.iter().map(|reason| (reason.name(), 0)).collect();
    let occurred = counters.dropped.iter();
    all.extend(occurred.map(|(reason, events)| (&**reason, *events)));
    all
}

/// A metric's name, its help, and how its value is read.
type Family<S, V> = (&'static str, &'static str, fn(&S) -> V);

/// Counters of each service.
const COUNTERS: &[Family<Counters, u64>] = &[
    (
        "event_manager_events_matched",
        "Events that the service asked for",
        |counters| counters.matched,
    ),
    (
        "event_manager_events_delivered",
        "Of these, written to a worker's socket; acknowledged, if it acknowledges",
        |counters| counters.delivered,
    ),
    (
        "event_manager_events_dead_lettered",
        "Of these, those that no worker could do",
        |counters| counters.dead_lettered,
    ),
    (
        "event_manager_events_expired",
        "Of these, those that became too old",
        |counters| counters.expired,
    ),
    (
        "event_manager_events_redelivered",
        "Deliveries of events that were delivered before",
        |counters| counters.redelivered,
    ),
    (
        "event_manager_events_unconfirmed",
        "Of those delivered, held by a worker that left",
        |counters| counters.unconfirmed,
    ),
    (
        "event_manager_dead_letters_lost",
        "Dead letters that could not be kept on disk",
        |counters| counters.letters_lost,
    ),
    (
        "events_consumed",
        "The same as event_manager_events_delivered_total",
        |counters| counters.delivered,
    ),
    (
        "events_retried",
        "Deliveries that failed and were not the last",
        |counters| counters.retries,
    ),
    (
        "events_dlq",
        "The same as event_manager_events_dead_lettered_total",
        |counters| counters.dead_lettered,
    ),
];

/// Gauges of each service that has them.
const GAUGES: &[Family<ServiceStatus, Option<u64>>] = &[
    (
        "event_manager_events_queued",
        "Events that wait, in memory or on disk",
        |s| Some(s.counters.queued),
    ),
    (
        "event_manager_events_in_flight",
        "Events in outboxes and in workers' hands",
        |s| Some(s.counters.in_flight),
    ),
    (
        "event_manager_queue_events",
        "Events that wait in memory",
        |s| Some(s.queue.events),
    ),
    ("event_manager_queue_bytes", "Their bytes", |s| {
        Some(s.queue.bytes)
    }),
    (
        "event_manager_queue_budget_events",
        "How many may wait in memory",
        |s| Some(s.queue.budget_events),
    ),
    (
        "event_manager_queue_budget_bytes",
        "What may wait in memory",
        |s| Some(s.queue.budget_bytes),
    ),
    (
        "event_manager_queue_pending_events",
        "Durable services: events that the disk does not have yet",
        |s| Some(s.durable.as_ref()?.pending_events),
    ),
    (
        "event_manager_queue_on_disk_only_events",
        "Durable services: events that are not in memory",
        |s| Some(s.durable.as_ref()?.on_disk_only_events),
    ),
];

/// Services and their workers.
pub(super) fn services(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let services = &status.services;
    for (name, help, value) in COUNTERS {
        let each = services.iter();
        page.counters(name, help, each.map(|s| (of(s), value(&s.counters))))?;
    }
    let drops = services.iter().flat_map(|service| {
        let expected = match service.durable {
            Some(_) => DURABLE_DROPS,
            None => LIVE_DROPS,
        };
        let drops = by_reason(&service.counters, expected).into_iter();
        drops.map(|(reason, events)| {
            let mut labels = of(service);
            labels.push(("reason", reason));
            (labels, events)
        })
    });
    page.counters(
        "event_manager_events_dropped",
        "Of those matched, given up",
        drops,
    )?;
    for (name, help, value) in GAUGES {
        let each = services.iter();
        let values = each.filter_map(|s| Some((of(s), value(s)? as f64)));
        page.gauges(name, help, values)?;
    }
    for (name, help, state) in [
        (
            "event_manager_queue_failed",
            "Durable services: the queue takes no events",
            QueueState::Failed,
        ),
        (
            "event_manager_queue_unreadable",
            "Durable services: events on disk can't be read now",
            QueueState::Unreadable,
        ),
    ] {
        let durable = services.iter().filter_map(|s| {
            let durable = s.durable.as_ref()?;
            Some((of(s), truth(durable.state == state)))
        });
        page.gauges(name, help, durable)?;
    }
    page.gauges(
        "event_manager_subscriptions",
        "Subscriptions of the service that live",
        services
            .iter()
            .map(|s| (of(s), s.subscriptions.len() as f64)),
    )?;
    page.gauges(
        "event_manager_workers",
        "Workers: ready, stalled (ready, but they don't read), silent (no READY, or BYE)",
        services.iter().flat_map(workers),
    )?;
    page.histograms(
        "event_consume_duration_seconds",
        "From handing an event to a worker that acknowledges to its ACK",
        services.iter().map(|s| (of(s), &s.consume_seconds)),
    )
}

fn of(service: &ServiceStatus) -> Labels<'_> {
    vec![("service", &service.name)]
}

fn workers(service: &ServiceStatus) -> [(Labels<'_>, f64); 3] {
    let workers = &service.workers;
    let states = [
        ("ready", workers.ready.saturating_sub(workers.stalled)),
        ("stalled", workers.stalled),
        ("silent", workers.connected.saturating_sub(workers.ready)),
    ];
    states.map(|(state, workers)| {
        let mut labels = of(service);
        labels.push(("state", state));
        (labels, workers as f64)
    })
}
