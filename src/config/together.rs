//! What depends on more than one key.

use std::time::Duration;

use super::{Config, EngineKind};
use event_manager_core::instances::FencePolicy;
use event_manager_core::leases::candidate::Directories;
use event_manager_wire::model::Endpoint;

/// With a shorter lease, instances might hear too late that those of another event manager may lead.
const FENCE_TTL_MIN: Duration = Duration::from_secs(2);

/// What doesn't fit together: the keys that it depends on, and a sentence.
pub(super) type Conflict = (Vec<&'static str>, String);

/// All conflicts, but for those within `services`.
pub(super) fn conflicts(config: &Config) -> Vec<Conflict> {
    let mut found: Vec<_> = ports(config).into_iter().collect();
    found.extend(overlaps(config));
    found.extend(undialable(config));
    found.extend(mesh(config));
    found.extend(bridges_to_itself(config));
    found.extend(instances(config));
    found.extend(lease(config));
    let cluster = config.cluster.why_not();
    found.extend(cluster.map(|why| (vec!["cluster.members"], why.to_owned())));
    let (message, queue) = (
        config.limits.message_bytes_max,
        config.budgets.service_queue_bytes,
    );
    if message > queue {
        found.push((
            vec!["limits.maxMessageBytes", "budgets.serviceQueueBytes"],
            format!(
                "limits.maxMessageBytes {message} is above budgets.serviceQueueBytes {queue}: the largest messages could wait for no service"
            ),
        ));
    }
    found.extend(keys(config));
    found.extend(keys_of_others(config));
    found.extend(tls(config));
    if !config.bridges.is_empty() && config.state_dir.as_os_str().is_empty() {
        found.push((
            vec!["bridges", "stateDir"],
            "bridges need a stateDir: what is for an engine waits on disk".into(),
        ));
    }
    if config.services.served().next().is_some() && config.state_dir.as_os_str().is_empty() {
        found.push((
            vec!["services", "stateDir"],
            "delivery \"engine\" needs a stateDir: what is for an engine waits on disk".into(),
        ));
    }
    let limit = config.memory_limit;
    if limit != 0 && message > limit {
        found.push((
            vec!["limits.maxMessageBytes", "memoryLimit"],
            format!(
                "limits.maxMessageBytes {message} is above memoryLimit {limit}: the largest messages could never be taken"
            ),
        ));
    }
    found
}

/// What would take instances for gone that are there, or know none.
fn instances(config: &Config) -> Option<Conflict> {
    let instances = &config.instances;
    let (interval, timeout) = (instances.interval, instances.timeout);
    if timeout <= interval {
        let why = format!(
            "instances.timeout {timeout:?} is not above instances.interval {interval:?}: instances would be taken for silent between two heartbeats; three intervals are usual"
        );
        return Some((vec!["instances.timeout", "instances.interval"], why));
    }
    if instances.is_on() && instances.id.is_empty() {
        let why =
            "instances.id is empty: it names the field of heartbeats that has an instance's id";
        return Some((vec!["instances.id", "instances.heartbeat"], why.into()));
    }
    let discovers = instances.is_on() && !instances.discover.is_empty();
    if discovers && !config.security.offers_null() {
        let why = "instances.discover has no keys for what it finds, and security.mechanisms doesn't have \"null\": name each instance in connectPublishers, with its serverKey";
        return Some((
            vec!["instances.discover", "security.mechanisms"],
            why.into(),
        ));
    }
    if instances.is_on() && instances.fence != FencePolicy::Off {
        let lacks = |key: &'static str, why: String| Some((vec!["instances.fence", key], why));
        let is_by_lease = instances.fence == FencePolicy::Standby;
        if is_by_lease && !config.lease.is_active() {
            let why = "instances.fence \"standby\" needs lease.source with an engine, and lease.role \"active\": of all event managers that serve, instances of the one with that lease may lead";
            return lacks("lease.role", why.into());
        }
        if is_by_lease && config.lease.ttl < FENCE_TTL_MIN {
            let why = format!(
                "instances.fence \"standby\" needs a lease.ttl of at least {FENCE_TTL_MIN:?}: a tenth of it is for instances to hear that they may not lead any more"
            );
            return lacks("lease.ttl", why);
        }
        if !is_by_lease && config.mesh.peers.len() < 2 {
            let why = "instances.fence \"minority\" needs at least two mesh.peers: of two event managers, each that doesn't see the other can't tell whether it is cut off or the other is dead";
            return lacks("mesh.peers", why.into());
        }
        if instances.shutdown.is_empty() {
            let why = "instances.fence needs instances.shutdown: by that instances are told that they may lead again";
            return lacks("instances.shutdown", why.into());
        }
        let noticed = 3 * config.heartbeat_interval;
        if !is_by_lease && (noticed.is_zero() || noticed >= timeout) {
            let why = format!(
                "instances.fence needs three heartbeatInterval ({noticed:?}) to be less than instances.timeout {timeout:?}: a broken link has to be noticed before instances elsewhere take those here for dead"
            );
            return lacks("heartbeatInterval", why);
        }
    }
    let prefixes = [
        ("instances.event", &instances.event),
        ("instances.shutdown", &instances.shutdown),
    ];
    let same = |text: &str| instances.is_on() && text.starts_with(&*instances.heartbeat);
    let same = prefixes.into_iter().find(|(_, text)| same(text));
    same.map(|(key, _)| {
        let why = format!(
            "{key} begins as instances.heartbeat does: heartbeats and others can't be told apart"
        );
        (vec![key, "instances.heartbeat"], why)
    })
}

/// The source of a lease that event managers would have among themselves.
const BY_VOTE: &str = "cluster";

/// What a daemon needs that serves under a lease only.
fn lease(config: &Config) -> Option<Conflict> {
    let lease = &config.lease;
    if !lease.is_on() {
        let commands = [
            ("lease.onLead", &lease.on_lead),
            ("lease.onResign", &lease.on_resign),
        ];
        let strange = commands
            .into_iter()
            .find(|(_, command)| !command.is_empty());
        return strange.map(|(key, _)| {
            let why =
                format!("{key} has no effect: lease.source says which engine keeps the lease");
            (vec![key, "lease.source"], why)
        });
    }
    let conflict = |key: &'static str, why: String| Some((vec!["lease.source", key], why));
    let source = &lease.source;
    let engine = config.engines.get(source);
    if lease.is_by_hand() && engine.is_some() {
        let why = "lease.source \"hand\" means a person, and engines has one of that name: call that otherwise";
        return conflict("engines", why.into());
    }
    if engine.is_none() && source == BY_VOTE {
        let why = "lease.source \"cluster\", a vote among event managers without an engine, is not built: name one of engines, nats or etcd with three servers, or have a person decide (\"hand\" and event-manager promote)";
        return conflict("cluster.members", why.into());
    }
    if engine.is_none() && !lease.is_by_hand() {
        return conflict(
            "engines",
            format!("lease.source: there is no engine {source:?} in engines"),
        );
    }
    if let Some(engine) = engine.filter(|engine| !engine.kind().keeps_leases()) {
        let kind = engine.kind();
        let why = format!(
            "lease.source: engines.{source} is of type \"{kind}\", which keeps no leases; \"nats\", \"etcd\" and \"redis\" do"
        );
        return conflict("engines", why);
    }
    if lease.is_active() {
        return active(config);
    }
    if lease.required {
        let why = "lease.required is for lease.role \"active\": a daemon that stands by is ready only with the lease";
        return Some((vec!["lease.required", "lease.role"], why.into()));
    }
    if config.state_dir.as_os_str().is_empty() {
        let why = "lease.source needs a stateDir, which all daemons of this lease share";
        return conflict("stateDir", why.into());
    }
    if lease.is_by_hand() && lease.state_dir == Directories::Own {
        let why = "lease.stateDir \"own\": by hand, the state directory itself says who serves, so all have the same; take \"shared\", or an engine as lease.source";
        return conflict("lease.stateDir", why.into());
    }
    if config.startup_guard.enabled {
        let why = "startupGuard waits for a predecessor's end, and lease.source takes over from one that may only be stopped: one of them is enough";
        return conflict("startupGuard", why.into());
    }
    None
}

/// What makes no sense for a daemon that serves without the lease, too.
fn active(config: &Config) -> Option<Conflict> {
    let lease = &config.lease;
    let conflict = |key: &'static str, why: &str| Some((vec!["lease.role", key], why.to_owned()));
    if lease.is_by_hand() {
        let why = "lease.role \"active\" needs an engine as lease.source, which keeps the leases of clients; \"hand\" says which machine serves, so take \"standby\" there";
        return conflict("lease.source", why);
    }
    if !lease.on_lead.is_empty() {
        let why = "lease.onLead has no effect with lease.role \"active\": the daemon serves always";
        return conflict("lease.onLead", why);
    }
    if !lease.on_resign.is_empty() {
        let why =
            "lease.onResign has no effect with lease.role \"active\": the daemon serves always";
        return conflict("lease.onResign", why);
    }
    None
}

/// A certificate and its key.
fn tls(config: &Config) -> Option<Conflict> {
    let (certificate, key) = ("httpTlsCertificate", "httpTlsKey");
    let missing = match (&config.http_tls_certificate, &config.http_tls_key) {
        (Some(_), None) => key,
        (None, Some(_)) => certificate,
        _ => return None,
    };
    let why = format!("{missing} is missing: HTTPS needs both {certificate} and {key}");
    Some((vec![certificate, key], why))
}

/// CURVE needs keys of both sides.
fn keys(config: &Config) -> Option<Conflict> {
    let security = &config.security;
    let mechanisms = "security.mechanisms";
    if security.offers_curve() {
        let has_clients = security.keys_dir.is_some() || security.clients.keys().next().is_some();
        let (missing, or) = match (security.secret_key.is_empty(), has_clients) {
            (true, _) => ("security.secretKey", ""),
            (false, false) => ("security.keysDir", ", or keys in security.clients"),
            (false, true) => return None,
        };
        let why = format!("{mechanisms} has \"curve\", which needs {missing}{or}");
        return Some((vec![mechanisms, missing], why));
    }
    if security.offers_plain() && security.clients.passwords().next().is_none() {
        let missing = "security.clients";
        let why = format!("{mechanisms} has \"plain\", which needs passwords in {missing}");
        return Some((vec![mechanisms, missing], why));
    }
    (!security.secret_key.is_empty()).then(|| {
        let why = format!("security.secretKey has no effect: {mechanisms} doesn't have \"curve\"");
        (vec![mechanisms, "security.secretKey"], why)
    })
}

/// Whoever is to be called by CURVE wants to know who calls.
fn keys_of_others(config: &Config) -> Vec<Conflict> {
    let mut found = vec![];
    let mut wants_own = |key: &'static str| {
        if config.security.secret_key.is_empty() {
            let why = format!(
                "{key} has a server key, which needs security.secretKey: the daemon has its own keys there, too"
            );
            found.push((vec![key, "security.secretKey"], why));
        }
    };
    let mut publishers = config.connect_publishers.iter();
    if publishers.any(|publisher| publisher.server_key.is_some()) {
        wants_own("connectPublishers");
    }
    let mut peers = config.mesh.peers.iter();
    if peers.any(|peer| peer.server_key.is_some()) {
        wants_own("mesh.peers");
    }
    if config.locator.server_key.is_some() {
        wants_own("locatorServerKey");
    }
    if config.services.any_server_key() {
        wants_own("services");
    }
    found
}

