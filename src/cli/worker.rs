//! `event-manager worker`: one worker of a service.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::output::{complain, print_event};
use super::signals::{Termination, wait_for};
use super::target::{Target, seconds};
use crate::ambient::chance;
use event_manager_client::{Delivery, Service};

/// How long the daemon may take to read that the last events are done.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// When a worker acknowledges an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ack {
    /// When it is printed: what is not printed goes to another worker.
    After,
    /// Before it is printed: no event is printed twice, but one may be lost.
    Before,
    /// Not at all: it comes again after `ackTimeout`.
    Never,
}

/// Where a service's events are kept.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kept {
    /// In memory, while it has a subscription.
    Live,
    /// On disk, until it is ended.
    Queue,
}

impl Kept {
    /// As requests have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Queue => "queue",
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The service's name.
    service: String,
    /// Subjects: a prefix, or exact:…, or glob:…; an empty one means everything.
    #[arg(required = true)]
    subjects: Vec<String>,
    /// Exit after this many events.
    #[arg(short = 'n', long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// When to acknowledge an event.
    #[arg(long, value_enum, default_value = "after")]
    ack: Ack,
    /// The part of the events, from 0 to 1, that are printed and then given back, to be tried again.
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = part)]
    nak_rate: f64,
    /// Seconds that it works on each event, before it answers.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    delay: Option<f64>,
    /// The most events that it holds unanswered.
    #[arg(long, value_name = "EVENTS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    credit: u32,
    /// What the daemon shows as its name.
    #[arg(long)]
    name: Option<String>,
    /// Where the events of a new service are kept [default: as configured]
    #[arg(long, value_enum)]
    delivery: Option<Kept>,
    /// Print each event as a JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok();
    let part = part.filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "expected a number from 0 to 1".into())
}

pub(super) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    wait_for(async {
        let mut termination = Termination::listen()?;
        let mut worker = tokio::select! {
            worker = start(args) => worker?,
            () = termination.received() => return Ok(()),
        };
        complain(&format!(
            "{} is subscribed as {} and receives at {}",
            args.service,
            worker.subscription_id(),
            worker.address()
        ));
        let result = tokio::select! {
            result = work(&mut worker, args) => result,
            () = termination.received() => Ok(()),
        };
        // Also when nobody reads our output any more.
        let stopped = worker.unsubscribe(LAST_ANSWERS).await;
        result?;
        stopped?;
        Ok(())
    })
}

async fn start(args: &WorkerArgs) -> anyhow::Result<Service> {
    let hub = args.target.hub(args.name.as_deref()).await?;
    let subjects = args.subjects.iter();
    let service = hub.service(&args.service).subjects(subjects);
    let service = match args.delivery {
        None => service,
        Some(Kept::Live) => service.live(),
        Some(Kept::Queue) => service.durable(),
    };
    let service = match args.ack {
        // The daemon is not told that they are worked on.
        Ack::Never => service.max_handling(Duration::ZERO),
        Ack::After | Ack::Before => service,
    };
    // Few: none waits here that another worker could have had.
    Ok(service.credit(args.credit).start().await?)
}

async fn work(worker: &mut Service, args: &WorkerArgs) -> anyhow::Result<()> {
    let count = args.count.unwrap_or(u64::MAX);
    let mut held = vec![];
    for left in (0..count).rev() {
        let Some(delivery) = worker.next().await else {
            break;
        };
        let delivery = delivery?;
        // It must not be given an event that it would not print: BYE goes before the last answer.
        if left == 0 {
            worker.stopper().stop();
        }
        held.extend(handle(delivery, args).await?);
    }
    Ok(())
}

/// Prints an event and answers it; returns it if it is not to be answered.
async fn handle(delivery: Delivery, args: &WorkerArgs) -> anyhow::Result<Option<Delivery>> {
    let event = delivery.event().clone();
    let is_refused = args.nak_rate > chance();
    let mut unanswered = Some(delivery);
    if args.ack == Ack::Before
        && !is_refused
        && let Some(delivery) = unanswered.take()
    {
        delivery.ack();
    }
    // What can't be printed goes to another worker.
    print_event(&event.frames().collect::<Vec<_>>(), args.json)?;
    if let Some(seconds) = args.delay {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }
    let Some(delivery) = unanswered else {
        return Ok(None);
    };
    if is_refused {
        delivery.nak(None, "as --nak-rate says");
    } else if args.ack == Ack::Never {
        return Ok(Some(delivery));
    } else {
        delivery.ack();
    }
    Ok(None)
}
