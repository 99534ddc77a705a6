//! Events as a plain subscriber gets them, for commands that show them.

use std::io;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;

use super::signals::{Termination, wait_for};
use super::target::{Target, address};
use event_manager_client::Subscriber;

/// Which events, and from where.
#[derive(Debug, Args)]
pub(super) struct Feed {
    /// Subject prefixes; without any, everything.
    subjects: Vec<String>,
    /// Exit after this many events.
    #[arg(short = 'n', long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Where to subscribe [default: ask the daemon]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    sub_address: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Feed {
    /// Shows each event's frames, until there were enough or a signal comes.
    pub(super) fn each(
        &self,
        mut show: impl FnMut(&[Bytes]) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let address = match &self.sub_address {
            Some(address) => address.clone(),
            None => self.target.daemon_address("subscribers")?,
        };
        let address = address
            .parse()
            .with_context(|| format!("{address:?} is not an address"))?;
        let everything = self.subjects.is_empty().then(Vec::new);
        let prefixes = self.subjects.iter().map(|subject| subject.clone().into());
        let subscriber = Subscriber::new(&address, prefixes.chain(everything).collect());
        let mut subscriber = subscriber.with_keys(self.target.keys()?);
        wait_for(async {
            let mut termination = Termination::listen()?;
            for _ in 0..self.count.unwrap_or(u64::MAX) {
                tokio::select! {
                    frames = subscriber.next() => show(&frames)?,
                    () = termination.received() => break,
                }
            }
            Ok(())
        })
    }
}