fn ports(config: &Config) -> Option<Conflict> {
    let keys = vec!["minStreamerPort", "maxStreamerPort"];
    let (min, max) = (*config.streamer_ports.start(), *config.streamer_ports.end());
    if min > max {
        let why = format!(
            "minStreamerPort {min} is above maxStreamerPort {max}: the range holds no port"
        );
        return Some((keys, why));
    }
    if min == 0 && max != 0 {
        let why = "minStreamerPort is 0 but maxStreamerPort isn't: 0 stands for ports of the system's choice, for both or none";
        return Some((keys, why.into()));
    }
    let bound = bound_addresses(config);
    let is_taken = |port: u16| bound.iter().any(|(_, at)| at.port() == Some(port));
    (max != 0 && config.streamer_ports.clone().all(is_taken)).then(|| {
        let why = format!(
            "every port of minStreamerPort-maxStreamerPort ({min}-{max}) is used by the daemon's own addresses: no service could get one"
        );
        let all = bound.iter().map(|(key, _)| *key).chain(keys);
        (all.collect(), why)
    })
}

/// What the daemon binds, with the key that says so.
fn bound_addresses(config: &Config) -> Vec<(&'static str, &Endpoint)> {
    let locator = std::slice::from_ref(&config.locator.address);
    let groups = [
        ("pubAddress", &config.pub_addresses[..]),
        ("subAddress", &config.sub_addresses[..]),
        ("requestAddress", &config.request_addresses[..]),
        ("httpAddress", config.http_address.as_slice()),
        (
            "locatorAddress",
            &locator[..usize::from(config.locator.embedded)],
        ),
    ];
    let all = groups.into_iter();
    all.flat_map(|(key, all)| all.iter().map(move |address| (key, address)))
        .collect()
}

