//! Each module imports only those above it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The crates below the daemon, and their modules. Cargo holds that a crate uses only those in its
/// Cargo.toml; what is here holds the order of the modules within one.
const CRATES: &[(&str, &[(&str, &str)])] = &[
    ("zmtp", &[]),
    (
        "wire",
        &[("api", ""), ("model", ""), ("messagebus", "model")],
    ),
    (
        "core",
        &[
            ("security", ""),
            ("event_id", ""),
            ("seq", ""),
            ("broker", "security seq"),
            ("instances", "security"),
            ("leases", "security"),
            ("locator", "security"),
            ("requests", "broker event_id instances leases security seq"),
            ("log", "event_id seq"),
            ("store", "log seq"),
            ("queues", "broker event_id log seq store"),
        ],
    ),
    ("client", &[]),
];

/// The daemon's modules, down to the command line, and what each may import: of the daemon, and of the
/// crates, whose modules are named with them.
const LAYERS: &[(&str, &str)] = &[
    ("ambient", ""),
    (
        "config",
        "wire::model wire::messagebus zmtp core::broker core::instances core::leases core::locator core::security",
    ),
    ("telemetry", "wire::api wire::model ambient config"),
    ("traces", "wire::api wire::model ambient config telemetry"),
    (
        "store",
        "wire::model core::leases core::log core::seq core::store ambient",
    ),
    ("state", "zmtp ambient telemetry store"),
    ("systemd", "wire::model"),
    (
        "reactor",
        "wire::api wire::model wire::messagebus zmtp core::broker core::event_id core::instances core::leases core::locator core::log core::queues core::requests core::security core::seq core::store ambient config telemetry traces store state systemd",
    ),
    ("keys", "zmtp core::security config telemetry reactor"),
    (
        "outbound",
        "wire::api wire::model wire::messagebus zmtp client core::requests ambient config telemetry traces",
    ),
    (
        "engines",
        "wire::model wire::messagebus zmtp client core::leases ambient config telemetry keys",
    ),
    (
        "lease",
        "wire::messagebus wire::model zmtp core::leases core::requests core::security ambient config telemetry store state reactor engines",
    ),
    (
        "bridges",
        "wire::api wire::model wire::messagebus zmtp client ambient config telemetry reactor engines",
    ),
    (
        "instances",
        "wire::api zmtp core::instances ambient config telemetry reactor state lease",
    ),
    (
        "http",
        "wire::api wire::model core::broker core::instances core::leases ambient config telemetry reactor keys outbound",
    ),
    (
        "daemon",
        "wire::api wire::model wire::messagebus zmtp client core::instances core::leases core::security ambient config telemetry traces store state systemd reactor keys outbound lease bridges instances http",
    ),
    (
        "cli",
        "wire::api wire::model wire::messagebus zmtp client core::security ambient config telemetry traces systemd store state reactor keys http daemon",
    ),
];

