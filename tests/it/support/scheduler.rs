//! An instance as ScheduleZero has it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::TestDaemon;
use super::peers::connected;

pub const INTERVAL: Duration = Duration::from_millis(100);

fn heartbeat(id: &str, pid: i64) -> String {
    format!(
        r#"{{"type": "heartbeat", "instance_id": "{id}", "pid": {pid}, "address": "tcp://0.0.0.0:5555"}}"#
    )
}

/// An instance that follows the rule of ScheduleZero's broker: it leads while its process id is the lowest of
/// all that it has heard within three intervals; it looks when somebody says something, and each two
/// intervals.
pub struct Scheduler {
    leads: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scheduler {
    pub fn start(hub: &TestDaemon, id: &str, pid: i64) -> Self {
        Self::start_each(INTERVAL, hub, id, pid)
    }

    /// With so much time between two heartbeats.
    pub fn start_each(interval: Duration, hub: &TestDaemon, id: &str, pid: i64) -> Self {
        let (leads, ends) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        // It may outlive the hub.
        let context = zmq::Context::new();
        let publisher = connected(&context, zmq::PUB, &hub.publishers());
        let subscriber = connected(&context, zmq::SUB, &hub.subscribers());
        subscriber.set_subscribe(b"").expect("an option");
        let (told, ending, id) = (Arc::clone(&leads), Arc::clone(&ends), id.to_owned());
        let thread = std::thread::spawn(move || {
            let mut alive: HashMap<String, (i64, Instant)> = HashMap::new();
            let mut beat_at = Instant::now();
            let mut clean_at = Instant::now() + 2 * interval;
            told.store(true, Ordering::Relaxed);
            while !ending.load(Ordering::Relaxed) {
                if Instant::now() >= beat_at {
                    publisher.send(&heartbeat(&id, pid), 0).expect("a send");
                    beat_at += interval;
                }
                let mut looks = Instant::now() >= clean_at;
                if looks {
                    clean_at += 2 * interval;
                    alive.retain(|_, (_, seen)| seen.elapsed() <= 3 * interval);
                }
                if subscriber.poll(zmq::POLLIN, 5).expect("a poll") > 0 {
                    let bytes = subscriber.recv_bytes(0).expect("a message");
                    let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                    let who = said["instance_id"].as_str().unwrap_or_default();
                    match said["type"].as_str() {
                        Some("heartbeat") if who != id => {
                            let other = said["pid"].as_i64().expect("a number");
                            alive.insert(who.to_owned(), (other, Instant::now()));
                            looks = true;
                        }
                        Some("shutdown") => looks |= alive.remove(who).is_some(),
                        _ => {}
                    }
                }
                if looks {
                    let lowest = alive.values().all(|(other, _)| *other >= pid);
                    told.store(lowest, Ordering::Relaxed);
                }
            }
        });
        Self {
            leads,
            ends,
            thread: Some(thread),
        }
    }

    /// The same for another thread.
    #[allow(dead_code, reason = "for the tests with engines")]
    pub fn shared(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.leads)
    }

    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
