//! `event-manager pub`: publishes events.

use anyhow::Context;
use clap::Args;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use super::signals::wait_for;
use super::target::{Target, address};
use event_manager_client::Publisher;

/// What is read of standard input at once.
const INPUT_BYTES: usize = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct PubArgs {
    /// The event's subject: its first frame.
    subject: String,
    /// Its second frame; without it, each line of standard input is one event.
    data: Option<String>,
    /// Where to publish [default: ask the daemon]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub_address: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &PubArgs) -> anyhow::Result<()> {
    let address = match &args.pub_address {
        Some(address) => address.clone(),
        None => args.target.daemon_address("publishers")?,
    };
    let address = address
        .parse()
        .with_context(|| format!("{address:?} is not an address"))?;
    let publisher = Publisher::new(address, args.target.wait()).with_keys(args.target.keys()?);
    wait_for(publish(publisher, args))
}

async fn publish(mut publisher: Publisher, args: &PubArgs) -> anyhow::Result<()> {
    let subject = args.subject.as_bytes();
    match &args.data {
        Some(data) => publisher.send(&[subject, data.as_bytes()]).await?,
        None => {
            let mut input = BufReader::with_capacity(INPUT_BYTES, stdin());
            let mut line = Vec::new();
            loop {
                let read = tokio::select! {
                    read = input.read_until(b'\n', &mut line) => read?,
                    never = publisher.tend() => match never {},
                };
                if read == 0 {
                    break;
                }
                let data = line.strip_suffix(b"\n").unwrap_or(&line);
                publisher.send(&[subject, data]).await?;
                line.clear();
                // Nothing more may come for long.
                if input.buffer().is_empty() {
                    publisher.flush().await?;
                }
            }
        }
    }
    Ok(publisher.finish().await?)
}
