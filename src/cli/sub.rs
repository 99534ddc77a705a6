//! `event-manager sub`: a plain subscriber.

use clap::Args;

use super::feed::Feed;
use super::output::print_event;

#[derive(Debug, Args)]
pub(super) struct SubArgs {
    #[command(flatten)]
    feed: Feed,
    /// Print each event as a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SubArgs) -> anyhow::Result<()> {
    let json = args.json;
    args.feed.each(move |frames| print_event(frames, json))
}