fn overlaps(config: &Config) -> Vec<Conflict> {
    let bound = bound_addresses(config);
    let mut found = Vec::new();
    for (i, (key, address)) in bound.iter().enumerate() {
        for (other_key, other) in &bound[..i] {
            if overlap(address, other) {
                let why = format!("{key} {address} and {other_key} {other} overlap");
                found.push((vec![*key, *other_key], why));
            }
        }
    }
    found
}

fn overlap(a: &Endpoint, b: &Endpoint) -> bool {
    match (a, b) {
        (Endpoint::Tcp { host: a, port: p }, Endpoint::Tcp { host: b, port: q }) => {
            p == q && *p != 0 && (a == b || is_wildcard(a) || is_wildcard(b))
        }
        (a, b) => a == b && a.port() != Some(0),
    }
}

fn undialable(config: &Config) -> Vec<Conflict> {
    let locator = (!config.locator.embedded).then_some(&config.locator.address);
    let dialled = config
        .connect_publishers
        .iter()
        .map(|publisher| ("connectPublishers", &publisher.address));
    let peers = config.mesh.peers.iter();
    let peers = peers.map(|peer| ("mesh.peers", &peer.address));
    let all = dialled.chain(peers);
    let all = all.chain(locator.map(|at| ("locatorAddress", at)));
    all.filter_map(|(key, at)| Some((vec![key], format!("{key}: {}", why_undialable(at)?))))
        .collect()
}

