//! Each metric, with its name and what it says. docs/operations.md has the same.

use std::collections::BTreeMap;
use std::fmt;

use super::counters::{COUNTERS, Family};
use super::{Labels, Page, State};
use event_manager_core::broker::DropReason;
use event_manager_wire::api::{
    Counters, Dialled, Link, Mesh, QueueState, ServiceStatus, Status, Subjects, Subscribers,
};

fn truth(value: bool) -> f64 {
    u8::from(value).into()
}

/// The whole process.
pub(super) fn daemon(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let status = &state.snapshot.status;
    page.gauges(
        "event_manager_build_info",
        "Always 1; the version is a label",
        [(vec![("version", &*status.version)], 1.0)],
    )?;
    page.gauge(
        "event_manager_up",
        "Always 1; missing if the daemon does not answer",
        1.0,
    )?;
    page.gauge(
        "event_manager_ready",
        "1 if all checks of /readyz pass",
        truth(state.readiness.ready),
    )?;
    let checks = state.readiness.checks.iter();
    page.gauges(
        "event_manager_ready_check",
        "1 if this check of /readyz passes",
        checks.map(|(name, check)| (vec![("check", &**name)], truth(check.ok))),
    )?;
    page.gauge(
        "event_manager_registered",
        "1 if the daemon is registered with the ServiceLocator",
        truth(state.is_registered),
    )?;
    page.gauge(
        "event_manager_uptime_seconds",
        "Seconds since the start",
        status.uptime_seconds,
    )?;
    waiting(page, status)?;
    connections(page, status)
}

/// What waits in memory, for peers or for the disk.
fn waiting(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let memory = &status.memory;
    page.gauge(
        "event_manager_memory_waiting_bytes",
        "Bytes queued for all peers and services, including partly received messages",
        memory.waiting_bytes as f64,
    )?;
    page.gauge(
        "event_manager_memory_half_received_bytes",
        "Bytes of partly received messages",
        memory.half_received_bytes as f64,
    )?;
    page.gauge(
        "event_manager_memory_limit_bytes",
        "The limit of event_manager_memory_waiting_bytes (memoryLimit); 0 if there is none",
        memory.limit_bytes as f64,
    )?;
    page.gauge(
        "event_manager_store_failed_queues",
        "Queues on disk that accept no events",
        status.store.failed.len() as f64,
    )?;
    page.gauge(
        "event_manager_store_waiting_bytes",
        "Bytes waiting to be written to disk",
        status.store.waiting_bytes as f64,
    )
}

fn connections(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let connections = &status.connections;
    page.gauge(
        "event_manager_connections_open",
        "Open connections, without HTTP",
        connections.open as f64,
    )?;
    page.gauge(
        "event_manager_connections_unfinished",
        "Open connections whose handshake isn't done",
        connections.unfinished as f64,
    )?;
    page.gauge(
        "event_manager_connections_max",
        "The limit of open connections (maxConnections)",
        connections.max as f64,
    )?;
    page.gauge(
        "event_manager_outbox_bytes",
        "Bytes waiting to be written to peers",
        connections.outbox_bytes as f64,
    )?;
    page.gauge(
        "event_manager_pending_calls",
        "Requests waiting for their answers",
        status.pending_calls as f64,
    )?;
    page.gauge(
        "event_manager_open_listeners",
        "Addresses that other machines reach while security doesn't say who may connect",
        status.security.open_listeners.len() as f64,
    )?;
    let versions = status.peers.zmtp.versions.iter();
    page.gauges(
        "event_manager_peers_connected",
        "Peers that have completed the handshake, by ZMTP version",
        versions.map(|(version, peers)| (vec![("zmtp", &**version)], *peers as f64)),
    )?;
    let mechanisms = status.peers.mechanisms.iter();
    page.gauges(
        "event_manager_peers",
        "Peers that have completed the handshake, by security mechanism",
        mechanisms.map(|(name, peers)| (vec![("mechanism", &**name)], *peers as f64)),
    )?;
    let named = status.security.clients.iter();
    let denied = named.map(|client| (&*client.name, &client.denied));
    let others = ("", &status.security.denied_to_others);
    let denied = denied.chain([others]).flat_map(|(client, denied)| {
        let all = denied.iter();
        all.map(move |(what, times)| (vec![("client", client), ("what", &**what)], *times))
    });
    page.counters(
        "event_manager_denied",
        "What clients were denied, by client and by what it was; an empty client stands for all that the status doesn't name",
        denied,
    )?;
    let stored = status.security.clients.iter();
    let stored = stored.filter(|client| client.stored_bytes > 0);
    page.gauges(
        "event_manager_client_stored_bytes",
        "Bytes that the services of a client keep on disk, of clients that the status names",
        stored.map(|client| (vec![("client", &*client.name)], client.stored_bytes as f64)),
    )?;
    let refused = status.peers.refused.iter();
    page.counters(
        "event_manager_peers_refused",
        "Refused connections and discarded messages, by reason",
        refused.map(|(reason, times)| (vec![("reason", &**reason)], *times)),
    )
}

