//! The configuration itself, and the addresses that it names.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::engine_files;
use super::super::keys::{Problem, problems};
use super::facts::{Facts, Locator};
use super::finding::{Code, Finding, Severity};
use super::listeners::Listening;
use crate::config::{Config, Loaded};
use event_manager_wire::model::Endpoint;

/// Where others connect, by key.
fn addresses(config: &Config) -> [(&'static str, &[Endpoint]); 3] {
    [
        ("pubAddress", &config.pub_addresses),
        ("subAddress", &config.sub_addresses),
        ("requestAddress", &config.request_addresses),
    ]
}

/// The ports about which [`check`] and the search for the daemon want to know who listens there.
pub(super) fn ports_wanted(config: &Config, address: &str) -> BTreeSet<u16> {
    let asked = address.parse::<Endpoint>().ok();
    let all = addresses(config).into_iter().flat_map(|(_, all)| all);
    let ports = all.chain(asked.as_ref()).filter_map(Endpoint::port);
    ports.filter(|port| *port != 0).collect()
}

/// All findings about the configuration.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    match &facts.config {
        Err(errors) => errors.0.iter().map(|error| invalid(error)).collect(),
        Ok(loaded) => {
            let mut found = taken(loaded, facts);
            found.extend(overlap(loaded));
            found.extend(locator(loaded, &facts.locator));
            let files = problems(&loaded.config.security);
            found.extend(files.into_iter().map(|problem| key_file(loaded, problem)));
            let files = engine_files::problems(&loaded.config);
            found.extend(files.into_iter().map(engine_file));
            found.extend(loaded.warnings.iter().map(|warning| doubtful(warning)));
            found
        }
    }
}

fn key_file(loaded: &Loaded, problem: Problem) -> Finding {
    let severity = match problem.is_fatal {
        true => Severity::Error,
        false => Severity::Warning,
    };
    let about = named(loaded, "security.secretKey");
    Finding::new(severity, Code::KeyFile, about, problem.text, problem.mend)
}

fn engine_file(problem: Problem) -> Finding {
    let severity = match problem.is_fatal {
        true => Severity::Error,
        false => Severity::Warning,
    };
    Finding::new(
        severity,
        Code::EngineFile,
        "engines",
        problem.text,
        problem.mend,
    )
}

/// It is said as `check` says it: what has no effect, and what to do.
fn doubtful(warning: &str) -> Finding {
    let (text, mend) = warning
        .rsplit_once(": ")
        .or_else(|| warning.rsplit_once("; "))
        .unwrap_or((warning, "change it, or leave it out"));
    Finding::new(
        Severity::Warning,
        Code::NoEffect,
        "configuration",
        text,
        mend,
    )
}

fn invalid(error: &str) -> Finding {
    let mend = "fix it there, then run `event-manager check` again";
    Finding::new(
        Severity::Error,
        Code::Configuration,
        "configuration",
        error,
        mend,
    )
}

/// A key, and where its value comes from.
fn named(loaded: &Loaded, key: &str) -> String {
    match loaded.origins.get(key) {
        None => format!("{key} (default)"),
        Some(origin) => format!("{key} ({origin})"),
    }
}

/// Addresses that another process has.
fn taken(loaded: &Loaded, facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for (key, endpoints) in addresses(&loaded.config) {
        for endpoint in endpoints {
            let holder = facts
                .listening
                .iter()
                .find(|socket| clashes(endpoint, socket) && !is_own(socket, facts));
            let Some(holder) = holder else { continue };
            let port = holder.port;
            let by = match &holder.process {
                Some(process) => format!("process {} ({})", process.pid, process.name),
                None => "another process".into(),
            };
            found.push(Finding::new(
                Severity::Error,
                Code::AddressTaken,
                named(loaded, key),
                format!("{endpoint} is used by {by}: no daemon can start with it"),
                format!("stop that process (`ss -ltnp 'sport = :{port}'` shows it), or set \"{key}\" to another port"),
            ));
        }
    }
    found
}

fn clashes(endpoint: &Endpoint, socket: &Listening) -> bool {
    let Endpoint::Tcp { host, port } = endpoint else {
        return false;
    };
    let same_host = match host.as_str() {
        "*" => true,
        "localhost" => socket.ip.is_loopback(),
        host => match host.parse::<IpAddr>() {
            Ok(ip) => ip.is_unspecified() || ip == socket.ip,
            // A name may be any of our addresses.
            Err(_) => !socket.ip.is_loopback(),
        },
    };
    *port == socket.port && (same_host || socket.ip.is_unspecified())
}

/// Whether it is the daemon that we asked.
fn is_own(socket: &Listening, facts: &Facts) -> bool {
    let Ok(status) = &facts.status else {
        return false;
    };
    let addresses = &status.addresses;
    match (&socket.process, status.pid) {
        (Some(process), 1..) => process.pid == status.pid,
        _ => [
            &addresses.publishers,
            &addresses.subscribers,
            &addresses.requests,
        ]
        .into_iter()
        .flatten()
        .filter_map(|address| address.parse::<Endpoint>().ok())
        .any(|own| own.port() == Some(socket.port)),
    }
}

/// Own ports within the range for services.
fn overlap(loaded: &Loaded) -> Option<Finding> {
    let config = &loaded.config;
    let range = &config.streamer_ports;
    let locator = [config.locator.address.clone()];
    let embedded: &[Endpoint] = if config.locator.embedded {
        &locator
    } else {
        &[]
    };
    let all = addresses(config)
        .into_iter()
        .chain([("locatorAddress", embedded)]);
    let inside: Vec<String> = all
        .flat_map(|(key, all)| all.iter().map(move |endpoint| (key, endpoint)))
        .filter_map(|(key, endpoint)| Some((key, endpoint.port()?)))
        .filter(|(_, port)| *port != 0 && range.contains(port))
        .map(|(key, port)| format!("{port} of {key}"))
        .collect();
    let (first, last) = (range.start(), range.end());
    let left = range.len() - inside.len().min(range.len());
    (!inside.is_empty()).then(|| {
        Finding::new(
            Severity::Note,
            Code::RangeOverlap,
            named(loaded, "minStreamerPort"),
            format!("the range {first}-{last} includes {}, which are skipped: {left} ports are left for services", inside.join(", ")),
            "set \"minStreamerPort\" and \"maxStreamerPort\" to a range that excludes them",
        )
    })
}

fn locator(loaded: &Loaded, locator: &Locator) -> Option<Finding> {
    let name = &loaded.config.locator.service_name;
    let about = named(loaded, "locatorAddress");
    match locator {
        Locator::NotAsked | Locator::Registered => None,
        Locator::Unreachable(why) => Some(Finding::new(
            Severity::Warning,
            Code::LocatorUnreachable,
            about,
            format!("the ServiceLocator can't be reached: {why}"),
            "start it (`event-manager locator`), correct \"locatorAddress\", or set \"embeddedLocator\" to true; or set \"locatorRegister\" to false if there is none",
        )),
        Locator::Unknown => Some(Finding::new(
            Severity::Warning,
            Code::NotRegistered,
            about,
            format!("the ServiceLocator does not know {:?}", name.as_str()),
            "start the daemon (`event-manager serve`) with \"locatorRegister\" true; its log says why it could not register",
        )),
    }
}
