//! Brokers side by side, each as its own process: `cargo bench --bench e2e -- [scenario…]`.
//!
//! The generator is one thread that speaks each broker's wire protocol with blocks encoded
//! beforehand, so that the broker is the bottleneck, and with a window of events under way, so that
//! none has a reason to drop. Brokers take turns, round after round, and what is compared is the
//! median of the rounds' ratios: this evens out what else the machine does. The figure to trust is
//! the CPU time that an event costs the broker, by the kernel's accounting of its process.
//!
//! `docs/performance.md` says how to read the results.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a bench"
)]

mod asked;
mod beside;
mod brokers;
mod catch_up;
mod client;
mod confirmed;
mod flow;
mod libzmq;
mod paced;
mod plot;
mod poisoned;
mod process;
mod quiet;
mod relay;
mod report;
mod responders;
mod scenario;
mod stalled;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;

use brokers::Broker;
use report::{Report, Sample};
use scenario::{Kind, Scenario};

/// Measures brokers side by side.
#[derive(Parser)]
struct Args {
    /// Scenarios whose names contain one of these words; all without any.
    scenarios: Vec<String>,
    /// Only these brokers, by a part of their names.
    #[arg(long, value_delimiter = ',')]
    brokers: Vec<String>,
    /// How often each broker is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a measurement takes, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Lists the scenarios and the brokers, with what is missing here.
    #[arg(long)]
    list: bool,
    /// Where the results go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/e2e"))]
    out: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Runs one of the brokers that are in this program.
    #[arg(long, hide = true, num_args = 1..)]
    play: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if let Some((part, rest)) = args.play.split_first() {
        return match part.as_str() {
            "relay" => relay::play(rest[0].parse()?, rest[1].parse()?, rest[2].parse()?),
            "zmq-proxy" => libzmq::play_proxy(),
            "services" => responders::play_zmtp(rest[0].parse()?),
            "nats-services" => responders::play_nats(rest[0].parse()?, rest[1].parse()?, &rest[2]),
            "libzmq-services" => libzmq::play_services(rest),
            _ => bail!("no such part: {part}"),
        };
    }
    let chosen = |name: &str, words: &[String]| {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let scenarios: Vec<Scenario> = scenario::all()
        .into_iter()
        .filter(|scenario| chosen(&scenario.name, &args.scenarios))
        .collect();
    let mut brokers = brokers::all();
    brokers.retain(|broker| chosen(broker.name(), &args.brokers));
    if scenarios.is_empty() || brokers.is_empty() {
        bail!("nothing to do: `cargo bench --bench e2e -- --list` names scenarios and brokers");
    }
    brokers.retain(|broker| match broker.missing() {
        Some(what) => {
            println!("{} is not measured: {what}", broker.name());
            false
        }
        None => true,
    });
    if args.list {
        println!("brokers:");
        brokers
            .iter()
            .for_each(|broker| println!("  {}", broker.name()));
        println!("scenarios:");
        scenarios
            .iter()
            .for_each(|scenario| println!("  {}", scenario.name));
        return Ok(());
    }
    let mut report = Report::new(&args.out)?;
    for scenario in &scenarios {
        measure(scenario, &brokers, args, &mut report);
        report.print(scenario);
        report.save()?;
    }
    plot::save(&report, &args.out)?;
    println!("results and plot: {}", args.out.display());
    report.faults()
}

/// All rounds of one scenario. A broker that fails is named, and the others go on.
fn measure(scenario: &Scenario, brokers: &[Box<dyn Broker>], args: &Args, report: &mut Report) {
    let duration = Duration::from_secs_f64(args.seconds);
    let able: Vec<_> = brokers
        .iter()
        .filter(|broker| broker.supports(scenario))
        .collect();
    for round in 0..args.rounds {
        for broker in &able {
            if round > 0 && broker.starts_slowly() {
                continue;
            }
            let result = run_beside(broker.as_ref(), scenario, duration);
            match result {
                Ok(sample) => report.add(scenario, broker.name(), round, sample),
                Err(error) => report.fault(scenario, broker.name(), &format!("{error:#}")),
            }
        }
    }
}

/// Runs a scenario once, after the one that it is compared with.
fn run_beside(broker: &dyn Broker, scenario: &Scenario, duration: Duration) -> Result<Sample> {
    let Some(other) = &scenario.against else {
        return run_once(broker, scenario, duration);
    };
    let cost = |sample: &Sample, of: &Scenario| sample.cpu_us.map(|us| us / of.deliveries());
    let alone = cost(&run_once(broker, other, duration)?, other);
    let sample = run_once(broker, scenario, duration)?;
    let ratio = cost(&sample, scenario).zip(alone);
    Ok(Sample {
        cpu_beside: ratio.map(|(cost, alone)| cost / alone),
        ..sample
    })
}

fn run_once(broker: &dyn Broker, scenario: &Scenario, duration: Duration) -> Result<Sample> {
    match scenario.kind {
        Kind::Flow | Kind::Durable | Kind::Acknowledged => flow::run(broker, scenario, duration),
        Kind::CatchUp { events } => catch_up::run(broker, scenario, events),
        Kind::Confirmed { .. } | Kind::Called => confirmed::run(broker, scenario, duration),
        Kind::Poisoned { .. } => poisoned::run(broker, scenario, duration * 2),
        Kind::LibzmqEnds => libzmq::run_ends(broker, scenario, duration),
        Kind::Paced { per_second } => paced::run(broker, scenario, per_second, duration * 2),
        Kind::BesideDurable { per_second } => {
            beside::run(broker, scenario, per_second, duration * 2)
        }
        Kind::Asked { per_second, what } => {
            asked::run(broker, scenario, (per_second, what), duration * 2)
        }
        Kind::Stalled => stalled::run(broker, scenario, duration),
        Kind::Idle { peers } => quiet::idle(broker, scenario, peers),
        Kind::Storm { peers } => quiet::storm(broker, scenario, peers),
        Kind::Waiting { events } => quiet::waiting(broker, scenario, events),
        Kind::Start => quiet::start(broker, scenario),
    }
}
