//! Calls the services that are subscribed to a subject, and waits for the first one that says yes.

use std::time::Duration;

use event_manager_client::{Error, Hub};
use serde::Deserialize;

#[derive(Deserialize)]
struct Price {
    cents: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let hub = Hub::builder().connect().await?;
    let call = hub.call("order.price", &serde_json::json!({"number": 4}));
    match call.timeout(Duration::from_secs(5)).first::<Price>().await {
        Ok(price) => println!("it costs {}", price.cents),
        Err(Error::NoResponders { .. }) => println!("nobody knows a price"),
        Err(error) => return Err(error),
    }
    Ok(())
}
