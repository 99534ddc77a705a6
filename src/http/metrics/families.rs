//! Each metric, with its name and what it says. docs/operations.md has the same.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::{Labels, Page, State};
use crate::broker::DropReason;

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn truth(value: bool) -> f64 {
    u8::from(value).into()
}

/// The whole process.
pub(super) fn daemon(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let status = &state.snapshot.status;
    let version = status["version"].as_str().unwrap_or_default();
    page.gauges(
        "event_manager_build_info",
        "The version, as a label; always 1",
        [(vec![("version", version)], 1.0)],
    )?;
    page.gauge("event_manager_up", "The reactor turns; always 1", 1.0)?;
    page.gauge(
        "event_manager_ready",
        "All checks of readiness pass",
        truth(state.readiness.is_ready()),
    )?;
    let checks = state.readiness.checks.iter();
    page.gauges(
        "event_manager_ready_check",
        "One check of readiness passes",
        checks.map(|check| (vec![("check", check.name)], truth(check.ok))),
    )?;
    page.gauge(
        "event_manager_registered",
        "The ServiceLocator has our registration",
        truth(state.is_registered),
    )?;
    page.gauge(
        "event_manager_uptime_seconds",
        "Time since the start",
        number(&status["uptimeSeconds"]),
    )?;
    let memory = &status["memory"];
    page.gauge(
        "event_manager_memory_waiting_bytes",
        "What waits for all peers and services together",
        number(&memory["waitingBytes"]),
    )?;
    page.gauge(
        "event_manager_memory_half_received_bytes",
        "Received of messages that are not whole, as part of what waits",
        number(&memory["halfReceivedBytes"]),
    )?;
    page.gauge(
        "event_manager_memory_limit_bytes",
        "What may wait for all together (memoryLimit); 0 is no limit",
        number(&memory["limitBytes"]),
    )?;
    let failed = status["store"]["failed"].as_object();
    page.gauge(
        "event_manager_store_failed_queues",
        "Queues on disk that take no events",
        failed.map_or(0, serde_json::Map::len) as f64,
    )?;
    page.gauge(
        "event_manager_store_waiting_bytes",
        "What waits for the disk",
        number(&status["store"]["waitingBytes"]),
    )?;
    connections(page, status)
}

fn connections(page: &mut Page<'_>, status: &Value) -> fmt::Result {
    let connections = &status["connections"];
    page.gauge(
        "event_manager_connections_open",
        "Connections of all kinds but HTTP",
        number(&connections["open"]),
    )?;
    page.gauge(
        "event_manager_connections_max",
        "How many there may be",
        number(&connections["max"]),
    )?;
    page.gauge(
        "event_manager_outbox_bytes",
        "What waits to be written to all peers",
        number(&connections["outboxBytes"]),
    )?;
    page.gauge(
        "event_manager_pending_calls",
        "Requests that wait for their answers",
        number(&status["pendingCalls"]),
    )?;
    let versions = status["peers"]["zmtp"]["versions"].as_object();
    page.gauges(
        "event_manager_peers_connected",
        "Peers whose handshake is done, by the version of ZMTP that they speak",
        versions
            .into_iter()
            .flatten()
            .map(|(version, peers)| (vec![("zmtp", &**version)], number(peers))),
    )?;
    let refused = status["peers"]["refused"].as_object().into_iter().flatten();
    page.counters(
        "event_manager_peers_refused",
        "Connections and messages that were turned away",
        refused.map(|(reason, times)| (vec![("reason", &**reason)], count(times))),
    )
}

/// What the system says of the process, under the names that all exporters use.
pub(super) fn process(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let process = state.snapshot.process;
    if let Some(ticks) = process.cpu_ticks {
        let kind = prometheus_client::metrics::MetricType::Counter;
        let (name, help) = ("process_cpu_seconds", "Processor time that was used");
        let mut family = page.encoder.encode_descriptor(name, help, None, kind)?;
        let seconds = ticks as f64 / 100.0;
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
        ("process_max_fds", "How many may be open", process.fds_max),
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
        state.started_at_ms as f64 / 1e3,
    )
}

