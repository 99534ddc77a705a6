//! `event-manager worker`: one worker of a service.

use clap::Args;

use super::output::print_event;
use super::signals::until_terminated;
use super::target::Target;
use crate::ambient::now;
use crate::client::ServiceWorker;

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The service's name.
    service: String,
    /// Subjects: a prefix, or exact:…, or glob:…; an empty one is everything.
    #[arg(required = true)]
    subjects: Vec<String>,
    /// End after this many events.
    #[arg(short = 'n', long, value_name = "EVENTS")]
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
    eprintln!(
        "{} is subscribed as {} and receives at {}",
        args.service, subscribed.id, subscribed.pull_address
    );
    let (json, mut left) = (args.json, args.count.unwrap_or(u64::MAX));
    until_terminated(move |stop| {
        let result = loop {
            if left == 0 || stop.is_set() {
                break Ok(());
            }
            match worker.receive(now(), stop.look_until()) {
                Ok(None) => {}
                Ok(Some(frames)) => {
                    if let Err(error) = print_event(&frames, json) {
                        break Err(error.into());
                    }
                    left -= 1;
                    worker.ready()?;
                }
                Err(error) => break Err(error.into()),
            }
        };
        // Also when nobody reads our output any more.
        let stopped = worker.stop();
        result.and(stopped.map_err(Into::into))
    })
}
