//! The documentation keeps up with the code.

use event_manager::config::KEYS;
use event_manager::telemetry::LOG_KEYS;

const OPERATIONS: &str = include_str!("../../docs/operations.md");

#[test]
fn operations_list_every_key_with_its_variable() {
    for key in KEYS {
        let row = format!("| `{}` | `{}` |", key.name, key.env);
        assert!(
            OPERATIONS.contains(&row),
            "docs/operations.md has no row {row}"
        );
    }
    for key in LOG_KEYS {
        let row = format!("| `log.{}` |", key.name);
        assert!(
            OPERATIONS.contains(&row),
            "docs/operations.md has no row {row}"
        );
    }
}
