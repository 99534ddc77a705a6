//! The targets of log lines: public names by which users choose levels (`log.modules`, `RUST_LOG`).
//!
//! They say what a line is about, and stay when code moves. Earlier versions used the paths of
//! modules; those still work as aliases.

/// One target.
#[derive(Debug)]
pub struct LogTarget {
    /// Its name. None is the beginning of another, because a filter matches all that begin alike.
    pub name: &'static str,
    /// The module paths under which earlier versions logged the same lines.
    formerly: &'static [&'static str],
}

/// All targets. docs/operations.md has the same list.
#[rustfmt::skip]
pub const LOG_TARGETS: &[LogTarget] = &[
    LogTarget { name: "em.bridge", formerly: &[] },
    LogTarget { name: "em.connection", formerly: &["event_manager::reactor::hub", "event_manager::reactor::speaker"] },
    LogTarget { name: "em.daemon", formerly: &["event_manager::cli", "event_manager::daemon"] },
    LogTarget { name: "em.delivery", formerly: &["event_manager::reactor::dead", "event_manager::reactor::hub",
        "event_manager::reactor::stopping", "event_manager::reactor::watchdog"] },
    LogTarget { name: "em.diagnostics", formerly: &["event_manager::diagnostics"] },
    LogTarget { name: "em.guard", formerly: &["event_manager::daemon", "event_manager::outbound::guard"] },
    LogTarget { name: "em.http", formerly: &["event_manager::http"] },
    LogTarget { name: "em.instances", formerly: &[] },
    LogTarget { name: "em.lease", formerly: &[] },
    LogTarget { name: "em.locator", formerly: &["event_manager::cli::locator", "event_manager::outbound::registration"] },
    LogTarget { name: "em.log", formerly: &["event_manager::telemetry"] },
    LogTarget { name: "em.mesh", formerly: &["event_manager::reactor::mesh"] },
    LogTarget { name: "em.publisher", formerly: &["event_manager::reactor::dial", "event_manager::reactor::loops"] },
    LogTarget { name: "em.reactor", formerly: &["event_manager::reactor::housekeeping"] },
    LogTarget { name: "em.request", formerly: &["event_manager::reactor::requester"] },
    LogTarget { name: "em.service", formerly: &["event_manager::reactor::housekeeping", "event_manager::reactor::lasting",
        "event_manager::reactor::requester"] },
    LogTarget { name: "em.state", formerly: &["event_manager::reactor::keeping", "event_manager::state"] },
    LogTarget { name: "em.store", formerly: &["event_manager::reactor::lasting", "event_manager::reactor::reports",
        "event_manager::reactor::unread", "event_manager::store"] },
    LogTarget { name: "em.subscriber", formerly: &["event_manager::reactor::audience", "event_manager::reactor::deliver",
        "event_manager::reactor::hub", "event_manager::reactor::stopping"] },
    LogTarget { name: "em.systemd", formerly: &["event_manager::systemd"] },
    LogTarget { name: "em.traces", formerly: &["event_manager::traces"] },
    LogTarget { name: "em.worker", formerly: &["event_manager::reactor::housekeeping", "event_manager::reactor::hub",
        "event_manager::reactor::presumed", "event_manager::reactor::worker"] },
];

/// The targets that took over lines of this module, or of modules below it. A path that names a
/// module below one listed (`event_manager::cli::serve`) means that one.
fn successors(path: &str) -> impl Iterator<Item = &'static str> {
    let is_former = move |former: &&str| former.starts_with(path) || path.starts_with(*former);
    let targets = LOG_TARGETS.iter();
    let taken_over = targets.filter(move |target| target.formerly.iter().any(is_former));
    taken_over.map(|target| target.name)
}

/// The path of a directive such as `event_manager::reactor=debug`; `None` if it names no module of ours.
fn former_path(directive: &str) -> Option<&str> {
    let directive = directive.trim();
    let path = directive.split('=').next()?;
    let is_ours = path == "event_manager" || path.starts_with("event_manager::");
    (is_ours && !directive.contains(['[', ']', '{', '}'])).then_some(path)
}