/// What the system says of the process, under the names that all exporters use.
pub(super) fn process(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let process = state.snapshot.process;
    if let Some(seconds) = process.cpu_seconds {
        let kind = prometheus_client::metrics::MetricType::Counter;
        let (name, help) = ("process_cpu_seconds", "User and system CPU time in seconds");
        let mut family = page.encoder.encode_descriptor(name, help, None, kind)?;
        family.encode_counter::<super::NoLabelSet, _, f64>(&seconds, None)?;
    }
    let gauges = [
        (
            "process_resident_memory_bytes",
            "Resident memory in bytes",
            process.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory in bytes",
            process.virtual_bytes,
        ),
        (
            "process_open_fds",
            "Open file descriptors",
            process.open_fds,
        ),
        (
            "process_max_fds",
            "The limit of open file descriptors",
            process.max_fds,
        ),
        ("process_threads", "Threads", process.threads),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            page.gauge(name, help, value as f64)?;
        }
    }
    page.gauge(
        "process_start_time_seconds",
        "Start time in seconds since 1970",
        state.snapshot.status.started_at_ms as f64 / 1e3,
    )
}

/// Publishers and subscribers.
pub(super) fn forwarder(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let publishers = &status.publishers;
    page.gauge(
        "event_manager_publishers_connected",
        "Connected publishers",
        publishers.connected as f64,
    )?;
    page.gauge(
        "event_manager_publishers_held",
        "1 while publishers are not read from, after a start, until the subscribers of the previous run are back",
        truth(publishers.held.is_some()),
    )?;
    dialled(page, &publishers.dialled)?;
    mesh(page, &status.mesh)?;
    page.counter(
        "event_manager_published_events",
        "Events received from publishers and by EMIT",
        publishers.events,
    )?;
    page.counter(
        "event_manager_published_bytes",
        "Bytes of the events received from publishers and by EMIT",
        publishers.bytes,
    )?;
    page.counter(
        "event_manager_unmatched_events",
        "Events from publishers that matched no subscription",
        publishers.unmatched,
    )?;
    page.counters(
        "events_published",
        "Events received, by subject: the most frequent subjects, and other",
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
        "Seconds from a request that publishes (EMIT, PUBLISH) to its answer",
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
        "1 if this publisher of connectPublishers is connected",
        each().map(|one| (labels(one), truth(one.connected))),
    )?;
    page.counters(
        "event_manager_dialled_publisher_connections",
        "Connections made to this publisher of connectPublishers",
        each().map(|one| (labels(one), one.connections)),
    )
}

/// Hubs: those that we dial, by their address, and those that dialled us, by their id.
fn mesh(page: &mut Page<'_>, mesh: &Mesh) -> fmt::Result {
    fn peer(link: &Link) -> Labels<'_> {
        vec![("peer", &link.address)]
    }
    let links = || mesh.links.iter();
    page.gauges(
        "event_manager_mesh_link_connected",
        "1 if this hub of mesh.peers is linked",
        links().map(|link| (peer(link), truth(link.connected))),
    )?;
    page.counters(
        "event_manager_mesh_link_connections",
        "How often this hub of mesh.peers was linked",
        links().map(|link| (peer(link), link.connections)),
    )?;
    page.counters(
        "event_manager_mesh_events_received",
        "Events that came from this hub of mesh.peers",
        links().map(|link| (peer(link), link.events)),
    )?;
    // One hub may be there twice while it connects again.
    let mut hubs = BTreeMap::<&str, u64>::new();
    for hub in &mesh.hubs {
        *hubs.entry(&hub.hub).or_default() += hub.waiting_bytes;
    }
    page.gauges(
        "event_manager_mesh_hub_connected",
        "1 if this hub is connected, which gets what clients of this daemon publish",
        hubs.keys().map(|hub| (vec![("hub", *hub)], 1.0)),
    )?;
    page.gauges(
        "event_manager_mesh_hub_waiting_bytes",
        "Bytes that wait to be written to this hub",
        hubs.iter()
            .map(|(hub, waiting)| (vec![("hub", *hub)], *waiting as f64)),
    )?;
    page.counter(
        "event_manager_mesh_events_sent",
        "Events that were written to hubs",
        mesh.events_sent,
    )
}

