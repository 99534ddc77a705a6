//! `event-manager pub`: publishes events.

use std::io::{self, BufRead};

use anyhow::Context;
use clap::Args;

use super::target::Target;
use crate::client::ClientError;

/// How long what was sent may take to leave, in ms.
const LINGER_MS: i32 = 10_000;

#[derive(Debug, Args)]
pub(super) struct PubArgs {
    /// The event's subject: its first frame.
    subject: String,
    /// Its other frame; without it, each line of standard input is one event.
    data: Option<String>,
    /// Where to publish; else the daemon is asked.
    #[arg(long, value_name = "ADDRESS")]
    pub_address: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &PubArgs) -> anyhow::Result<()> {
    let context = zmq::Context::new();
    let address = match &args.pub_address {
        Some(address) => address.clone(),
        None => args.target.daemon_address(&context, "publishers")?,
    };
    // An XPUB hears the daemon's subscription, before which all it sent would be lost.
    let socket = context.socket(zmq::XPUB)?;
    socket.set_linger(LINGER_MS)?;
    // At a high-water mark it would drop what it can't send yet. What is read here is sent at once,
    // so this holds no more than standard input is ahead of the daemon.
    socket.set_sndhwm(0)?;
    socket.set_rcvtimeo(
        args.target
            .wait()
            .as_millis()
            .try_into()
            .unwrap_or(i32::MAX),
    )?;
    socket
        .connect(&address)
        .with_context(|| format!("{address:?} is no address"))?;
    let mut publisher = Publisher {
        socket,
        address,
        subscribed: false,
    };
    let mut publish = |data: &[u8]| publisher.send([args.subject.as_bytes(), data]);
    match &args.data {
        Some(data) => publish(data.as_bytes())?,
        None => {
            for line in io::stdin().lock().split(b'\n') {
                publish(&line?)?;
            }
        }
    }
    Ok(())
}

/// A publisher that sends only while the daemon is subscribed to it.
struct Publisher {
    socket: zmq::Socket,
    address: String,
    subscribed: bool,
}

impl Publisher {
    fn send(&mut self, event: [&[u8]; 2]) -> anyhow::Result<()> {
        while let Ok(message) = self.socket.recv_bytes(zmq::DONTWAIT) {
            self.subscribed = message == [1];
        }
        while !self.subscribed {
            let message = self.socket.recv_bytes(0);
            let message = message.map_err(|_| ClientError::NoAnswer(self.address.clone()))?;
            self.subscribed = message == [1];
        }
        Ok(self.socket.send_multipart(event, 0)?)
    }
}
