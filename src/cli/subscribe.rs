//! `event-manager sub`: a plain subscriber.

use anyhow::Context;
use clap::Args;

use super::output::print_event;
use super::signals::until_terminated;
use super::target::Target;
use crate::ambient::now;

#[derive(Debug, Args)]
pub(super) struct SubArgs {
    /// Prefixes of subjects; none is everything.
    subjects: Vec<String>,
    /// End after this many events.
    #[arg(short = 'n', long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print each event as a JSON object.
    #[arg(long)]
    json: bool,
    /// Where to subscribe; else the daemon is asked.
    #[arg(long, value_name = "ADDRESS")]
    sub_address: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &SubArgs) -> anyhow::Result<()> {
    let context = zmq::Context::new();
    let address = match &args.sub_address {
        Some(address) => address.clone(),
        None => args.target.daemon_address(&context, "subscribers")?,
    };
    let socket = context.socket(zmq::SUB)?;
    socket.set_linger(0)?;
    if args.subjects.is_empty() {
        socket.set_subscribe(b"")?;
    }
    for subject in &args.subjects {
        socket.set_subscribe(subject.as_bytes())?;
    }
    socket
        .connect(&address)
        .with_context(|| format!("{address:?} is no address"))?;
    let (json, mut left) = (args.json, args.count.unwrap_or(u64::MAX));
    until_terminated(move |stop| {
        while left > 0 && !stop.is_set() {
            let wait = stop.look_until().saturating_duration_since(now());
            match socket.poll(zmq::POLLIN, wait.as_millis() as i64) {
                Ok(0) | Err(zmq::Error::EINTR) => continue,
                result => result?,
            };
            print_event(&socket.recv_multipart(0)?, json)?;
            left -= 1;
        }
        Ok(())
    })
}
