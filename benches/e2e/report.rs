//! Results: for people as tables, for programs as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use crate::scenario::Scenario;

/// What one run of one broker gave. Each scenario fills in what it measures.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Events, or peers that connected.
    pub events_per_second: Option<f64>,
    /// CPU time of the broker for each of them, in µs.
    pub cpu_us: Option<f64>,
    /// The share of it that was spent in user space, from 0 to 1.
    pub user_share: Option<f64>,
    /// The share of one core that the broker took, from 0 to 1.
    pub busy: Option<f64>,
    pub latency: Option<Latency>,
    pub peak_kib: Option<u64>,
    pub resident_kib: Option<u64>,
    /// Memory beyond what it had without load.
    pub grown_kib: Option<u64>,
    /// Memory of an event that waits, or of a peer that is idle, beyond the event's bytes.
    pub extra_bytes: Option<f64>,
    /// Events that a healthy subscriber didn't get.
    pub lost: Option<u64>,
    /// The rate beside a stalled subscriber, or beside poison, in parts of the rate without.
    pub rate_kept: Option<f64>,
    /// Median latency beside durable traffic, or somebody who asks, in parts of that without.
    pub p50_beside: Option<f64>,
    /// The same of the 99th percentile.
    pub p99_beside: Option<f64>,
    /// CPU time for each event beside somebody who asks, or beside poison, in parts of that without; or of a delivery, in
    /// parts of that in the scenario that this one is compared with.
    pub cpu_beside: Option<f64>,
    /// How often somebody asked.
    pub answers: Option<u64>,
    pub ready_ms: Option<f64>,
}

/// Percentiles in µs.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Latency {
    pub fn of(mut ns: Vec<u64>) -> Self {
        ns.sort_unstable();
        let at = |share: f64| {
            let position = ((ns.len() as f64 * share) as usize).min(ns.len().saturating_sub(1));
            ns.get(position).copied().unwrap_or(0) as f64 / 1000.0
        };
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
        }
    }
}

