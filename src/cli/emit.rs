//! `event-manager emit`: publishes events, and waits until the daemon has confirmed each.

use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use super::output::{Out, complain};
use super::progress::Progress;
use super::signals::wait_for;
use super::target::{Target, finite_seconds};
use event_manager_client::{Client, ClientError};
use event_manager_wire::messagebus::{ENGINE_WAIT_MAX, Message, Token};

/// What a confirmation means.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    /// The daemon has accepted the event.
    Memory,
    /// It is on disk in each durable service that it matched.
    Disk,
    /// Beyond that, the engine has it, of each service that has its queue at one.
    Engine,
}

#[derive(Debug, Args)]
pub(super) struct EmitArgs {
    /// The event's subject: its first frame.
    subject: String,
    /// Its second frame; without it, each line of standard input is one event.
    data: Option<String>,
    /// An id by which a second event is known as the same; events of standard input get ID-1, ID-2, ….
    #[arg(long)]
    id: Option<String>,
    /// What a confirmation means.
    #[arg(long, value_enum, default_value = "memory")]
    level: Level,
    /// Services' workers don't get the event after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = finite_seconds)]
    ttl: Option<f64>,
    /// Nobody gets the event before this time, in ms since 1970.
    #[arg(long, value_name = "MS")]
    deliver_at: Option<u64>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &EmitArgs) -> anyhow::Result<()> {
    let client = args.target.async_client()?;
    wait_for(emit_all(client, args))
}

async fn emit_all(mut client: Client, args: &EmitArgs) -> anyhow::Result<()> {
    if let Some(data) = &args.data {
        let id = args.id.clone().unwrap_or_default();
        let receipt = emit(&mut client, args, &id, data.as_bytes()).await?;
        return Ok(writeln!(Out::new(true), "{receipt}")?);
    }
    let mut progress = Progress::new("confirmed", None);
    let mut input = BufReader::new(stdin());
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line).await? > 0 {
        let data = line.strip_suffix(b"\n").unwrap_or(&line);
        let id = args.id.as_ref();
        let id = id.map_or(String::new(), |id| {
            format!("{id}-{}", progress.events() + 1)
        });
        if let Err(error) = emit(&mut client, args, &id, data).await {
            progress.end();
            let before = progress.events();
            complain(&format!(
                "{before} events were confirmed, but not the next one"
            ));
            return Err(error.into());
        }
        progress.add(1);
        line.clear();
    }
    progress.end();
    let events = progress.events();
    Ok(writeln!(
        Out::new(true),
        "{}",
        json!({"confirmed": events})
    )?)
}

/// Publishes one event; what the daemon says of it.
async fn emit(
    client: &mut Client,
    args: &EmitArgs,
    id: &str,
    data: &[u8],
) -> Result<Value, ClientError> {
    let level = match args.level {
        Level::Memory => "memory",
        Level::Disk => "disk",
        Level::Engine => "engine",
    };
    let ttl = args.ttl.map(|ttl| ("ttl".to_owned(), json!(ttl)));
    let deliver_at = args
        .deliver_at
        .map(|at| ("deliverAt".to_owned(), json!(at)));
    let options: Map<_, _> = ttl.into_iter().chain(deliver_at).collect();
    let options = Value::Object(options).to_string();
    let mut request = Message::param(Token::EMIT, [id, level, &options]);
    request.frames = vec![args.subject.clone().into(), data.to_vec().into()];
    let extra = match args.level {
        Level::Engine => ENGINE_WAIT_MAX,
        Level::Memory | Level::Disk => Duration::ZERO,
    };
    let answer = client.ask(&request, extra).await?;
    let text = String::from_utf8_lossy(&answer.data).into_owned();
    if !answer.token.is(Token::ACK) {
        let (code, sentence) = text.split_once(": ").unwrap_or(("refused", &text));
        return Err(ClientError::Nak {
            code: code.to_owned(),
            sentence: sentence.to_owned(),
        });
    }
    serde_json::from_str(&text).map_err(|error| ClientError::Garbled(error.to_string()))
}
