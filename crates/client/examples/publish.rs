//! Publishes events, and waits until the daemon has taken them.
//!
//! Run it with a daemon at `EVENT_MANAGER_CLIENT_ADDRESS`, or at `tcp://localhost:5101`.

use event_manager_client::{Error, Hub};
use serde::Serialize;

#[derive(Serialize)]
struct Order {
    number: u32,
    cents: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let hub = Hub::builder().connect().await?;
    for number in 1..=3 {
        let order = Order { number, cents: 950 };
        hub.publish("order.created", &order).await?;
    }
    // An error says how many may be lost.
    let taken = hub.flush().await?;
    println!("{} events taken", taken.events);
    Ok(())
}
