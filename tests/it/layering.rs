//! Each module imports only those above it.

use std::fs;
use std::path::Path;

/// From the words of the domain down to the command line; `zmtp`, `messagebus` and `broker` know
/// `model`, and not each other.
const LAYERS: &[(&str, &str)] = &[
    ("api", ""),
    ("model", ""),
    ("zmtp", "model"),
    ("messagebus", "model"),
    ("broker", "model"),
    ("locator", "model messagebus"),
    ("requests", "model messagebus broker"),
    ("ambient", ""),
    ("client", "api model zmtp messagebus ambient"),
    ("config", "model messagebus broker locator"),
    ("telemetry", "api model ambient config"),
    ("traces", "api model ambient config telemetry"),
    ("store", "model ambient"),
    ("queues", "model broker store"),
    ("state", "ambient telemetry"),
    ("systemd", "model"),
    (
        "reactor",
        "api model zmtp messagebus broker locator requests ambient config telemetry traces store queues state systemd",
    ),
    (
        "outbound",
        "model messagebus locator requests ambient client config telemetry traces",
    ),
    (
        "http",
        "api model broker ambient config telemetry reactor outbound",
    ),
    (
        "daemon",
        "api model messagebus locator requests ambient client config telemetry traces store state systemd reactor outbound http",
    ),
    (
        "cli",
        "api model messagebus locator ambient config telemetry traces systemd store reactor client daemon",
    ),
];

/// Modules that own no socket, no clock, no thread and no randomness.
const PURE: &[&str] = &[
    "api",
    "model",
    "zmtp",
    "messagebus",
    "broker",
    "locator",
    "requests",
    "store/log",
    "queues",
    "traces/carried",
    "traces/otlp",
];
const IMPURE: &[&str] = &[
    "std::net",
    "std::thread",
    "std::fs",
    "tokio::",
    "zmq::",
    "Instant::now(",
    "SystemTime",
    "RandomState",
];

fn sources(module: &str) -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    let mut open = vec![src.join(module)];
    let single = src.join(format!("{module}.rs"));
    if single.exists() {
        open.push(single);
    }
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = without_tests(&text);
            let mut parts = path.iter().skip(src.iter().count());
            let is_test =
                parts.any(|part| part == "tests.rs" || part == "tests" || part == "simulation");
            found.push((
                path.display().to_string(),
                if is_test { String::new() } else { code },
            ));
        }
    }
    found
}

/// The code without the items that are built for tests only: those may use anything.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let mut is_open = false;
        for line in lines.by_ref() {
            is_open |= line.ends_with('{');
            if line == end || (!is_open && line.ends_with(';')) {
                break;
            }
        }
    }
    kept
}

#[test]
fn what_comes_after_tests_is_looked_at_too() {
    let text = "\
use a;
#[cfg(test)]
mod one;
use b;
mod inner {
    #[cfg(test)]
    fn helper(
        of: u8,
    ) {
        use c;
    }
    use d;
}
#[cfg(test)]
#[allow(e)]
mod tests {
    use f;
}
use g;
";
    let code = without_tests(text);
    let used: Vec<_> = code.lines().filter(|line| line.contains("use")).collect();
    assert_eq!(used, ["use a;", "use b;", "    use d;", "use g;"]);
}

/// The files of the reactor that hold state. All others act on the whole; these don't know it.
const REACTOR_STATE: &[&str] = &[
    "attendance",
    "books",
    "clock",
    "connections",
    "grace",
    "inbox",
    "keeping",
    "kernel",
    "listener",
    "memory",
    "notes",
    "outbox",
    "paths",
    "peer",
    "peer_error",
    "peers",
    "phase",
    "purpose",
    "refusals",
    "replies",
    "runs",
    "scratch",
    "site",
    "stream",
    "streamers",
    "upkeep",
    "upstream",
    "watchdog",
];

#[test]
fn state_in_the_reactor_knows_nothing_of_those_who_act_on_it() {
    let reactor = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/reactor");
    for file in REACTOR_STATE {
        let text = fs::read_to_string(reactor.join(format!("{file}.rs"))).unwrap();
        for line in code_lines(&without_tests(&text)) {
            let used = line.split("super::").skip(1);
            for used in used.map(|rest| rest.split([':', ';']).next().unwrap_or_default()) {
                let is_visibility = used.starts_with(')') || used.is_empty();
                assert!(
                    is_visibility || REACTOR_STATE.contains(&used),
                    "{file}.rs: {line}"
                );
            }
            assert!(!line.contains("crate::reactor"), "{file}.rs: {line}");
        }
    }
}

fn code_lines(code: &str) -> impl Iterator<Item = &str> {
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn modules_import_only_those_above_them() {
    for (module, allowed) in LAYERS {
        let sources = sources(module);
        assert!(!sources.is_empty(), "{module} has no sources");
        for (path, code) in sources {
            for line in code_lines(&code) {
                for (other, _) in LAYERS.iter().filter(|(other, _)| other != module) {
                    let name = format!("crate::{other}");
                    let imports = line
                        .split(&name)
                        .skip(1)
                        .any(|rest| !rest.starts_with(char::is_alphanumeric));
                    assert!(
                        !imports || allowed.split(' ').any(|name| name == *other),
                        "{path}: {line}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_module_has_its_layer() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in lib.lines().filter_map(|line| line.strip_prefix("pub mod ")) {
        let module = module.trim_end_matches(';');
        assert!(
            LAYERS.iter().any(|(known, _)| *known == module),
            "{module} has no layer"
        );
    }
}

#[test]
fn the_core_is_pure() {
    for module in PURE {
        for (path, code) in sources(module) {
            for line in code_lines(&code) {
                let impure = IMPURE.iter().find(|word| line.contains(**word));
                assert!(impure.is_none(), "{path}: {line}");
            }
        }
    }
}