/// Publishers and subscribers.
pub(super) fn forwarder(page: &mut Page<'_>, status: &Value) -> fmt::Result {
    let publishers = &status["publishers"];
    page.gauge(
        "event_manager_publishers_connected",
        "Publishers that are connected",
        number(&publishers["connected"]),
    )?;
    page.gauge(
        "event_manager_publishers_held",
        "Publishers wait after a start for the subscribers of the run before",
        truth(!publishers["held"].is_null()),
    )?;
    dialled(page, &publishers["dialled"])?;
    page.counter(
        "event_manager_published_events",
        "Events that came from publishers, and by EMIT",
        count(&publishers["events"]),
    )?;
    page.counter(
        "event_manager_published_bytes",
        "Their bytes",
        count(&publishers["bytes"]),
    )?;
    page.counter(
        "event_manager_unmatched_events",
        "Events from publishers that nobody asked for",
        count(&publishers["unmatched"]),
    )?;
    page.counters(
        "events_published",
        "Events that came, by subject: those with the most, and other",
        by_subject(&publishers["subjects"])
            .iter()
            .map(|(subject, events)| (vec![("subject", &**subject)], *events)),
    )?;
    let kinds = [("emit", "emitSeconds"), ("call", "callSeconds")];
    let answers = kinds.iter().flat_map(|(kind, field)| {
        ["ack", "nak"].map(|answer| {
            let labels = vec![("kind", *kind), ("answer", answer)];
            (labels, &publishers[*field][answer])
        })
    });
    page.histograms(
        "event_publish_duration_seconds",
        "From a request that publishes (EMIT, PUBLISH) to its answer",
        answers,
    )?;
    subscribers(page, &status["subscribers"])
}

/// No two subjects with the same text: one that is no text, or is called `other`, may be written as
/// another is.
fn by_subject(subjects: &Value) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::from([("other".to_owned(), count(&subjects["otherEvents"]))]);
    for named in subjects["named"].as_array().into_iter().flatten() {
        let subject = named["subject"].as_str().unwrap_or_default().to_owned();
        *all.entry(subject).or_default() += count(&named["events"]);
    }
    all
}

fn address_of(dialled: &Value) -> &str {
    dialled["address"].as_str().unwrap_or_default()
}

/// Publishers that we connect to. The configuration names them, so that there are few.
fn dialled(page: &mut Page<'_>, dialled: &Value) -> fmt::Result {
    let each = || dialled.as_array().into_iter().flatten();
    let labels = |one| vec![("publisher", address_of(one))];
    page.gauges(
        "event_manager_dialled_publisher_connected",
        "A publisher of connectPublishers is connected",
        each().map(|one| (labels(one), truth(one["connected"] == true))),
    )?;
    page.counters(
        "event_manager_dialled_publisher_connections",
        "How often it was connected",
        each().map(|one| (labels(one), count(&one["connections"]))),
    )
}

fn subscribers(page: &mut Page<'_>, subscribers: &Value) -> fmt::Result {
    page.gauge(
        "event_manager_subscribers_connected",
        "Subscribers that are connected",
        number(&subscribers["connected"]),
    )?;
    page.gauge(
        "event_manager_subscriber_prefixes",
        "What they have subscribed to",
        number(&subscribers["subscriptions"]),
    )?;
    let outbox = &subscribers["outbox"];
    page.gauge(
        "event_manager_subscriber_outbox_bytes",
        "What waits for subscribers",
        number(&outbox["bytes"]),
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_largest_bytes",
        "What waits for the one for whom the most waits",
        number(&outbox["largestBytes"]),
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_peak_bytes",
        "The most that ever waited for one",
        number(&outbox["peakBytes"]),
    )?;
    page.gauge(
        "event_manager_subscriber_outbox_budget_bytes",
        "What may wait for one (budgets.subscriberOutboxBytes)",
        number(&outbox["budgetBytes"]),
    )?;
    let counters = &subscribers["counters"];
    page.counter(
        "event_manager_subscriber_events_matched",
        "Events that subscribers asked for, once for each of them",
        count(&counters["matched"]),
    )?;
    page.counter(
        "event_manager_subscriber_events_delivered",
        "Of these, written to their sockets",
        count(&counters["delivered"]),
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
        number(&counters["inFlight"]),
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
fn by_reason<'s>(counters: &'s Value, expected: &[DropReason]) -> BTreeMap<&'s str, u64> {
    let mut all: BTreeMap<_, _> = expected.iter().map(|reason| (reason.name(), 0)).collect();
    let occurred = counters["dropped"].as_object().into_iter().flatten();
    all.extend(occurred.map(|(reason, events)| (&**reason, count(events))));
    all
}

