//! Works for a durable service: what arrives while no worker runs waits on disk. Ends after as many events as
//! its argument says; without one, never.

use std::time::Duration;

use event_manager_client::{Error, Failure, Hub, Retry};
use serde::Deserialize;

#[derive(Deserialize)]
struct Order {
    number: u32,
    cents: u64,
}

fn handle(order: &Order) -> Result<(), Failure> {
    if order.cents == 0 {
        // A dead letter, at once.
        return Err(Failure::Reject("an order without a price".into()));
    }
    println!("order {} costs {}", order.number, order.cents);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok());
    let hub = Hub::builder().name("billing").connect().await?;
    let service = hub.service("Billing").subjects(["glob:order.*"]).durable();
    let mut service = service.retry(Retry::default().max(5)).start().await?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0
        && let Some(delivery) = service.next().await
    {
        let delivery = delivery?;
        let result = delivery.json().map_err(Failure::from);
        delivery.answer(result.and_then(|order| handle(&order)));
        left -= 1;
    }
    service.drain(Duration::from_secs(5)).await;
    Ok(())
}