fn subscribers(page: &mut Page<'_>, subscribers: &Subscribers) -> fmt::Result {
    page.gauge(
        "event_manager_subscribers_connected",
        "Connected subscribers",
        subscribers.connected as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_prefixes",
        "Prefixes that subscribers have subscribed to",
        subscribers.subscriptions as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_prefix_bytes",
        "Memory that the prefixes take (budgets.subscriptionBytes)",
        subscribers.prefix_bytes as f64,
    )?;
    let outbox = &subscribers.outbox;
    page.gauge(
        "event_manager_subscriber_outbox_bytes",
        "Bytes queued for all subscribers",
        outbox.bytes as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_largest_bytes",
        "Bytes queued for the subscriber with the most",
        outbox.largest_bytes as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_peak_bytes",
        "The most bytes ever queued for one subscriber",
        outbox.peak_bytes as f64,
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_budget_bytes",
        "The limit for one subscriber (budgets.subscriberOutboxBytes)",
        outbox.budget_bytes as f64,
    )?;
    let counters = &subscribers.counters;
    page.counter(
        "event_manager_subscriber_events_matched",
        "Events that matched subscribers' prefixes, once for each subscriber",
        counters.matched,
    )?;
    page.counter(
        "event_manager_subscriber_events_delivered",
        "Events written to subscribers' sockets",
        counters.delivered,
    )?;
    page.counters(
        "event_manager_subscriber_events_dropped",
        "Events for subscribers that were dropped, by reason",
        by_reason(counters, SUBSCRIBER_DROPS)
            .into_iter()
            .map(|(reason, events)| (vec![("reason", reason)], events)),
    )?;
    page.gauge(
        "event_manager_subscriber_events_in_flight",
        "Events in subscribers' outboxes",
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
    DropReason::Quota,
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

/// Gauges of each service that has them.
const GAUGES: &[Family<ServiceStatus, Option<u64>>] = &[
    (
        "event_manager_events_queued",
        "Queued events, in memory or on disk",
        |s| Some(s.counters.queued),
    ),
    (
        "event_manager_events_in_flight",
        "Events in outboxes or held by workers",
        |s| Some(s.counters.in_flight),
    ),
    (
        "event_manager_queue_events",
        "Events queued in memory",
        |s| Some(s.queue.events),
    ),
    ("event_manager_queue_bytes", "Bytes queued in memory", |s| {
        Some(s.queue.bytes)
    }),
    (
        "event_manager_queue_budget_events",
        "The limit of events queued in memory",
        |s| Some(s.queue.budget_events),
    ),
    (
        "event_manager_queue_budget_bytes",
        "The limit of bytes queued in memory",
        |s| Some(s.queue.budget_bytes),
    ),
    (
        "event_manager_queue_pending_events",
        "Durable services: events not yet on disk",
        |s| Some(s.durable.as_ref()?.pending_events),
    ),
    (
        "event_manager_queue_on_disk_only_events",
        "Durable services: events that are only on disk",
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
        "Dropped events, by reason",
        drops,
    )?;
    for (name, help, value) in GAUGES {
        let each = services.iter();
        let values = each.filter_map(|s| Some((of(s), value(s)? as f64)));
        page.gauges(name, help, values)?;
    }
    queue_states(page, services)?;
    page.gauges(
        "event_manager_subscriptions",
        "Live subscriptions of the service",
        services
            .iter()
            .map(|s| (of(s), s.subscription_count as f64)),
    )?;
    page.gauges(
        "event_manager_workers",
        "Workers by state: ready, stalled (ready, but not reading), silent (no READY yet, or BYE)",
        services.iter().flat_map(workers),
    )?;
    page.histograms(
        "event_consume_duration_seconds",
        "Seconds from handing an event to an acknowledging worker until its ACK",
        services.iter().map(|s| (of(s), &s.consume_seconds)),
    )
}

/// Whether queues on disk are in trouble.
fn queue_states(page: &mut Page<'_>, services: &[ServiceStatus]) -> fmt::Result {
    for (name, help, state) in [
        (
            "event_manager_queue_failed",
            "Durable services: 1 if the queue accepts no events",
            QueueState::Failed,
        ),
        (
            "event_manager_queue_unreadable",
            "Durable services: 1 if events on disk can't be read now",
            QueueState::Unreadable,
        ),
    ] {
        let durable = services.iter().filter_map(|s| {
            let durable = s.durable.as_ref()?;
            Some((of(s), truth(durable.state == state)))
        });
        page.gauges(name, help, durable)?;
    }
    Ok(())
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
