//! What is packaged for others speaks of metrics that exist.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::support::TestDaemon;
use super::super::support::peers::publish;
use super::super::support::raw::RawPeer;

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(path);
    std::fs::read_to_string(path).expect("a file")
}

/// What looks like a metric's name in an expression.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_part(c));
    let prefixes = ["event_manager_", "events_", "event_", "process_"];
    let names = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
    names.map(str::to_owned).collect()
}

fn texts<'a>(value: &'a Value, names: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Array(all) => all.iter().for_each(|value| texts(value, names, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if names.contains(&name.as_str()) => found.push(text),
                    _ => texts(value, names, found),
                }
            }
        }
        _ => {}
    }
}

/// Names of all metrics that the dashboard and the alerts use.
fn used() -> BTreeSet<String> {
    let dashboard: Value = serde_json::from_str(&file("grafana/event-manager.json")).expect("JSON");
    let mut expressions = vec![];
    texts(
        &dashboard,
        &["expr", "query", "definition"],
        &mut expressions,
    );
    assert!(expressions.len() > 20, "{expressions:?}");
    let alerts = file("prometheus/alerts.yml");
    let mut rules = 0;
    let mut is_expression = false;
    for line in alerts.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("expr:") {
            (is_expression, rules) = (true, rules + 1);
        } else if ["for:", "labels:", "annotations:", "- alert:"]
            .iter()
            .any(|key| trimmed.starts_with(key))
        {
            is_expression = false;
        }
        if is_expression {
            expressions.push(line);
        }
    }
    assert!(rules > 10, "{rules} rules");
    expressions.into_iter().flat_map(metrics_in).collect()
}

#[test]
fn dashboard_and_alerts_use_metrics_that_exist() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "httpAddress": "127.0.0.1:0", "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }));
    daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
    publish(&daemon.publisher(), "Meal", "x");
    let mut stranger = RawPeer::connect(&daemon.publishers());
    stranger.send_while_heard(&[0; 64]);
    daemon.wait_for("all of it", |status| {
        status.publishers.events == 1 && !status.peers.refused.is_empty()
    });
    let metrics = daemon.metrics();
    let samples: BTreeSet<_> = metrics.samples.keys().map(|(name, _)| name).collect();
    let used = used();
    assert!(used.len() > 25, "{used:?}");
    let unknown: Vec<_> = used.iter().filter(|name| !samples.contains(name)).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}

#[test]
fn the_documentation_lists_the_metrics_that_exist() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = std::fs::read_to_string(path).expect("a file");
    let (_, section) = text.split_once("### Metrics").expect("a section");
    let section = section.split("\n## ").next().expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows
        .flat_map(|row| {
            let cell = row.split(" | ").next().expect("a cell").to_owned();
            let names = cell.split('`').skip(1).step_by(2).map(str::to_owned);
            names.collect::<Vec<_>>()
        })
        .collect();
    let daemon = super::watched();
    let metrics = daemon.metrics();
    let families = metrics.families.iter();
    let existing: BTreeSet<String> = families
        .map(|(name, kind)| match kind.as_str() {
            "counter" => format!("{name}_total"),
            _ => name.clone(),
        })
        .collect();
    assert_eq!(documented, existing);
}
