//! Prints events as they pass, without a runtime of its own. Ends after as many as its argument says.

use event_manager_client::{Error, Hub, blocking};

fn main() -> Result<(), Error> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok());
    let hub = blocking::Hub::build(Hub::builder())?;
    let events = hub.subscribe(["order."])?;
    println!("watching");
    for event in events.take(count.unwrap_or(usize::MAX)) {
        println!(
            "{} {}",
            event.subject(),
            String::from_utf8_lossy(event.body())
        );
    }
    Ok(())
}
