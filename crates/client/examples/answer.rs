//! Answers calls, by a port of its own, which the daemon learns from its ServiceLocator. Ends after as many as
//! its argument says; without one, never.

use std::time::Duration;

use event_manager_client::{Error, Hub};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Order {
    number: u32,
}

#[derive(Serialize)]
struct Price {
    cents: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok());
    let hub = Hub::builder().name("prices").connect().await?;
    let answers = hub.answers("Prices").subjects(["exact:order.price"]);
    let mut answers = answers.start().await?;
    println!("answering");
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0
        && let Some(question) = answers.next().await
    {
        let question = question?;
        match question.json::<Order>() {
            Ok(order) => {
                println!("order {} was asked for", order.number);
                question.answer(&Price { cents: 950 })?;
            }
            Err(error) => question.refuse(&error.to_string()),
        }
        left -= 1;
    }
    answers.drain(Duration::from_secs(5)).await;
    Ok(())
}
