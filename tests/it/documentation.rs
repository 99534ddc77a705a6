//! The documentation keeps up with the code.

use std::fs;
use std::path::Path;

use event_manager::config::{Config, KEYS};
use event_manager::telemetry::{KINDS, LOG_TARGETS};
use serde_json::Value;

const OPERATIONS: &str = include_str!("../../docs/operations.md");
const EVENTS: &str = include_str!("../../docs/events.md");
/// Every code that ever was, with its name; `retired` behind those that are no more. Nothing is
/// taken from it or changed in it, so no code can come to mean something else.
const CODES: &str = include_str!("notable/codes.txt");

#[test]
fn operations_list_every_key_with_its_variable() {
    for key in KEYS.iter() {
        let row = format!("| `{}` | `{}` |", key.name, key.env);
        assert_eq!(is_marked_live(&row), key.is_live, "{row}");
    }
}

#[test]
fn operations_name_the_default_of_every_key() {
    let defaults = Config::default().shown();
    for key in KEYS.iter() {
        let pointer = format!("/{}", key.name.replace('.', "/"));
        let default = match defaults.pointer(&pointer).expect("a value") {
            Value::String(text) => text.clone(),
            Value::Array(all) if all.is_empty() => "none".into(),
            Value::Null if key.name != "log.file" => "none".into(),
            other => other.to_string(),
        };
        let row = format!("| `{}` | `{}` | ", key.name, key.env);
        let row = OPERATIONS.lines().find_map(|line| line.strip_prefix(&row));
        let written = row.expect("a row").split(" |").next().expect("a column");
        let written = written.replace('`', "");
        // Behind a comma stands when it is another.
        let written = written.split(',').next().expect("a value");
        assert_eq!(written, default, "{}", key.name);
    }
}

/// Whether the row that begins like this says that its key changes while the daemon runs.
fn is_marked_live(row: &str) -> bool {
    let mut lines = OPERATIONS.lines();
    let line = lines.find(|line| line.starts_with(row));
    let line = line.unwrap_or_else(|| panic!("docs/operations.md has no row {row}"));
    line.ends_with(" (live) |")
}

#[test]
fn every_code_has_its_section_and_no_section_is_orphaned() {
    let sections: Vec<_> = EVENTS.split("\n### ").skip(1).collect();
    let headings: Vec<_> = sections
        .iter()
        .map(|section| section.lines().next())
        .collect();
    let expected: Vec<_> = KINDS
        .iter()
        .map(|kind| format!("{} {}", kind.code, kind.name))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|heading| Some(heading.as_str()))
        .collect();
    assert_eq!(headings, expected);
    for (kind, section) in KINDS.iter().zip(sections) {
        let fields: Vec<_> = kind
            .fields
            .iter()
            .map(|field| format!("`{field}`"))
            .collect();
        let fields = match fields.is_empty() {
            true => "none".to_owned(),
            false => fields.join(", "),
        };
        let facts = format!("\n- Level: {}. Fields: {fields}.\n", kind.level);
        assert!(section.contains(&facts), "{} lacks {facts:?}", kind.code);
        for part in ["\n- Check: ", "\n- Fix: "] {
            assert!(section.contains(part), "{} lacks {part:?}", kind.code);
        }
    }
    let link = "[events.md](events.md)";
    assert!(OPERATIONS.contains(link), "docs/operations.md lacks {link}");
}

#[test]
fn no_code_is_used_again_for_something_else() {
    let listed = CODES.lines().filter(|line| !line.ends_with(" retired"));
    let used = KINDS
        .iter()
        .map(|kind| format!("{} {}", kind.code, kind.name));
    assert!(
        listed.eq(used),
        "tests/it/notable/codes.txt lists other codes"
    );
    let codes: Vec<_> = CODES
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        codes.windows(2).all(|pair| pair[0] < pair[1]),
        "a code is listed twice"
    );
}

#[test]
fn operations_list_every_log_target() {
    let rows = OPERATIONS.lines().filter(|line| line.starts_with("| `em."));
    let listed: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let targets: Vec<_> = LOG_TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(listed, targets);
}

/// Without a target of its own a line would be logged under the path of its module, which changes
/// when code moves.
#[test]
fn every_log_call_names_a_listed_target() {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut calls = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for level in ["error", "warn", "info", "debug", "trace"] {
            for call in code.split(&format!("tracing::{level}!(")).skip(1) {
                let call = call.trim_start();
                let is_listed = LOG_TARGETS
                    .iter()
                    .any(|target| call.starts_with(&format!("target: \"{}\"", target.name)));
                let line: String = call.chars().take(60).collect();
                assert!(is_listed, "{}: {line}", path.display());
                calls += 1;
            }
        }
    }
    assert!(calls > 20, "only {calls} calls were found");
}

/// As ARCHITECTURE.md says, paths of the daemon begin in `src/`, and those of a crate with its name.
#[test]
fn the_files_that_architecture_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("a text");
    let words = text.split('`').skip(1).step_by(2);
    let paths: Vec<_> = words
        .filter(|word| word.contains('/') && word.ends_with(".rs") && !word.contains(' '))
        .collect();
    assert!(paths.len() > 40, "{paths:?}");
    for path in paths {
        let of_crate = match path.split_once('/') {
            Some((name @ ("zmtp" | "wire" | "core" | "client"), file)) => {
                format!("crates/{name}/src/{file}")
            }
            _ => path.to_owned(),
        };
        let is_there = root.join(&of_crate).exists() || root.join("src").join(path).exists();
        assert!(is_there, "{path}");
    }
}
