//! What is counted of each service.

use event_manager_wire::api::Counters;

/// A metric's name, its help, and how its value is read.
pub(super) type Family<S, V> = (&'static str, &'static str, fn(&S) -> V);

/// Counters of each service.
pub(super) const COUNTERS: &[Family<Counters, u64>] = &[
    (
        "event_manager_events_matched",
        "Events that matched the service's subscriptions",
        |counters| counters.matched,
    ),
    (
        "event_manager_events_delivered",
        "Events written to a worker's socket, or acknowledged if the worker acknowledges",
        |counters| counters.delivered,
    ),
    (
        "event_manager_events_dead_lettered",
        "Events that no worker could process",
        |counters| counters.dead_lettered,
    ),
    (
        "event_manager_events_expired",
        "Events whose ttl ran out",
        |counters| counters.expired,
    ),
    (
        "event_manager_events_returned",
        "Events that went back to the engine that has the service's queue",
        |counters| counters.returned,
    ),
    (
        "event_manager_events_redelivered",
        "Deliveries of events that were delivered before",
        |counters| counters.redelivered,
    ),
    (
        "event_manager_events_unconfirmed",
        "Delivered events that a worker held, unanswered, when it left",
        |counters| counters.unconfirmed,
    ),
    (
        "event_manager_dead_letters_lost",
        "Dead letters lost because they could not be saved",
        |counters| counters.letters_lost,
    ),
    (
        "events_consumed",
        "The same as event_manager_events_delivered_total",
        |counters| counters.delivered,
    ),
    (
        "events_retried",
        "Failed deliveries that were not the last one",
        |counters| counters.retries,
    ),
    (
        "events_dlq",
        "The same as event_manager_events_dead_lettered_total",
        |counters| counters.dead_lettered,
    ),
];
