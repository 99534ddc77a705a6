//! `event-manager call`: publishes a sync event.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::output::{AnswerWasNo, Out};
use super::target::{Target, seconds};

#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// The event's subject.
    subject: String,
    /// Its data.
    data: String,
    /// Seconds to wait for the services' answers.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS", value_parser = seconds)]
    timeout: f64,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &CallArgs) -> anyhow::Result<()> {
    let timeout = Duration::from_secs_f64(args.timeout);
    let (all_acked, results) =
        args.target
            .client()?
            .publish_sync(&args.subject, &args.data, timeout)?;
    let results = serde_json::to_string_pretty(&results)?;
    writeln!(Out::new(true), "{results}")?;
    if all_acked {
        Ok(())
    } else {
        Err(AnswerWasNo.into())
    }
}