/// A counter of a service: its name, what it says, and where the status has it.
const COUNTERS: &[(&str, &str, &str)] = &[
    (
        "event_manager_events_matched",
        "Events that the service asked for",
        "matched",
    ),
    (
        "event_manager_events_delivered",
        "Of these, written to a worker's socket; acknowledged, if it acknowledges",
        "delivered",
    ),
    (
        "event_manager_events_dead_lettered",
        "Of these, those that no worker could do",
        "deadLettered",
    ),
    (
        "event_manager_events_expired",
        "Of these, those that became too old",
        "expired",
    ),
    (
        "event_manager_events_redelivered",
        "Deliveries of events that were delivered before",
        "redelivered",
    ),
    (
        "event_manager_events_unconfirmed",
        "Of those delivered, held by a worker that left",
        "unconfirmed",
    ),
    (
        "event_manager_dead_letters_lost",
        "Dead letters that could not be kept on disk",
        "lettersLost",
    ),
    (
        "events_consumed",
        "The same as event_manager_events_delivered_total",
        "delivered",
    ),
    (
        "events_retried",
        "Deliveries that failed and were not the last",
        "retries",
    ),
    (
        "events_dlq",
        "The same as event_manager_events_dead_lettered_total",
        "deadLettered",
    ),
];

/// A gauge of a service: the same, but its place is a path.
const GAUGES: &[(&str, &str, &str)] = &[
    (
        "event_manager_events_queued",
        "Events that wait, in memory or on disk",
        "/counters/queued",
    ),
    (
        "event_manager_events_in_flight",
        "Events in outboxes and in workers' hands",
        "/counters/inFlight",
    ),
    (
        "event_manager_queue_events",
        "Events that wait in memory",
        "/queue/events",
    ),
    ("event_manager_queue_bytes", "Their bytes", "/queue/bytes"),
    (
        "event_manager_queue_budget_events",
        "How many may wait in memory",
        "/queue/budgetEvents",
    ),
    (
        "event_manager_queue_budget_bytes",
        "What may wait in memory",
        "/queue/budgetBytes",
    ),
    (
        "event_manager_queue_pending_events",
        "Durable services: events that the disk does not have yet",
        "/durable/pendingEvents",
    ),
    (
        "event_manager_queue_on_disk_only_events",
        "Durable services: events that are not in memory",
        "/durable/onDiskOnlyEvents",
    ),
];

/// Services and their workers.
pub(super) fn services(page: &mut Page<'_>, status: &Value) -> fmt::Result {
    let services = status["services"].as_array().map_or(&[][..], Vec::as_slice);
    for (name, help, field) in COUNTERS {
        let each = services.iter();
        page.counters(
            name,
            help,
            each.map(|s| (of(s), count(&s["counters"][field]))),
        )?;
    }
    let drops = services.iter().flat_map(|service| {
        let expected = match service["durable"].is_object() {
            true => DURABLE_DROPS,
            false => LIVE_DROPS,
        };
        let drops = by_reason(&service["counters"], expected).into_iter();
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
    for (name, help, path) in GAUGES {
        let each = services.iter();
        let values = each.filter_map(|s| Some((of(s), s.pointer(path)?.as_f64()?)));
        page.gauges(name, help, values)?;
    }
    for (name, help, state) in [
        (
            "event_manager_queue_failed",
            "Durable services: the queue takes no events",
            "failed",
        ),
        (
            "event_manager_queue_unreadable",
            "Durable services: events on disk can't be read now",
            "unreadable",
        ),
    ] {
        let durable = services.iter().filter(|s| s["durable"].is_object());
        page.gauges(
            name,
            help,
            durable.map(|s| (of(s), truth(s["durable"]["state"] == state))),
        )?;
    }
    let subscriptions = |s: &Value| s["subscriptions"].as_array().map_or(0, Vec::len) as f64;
    page.gauges(
        "event_manager_subscriptions",
        "Subscriptions of the service that live",
        services.iter().map(|s| (of(s), subscriptions(s))),
    )?;
    page.gauges(
        "event_manager_workers",
        "Workers: ready, stalled (ready, but they don't read), silent (no READY, or BYE)",
        services.iter().flat_map(workers),
    )?;
    page.histograms(
        "event_consume_duration_seconds",
        "From handing an event to a worker that acknowledges to its ACK",
        services.iter().map(|s| (of(s), &s["consumeSeconds"])),
    )
}

fn of(service: &Value) -> Labels<'_> {
    vec![("service", service["name"].as_str().unwrap_or_default())]
}

fn workers(service: &Value) -> [(Labels<'_>, f64); 3] {
    let workers = &service["workers"];
    let [connected, ready, stalled] =
        ["connected", "ready", "stalled"].map(|state| number(&workers[state]));
    let states = [
        ("ready", ready - stalled),
        ("stalled", stalled),
        ("silent", connected - ready),
    ];
    states.map(|(state, workers)| {
        let mut labels = of(service);
        labels.push(("state", state));
        (labels, workers)
    })
}