impl Sample {
    /// The measured values by name.
    pub fn values(&self) -> BTreeMap<&'static str, f64> {
        let latency = |part: fn(&Latency) -> f64| self.latency.as_ref().map(part);
        let all = [
            ("events_per_s", self.events_per_second),
            ("cpu_us", self.cpu_us),
            ("user_share", self.user_share),
            ("busy_percent", self.busy.map(|busy| busy * 100.0)),
            ("p50_us", latency(|l| l.p50)),
            ("p90_us", latency(|l| l.p90)),
            ("p99_us", latency(|l| l.p99)),
            ("p999_us", latency(|l| l.p999)),
            ("p50_beside", self.p50_beside),
            ("p99_beside", self.p99_beside),
            ("cpu_beside", self.cpu_beside),
            ("answers", self.answers.map(|n| n as f64)),
            ("ready_ms", self.ready_ms),
            ("lost", self.lost.map(|n| n as f64)),
            ("rate_kept", self.rate_kept),
            ("grown_mib", self.grown_kib.map(|kib| kib as f64 / 1024.0)),
            (
                "resident_mib",
                self.resident_kib.map(|kib| kib as f64 / 1024.0),
            ),
            ("extra_bytes", self.extra_bytes),
            ("peak_mib", self.peak_kib.map(|kib| kib as f64 / 1024.0)),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

/// The order of columns.
const COLUMNS: [&str; 19] = [
    "events_per_s",
    "cpu_us",
    "user_share",
    "busy_percent",
    "p50_us",
    "p90_us",
    "p99_us",
    "p999_us",
    "p50_beside",
    "p99_beside",
    "cpu_beside",
    "answers",
    "ready_ms",
    "lost",
    "rate_kept",
    "grown_mib",
    "resident_mib",
    "extra_bytes",
    "peak_mib",
];

/// The broker that others are compared with.
pub const OURS: &str = "event-manager";

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Samples by round.
type Rounds = BTreeMap<usize, Sample>;

/// Results so far.
pub struct Report {
    out: PathBuf,
    /// By scenario, in order; then by broker, in order.
    scenarios: Vec<(String, Vec<(String, Rounds)>)>,
    faults: Vec<String>,
}

impl Report {
    pub fn new(out: &Path) -> Result<Self> {
        fs::create_dir_all(out)?;
        Ok(Self {
            out: out.to_owned(),
            scenarios: vec![],
            faults: vec![],
        })
    }

    pub fn add(&mut self, scenario: &Scenario, broker: &str, round: usize, sample: Sample) {
        if self
            .scenarios
            .last()
            .is_none_or(|(name, _)| *name != scenario.name)
        {
            self.scenarios.push((scenario.name.clone(), vec![]));
        }
        let Some((_, brokers)) = self.scenarios.last_mut() else {
            return;
        };
        if !brokers.iter().any(|(name, _)| name == broker) {
            brokers.push((broker.to_owned(), Rounds::new()));
        }
        if let Some((_, rounds)) = brokers.iter_mut().find(|(name, _)| name == broker) {
            rounds.insert(round, sample);
        }
    }

    pub fn fault(&mut self, scenario: &Scenario, broker: &str, what: &str) {
        let fault = format!("{} with {broker}: {what}", scenario.name);
        println!("FAULT: {fault}");
        self.faults.push(fault);
    }

    /// An error if some run failed.
    pub fn faults(&self) -> Result<()> {
        if !self.faults.is_empty() {
            bail!(
                "{} runs failed:\n{}",
                self.faults.len(),
                self.faults.join("\n")
            );
        }
        Ok(())
    }

    /// The median of a value, by scenario and broker.
    pub fn medians(&self, value: &str) -> Vec<(&str, Vec<(&str, f64)>)> {
        let of_broker = |(broker, rounds): &'_ (String, Rounds)| {
            let values: Vec<f64> = rounds
                .values()
                .filter_map(|sample| sample.values().get(value).copied())
                .collect();
            (!values.is_empty()).then(|| (broker.clone(), median(values)))
        };
        self.scenarios
            .iter()
            .map(|(name, brokers)| {
                let found = brokers.iter().filter_map(|entry| {
                    of_broker(entry).map(|(_, value)| (entry.0.as_str(), value))
                });
                (name.as_str(), found.collect::<Vec<_>>())
            })
            .filter(|(_, brokers)| !brokers.is_empty())
            .collect()
    }

    /// The table of one scenario.
    pub fn print(&self, scenario: &Scenario) {
        let Some((name, brokers)) = self
            .scenarios
            .iter()
            .find(|(name, _)| *name == scenario.name)
        else {
            return;
        };
        println!("\n{name}");
        let has = |column: &&str| {
            brokers
                .iter()
                .any(|(_, rounds)| rounds.values().any(|s| s.values().contains_key(*column)))
        };
        let columns: Vec<&str> = COLUMNS.into_iter().filter(has).collect();
        let mut line = format!("  {:<18}", "broker");
        columns.iter().for_each(|column| {
            let _ = write!(line, " {column:>12}");
        });
        let ratio_of = ratio_column(&columns);
        println!("{line} {:>14}", format!("{ratio_of} ratio"));
        for (broker, rounds) in brokers {
            let mut line = format!("  {broker:<18}");
            for column in &columns {
                let values: Vec<f64> = rounds
                    .values()
                    .filter_map(|s| s.values().get(column).copied())
                    .collect();
                let _ = write!(line, " {:>12}", figure(median(values)));
            }
            let ratio =
                ratio(brokers, broker, ratio_of).map_or(String::new(), |r| format!("{r:.2} ×"));
            println!("{line} {ratio:>14}");
        }
    }

    /// Writes `results.json`: every sample, medians, and ratios to our own.
    pub fn save(&self) -> Result<()> {
        let scenarios: Map<String, Value> = self
            .scenarios
            .iter()
            .map(|(name, brokers)| {
                let of_brokers: Map<String, Value> = brokers
                    .iter()
                    .map(|(broker, rounds)| (broker.clone(), broker_json(brokers, broker, rounds)))
                    .collect();
                (name.clone(), of_brokers.into())
            })
            .collect();
        let text = serde_json::to_string_pretty(&json!({
            "scenarios": scenarios,
            "faults": self.faults,
        }))?;
        Ok(fs::write(self.out.join("results.json"), text)?)
    }
}

fn broker_json(brokers: &[(String, Rounds)], broker: &str, rounds: &Rounds) -> Value {
    let samples: Vec<Value> = rounds
        .values()
        .map(|sample| json!(sample.values()))
        .collect();
    let names: Vec<&str> = rounds
        .values()
        .flat_map(|s| s.values().into_keys())
        .collect();
    let medians: Map<String, Value> = names
        .iter()
        .map(|name| {
            let values = rounds
                .values()
                .filter_map(|s| s.values().get(name).copied());
            ((*name).to_owned(), json!(median(values.collect())))
        })
        .collect();
    let ratios: Map<String, Value> = ["cpu_us", "p50_us"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), json!(ratio(brokers, broker, name)?))))
        .collect();
    json!({"rounds": samples, "median": medians, "ratioToOurs": ratios})
}

fn ratio_column<'a>(columns: &[&'a str]) -> &'a str {
    let wanted = ["p50_us", "cpu_us", "busy_percent", "ready_ms", "grown_mib"];
    let found = wanted
        .iter()
        .find_map(|name| columns.iter().find(|column| *column == name));
    found.copied().unwrap_or("cpu_us")
}

/// The median of the rounds' ratios: this broker's value over ours in the same round.
fn ratio(brokers: &[(String, Rounds)], broker: &str, value: &str) -> Option<f64> {
    let find = |name: &str| {
        brokers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, r)| r)
    };
    let (theirs, ours) = (find(broker)?, find(OURS)?);
    let ratios: Vec<f64> = theirs
        .iter()
        .filter_map(|(round, sample)| {
            let ours = ours.get(round)?.values().get(value).copied()?;
            Some(sample.values().get(value)? / ours)
        })
        .collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

fn figure(value: f64) -> String {
    match value.abs() {
        v if v.is_nan() => "-".into(),
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
