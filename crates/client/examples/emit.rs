//! Emits an event whose confirmation says that it is on disk. It is sent again until it is answered; its id
//! keeps it from being published twice, even if this program is started again.

use std::time::Duration;

use event_manager_client::{Error, Hub, Level};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let hub = Hub::builder().connect().await?;
    let emit = hub.emit(
        "order.created",
        &serde_json::json!({"number": 4, "cents": 1200}),
    );
    let receipt = emit
        .id("order-4")
        .level(Level::Disk)
        .ttl(Duration::from_secs(3600))
        .timeout(Duration::from_secs(60))
        .await?;
    println!(
        "{}: {} services, {:?}, duplicate: {}",
        receipt.id, receipt.services, receipt.level, receipt.duplicate
    );
    Ok(())
}
