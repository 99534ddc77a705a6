//! `event-manager worker`: one worker of a service.

use clap::Args;

use super::output::{complain, print_event};
use super::signals::{StopFlag, until_terminated};
use super::target::Target;
use crate::ambient::now;
use crate::client::ServiceWorker;

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
    let context = zmq::Context::new();
    let client = args.target.client(&context);
    let mut worker =
        ServiceWorker::start(context, client, &args.service, args.subjects.clone(), now())?;
    let subscribed = worker.subscribed();
    complain(&format!(
        "{} is subscribed as {} and receives at {}",
        args.service, subscribed.id, subscribed.pull_address
    ));
    let (json, count) = (args.json, args.count.unwrap_or(u64::MAX));
    until_terminated(move |stop| {
        let result = print_events(&mut worker, count, json, &stop);
        // Also when nobody reads our output any more.
        let stopped = worker.stop();
        result?;
        Ok(stopped?.map_or(Ok(()), |frames| print_event(&frames, json))?)
    })
}

fn print_events(
    worker: &mut ServiceWorker,
    count: u64,
    json: bool,
    stop: &StopFlag,
) -> anyhow::Result<()> {
    for left in (0..count).rev() {
        let frames = loop {
            if stop.is_set() {
                return Ok(());
            }
            if let Some(frames) = worker.receive(now(), stop.look_until())? {
                break frames;
            }
        };
        print_event(&frames, json)?;
        // It must not be given an event that it would not print.
        if left > 0 {
            worker.ready()?;
        }
    }
    Ok(())
}
