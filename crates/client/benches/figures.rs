//! What an event costs its process: `cargo bench -p zmq-event-manager-client --features testing`, with the daemon's
//! binary in PATH or named by EVENT_MANAGER_BIN. Prints the median of five runs for each way. Arguments are
//! parts of the names of those that are to run: `-- publish work`.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::zombie_processes,
    reason = "a bench, which fails by panicking"
)]

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use event_manager_client::testing::TestHub;
use event_manager_client::{Error, Hub};
use serde::{Deserialize, Serialize};

const EVENTS: u64 = 200_000;
const RUNS: usize = 5;
const BODY_BYTES: usize = 256;

#[derive(Serialize, Deserialize)]
struct Order {
    number: u64,
    text: String,
}

fn order() -> Order {
    let mut order = Order {
        number: EVENTS,
        text: String::new(),
    };
    let rest = BODY_BYTES - serde_json::to_vec(&order).unwrap().len();
    order.text = "x".repeat(rest);
    order
}

/// The CPU time of the first thread, which has the runtime.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

async fn publish(hub: &Hub, is_typed: bool) -> Result<(), Error> {
    let (order, bytes) = (order(), [b'x'; BODY_BYTES]);
    for _ in 0..EVENTS {
        match is_typed {
            true => hub.publish("order.created", &order).await?,
            false => hub.publish_frames(&[b"order.created", &bytes]).await?,
        }
    }
    hub.flush().await.map(drop)
}

/// Events come from another process, so that only the work is counted.
async fn work(hub: &Hub, is_typed: bool) -> Result<(), Error> {
    let service = hub.service("Billing").subjects(["order."]).credit(512);
    let mut service = service.start().await?;
    let mut publisher = Command::new(std::env::current_exe().unwrap());
    let address = hub.status().await?.addresses.requests.remove(0);
    let mut publisher = publisher.args(["publish", &address]).spawn().unwrap();
    for _ in 0..EVENTS {
        let Some(delivery) = service.next().await else {
            break;
        };
        let delivery = delivery?;
        if is_typed {
            let order: Order = delivery.json()?;
            assert_eq!(order.number, EVENTS);
        }
        delivery.ack();
    }
    publisher.wait().unwrap();
    service.unsubscribe(Duration::from_secs(5)).await.map(drop)
}

async fn emit(hub: &Hub) -> Result<(), Error> {
    let mut emits = tokio::task::JoinSet::new();
    for _ in 0..EVENTS / 10 {
        if emits.len() == 256 {
            emits.join_next().await.unwrap().unwrap()?;
        }
        let hub = hub.clone();
        emits.spawn(async move {
            hub.emit_bytes("order.created", vec![b'x'; BODY_BYTES])
                .await
                .map(drop)
        });
    }
    while let Some(emitted) = emits.join_next().await {
        emitted.unwrap()?;
    }
    Ok(())
}

/// What serde_json alone takes, which is in the lines about a struct.
async fn json(is_written: bool) -> Result<(), Error> {
    let (order, mut written) = (order(), vec![]);
    for _ in 0..EVENTS {
        match is_written {
            true => {
                written.clear();
                serde_json::to_writer(&mut written, black_box(&order)).unwrap();
            }
            false => {
                if written.is_empty() {
                    written = serde_json::to_vec(&order).unwrap();
                }
                let read: Order = serde_json::from_slice(black_box(&written)).unwrap();
                assert_eq!(read.number, EVENTS);
            }
        }
    }
    Ok(())
}

fn is_asked_for(name: &str) -> bool {
    let mut asked = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .peekable();
    asked.peek().is_none() || asked.any(|word| name.contains(&word))
}

async fn measure(
    name: &str,
    events: u64,
    way: impl AsyncFn() -> Result<(), Error>,
) -> Result<(), Error> {
    if !is_asked_for(name) {
        return Ok(());
    }
    let mut runs = vec![];
    for _ in 0..RUNS {
        let (cpu_before, begun) = (cpu(), Instant::now());
        way().await?;
        runs.push((cpu() - cpu_before, begun.elapsed()));
    }
    runs.sort();
    let (cpu, wall) = runs[RUNS / 2];
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / events as f64;
    println!(
        "{name:<32} {:>8.3} µs CPU {:>8.3} µs wall",
        micros(cpu),
        micros(wall)
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, word, address] = &arguments[..]
        && word == "publish"
    {
        return publish(&Hub::connect(address).await?, true).await;
    }
    let daemon = TestHub::start_new()?;
    let connecting = Hub::builder().address(daemon.address());
    let hub = connecting
        .timeout(Duration::from_secs(60))
        .connect()
        .await?;
    measure("publish, bytes", EVENTS, async || {
        publish(&hub, false).await
    })
    .await?;
    measure("publish, a struct as JSON", EVENTS, async || {
        publish(&hub, true).await
    })
    .await?;
    measure("JSON alone, written", EVENTS, async || json(true).await).await?;
    measure("JSON alone, read", EVENTS, async || json(false).await).await?;
    measure("work, bytes", EVENTS, async || work(&hub, false).await).await?;
    measure("work, JSON as a struct", EVENTS, async || {
        work(&hub, true).await
    })
    .await?;
    measure("emit, 256 under way", EVENTS / 10, async || {
        emit(&hub).await
    })
    .await
}
