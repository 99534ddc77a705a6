//! `event-manager top`: what flows, again and again, on a screen or as lines.
//!
//! `rates`, `state`, `table` and `view` decide what is shown; they own no socket, clock or
//! terminal. `poller` asks the daemon, `screen` owns the terminal.

mod poller;
mod rates;
mod screen;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use clap::Args;

use super::output::Out;
use super::signals::{StopFlag, until_terminated};
use super::target::{Target, seconds};
use crate::ambient::now;
use event_manager_client::ClientError;
use poller::Poller;
use state::Top;

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Seconds between updates.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    interval: f64,
    /// Print lines instead of a screen; implied if standard output is not a terminal.
    #[arg(long)]
    plain: bool,
    /// Exit after N updates; with code 69 if the daemon did not answer for the last one.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &TopArgs) -> anyhow::Result<()> {
    let client = args.target.async_client()?;
    let top = Top::new(client.address().to_owned());
    #[allow(clippy::disallowed_methods, reason = "nothing is written to it")]
    let is_terminal = stdout().is_terminal();
    let on_screen = !args.plain && args.count.is_none() && is_terminal;
    let (interval, count) = (Duration::from_secs_f64(args.interval), args.count);
    until_terminated(move |stop| {
        let mut poller = Poller::start(client, interval);
        if on_screen {
            screen::run(top, &mut poller, &stop)
        } else {
            print(top, &mut poller, &stop, count)
        }
    })
}

/// A block of lines for each answer.
fn print(
    mut top: Top,
    poller: &mut Poller,
    stop: &StopFlag,
    count: Option<u64>,
) -> anyhow::Result<()> {
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 && !stop.is_set() {
        let wait = stop.look_until().saturating_duration_since(now());
        let Some((at, answer)) = poller.next(wait) else {
            continue;
        };
        top.observe(at, answer);
        let mut out = Out::new(false);
        out.write_all(view::plain(&top, now()).as_bytes())?;
        out.flush()?;
        left -= 1;
    }
    match left == 0 && top.trouble.is_some() {
        true => Err(ClientError::NoAnswer(top.address).into()),
        false => Ok(()),
    }
}
