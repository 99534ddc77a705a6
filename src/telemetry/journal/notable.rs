//! What is notable: the table of all kinds, each with its code. docs/events.md has a section for each.
//!
//! Fields say what they are if their names don't: `service` and `queue` are the name of a service, `path` is
//! a file, `why` and `error` are sentences.

use serde_json::{Map, Value};

use super::kinds::{Kind, Loggable, put};

notables! {
    /// All sockets are bound and served.
    "EM-0001" Started "started" INFO "em.daemon" {
        /// Of this program.
        version: &'a str,
        /// Where the configuration came from.
        config: &'a str,
        /// Bound addresses, with commas between them; so are the next two.
        publishers: &'a str,
        /// For subscribers.
        subscribers: &'a str,
        /// For requests.
        requests: &'a str,
        /// The embedded ServiceLocator's address.
        locator: &'a str,
        /// Where HTTP listens, or `off`.
        http: &'a str,
    } "ready"

    /// It was told to stop.
    "EM-0002" Stopping "stopping" INFO "em.daemon" {}
        "stopping: delivering queued events; a second signal ends at once"

    /// It has stopped.
    "EM-0003" Stopped "stopped" INFO "em.daemon" {
        /// All that could be delivered was, in time.
        drained: bool,
        /// Events in memory that were not.
        undelivered: u64,
    } "stopped"

    /// A second signal came.
    "EM-0004" StoppedAtOnce "stopped-at-once" WARN "em.daemon" {}
        "stopped at once: undelivered events are lost"

    /// It could not start.
    "EM-0005" StartFailed "start-failed" ERROR "em.daemon" {
        why: &'a str = said,
    } "{why}"

    /// A thread ended by a fault of ours.
    "EM-0006" Died "died" ERROR "em.daemon" {}
        "the daemon panicked, which is a bug; the panic message is on standard error"

    /// SIGHUP was obeyed.
    "EM-0007" Reloaded "reloaded" INFO "em.daemon" {
        /// The keys that have another value now, with commas between.
        changed: &'a str,
    } "configuration reloaded"

    /// The configuration that SIGHUP found is wrong.
    "EM-0008" ReloadRefused "reload-refused" ERROR "em.daemon" {
        /// What is wrong.
        why: &'a str = said,
    } "not reloaded, the old configuration stays: {why}"

    /// The reactor did not turn for a while.
    "EM-0009" LoopStalled "loop-stalled" WARN "em.reactor" {
        /// For so long, in milliseconds.
        stalled_ms: u64,
    } "the event loop stalled; leases and heartbeats are extended"

    /// The wall clock was set.
    "EM-0010" ClockJumped "clock-jumped" WARN "em.reactor" {
        /// Forward by so much, in milliseconds; backward if negative.
        jump_ms: i64,
    } "the wall clock jumped; running leases are not affected, but those kept over a restart are"

    /// The event log's own file fails.
    "EM-0011" EventLogFailed "event-log-failed" WARN "em.log" {
        path: &'a str,
        /// The system's reason.
        why: &'a str = said,
    } "the event log can't be written; each event tries again: {why}"

    /// A subscription that was not there.
    "EM-0101" Subscribed "subscribed" INFO "em.service" {
        service: &'a str = bare,
        /// What its client calls it.
        subscription: &'a str,
        /// What it asks for, with blanks between.
        subjects: &'a str,
        /// Where its workers connect.
        port: u16,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a service subscribed"

    /// A client ended its subscription.
    "EM-0102" Unsubscribed "unsubscribed" INFO "em.service" {
        service: &'a str = bare,
        /// What its client calls it.
        subscription: &'a str,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a subscription was ended by its client"

    /// No keep-alive came.
    "EM-0103" SubscriptionExpired "subscription-expired" INFO "em.service" {
        service: &'a str = bare,
        /// What its client calls it.
        subscription: &'a str,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a subscription expired: it was not kept alive"

    /// A service has a port now.
    "EM-0104" ServiceOpened "service-opened" INFO "em.service" {
        service: &'a str = bare,
        /// Where its workers connect.
        port: u16,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a service was opened"

    /// A service is no more: its last subscription ended, or it was ended by END.
    "EM-0105" ServiceEnded "service-ended" INFO "em.service" {
        service: &'a str = bare,
        /// Events that waited, and are dropped.
        queued: u64,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a service ended"

    /// A service gets no port.
    "EM-0106" PortExhausted "port-exhausted" WARN "em.service" {
        service: &'a str = bare,
        why: &'a str = said,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "a service gets no port: {why}"

    /// A service of an earlier run has another port.
    "EM-0107" ServiceMoved "service-moved" WARN "em.service" {
        service: &'a str = bare,
        /// Where its workers connect now.
        port: u16,
        /// Where they connected before.
        former_port: u16,
    } "the service's previous port can't be bound: its workers have to connect to another one"

    /// A worker's first READY.
    "EM-0201" WorkerJoined "worker-joined" INFO "em.worker" {
        service: &'a str = bare,
        /// Where it connects from.
        peer: &'a str,
        /// Whether it acknowledges.
        acknowledges: bool,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a worker is ready"

    /// A worker's connection ended, and it held nothing or had said BYE.
    "EM-0202" WorkerLeft "worker-left" INFO "em.worker" {
        service: &'a str = bare,
        /// Where it connected from.
        peer: &'a str,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a worker left"

    /// A worker's connection ended while it held events that it had not reported done.
    "EM-0203" WorkerLost "worker-lost" WARN "em.worker" {
        service: &'a str = bare,
        /// Where it connected from.
        peer: &'a str,
        held: u64,
        /// Whether it acknowledged: then others get them.
        acknowledged: bool,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a worker was lost while it held events"

    /// A worker doesn't read.
    "EM-0204" WorkerStalled "worker-stalled" WARN "em.worker" {
        service: &'a str = bare,
        /// Where it connects from.
        peer: &'a str,
        /// Bytes that wait for it.
        bytes: u64,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a worker does not read and is skipped"

    /// Two workers of one service have one identity.
    "EM-0205" SameIdentity "same-identity" WARN "em.worker" {
        service: &'a str = bare,
        /// The identity, as text.
        identity: &'a str,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "two workers have the same identity: the newer connection stays, the older is closed"

    /// A peer that says nothing after a restart may be no worker of the service, or none that is ready.
    "EM-0206" WorkerInDoubt "worker-in-doubt" WARN "em.worker" {
        /// The service that has the port.
        service: &'a str = bare,
        /// Where the peer connects from.
        peer: &'a str,
        why: &'a str = said,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "a silent peer is not presumed ready after the restart, and gets no events until it says READY: {why}"

    /// A subscriber's outbox is full.
    "EM-0211" SubscriberSlow "subscriber-slow" WARN "em.subscriber" {
        /// Where it connects from.
        peer: &'a str = bare,
        /// `slow-subscriber` or `memory-limit`.
        reason: &'a str = bare,
        /// Events that made room.
        events: u64,
        /// Events of this kind and peer that were not written since the last.
        suppressed: u64,
    } "events dropped: a subscriber reads too slowly; its oldest events were dropped"

    /// The same, where it is to be disconnected.
    "EM-0212" SubscriberDisconnected "subscriber-disconnected" WARN "em.subscriber" {
        /// Where it connected from.
        peer: &'a str,
        /// `slow-subscriber`.
        reason: &'a str,
        why: &'a str = said,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "peer refused: {why}"

    /// A subscriber left with events on their way to it.
    "EM-0213" SubscriberLost "subscriber-lost" INFO "em.subscriber" {
        /// Where it connected from.
        peer: &'a str = bare,
        /// Events that it did not get.
        events: u64,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "a subscriber left with unread events"

    /// Events of a service were dropped.
    "EM-0301" EventsDropped "events-dropped" WARN "em.delivery" {
        service: &'a str = bare,
        /// As the counters name it.
        reason: &'a str = bare,
        /// So many now.
        events: u64,
        /// So many of this service for any reason, since it began.
        total: u64,
        /// Events of this kind, service and reason that were not written since the last.
        suppressed: u64,
    } "events dropped"

    /// An event that no worker could do.
    "EM-0302" DeadLetter "dead-letter" WARN "em.delivery" {
        service: &'a str = bare,
        /// `max-deliveries` or `terminated`.
        reason: &'a str = bare,
        /// What the worker said.
        detail: Option<&'a str>,
        /// Deliveries.
        attempts: u32,
        /// The event's.
        subject: &'a str,
        /// Events of this kind and service that were not written since the last.
        suppressed: u64,
    } "an event became a dead letter: no worker could process it"

    /// The end came before a service's events were delivered.
    "EM-0303" Undelivered "undelivered" WARN "em.delivery" {
        service: &'a str = bare,
        events: u64,
        /// Events of this kind that were not written.
        suppressed: u64,
    } "events not delivered: the event manager stopped"

    /// The same for subscribers.
    "EM-0304" UndeliveredToSubscribers "undelivered-to-subscribers" WARN "em.subscriber" {
        events: u64,
    } "events not delivered to subscribers: the event manager stopped"

    /// Events of a service wait in vain.
    "EM-0305" ServiceStuck "service-stuck" ERROR "em.delivery" {
        service: &'a str = bare,
        /// Events that could have gone.
        due: u64,
        /// For how long, in milliseconds.
        stuck_ms: u64,
        /// The disk has not answered.
        waits_for_disk: bool,
        /// Others of this kind since the last line.
        suppressed: u64,
    } "events are due and a worker is free, but none was delivered; trying again"

    /// The ServiceLocator knows us.
    "EM-0401" LocatorFound "locator-found" INFO "em.locator" {
        /// Our name there.
        name: &'a str = bare,
        /// Where clients reach us.
        address: &'a str = bare,
        locator: &'a str = bare,
    } "registered with the ServiceLocator"

    /// The ServiceLocator doesn't answer, or says no.
    "EM-0402" LocatorLost "locator-lost" WARN "em.locator" {
        /// Our name there.
        name: &'a str = bare,
        /// Where clients reach us.
        address: &'a str = bare,
        locator: &'a str = bare,
        why: &'a str = said,
    } "not registered, trying again; clients that know the request address are not affected: {why}"

    /// The startup guard saw a predecessor, or can't tell.
    "EM-0411" GuardWaiting "guard-waiting" INFO "em.guard" {
        /// What it saw.
        why: &'a str = said,
    } "startup guard: waiting, {why}"

    /// The startup guard lets us start.
    "EM-0412" GuardClear "guard-clear" INFO "em.guard" {
        /// How that is known.
        how: &'a str = said,
    } "startup guard: {how}"

    /// Its time was up, and we started all the same.
    "EM-0413" GuardOverridden "guard-overridden" WARN "em.guard" {
        /// What it saw last.
        why: &'a str = said,
    } "startup guard: starting although {why}"

    /// Its time was up, and we did not start.
    "EM-0414" GuardTimeout "guard-timeout" ERROR "em.guard" {
        why: &'a str = said,
    } "{why}"

    /// A durable queue takes nothing.
    "EM-0501" StoreFailed "store-failed" ERROR "em.store" {
        queue: &'a str = bare,
        /// What the system reports.
        reason: &'a str,
    } "a queue takes no events; trying again"

    /// It does again, or can be read again.
    "EM-0502" StoreRecovered "store-recovered" INFO "em.store" {
        queue: &'a str = bare,
    } "the queue works again"

    /// Records that can't be read.
    "EM-0503" QueueDamaged "queue-damaged" ERROR "em.store" {
        queue: &'a str = bare,
        damage: &'a str = bare,
    } "a queue has damaged records; they are skipped"

    /// A dead letter is not on disk.
    "EM-0504" DeadLetterNotKept "dead-letter-not-kept" ERROR "em.store" {
        service: &'a str = bare,
        reason: &'a str,
        /// So many were left out since the last one that was told.
        suppressed: u64,
    } "a dead letter could not be kept"

    /// There is no store.
    "EM-0505" LettersUnavailable "letters-unavailable" WARN "em.store" {
        error: &'a str = bare,
    } "dead letters are not kept"

    /// Events on disk can't be read now.
    "EM-0506" QueueUnreadable "queue-unreadable" ERROR "em.store" {
        queue: &'a str = bare,
        /// What the system reports.
        reason: &'a str,
    } "events of a queue can't be read from disk; they wait, trying again"

    /// Somebody put a file into a queue's directory.
    "EM-0507" SegmentRefused "segment-refused" ERROR "em.store" {
        /// The directory's service.
        queue: &'a str = bare,
        /// What it was called.
        file: &'a str = bare,
        /// What it is called now.
        now: &'a str = bare,
        /// Why it is not one of the queue's.
        why: &'a str = said,
    } "a file in a queue's directory is ignored: {why}"

    /// Somebody removed it, or put another in its place.
    "EM-0508" StateDirGone "state-dir-gone" ERROR "em.store" {
        /// What was done about it.
        why: &'a str = said,
    } "the state directory was removed while in use: {why}"

    /// A queue was found of which nothing else says that its service is durable.
    "EM-0510" QueueLeft "queue-left" WARN "em.store" {
        service: &'a str = bare,
        /// Events that wait in it.
        events: u64,
    } "a queue was found on disk, but neither the configuration nor a subscription makes its service durable: the service stays durable until it is ended"

    /// The state database can't be written.
    "EM-0511" StateFailed "state-failed" ERROR "em.state" {
        path: &'a str = bare,
        why: &'a str = said,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "the state database can't be written; trying again: {why}"

    /// It can be again.
    "EM-0512" StateRecovered "state-recovered" INFO "em.state" {
        path: &'a str = bare,
    } "the state database can be written again"

    /// It was damaged.
    "EM-0513" StateDamaged "state-damaged" WARN "em.state" {
        path: &'a str = bare,
        /// Where that is now.
        aside: &'a str = bare,
        /// What is wrong with it.
        why: &'a str = said,
    } "the state database is damaged and was moved aside: {why}; clients have to subscribe again, after the NAK to their next KEEP_ALIVE"

    /// It can't be used.
    "EM-0514" StateUnavailable "state-unavailable" WARN "em.state" {
        path: &'a str = bare,
        /// What can be done.
        why: &'a str = said,
    } "subscriptions are not kept over a restart: {why}"

    /// Somebody removed it, or put another in its place.
    "EM-0515" StateGone "state-gone" ERROR "em.state" {
        path: &'a str = bare,
    } "the state database was removed while in use: it is rewritten from memory"

    /// Subscriptions are back after a restart.
    "EM-0521" Restored "restored" INFO "em.state" {
        subscriptions: u64,
        /// Of so many services.
        services: u64,
    } "restored"

    /// Some are not.
    "EM-0522" NotRestored "not-restored" WARN "em.state" {
        /// So many, for this reason.
        subscriptions: u64,
        why: &'a str = said,
    } "not restored; their clients' next KEEP_ALIVE is refused, and they subscribe again: {why}"

    /// Publishers waited after a restart, and not all who listened before came back.
    "EM-0523" SubscribersMissing "subscribers-missing" WARN "em.subscriber" {
        /// So many subscriptions of plain subscribers.
        subscriptions: u64,
        /// Publishers waited for them for so long, in milliseconds.
        waited_ms: u64,
    } "subscribers of the previous run did not come back in time: they miss events until they do"

    /// A connection is not taken on.
    "EM-0601" ConnectionRefused "connection-refused" WARN "em.connection" {
        /// Where it comes from.
        peer: &'a str,
        /// `out-of-descriptors` or `too-many-connections`.
        reason: &'a str,
        why: &'a str = said,
        /// Events of this kind and reason that were not written since the last.
        suppressed: u64,
    } "peer refused: {why}"

    /// A peer broke the protocol or a limit.
    "EM-0602" PeerRefused "peer-refused" WARN "em.connection" {
        /// Where it connected from.
        peer: &'a str,
        /// As the counters name it.
        reason: &'a str,
        why: &'a str = said,
        /// Events of this kind and reason that were not written since the last.
        suppressed: u64,
    } "peer refused: {why}"

    /// A peer gave no sign of life.
    "EM-0603" PeerSilent "peer-silent" WARN "em.connection" {
        /// Where it connected from.
        peer: &'a str,
        /// `heartbeat-timeout`.
        reason: &'a str,
        why: &'a str = said,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "peer refused: {why}"

    /// A message that has no meaning here.
    "EM-0604" MessageDiscarded "message-discarded" WARN "em.connection" {
        /// Where it came from.
        peer: &'a str = bare,
        /// As the counters name it.
        reason: &'a str,
        /// Events of this kind and reason that were not written since the last.
        suppressed: u64,
    } "a message was discarded"

    /// Nobody has said who may connect, and other machines can.
    "EM-0605" OpenToTheNetwork "open-to-the-network" WARN "em.connection" {
        /// Bound addresses that other machines reach, with commas between them.
        open: &'a str,
    } "open to every machine on the local networks: {open}; restrict them with \"security\": {{\"from\": [\"10.1.0.0/16\"]}} (http:// with httpTokenFile), or confirm with \"security\": {{\"open\": true}}"

    /// A file of keys can't be used, or has what it should not.
    "EM-0606" KeysUnreadable "keys-unreadable" ERROR "em.connection" {
        /// What is wrong.
        why: &'a str = said,
    } "a key is not as it should be: {why}"

    /// A client may not do what it did.
    "EM-0607" Denied "denied" WARN "em.connection" {
        /// Its name; `anonymous` are peers without a key.
        client: &'a str,
        /// `publish`, `subscribe`, `service`, `request` or `connect`.
        what: &'a str,
        why: &'a str = said,
        /// Events of this kind, client and `what` that were not written since the last.
        suppressed: u64,
    } "denied: {why}"

    /// A publisher that binds is connected.
    "EM-0611" PublisherFound "publisher-found" INFO "em.publisher" {
        /// Its address, as `connectPublishers` has it.
        publisher: &'a str = bare,
        /// Events of this kind and publisher that were not written since the last.
        suppressed: u64,
    } "connected to a publisher"

    /// It is not, or not any more.
    "EM-0612" PublisherLost "publisher-lost" WARN "em.publisher" {
        /// Its address, as `connectPublishers` has it.
        publisher: &'a str = bare,
        why: &'a str = said,
        /// Events of this kind and publisher that were not written since the last.
        suppressed: u64,
    } "a publisher is not connected, trying again: {why}"

    /// What it sends would come back to it.
    "EM-0613" PublisherRing "publisher-ring" WARN "em.publisher" {
        /// Its address, as `connectPublishers` has it.
        publisher: &'a str = bare,
        /// Event managers that dial each other in this ring, with this one.
        daemons: u64,
        /// This daemon takes no events from it; else another of them breaks the ring.
        held: bool,
        /// Events of this kind and publisher that were not written since the last.
        suppressed: u64,
    } "event managers dial each other in a ring: one of them takes no events from its publisher, so that events don't circulate for ever"

    /// Another hub of the mesh is linked.
    "EM-0621" LinkUp "link-up" INFO "em.mesh" {
        /// Its address, as `mesh.peers` has it.
        peer: &'a str = bare,
        /// Its id, which it keeps over restarts.
        hub: &'a str = bare,
        /// Events of this kind and peer that were not written since the last.
        suppressed: u64,
    } "linked with another hub of the mesh"

    /// It is not, or not any more.
    "EM-0622" LinkDown "link-down" WARN "em.mesh" {
        /// Its address, as `mesh.peers` has it.
        peer: &'a str = bare,
        why: &'a str = said,
        /// Events of this kind and peer that were not written since the last.
        suppressed: u64,
    } "not linked with a hub of the mesh, trying again: {why}"

    /// A link that can't be: with itself, twice with the same, or with what is no hub.
    "EM-0623" LinkRefused "link-refused" WARN "em.mesh" {
        /// Its address, as `mesh.peers` has it, or where it connected from.
        peer: &'a str = bare,
        why: &'a str = said,
        /// Events of this kind and peer that were not written since the last.
        suppressed: u64,
    } "no link of the mesh: {why}"

    /// A bridge to another broker works.
    "EM-0631" BridgeUp "bridge-up" INFO "em.bridge" {
        /// Its name, as in `bridges`.
        bridge: &'a str = bare,
    } "the bridge works"

    /// It doesn't, or not any more; what is for it waits.
    "EM-0632" BridgeDown "bridge-down" WARN "em.bridge" {
        /// Its name, as in `bridges`.
        bridge: &'a str = bare,
        why: &'a str = said,
    } "the bridge doesn't work, trying again: {why}"

    /// An instance of another program is heard that was not.
    "EM-0701" InstanceJoined "instance-joined" INFO "em.instances" {
        /// Its id, as it says itself; so it is in all that follow.
        id: &'a str = bare,
        /// Its process id, if it says one.
        pid: Option<i64>,
        /// Where its connection comes from, or `mesh`.
        link: &'a str = bare,
        /// How it was before: `unknown` if it was not known.
        before: &'a str,
        /// Events of this kind and instance that were not written since the last.
        suppressed: u64,
    } "an instance is heard"

    /// By their own rule several instances lead.
    "EM-0702" TwoLeaders "two-leaders" ERROR "em.instances" {
        /// Their ids, with commas between.
        ids: &'a str = bare,
        /// The process id that they all have.
        pid: i64,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "several instances have the lowest process id, so each of them takes itself for the leader"

    /// An instance's connection is there, and its heartbeats are not.
    "EM-0703" InstanceSilent "instance-silent" WARN "em.instances" {
        id: &'a str = bare,
        /// Where its connection comes from.
        link: &'a str,
        /// Events of this kind and instance that were not written since the last.
        suppressed: u64,
    } "an instance is connected, and sends no heartbeats"

    /// An instance has ended, or nobody hears it.
    "EM-0704" InstanceGone "instance-gone" WARN "em.instances" {
        id: &'a str = bare,
        /// It said so itself.
        said: bool,
        /// How it was before.
        before: &'a str,
        /// Events of this kind and instance that were not written since the last.
        suppressed: u64,
    } "an instance is gone"

    /// An instance leads now.
    "EM-0705" LeaderElected "leader-elected" INFO "em.instances" {
        id: &'a str = bare,
        pid: Option<i64>,
        /// The number of the change, which grows, over restarts too.
        number: u64,
        /// Events of this kind and instance that were not written since the last.
        suppressed: u64,
    } "an instance leads"

    /// An instance leads no more.
    "EM-0706" LeaderResigned "leader-resigned" INFO "em.instances" {
        id: &'a str = bare,
        pid: Option<i64>,
        /// The number of the change.
        number: u64,
        /// `resigned`, `timeout` or `fenced`.
        how: &'a str,
        /// Events of this kind and instance that were not written since the last.
        suppressed: u64,
    } "an instance leads no more"

    /// Some hear an instance and others don't.
    "EM-0707" PartitionSuspected "partition-suspected" WARN "em.instances" {
        id: &'a str = bare,
        /// `cut-off` or `deaf`.
        state: &'a str,
        why: &'a str = said,
        /// Events of this kind and instance that were not written since the last.
        suppressed: u64,
    } "the network may be in parts: {why}"

    /// Instances here may not lead (`instances.fence`).
    "EM-0708" Fenced "fenced" WARN "em.instances" {
        /// Event managers that are linked, of `others`.
        linked: u64,
        /// How many others there are.
        others: u64,
        /// Why.
        why: &'a str = said,
    } "instances that are heard here may not lead: {why}"

    /// They may again.
    "EM-0709" FenceLifted "fence-lifted" INFO "em.instances" {
        /// Event managers that are linked, of `others`.
        linked: u64,
        /// How many others there are.
        others: u64,
    } "instances that are heard here may lead"

    /// Another daemon holds the lease under which this one would serve.
    "EM-0711" StandingBy "standing-by" INFO "em.lease" {
        /// The lease's, as in `lease.name`; so it is in all that follow.
        name: &'a str = bare,
        /// Host, process id and a number of who has it.
        holder: &'a str,
    } "standing by: another daemon holds the lease"

    /// This one has it, and serves.
    "EM-0712" Leading "leading" INFO "em.lease" {
        name: &'a str = bare,
        /// Higher than that of all who had it before.
        token: u64,
        /// The state directory's, at least as high.
        epoch: u64,
    } "this daemon holds the lease, and serves"

    /// It has it no more.
    "EM-0713" LeaseLost "lease-lost" ERROR "em.lease" {
        name: &'a str = bare,
        token: u64,
        why: &'a str = said,
    } "the lease is over, as {why}: nothing more is written or sent; the process ends with code 76, to stand by when it is started again"

    /// What keeps the lease can't be reached.
    "EM-0714" LeaseSourceFailed "lease-source-failed" WARN "em.lease" {
        name: &'a str = bare,
        /// The engine, as in `lease.source`.
        source: &'a str = bare,
        why: &'a str = said,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "the lease can't be asked for, trying again: {why}"

    /// `lease.onLead` or `lease.onResign` came to nothing.
    "EM-0715" HookFailed "hook-failed" WARN "em.lease" {
        /// The key.
        hook: &'a str = bare,
        program: &'a str,
        why: &'a str = said,
    } "the command failed: {why}"

    /// The lease's source has lost what it knew.
    "EM-0716" LeaseBehind "lease-behind" WARN "em.lease" {
        name: &'a str = bare,
        token: u64,
        /// The state directory's.
        epoch: u64,
    } "the lease's token is lower than the state directory's epoch: what keeps the lease has lost what it knew, and may have given it to two"

    /// This daemon would not find what that one has kept.
    "EM-0717" OtherDirectory "other-directory" WARN "em.lease" {
        name: &'a str = bare,
        /// The number of its state directory.
        theirs: &'a str = bare,
        /// That of this daemon's; `none` if it has none.
        ours: &'a str = bare,
        why: &'a str = said,
    } "the state directory is not that of the daemon that holds the lease, or held it last: {why}"

    /// This daemon holds the lease, and can't serve for want of space.
    "EM-0718" NoRoom "no-room" ERROR "em.lease" {
        name: &'a str = bare,
        /// `stateDir`.
        path: &'a str,
        why: &'a str = said,
        /// Events of this kind that were not written since the last.
        suppressed: u64,
    } "nobody serves, as there is no space for taking over the state directory: {why}"
}
