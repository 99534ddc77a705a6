//! Clients that behave, while others don't.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::TestDaemon;
use super::peers::{publish, received};

/// Between two rounds, so that what the healthy cost is little beside what others do.
const PACE: Duration = Duration::from_millis(5);

/// A publisher, a subscriber, a worker and a requester that go on in a thread of their own: each
/// event is to arrive at both receivers before the next one, each keep-alive is to be answered.
pub struct Healthy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Rounds>,
}

/// What the healthy clients have seen.
pub struct Rounds {
    pub count: u64,
    /// The longest that a round took.
    pub longest: Duration,
}

impl Healthy {
    /// How many they have.
    pub const CONNECTIONS: u64 = 4;

    /// Connects them; they go on until [`finish`](Self::finish).
    pub fn start(daemon: &TestDaemon) -> Self {
        let subscribed = daemon.subscribe("healthy", "Healthy", &["healthy"]);
        let worker = daemon.worker("Healthy", &subscribed.pull_address);
        let subscriber = daemon.subscriber(&["healthy"]);
        let publisher = daemon.publisher();
        let requester = daemon.requester();
        let stop = Arc::<AtomicBool>::default();
        let told_to_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut rounds = Rounds {
                count: 0,
                longest: Duration::ZERO,
            };
            while rounds.count == 0 || !told_to_stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let data = rounds.count.to_string();
                publish(&publisher, "healthy", &data);
                assert_eq!(received(&subscriber), data);
                assert_eq!(received(&worker), data);
                let keep_alive = ["TK_EVENT_MANAGER_KEEP_ALIVE", "STRING", "healthy"];
                requester.send_multipart(keep_alive, 0).expect("a send");
                let answer = requester.recv_multipart(0).expect("an answer");
                assert_eq!(answer[0], b"TK_SYS_ACK");
                rounds.count += 1;
                rounds.longest = rounds.longest.max(begun.elapsed());
                std::thread::sleep(PACE);
            }
            rounds
        });
        Self { stop, thread }
    }

    /// Ends them and asserts that they noticed nothing.
    pub fn finish(self) -> Rounds {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the healthy go on")
    }
}
