//! Live events at a fixed rate, in turns without and beside a client that asks for something again
//! and again: what that costs those who publish.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::brokers::zmtp::{connect, push_request, read_message};
use crate::brokers::{Broker, Setup};
use crate::paced::Intended;
use crate::report::{Latency, Sample};
use crate::scenario::{Asked, Scenario};

const PATIENCE: Duration = Duration::from_secs(5);
/// Turns without a client that asks; as many beside it.
const TURNS: u32 = 4;
/// At the beginning of each turn events don't count.
const WARM_UP: Duration = Duration::from_millis(50);
/// Looks at the metrics: a thousand times as often as Prometheus does.
const LOOKS_PER_SECOND: u32 = 1000;
/// Requests under way.
const REQUESTS: usize = 64;
/// Subjects of one SUBSCRIBE.
const SUBJECTS: usize = 100;
/// The thread that carries events.
const DATA_PLANE: &str = "reactor";

pub fn run(
    broker: &dyn Broker,
    scenario: &Scenario,
    (per_second, asked): (u32, Asked),
    duration: Duration,
) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let http = setup.http.context("a broker with metrics")?;
    let requests = setup.requests.context("a broker with requests")?;
    prepare(requests, asked)?;
    let interval = Duration::from_secs(1) / per_second;
    let (mut alone, mut beside) = (Turns::default(), Turns::default());
    turn(
        &mut setup,
        interval,
        duration / TURNS,
        &mut Turns::default(),
    )?;
    let mut answers = 0;
    for _ in 0..TURNS {
        turn(&mut setup, interval, duration / TURNS, &mut alone)?;
        let is_over = AtomicBool::new(false);
        answers += thread::scope(|scope| -> Result<u64> {
            let asking: ScopedJoinHandle<'_, Result<u64>> = scope.spawn(|| match asked {
                Asked::Metrics => look_until((http, "/metrics"), LOOKS_PER_SECOND, &is_over),
                Asked::Stats { per_second, .. } => {
                    look_until((http, "/stats"), per_second, &is_over)
                }
                Asked::Subscribe { pause, .. } => subscribe_until(requests, pause, &is_over),
            });
            let done = turn(&mut setup, interval, duration / TURNS, &mut beside);
            is_over.store(true, Ordering::Relaxed);
            let answers = asking.join().unwrap();
            done?;
            answers
        })?;
    }
    let (cpu_alone, cpu_beside) = (alone.cpu_us_per_event(), beside.cpu_us_per_event());
    let (alone, beside) = (Latency::of(alone.late_ns), Latency::of(beside.late_ns));
    Ok(Sample {
        cpu_us: Some(cpu_beside),
        cpu_beside: Some(cpu_beside / cpu_alone),
        p50_beside: Some(beside.p50 / alone.p50),
        p99_beside: Some(beside.p99 / alone.p99),
        answers: Some(answers),
        latency: Some(beside),
        ..Sample::default()
    })
}

/// What has to be there before somebody asks.
fn prepare(requests: u16, asked: Asked) -> Result<()> {
    let (services, subjects) = match asked {
        Asked::Metrics => return Ok(()),
        Asked::Stats { services, each, .. } => (services, each),
        Asked::Subscribe { patterns, .. } => (1, patterns),
    };
    let mut stream = connect(requests, "DEALER")?;
    let mut under_way = 0;
    for service in 0..services {
        for from in (0..subjects).step_by(SUBJECTS) {
            let subjects = from..subjects.min(from + SUBJECTS);
            let id = format!("asked-{service}-{from}");
            stream.write_all(&subscription(&id, service, subjects))?;
            under_way += 1;
            if under_way == REQUESTS {
                accepted(&mut stream)?;
                under_way -= 1;
            }
        }
    }
    (0..under_way).try_for_each(|_| accepted(&mut stream))
}

/// SUBSCRIBE of a service that nobody publishes for.
fn subscription(id: &str, service: usize, subjects: std::ops::Range<usize>) -> Vec<u8> {
    let mut data = format!("{id}\0Asked{service}");
    subjects.for_each(|n| data += &format!("\0asked.{service}.{n}."));
    let mut request = vec![];
    push_request(&mut request, &[b"", b"2.1", b"2", data.as_bytes()]);
    request
}

fn accepted(stream: &mut TcpStream) -> Result<()> {
    let answer = read_message(stream)?;
    let is_ack = answer.iter().any(|frame| frame == b"1.1");
    ensure!(is_ack, "a request was refused: {answer:?}");
    Ok(())
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

/// Subscribes again and again; how often. Without a pause each answer is followed by another request, else all
/// requests are sent at once, and again a pause after the last answer.
fn subscribe_until(port: u16, pause: Duration, is_over: &AtomicBool) -> Result<u64> {
    let mut stream = connect(port, "DEALER")?;
    let (mut asked, mut answered) = (0, 0);
    while asked > answered || !is_over.load(Ordering::Relaxed) {
        if asked == answered || pause.is_zero() {
            while asked < answered + REQUESTS as u64 && !is_over.load(Ordering::Relaxed) {
                let id = format!("again-{}", asked % 1000);
                stream.write_all(&subscription(&id, 0, 0..1))?;
                asked += 1;
            }
        }
        accepted(&mut stream)?;
        answered += 1;
        if asked == answered {
            thread::sleep(pause);
        }
    }
    Ok(answered)
}

/// Asks by HTTP on one connection, with a pause after each answer; how often.
fn look_until((port, path): (u16, &str), per_second: u32, is_over: &AtomicBool) -> Result<u64> {
    let pause = Duration::from_secs(1) / per_second;
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port))?);
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    let mut looks = 0;
    while !is_over.load(Ordering::Relaxed) {
        stream.get_mut().write_all(request.as_bytes())?;
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
        looks += 1;
        thread::sleep(pause);
    }
    Ok(looks)
}