/// Code that owns no socket, no clock, no thread and no randomness.
const PURE: &[&str] = &[
    "crates/zmtp/src",
    "crates/wire/src",
    "crates/core/src",
    "src/traces/carried.rs",
    "src/traces/otlp.rs",
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

/// Code that may read JSON by the names of fields: what it reads is not an answer of ours.
const FOREIGN_JSON: &[&str] = &[
    // The configuration.
    "src/config",
    // A collector's answer.
    "src/traces/otlp.rs",
    // The options that workers say with READY.
    "crates/wire/src/messagebus/worker_words.rs",
];

/// The files of a module, by its path without `.rs`, and their code.
fn sources(module: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![];
    let mut open = vec![root.join(module)];
    let single = root.join(format!("{module}.rs"));
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
            let mut parts = path.iter().skip(root.iter().count());
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

/// What each folder of the reactor knows of the reactor beside itself. The hub is made of state; acts know
/// all, and nobody but the start knows them.
const REACTOR: &[(&str, &[&str])] = &[
    ("io", &[]),
    ("state", &["io"]),
    ("report", &["hub", "io", "state"]),
    ("acts", &["hub", "io", "report", "sockets", "state"]),
];

/// What bytes have nothing to do with.
const NOT_IN_IO: &[&str] = &["event_manager_core"];

#[test]
fn the_folders_of_the_reactor_know_only_those_below_them() {
    for (folder, known) in REACTOR {
        let sources = sources(&format!("src/reactor/{folder}"));
        assert!(!sources.is_empty(), "{folder} has no sources");
        for (path, code) in sources {
            for line in code_lines(&code) {
                let used = line.split("crate::reactor::").skip(1);
                let used = used.map(|rest| rest.split([':', ';']).next().unwrap_or_default());
                for used in used.filter(|used| used.starts_with(char::is_lowercase)) {
                    let is_known = known.contains(&used) || used == *folder;
                    assert!(is_known, "{path}: {line}");
                }
                assert!(!line.contains("super::super"), "{path}: {line}");
                let is_foreign = NOT_IN_IO.iter().any(|name| line.contains(name));
                assert!(*folder != "io" || !is_foreign, "{path}: {line}");
            }
        }
    }
}

#[test]
fn every_file_of_the_reactor_has_its_folder() {
    let reactor = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/reactor");
    let entries = fs::read_dir(reactor).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    let folders = REACTOR.iter().map(|(folder, _)| (*folder).to_owned());
    let mut all: Vec<_> = folders
        .chain(["hot_path.rs", "hub.rs", "mod.rs", "sockets.rs"].map(String::from))
        .collect();
    all.sort_unstable();
    assert_eq!(names, all);
}

fn code_lines(code: &str) -> impl Iterator<Item = &str> {
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

/// Whether a line of code names something of the module with this path.
fn imports(line: &str, path: &str) -> bool {
    line.split(path)
        .skip(1)
        .any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Asserts that a module names only those modules that it may, of all: names and paths.
fn assert_imports(directory: &str, module: &str, allowed: &str, all: &[(String, String)]) {
    let sources = sources(&format!("{directory}/{module}"));
    assert!(!sources.is_empty(), "{directory}/{module} has no sources");
    for (path, code) in sources {
        for line in code_lines(&code) {
            for (name, of) in all.iter().filter(|(name, _)| name != module) {
                assert!(
                    !imports(line, of) || allowed.split(' ').any(|allowed| allowed == name),
                    "{path}: {line}"
                );
            }
            // Each names its module, so that this sees it.
            assert!(
                !line.contains("use event_manager_core::{"),
                "{path}: {line}"
            );
            assert!(
                !line.contains("use event_manager_wire::{"),
                "{path}: {line}"
            );
        }
    }
}

#[test]
fn modules_import_only_those_above_them() {
    let own = |name: &str| (name.to_owned(), format!("crate::{name}"));
    let mut known: Vec<_> = LAYERS.iter().map(|(name, _)| own(name)).collect();
    for (name, modules) in CRATES {
        let of_crate = |module: &str| format!("{name}{module}");
        let names = match modules {
            [] => vec![of_crate("")],
            _ => modules
                .iter()
                .map(|(module, _)| of_crate(&format!("::{module}")))
                .collect(),
        };
        known.extend(names.into_iter().map(|name| {
            let path = format!("event_manager_{name}");
            (name, path)
        }));
    }
    for (module, allowed) in LAYERS {
        assert_imports("src", module, allowed, &known);
    }
    for (name, modules) in CRATES {
        let known: Vec<_> = modules.iter().map(|(name, _)| own(name)).collect();
        for (module, allowed) in *modules {
            assert_imports(&format!("crates/{name}/src"), module, allowed, &known);
        }
    }
}

/// Folders whose files import each other only one way.
const WITHOUT_CIRCLES: &[(&str, &str)] = &[
    ("src/config", "crate::config::"),
    ("src/reactor", "crate::reactor::"),
    ("crates/core/src/broker", "crate::broker::"),
];

/// What the code of a module names of the folder it is in, as paths from there: `super::a::B` and
/// `crate::folder::a::B`. A module's path is empty for the folder's own file.
fn named_in(code: &str, module: &[&str], prefix: &str) -> Vec<Vec<String>> {
    let mut named = vec![];
    let mut add = |from: &[&str], rest: &str| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
        let (path, group) = rest.split_at(end.unwrap_or(rest.len()));
        let names = match group
            .strip_prefix('{')
            .and_then(|group| group.split_once('}'))
        {
            Some((names, _)) => names.split(',').map(str::trim).collect(),
            None => vec![""],
        };
        for name in names {
            let path = path.split("::").chain(name.split("::"));
            let path = path.filter(|part| !part.is_empty());
            named.push(
                from.iter()
                    .copied()
                    .chain(path)
                    .map(str::to_owned)
                    .collect(),
            );
        }
    };
    for (at, _) in code.match_indices(prefix) {
        add(&[], &code[at + prefix.len()..]);
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let (mut rest, mut from) = (&code[at..], module);
        while let Some(above) = rest.strip_prefix("super::") {
            rest = above;
            from = from.split_last().map_or(&[][..], |(_, from)| from);
        }
        add(from, rest);
    }
    named
}

#[test]
fn no_imports_go_round_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, prefix) in WITHOUT_CIRCLES {
        let of_file = |(path, code): (String, String)| {
            let path = path.strip_prefix(&root.join(folder).display().to_string());
            let path = path?.trim_end_matches(".rs").trim_end_matches("mod");
            let module = path.trim_matches('/').to_owned();
            let code: Vec<_> = code_lines(&code).collect();
            Some((module, code.join("\n")))
        };
        let mut left: BTreeMap<_, _> = sources(folder).into_iter().filter_map(of_file).collect();
        let modules: BTreeSet<_> = left.keys().cloned().collect();
        let mut imports = BTreeMap::new();
        for (module, code) in &left {
            let parts: Vec<_> = module.split('/').filter(|part| !part.is_empty()).collect();
            let named = named_in(code, &parts, prefix).into_iter();
            // The longest beginning that is a module; a name of the folder itself may be any.
            let known = named.filter_map(|path| {
                let ends = (1..=path.len()).rev();
                let mut beginnings = ends.map(|end| path[..end].join("/"));
                beginnings.find(|path| modules.contains(path))
            });
            let known: BTreeSet<_> = known.filter(|known| known != module).collect();
            imports.insert(module.clone(), known);
        }
        assert!(imports.values().any(|named| named.len() > 2), "{folder}");
        // What imports nothing that is left goes, until nothing is left, or a circle.
        while !left.is_empty() {
            let before = left.len();
            let names: BTreeSet<_> = left.keys().cloned().collect();
            left.retain(|module, _| !imports[module].is_disjoint(&names));
            let circle: Vec<_> = left.keys().collect();
            assert!(left.len() < before, "{folder}: a circle among {circle:?}");
        }
    }
}

/// What a `lib.rs` declares with this prefix.
fn names_in(lib: &str, prefix: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(lib)).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let rests = lines.map(|rest| rest.trim_end_matches(';').to_owned());
    rests.collect()
}

