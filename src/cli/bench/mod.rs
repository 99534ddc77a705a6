//! `event-manager bench`: what the daemon that runs can do, with the clients and the machine that are there.

mod cpu;
mod flow;
mod measure;

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::output::{Out, complain};
use super::signals::{Termination, wait_for};
use super::target::Target;
use cpu::Cpu;
use measure::Bench;

/// What may be under way at once, in bytes: less than any queue's budget by default.
const UNDER_WAY_BYTES_MAX: usize = 4 << 20;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// From a publisher to the daemon; nobody gets the events.
    Publish,
    /// From a publisher to a plain subscriber.
    Subscribe,
    /// From a publisher to a service's worker, which acknowledges each event.
    Work,
    /// EMIT, from the request to its confirmation.
    Confirm,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Work => "work",
            Self::Confirm => "confirm",
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure [default: all, one after the other]
    #[arg(value_enum, hide_default_value = true)]
    what: Vec<What>,
    /// Events of each measurement.
    #[arg(short = 'n', long, value_name = "EVENTS", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    events: u64,
    /// Bytes of an event's body, from 16 to 1048576.
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    size: u64,
    /// Events a second, for latencies at that load [default: as fast as it goes]
    #[arg(long, value_name = "EVENTS", value_parser = rate)]
    rate: Option<f64>,
    /// The most events that are under way at once, and no more than 4 MiB of them; publish knows no bound.
    #[arg(long, value_name = "EVENTS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    window: u32,
    /// Work for a durable service, and confirm when the event is on disk; needs a `stateDir`.
    #[arg(long)]
    durable: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    let rate = rate.filter(|rate| (0.01..=1e9).contains(rate));
    rate.ok_or_else(|| "expected events a second, from 0.01 to 1000000000".into())
}

/// What was found.
struct Found {
    what: What,
    events: u64,
    took: Duration,
    /// CPU time of this process.
    client: Option<Duration>,
    /// The same of the daemon, if it runs here.
    daemon: Option<Duration>,
    /// In order.
    latencies: Vec<u64>,
}

impl Found {
    fn rate(&self) -> f64 {
        self.events as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// µs of each event.
    fn each(&self, cpu: Option<Duration>) -> Option<f64> {
        Some(cpu?.as_secs_f64() * 1e6 / self.events as f64)
    }

    /// The latency in ms that this part of the events did not exceed.
    fn latency(&self, part: f64) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        let at = (part * last as f64).ceil() as usize;
        Some(*self.latencies.get(at)? as f64 / 1e6)
    }

    fn json(&self, size: u64) -> Value {
        let latencies = self
            .latency(0.5)
            .map(|p50| json!({"p50": p50, "p99": self.latency(0.99), "max": self.latency(1.0)}));
        json!({
            "what": self.what.name(), "events": self.events, "bodyBytes": size,
            "seconds": self.took.as_secs_f64(), "eventsPerSecond": self.rate(),
            "clientCpuMicros": self.each(self.client), "daemonCpuMicros": self.each(self.daemon),
            "latencyMs": latencies,
        })
    }

    fn line(&self) -> String {
        let shown = |figure: Option<f64>, digits: usize| {
            figure.map_or("-".to_owned(), |figure| format!("{figure:.digits$}"))
        };
        format!(
            "{:<9}  {:>9}  {:>8.2}  {:>10.0}  {:>10}  {:>10}  {:>8}  {:>8}  {:>8}",
            self.what.name(),
            self.events,
            self.took.as_secs_f64(),
            self.rate(),
            shown(self.each(self.client), 2),
            shown(self.each(self.daemon), 2),
            shown(self.latency(0.5), 3),
            shown(self.latency(0.99), 3),
            shown(self.latency(1.0), 3),
        )
    }
}

const HEADINGS: &str = "\
WHAT          EVENTS   SECONDS    EVENTS/S  CLIENT CPU  DAEMON CPU       P50       P99       MAX
                                              µs/event    µs/event        ms        ms        ms";

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    wait_for(async {
        let mut termination = Termination::listen()?;
        let bench = tokio::select! {
            bench = Bench::start(args) => bench?,
            () = termination.received() => bail!(INTERRUPTED),
        };
        let results = run_all(args, bench, &mut termination).await?;
        if args.json {
            let results: Vec<_> = results.iter().map(|found| found.json(args.size)).collect();
            let all = json!({"version": env!("CARGO_PKG_VERSION"), "results": results});
            writeln!(Out::new(true), "{all}")?;
        }
        Ok(())
    })
}

const INTERRUPTED: &str = "interrupted";

async fn run_all(
    args: &BenchArgs,
    mut bench: Bench,
    termination: &mut Termination,
) -> anyhow::Result<Vec<Found>> {
    let all = What::value_variants();
    let wanted = if args.what.is_empty() {
        all
    } else {
        &args.what
    };
    let mut results = vec![];
    for what in wanted {
        let before = Cpu::now(bench.daemon_pid());
        let measured = tokio::select! {
            measured = bench.measure(*what) => measured,
            () = termination.received() => Err(anyhow::anyhow!(INTERRUPTED)),
        };
        let cpu = Cpu::now(bench.daemon_pid()).since(before);
        // Whatever has become of it.
        if let Err(error) = bench.clean_up().await {
            complain(&format!("event-manager: {error:#}"));
        }
        let measured = measured?;
        let found = Found {
            what: *what,
            events: args.events,
            took: measured.took,
            client: cpu.client,
            daemon: cpu.daemon,
            latencies: measured.latencies,
        };
        if !args.json {
            let mut out = Out::new(false);
            if results.is_empty() {
                writeln!(out, "{HEADINGS}")?;
            }
            writeln!(out, "{}", found.line())?;
        }
        results.push(found);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_each_event() {
        let found = Found {
            what: What::Work,
            events: 4,
            took: Duration::from_secs(2),
            client: Some(Duration::from_micros(10)),
            daemon: None,
            latencies: vec![1_000_000, 2_000_000, 3_000_000, 40_000_000],
        };
        let line = found.line();
        let words: Vec<_> = line.split_whitespace().collect();
        let expected = [
            "work", "4", "2.00", "2", "2.50", "-", "3.000", "40.000", "40.000",
        ];
        assert_eq!(words, expected);
        let json = found.json(16);
        assert_eq!(
            json["latencyMs"],
            json!({"p50": 3.0, "p99": 40.0, "max": 40.0})
        );
        assert_eq!(
            (&json["eventsPerSecond"], &json["daemonCpuMicros"]),
            (&json!(2.0), &Value::Null)
        );
        let none = Found {
            latencies: vec![],
            ..found
        };
        assert_eq!(none.json(16)["latencyMs"], Value::Null);
    }
}