/// Each other event manager is dialled once, and we are none of them: else events would come twice.
fn mesh(config: &Config) -> Vec<Conflict> {
    let (key, peers) = ("mesh.peers", &config.mesh.peers);
    let mut found = vec![];
    for (n, peer) in peers.iter().enumerate() {
        let address = &peer.address;
        if peers[..n].iter().any(|other| other.address == *address) {
            found.push((vec![key], format!("{key}: {address} stands there twice")));
        }
        let mut publishers = config.connect_publishers.iter();
        if publishers.any(|publisher| publisher.address == *address) {
            let why = format!(
                "{address} is in {key} and in connectPublishers: its events would come twice; one is enough, {key} between event managers"
            );
            found.push((vec![key, "connectPublishers"], why));
        }
        let mut own = config.sub_addresses.iter();
        if own.any(|own| is_own(own, address, &config.public_hostname)) {
            let why = format!("{key}: {address} is this daemon's own subAddress");
            found.push((vec![key, "subAddress"], why));
        }
    }
    found
}

/// A bridge to another event manager that would emit here.
fn bridges_to_itself(config: &Config) -> Vec<Conflict> {
    let hubs = config.engines.iter();
    let hubs = hubs.filter(|(_, engine)| engine.kind() == EngineKind::Hub);
    let servers = hubs.flat_map(|(name, engine)| {
        let servers = engine.servers().iter();
        servers.filter_map(move |at| Some((name, at.parse::<Endpoint>().ok()?)))
    });
    let is_ours = |at: &Endpoint| {
        let mut own = config.request_addresses.iter();
        own.any(|own| is_own(own, at, &config.public_hostname))
    };
    let ours = servers.filter(|(_, at)| is_ours(at));
    ours.map(|(name, at)| {
        let why = format!("engines.{name}: {at} is this daemon's own requestAddress");
        (vec!["engines", "requestAddress"], why)
    })
    .collect()
}

/// Whether it is plain to see that whoever connects there connects to what is bound here.
fn is_own(bound: &Endpoint, dialled: &Endpoint, hostname: &str) -> bool {
    match (bound, dialled) {
        (Endpoint::Tcp { host: own, port: p }, Endpoint::Tcp { host, port: q }) => {
            let is_here = matches!(&**host, "localhost" | "127.0.0.1" | "::1" | "[::1]");
            p == q && (own == host || is_wildcard(own) && (is_here || host == hostname))
        }
        (own, dialled) => own == dialled,
    }
}

/// Why nobody can connect to this address, if so.
pub(crate) fn why_undialable(address: &Endpoint) -> Option<String> {
    match address {
        Endpoint::Tcp { host, .. } if is_wildcard(host) => Some(format!(
            "{address} names no host, so nobody can connect to it"
        )),
        Endpoint::Tcp { port: 0, .. } => Some(format!(
            "{address} names no port, so nobody can connect to it"
        )),
        _ => None,
    }
}

fn is_wildcard(host: &str) -> bool {
    matches!(host, "*" | "0.0.0.0" | "::")
}