/// The fields that this line reads by their names: `status["services"]`, `page.get("events")`. What
/// is written so, and lists of texts, don't count.
fn read_by_name(line: &str) -> Vec<&str> {
    let mut found = vec![];
    for (begin, end) in [("[\"", "\"]"), (".get(\"", "\")"), (".pointer(\"", "\")")] {
        for (at, _) in line.match_indices(begin) {
            let is_index =
                line[..at].ends_with(|c: char| c.is_alphanumeric() || "_)]?".contains(c));
            let rest = &line[at + begin.len()..];
            let Some((name, rest)) = rest.split_once(end) else {
                continue;
            };
            let is_name = name
                .chars()
                .all(|c| c.is_alphanumeric() || "-_/".contains(c));
            if is_index && is_name && !rest.starts_with(" = ") {
                found.push(name);
            }
        }
    }
    found
}

#[test]
fn reads_by_name_are_recognised() {
    assert_eq!(
        read_by_name(r#"status["services"][0]["name"]"#),
        ["services", "name"]
    );
    assert_eq!(read_by_name(r#"f(x)["a"] == y.get("b")?"#), ["a", "b"]);
    assert_eq!(read_by_name(r#"x.pointer("/a/b")"#), ["/a/b"]);
    for other in [
        r#"shown["a"] = 1;"#,
        r#"&["a"]"#,
        r#"(["a", "b"])"#,
        r##"#[doc = "a"]"##,
    ] {
        assert_eq!(read_by_name(other), [""; 0], "{other}");
    }
}

/// What the daemon tells has types (`api`), which all read that hear it.
#[test]
fn nobody_reads_our_own_answers_by_the_names_of_fields() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut reads = vec![];
    for (file, code) in ["src", "crates"].iter().flat_map(|module| sources(module)) {
        if FOREIGN_JSON
            .iter()
            .any(|path| Path::new(&file).starts_with(root.join(path)))
        {
            continue;
        }
        let named = code.lines().flat_map(read_by_name);
        reads.extend(named.map(|name| format!("{file}: {name}")));
    }
    assert_eq!(
        reads, [""; 0],
        "there is a type for it in `api`, or it needs one"
    );
}

#[test]
fn every_module_has_its_layer() {
    for module in names_in("src/lib.rs", "pub mod ") {
        let is_known = LAYERS.iter().any(|(known, _)| *known == module);
        assert!(is_known, "{module} has no layer");
    }
    // What is in a crate is named by its path there, also in the daemon.
    assert_eq!(names_in("src/lib.rs", "pub use "), [""; 0]);
    for (name, modules) in CRATES.iter().filter(|(_, modules)| !modules.is_empty()) {
        let declared = names_in(&format!("crates/{name}/src/lib.rs"), "pub mod ");
        let mut listed: Vec<_> = modules.iter().map(|(module, _)| *module).collect();
        listed.sort_unstable();
        assert_eq!(declared, listed);
    }
}

#[test]
fn the_core_is_pure() {
    for module in PURE {
        let sources = sources(module);
        assert!(!sources.is_empty(), "{module} has no sources");
        for (path, code) in sources {
            for line in code_lines(&code) {
                let impure = IMPURE.iter().find(|word| line.contains(**word));
                assert!(impure.is_none(), "{path}: {line}");
            }
        }
    }
    // What can't be imported can't be used.
    for name in ["zmtp", "wire", "core"] {
        let manifest =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("crates/{name}/Cargo.toml"));
        let manifest = fs::read_to_string(manifest).unwrap();
        for forbidden in ["tokio", "zmq.", "socket2", "rand"] {
            let has_it = manifest.lines().any(|line| line.starts_with(forbidden));
            assert!(!has_it, "crates/{name} depends on {forbidden}");
        }
    }
}