/// Levels as `RUST_LOG` has them, with the module paths of earlier versions replaced. A longer path
/// overrides a shorter one, and a target's own name overrides both.
pub(super) fn with_targets(levels: &str) -> String {
    let (mut former, current): (Vec<_>, Vec<_>) = levels
        .split(',')
        .partition(|directive| former_path(directive).is_some());
    former.sort_by_key(|directive| former_path(directive).map(str::len));
    let replaced = former.into_iter().flat_map(|directive| {
        let path = former_path(directive).unwrap_or_default();
        let level = directive.trim()[path.len()..].to_owned();
        successors(path).map(move |target| format!("{target}{level}"))
    });
    let directives: Vec<_> = replaced
        .chain(current.into_iter().map(str::to_owned))
        .collect();
    directives.join(",")
}

/// A sentence for each module path of an earlier version in such levels.
pub(super) fn outdated(levels: &str) -> Vec<String> {
    let paths = levels.split(',').filter_map(former_path);
    let sentence = |path: &str| {
        let targets: Vec<_> = successors(path).collect();
        let instead = match targets.is_empty() {
            true => "nothing is logged under it".to_owned(),
            false => format!("use {}", targets.join(", ")),
        };
        format!("log target {path:?} is a module of an earlier version: {instead}")
    };
    paths.map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_target_is_the_beginning_of_another() {
        let names: Vec<_> = LOG_TARGETS.iter().map(|target| target.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        let overlaps = |pair: &[&str]| pair[1].starts_with(pair[0]);
        assert!(!names.windows(2).any(overlaps), "{names:?}");
    }

    #[test]
    fn what_is_no_module_of_ours_stays() {
        for levels in [
            "",
            "info",
            "warn,em.store=debug,tokio=trace,event_managers=off",
            "[{peer=1,event_manager::reactor=2}]=debug",
        ] {
            assert_eq!(with_targets(levels), levels);
            assert!(outdated(levels).is_empty(), "{levels}");
        }
    }

    #[test]
    fn modules_of_earlier_versions_are_aliases() {
        for (before, after) in [
            ("info,event_manager::http=debug", "em.http=debug,info"),
            ("event_manager::reactor::dial", "em.publisher"),
            (
                "event_manager::state::writer=off,em.state=warn",
                "em.state=off,em.state=warn",
            ),
            (
                "event_manager::reactor::keeping=debug, event_manager::reactor::worker=trace",
                "em.worker=trace,em.state=debug",
            ),
            ("event_manager::zmtp=trace,warn", "warn"),
        ] {
            assert_eq!(with_targets(before), after);
        }
        let all = with_targets("event_manager=trace");
        let former = LOG_TARGETS
            .iter()
            .filter(|target| !target.formerly.is_empty());
        assert_eq!(all.split(',').count(), former.count());
        // The longer path comes last, wherever it was written, and the last of a target counts.
        let both = with_targets("event_manager::reactor::dial=off,event_manager::reactor=debug");
        assert!(both.ends_with(",em.publisher=off"), "{both}");
    }

    #[test]
    fn the_reactor_takes_nothing_of_the_start_with_it() {
        let targets = with_targets("event_manager::reactor=warn");
        assert!(!targets.contains("em.daemon"), "{targets}");
        assert!(targets.contains("em.worker=warn"), "{targets}");
    }

    #[test]
    fn whoever_uses_them_is_told_the_targets() {
        let told = outdated("info,event_manager::traces=debug,event_manager::zmtp=debug");
        let expected = [
            "log target \"event_manager::traces\" is a module of an earlier version: use em.traces",
            "log target \"event_manager::zmtp\" is a module of an earlier version: nothing is logged under it",
        ];
        assert_eq!(told, expected);
    }
}
