//! Events as a plain subscriber gets them, for commands that show them.

use std::io;

use anyhow::Context;
use clap::Args;

use super::signals::until_terminated;
use super::target::Target;
use crate::ambient::now;

/// Which events, and from where.
#[derive(Debug, Args)]
pub(super) struct Feed {
    /// Subject prefixes; without any, everything.
    subjects: Vec<String>,
    /// Exit after this many events.
    #[arg(short = 'n', long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Where to subscribe [default: ask the daemon]
    #[arg(long, value_name = "ADDRESS")]
    sub_address: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Feed {
    /// Shows each event's frames, until there were enough or a signal comes.
    pub(super) fn each(
        &self,
        mut show: impl FnMut(&[Vec<u8>]) -> io::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let context = zmq::Context::new();
        let address = match &self.sub_address {
            Some(address) => address.clone(),
            None => self.target.daemon_address(&context, "subscribers")?,
        };
        let socket = context.socket(zmq::SUB)?;
        socket.set_linger(0)?;
        if self.subjects.is_empty() {
            socket.set_subscribe(b"")?;
        }
        for subject in &self.subjects {
            socket.set_subscribe(subject.as_bytes())?;
        }
        socket
            .connect(&address)
            .with_context(|| format!("{address:?} is not an address"))?;
        let mut left = self.count.unwrap_or(u64::MAX);
        until_terminated(move |stop| {
            while left > 0 && !stop.is_set() {
                let wait = stop.look_until().saturating_duration_since(now());
                match socket.poll(zmq::POLLIN, wait.as_millis() as i64) {
                    Ok(0) | Err(zmq::Error::EINTR) => continue,
                    result => result?,
                };
                show(&socket.recv_multipart(0)?)?;
                left -= 1;
            }
            Ok(())
        })
    }
}
