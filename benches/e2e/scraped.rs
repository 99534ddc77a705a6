//! Live events at a fixed rate, in turns without and beside a client that asks for the metrics again
//! and again: what being watched costs those who publish.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::brokers::{Broker, Setup};
use crate::paced::Intended;
use crate::report::{Latency, Sample};
use crate::scenario::Scenario;

const PATIENCE: Duration = Duration::from_secs(5);
/// Turns without a scraper; as many beside it.
const TURNS: u32 = 4;
/// At the beginning of each turn events don't count.
const WARM_UP: Duration = Duration::from_millis(50);
/// Between two scrapes: a thousand times as often as Prometheus does.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(1);
/// The thread that carries events.
const DATA_PLANE: &str = "reactor";

pub fn run(
    broker: &dyn Broker,
    scenario: &Scenario,
    per_second: u32,
    duration: Duration,
) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let port = setup.http.context("a broker with metrics")?;
    let interval = Duration::from_secs(1) / per_second;
    let (mut alone, mut beside) = (Turns::default(), Turns::default());
    turn(
        &mut setup,
        interval,
        duration / TURNS,
        &mut Turns::default(),
    )?;
    let mut scrapes = 0;
    for _ in 0..TURNS {
        turn(&mut setup, interval, duration / TURNS, &mut alone)?;
        let is_over = AtomicBool::new(false);
        scrapes += thread::scope(|scope| -> Result<u64> {
            let scraper: ScopedJoinHandle<'_, Result<u64>> =
                scope.spawn(|| scrape_until(port, &is_over));
            let done = turn(&mut setup, interval, duration / TURNS, &mut beside);
            is_over.store(true, Ordering::Relaxed);
            let scrapes = scraper.join().unwrap();
            done?;
            scrapes
        })?;
    }
    let (cpu_alone, cpu_beside) = (alone.cpu_us_per_event(), beside.cpu_us_per_event());
    let (alone, beside) = (Latency::of(alone.late_ns), Latency::of(beside.late_ns));
    Ok(Sample {
        cpu_us: Some(cpu_beside),
        cpu_beside: Some(cpu_beside / cpu_alone),
        p50_beside: Some(beside.p50 / alone.p50),
        scrapes: Some(scrapes),
        latency: Some(beside),
        ..Sample::default()
    })
}

/// What turns of one kind came to.
#[derive(Default)]
struct Turns {
    late_ns: Vec<u64>,
    /// Of the data plane's thread.
    cpu_us: f64,
    events: u64,
}

impl Turns {
    fn cpu_us_per_event(&self) -> f64 {
        self.cpu_us / self.events as f64
    }
}

fn turn(
    setup: &mut Setup,
    interval: Duration,
    duration: Duration,
    turns: &mut Turns,
) -> Result<()> {
    let cpu = setup.process.cpu_us_of(DATA_PLANE)?;
    let begun = Instant::now();
    let ends = begun + WARM_UP + duration;
    let mut intended = Intended::new(begun + WARM_UP);
    let (mut due, mut now) = (begun, begun);
    while due < ends || intended.under_way() > 0 {
        if now >= due && due < ends {
            intended.sent(due);
            setup.publishers[0].send_one()?;
            turns.events += 1;
            due += interval;
        }
        let mut arrived = 0;
        setup.receivers[0].receive(|_| arrived += 1)?;
        now = Instant::now();
        intended.arrived(arrived, now)?;
        let missing = intended.under_way();
        ensure!(now < ends + PATIENCE, "{missing} events did not arrive");
    }
    turns.late_ns.append(&mut intended.latencies_ns);
    turns.cpu_us += setup.process.cpu_us_of(DATA_PLANE)? - cpu;
    Ok(())
}

/// Asks on one connection; how often.
fn scrape_until(port: u16, is_over: &AtomicBool) -> Result<u64> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port))?);
    let mut scrapes = 0;
    while !is_over.load(Ordering::Relaxed) {
        stream
            .get_mut()
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let mut length = None;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length.context("no content-length")?];
        stream.read_exact(&mut body)?;
        ensure!(body.ends_with(b"# EOF\n"), "not all of the metrics came");
        scrapes += 1;
        thread::sleep(SCRAPE_INTERVAL);
    }
    Ok(scrapes)
}
