"""The types of what `Hub.status` returns: dictionaries, whose fields docs/status.md explains.

Fields may be added in later versions of the daemon, and older ones may lack some: take 0, "", false, None or nothing for these.
"""

from __future__ import annotations

from typing import Any, Dict, List, Literal, Optional, TypedDict

#: The state of a queue on disk.
QueueState = Literal["ok", "opening", "failed", "unreadable"]
#: What made a service durable.
DurableReason = Literal["subscribed", "configured", "on-disk"]

class Addresses(TypedDict):
    """Endpoints, as clients on other machines reach them (`publicHostname`)."""

    publishers: List[str]
    subscribers: List[str]
    requests: List[str]
    locator: Optional[str]


class Subscription(TypedDict):
    """A subscription of a service."""

    id: str
    subjects: List[str]
    expiresInSeconds: float


class NamedWorker(TypedDict):
    """A worker that said who it is."""

    name: Optional[str]
    client: Optional[str]
    address: str
    ready: bool
    credit: Optional[int]
    heldEvents: int


class Workers(TypedDict):
    """How many workers a service has."""

    connected: int
    ready: int
    stalled: int
    named: List[NamedWorker]


class Queue(TypedDict):
    """The queue of a service in memory."""

    events: int
    bytes: int
    budgetBytes: int
    budgetEvents: int


class Histogram(TypedDict):
    """Durations by bucket."""

    counts: List[int]
    sum: float


class Held(TypedDict):
    """What acknowledging workers have in hand."""

    events: int
    bytes: int


class Durable(TypedDict):
    """The queue of a durable service on disk."""

    state: QueueState
    reason: Optional[str]
    because: DurableReason
    pendingEvents: int
    onDiskOnlyEvents: int


class Dispatch(TypedDict):
    """What of a service could be given out now."""

    dueEvents: int
    freeWorkers: int
    waitsForDisk: bool
    stuckMs: Optional[int]


class Counters(TypedDict):
    """What became of events. At every moment matched = delivered + queued + in flight + dead-lettered + expired + dropped. All but those queued and in flight only rise while the daemon runs."""

    matched: int
    delivered: int
    queued: int
    inFlight: int
    deadLettered: int
    expired: int
    dropped: Dict[str, int]
    unconfirmed: int
    retries: int
    redelivered: int
    lettersLost: int


class ServiceStatus(TypedDict):
    """A service, with all its subscriptions and workers together."""

    name: str
    port: Optional[int]
    address: Optional[str]
    noPort: Optional[str]
    subjects: List[str]
    subscriptions: List[Subscription]
    workers: Workers
    queue: Queue
    consumeSeconds: Histogram
    held: Held
    durable: Optional[Durable]
    dispatch: Dispatch
    counters: Counters


class AwaitedSubscribers(TypedDict):
    """Subscribers of the run before, for whom publishers wait."""

    awaitedSubscriptions: Optional[int]
    secondsLeft: float


class Ring(TypedDict):
    """Event managers that dial each other, so that events would go round for ever."""

    daemons: int
    held: bool


class Dialled(TypedDict):
    """A publisher that the daemon connects to."""

    address: str
    connected: bool
    ring: Optional[Ring]
    sinceMs: int
    failedTries: int
    connections: int
    lastError: Optional[str]


class SubjectEvents(TypedDict):
    """The events of one subject."""

    subject: str
    events: int


class Subjects(TypedDict):
    """Events that came, by subject."""

    named: List[SubjectEvents]
    otherEvents: int


class RequestTimes(TypedDict):
    """How long requests took, from when they were read until they were answered."""

    ack: Histogram
    nak: Histogram


class Publishers(TypedDict):
    """Those who send events, and what they sent. The counters of services are at least as new."""

    connected: int
    events: int
    bytes: int
    unmatched: int
    held: Optional[AwaitedSubscribers]
    dialled: List[Dialled]
    dialledAreRequired: bool
    subjects: Subjects
    emitSeconds: RequestTimes
    callSeconds: RequestTimes


class Outboxes(TypedDict):
    """What waits to be written to subscribers."""

    bytes: int
    largestBytes: int
    peakBytes: int
    budgetBytes: int


class Subscribers(TypedDict):
    """Plain subscribers."""

    connected: int
    subscriptions: int
    remembered: int
    outbox: Outboxes
    counters: Counters


class Connections(TypedDict):
    """Connections of all kinds but HTTP."""

    open: int
    unfinished: int
    max: int
    fdsMax: Optional[int]
    requesters: int
    outboxBytes: int


class Memory(TypedDict):
    """What waits in the memory of the process."""

    waitingBytes: int
    halfReceivedBytes: int
    limitBytes: int


class Store(TypedDict):
    """The queues on disk."""

    kept: bool
    waitingBytes: int
    failed: Dict[str, str]


class StateDatabase(TypedDict):
    """The database of subscriptions and ports."""

    kept: bool
    written: bool
    failing: bool


class Traces(TypedDict):
    """What became of spans, and of the trace contexts of events."""

    exported: int
    dropped: int
    refused: int
    malformed: int


class RefusedAgain(TypedDict):
    """A host that is refused again and again."""

    host: str
    reason: str
    times: int
    seconds: float
    why: str


class SlowPeer(TypedDict):
    """A peer that reads more slowly than it is sent."""

    address: str
    role: str
    service: Optional[str]
    bytes: int
    budgetBytes: int


class OldPeer(TypedDict):
    """A peer that speaks ZMTP 2.0."""

    address: str
    role: str
    service: Optional[str]
    socketType: str
    identity: str


class ZmtpVersions(TypedDict):
    """Which versions of ZMTP peers speak."""

    versions: Dict[str, int]
    old: List[OldPeer]


class Peers(TypedDict):
    """Peers that stand out."""

    refused: Dict[str, int]
    refusedAgain: List[RefusedAgain]
    slow: List[SlowPeer]
    zmtp: ZmtpVersions


class Status(TypedDict):
    """The answer of STATUS."""

    service: str
    version: str
    pid: int
    startedAtMs: int
    wallClockMs: int
    uptimeSeconds: float
    subscriptionTtlSeconds: float
    draining: bool
    addresses: Addresses
    services: List[ServiceStatus]
    retiredServices: Counters
    publishers: Publishers
    subscribers: Subscribers
    connections: Connections
    memory: Memory
    store: Store
    stateDir: Optional[str]
    state: StateDatabase
    traces: Optional[Traces]
    pendingCalls: int
    peers: Peers


__all__ = [
    "Addresses",
    "AwaitedSubscribers",
    "Connections",
    "Counters",
    "Dialled",
    "Dispatch",
    "Durable",
    "DurableReason",
    "Held",
    "Histogram",
    "Memory",
    "OldPeer",
    "Outboxes",
    "Peers",
    "Publishers",
    "Queue",
    "QueueState",
    "RefusedAgain",
    "RequestTimes",
    "Ring",
    "ServiceStatus",
    "SlowPeer",
    "StateDatabase",
    "Status",
    "Store",
    "SubjectEvents",
    "Subjects",
    "Subscribers",
    "Subscription",
    "Traces",
    "NamedWorker",
    "Workers",
    "ZmtpVersions",
]
