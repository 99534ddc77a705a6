//! `event-manager subscribe` and `unsubscribe`: a service's subscription, without a worker.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value, json};

use super::output::{Out, quoted, shown};
use super::target::{Target, finite_seconds};
use super::worker::Kept;
use event_manager_client::ClientError;
use event_manager_wire::api::SubscriptionTerms;

#[derive(Debug, Args)]
pub(super) struct SubscribeArgs {
    /// The service's name.
    service: String,
    /// Subjects: a prefix, or exact:…, or glob:…; an empty one means everything.
    #[arg(required = true)]
    subjects: Vec<String>,
    /// The subscription's id; one that exists is renewed, and gets these subjects [default: made up]
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    /// Where the events of a new service are kept [default: as configured]
    #[arg(long, value_enum)]
    delivery: Option<Kept>,
    /// Seconds that a worker may owe an answer.
    #[arg(long, value_name = "SECONDS", value_parser = finite_seconds)]
    ack_timeout: Option<f64>,
    /// How failed events are tried again: {"initialMs": …, "multiplier": …, "maxMs": …, "maxDeliveries": …}
    #[arg(long, value_name = "JSON", value_parser = object)]
    retry: Option<Map<String, Value>>,
    /// What events have in common that keep their order: "subject", or a frame's index.
    #[arg(long, value_name = "WHAT")]
    order_by: Option<String>,
    /// What happens when the queue is full: drop-oldest, drop-newest or spill.
    #[arg(long, value_name = "WHAT")]
    when_full: Option<String>,
    /// The subject under which dead letters are published.
    #[arg(long, value_name = "SUBJECT")]
    dead_letter_subject: Option<String>,
    /// Print the daemon's answer as a JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct UnsubscribeArgs {
    /// The subscription's id, as `subscribe` and `services --verbose` show it.
    id: String,
    /// Only these of its subjects; without any, the subscription ends.
    subjects: Vec<String>,
    #[command(flatten)]
    target: Target,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text)
        .map_err(|_| "expected a JSON object, such as {\"maxDeliveries\": 3}".to_owned())
}

/// What the daemon answered.
struct Subscribed {
    id: String,
    publishers: String,
    workers: String,
    /// Beside that.
    terms: Map<String, Value>,
}

pub(super) fn subscribe(args: &SubscribeArgs) -> anyhow::Result<()> {
    let answer = args.target.client()?.ask_json(&request(args))?;
    let subscribed = read(answer)?;
    let mut out = Out::new(args.json);
    if args.json {
        let Subscribed {
            id,
            publishers,
            workers,
            terms,
        } = subscribed;
        let mut answer = json!({"id": id, "service": args.service, "publishers": publishers, "workers": workers});
        for (name, value) in terms {
            answer[name] = value;
        }
        return Ok(writeln!(out, "{answer}")?);
    }
    let text = |text: &str| shown(text.as_bytes());
    writeln!(
        out,
        "{} is subscribed as {} and receives at {}",
        text(&args.service),
        text(&subscribed.id),
        text(&subscribed.workers)
    )?;
    let terms = serde_json::from_value::<SubscriptionTerms>(Value::Object(subscribed.terms));
    let terms = terms.map_err(|error| ClientError::Garbled(error.to_string()))?;
    // An older daemon doesn't say.
    if terms.ttl_ms == 0 {
        return Ok(());
    }
    let (seconds, id) = (terms.ttl_ms as f64 / 1000.0, quoted(&subscribed.id));
    writeln!(
        out,
        "The subscription ends in {seconds} s, unless KEEP_ALIVE or this command with `--id {id}` renews it, or at once by `event-manager unsubscribe {id}`"
    )?;
    if terms.delivery == Kept::Queue.name() {
        writeln!(
            out,
            "The service keeps its subjects and events until `event-manager services --end {}`",
            quoted(&args.service)
        )?;
    }
    Ok(())
}

/// What is not said is not sent: older daemons don't know all of it.
fn request(args: &SubscribeArgs) -> Value {
    let mut request = json!({
        "token": "subscribe", "id": args.id, "service": args.service, "subjects": args.subjects,
    });
    let options = [
        ("delivery", args.delivery.map(|kept| json!(kept.name()))),
        ("ackTimeout", args.ack_timeout.map(|seconds| json!(seconds))),
        ("retry", args.retry.as_ref().map(|retry| json!(retry))),
        ("orderBy", args.order_by.as_deref().map(order)),
        ("whenFull", args.when_full.as_ref().map(|what| json!(what))),
        (
            "deadLetterSubject",
            args.dead_letter_subject
                .as_ref()
                .map(|subject| json!(subject)),
        ),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            request[name] = value;
        }
    }
    request
}

fn order(text: &str) -> Value {
    text.parse::<u64>()
        .map_or(json!(text), |frame| json!(frame))
}

fn read(mut answer: Map<String, Value>) -> anyhow::Result<Subscribed> {
    answer.remove("dataType");
    let data = answer.remove("data");
    let data: Option<Vec<String>> = data.and_then(|data| serde_json::from_value(data).ok());
    let Ok([id, publishers, workers]) = <[String; 3]>::try_from(data.unwrap_or_default()) else {
        bail!(ClientError::Garbled("it names no addresses".to_owned()));
    };
    Ok(Subscribed {
        id,
        publishers,
        workers,
        terms: answer,
    })
}

pub(super) fn unsubscribe(args: &UnsubscribeArgs) -> anyhow::Result<()> {
    let mut request = json!({"token": "unsubscribe", "id": args.id});
    if !args.subjects.is_empty() {
        request["subjects"] = json!(args.subjects);
    }
    args.target.client()?.ask_json(&request)?;
    Ok(())
}
