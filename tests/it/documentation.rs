//! The documentation keeps up with the code.

use event_manager::config::KEYS;
use event_manager::telemetry::LOG_KEYS;

const OPERATIONS: &str = include_str!("../../docs/operations.md");

#[test]
fn operations_list_every_key_with_its_variable() {
    for key in KEYS {
        let row = format!("| `{}` | `{}` |", key.name, key.env);
        assert_eq!(is_marked_live(&row), key.is_live, "{row}");
    }
    for key in LOG_KEYS {
        let row = format!("| `log.{}` |", key.name);
        assert_eq!(is_marked_live(&row), key.is_live, "{row}");
    }
}

/// Whether the row that begins like this says that its key changes while the daemon runs.
fn is_marked_live(row: &str) -> bool {
    let mut lines = OPERATIONS.lines();
    let line = lines.find(|line| line.starts_with(row));
    let line = line.unwrap_or_else(|| panic!("docs/operations.md has no row {row}"));
    line.ends_with(" (live) |")
}
