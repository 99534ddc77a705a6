//! `event-manager worker`: one worker of a service.

use clap::Args;

use super::output::{complain, print_event};
use super::signals::{Termination, wait_for};
use super::target::Target;
use std::time::Duration;

use event_manager_client::Worker;

/// How long the daemon may take to read that the last events are done.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

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
    /// Print each event as a JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    wait_for(async {
        let client = args.target.async_client()?;
        let subjects = args.subjects.clone();
        // One at a time: none waits here that another worker could have had.
        let mut worker = Worker::start(client, &args.service, subjects, 1).await?;
        let mut termination = Termination::listen()?;
        let subscribed = worker.subscribed();
        complain(&format!(
            "{} is subscribed as {} and receives at {}",
            args.service, subscribed.id, subscribed.pull_address
        ));
        let count = args.count.unwrap_or(u64::MAX);
        let result = tokio::select! {
            result = print_events(&mut worker, count, args.json) => result,
            () = termination.received() => Ok(()),
        };
        // Also when nobody reads our output any more.
        let stopped = worker.stop(LAST_ANSWERS).await;
        result?;
        Ok(stopped?)
    })
}

async fn print_events(worker: &mut Worker, count: u64, json: bool) -> anyhow::Result<()> {
    for left in (0..count).rev() {
        let Some(delivery) = worker.next().await else {
            break;
        };
        let delivery = delivery?;
        // What can't be printed goes to another worker.
        print_event(delivery.frames(), json)?;
        // It must not be given an event that it would not print.
        if left == 0 {
            worker.leave();
        }
        delivery.ack();
    }
    Ok(())
}
