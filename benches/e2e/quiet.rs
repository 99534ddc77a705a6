//! Without events: idle peers, many that come at once, the start.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::brokers::Broker;
use crate::report::Sample;
use crate::scenario::Scenario;

/// How long idling is watched.
const IDLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the allocator keeps what was freed, and somewhat more.
const GIVEN_BACK: Duration = Duration::from_secs(12);

/// So many subscribers that do nothing.
pub fn idle(broker: &dyn Broker, scenario: &Scenario, peers: usize) -> Result<Sample> {
    let setup = broker.set_up(scenario)?;
    let connect = setup.subscriber()?;
    let before_kib = setup.process.resident_kib()?;
    let connections = (0..peers).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_millis(500));
    let (cpu, begun) = (setup.process.cpu()?, Instant::now());
    std::thread::sleep(IDLE);
    let cpu = setup.process.cpu()?.since(cpu);
    let resident_kib = setup.process.resident_kib()?;
    drop(connections);
    Ok(Sample {
        busy: Some(cpu.total_us / begun.elapsed().as_micros() as f64),
        resident_kib: Some(resident_kib),
        extra_bytes: Some((resident_kib - before_kib) as f64 * 1024.0 / peers as f64),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}

/// So many subscribers connect and subscribe, each as soon as the one before is done.
pub fn storm(broker: &dyn Broker, scenario: &Scenario, peers: usize) -> Result<Sample> {
    let setup = broker.set_up(scenario)?;
    let connect = setup.subscriber()?;
    let (cpu, begun) = (setup.process.cpu()?, Instant::now());
    let connections = (0..peers).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let elapsed = begun.elapsed();
    let cpu = setup.process.cpu()?.since(cpu);
    drop(connections);
    Ok(Sample {
        events_per_second: Some(peers as f64 / elapsed.as_secs_f64()),
        cpu_us: Some(cpu.total_us / peers as f64),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}

/// So many events wait for a service that has no worker.
pub fn waiting(broker: &dyn Broker, scenario: &Scenario, events: u64) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let before_kib = setup.process.resident_kib()?;
    let publisher = &mut setup.publishers[0];
    while publisher.sent() < events || !publisher.is_whole() {
        publisher.send(u64::MAX >> 32)?;
        publisher.drain()?;
    }
    let event_bytes = publisher.event_bytes();
    let port = setup.http.context("a broker with a state")?;
    await_queued(port, events)?;
    // What was freed on the way is given back after a while.
    std::thread::sleep(GIVEN_BACK);
    let resident_kib = setup.process.resident_kib()?;
    let grown = (resident_kib - before_kib) as f64 * 1024.0;
    Ok(Sample {
        resident_kib: Some(resident_kib),
        extra_bytes: Some(grown / events as f64 - event_bytes as f64),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}

/// Awaits that so many events wait.
pub fn await_queued(port: u16, events: u64) -> Result<()> {
    let begun = Instant::now();
    while queued(port)? < events {
        ensure!(
            begun.elapsed() < PATIENCE,
            "not all of {events} events wait"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// How many events wait in the first service.
fn queued(port: u16) -> Result<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /stats HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let from = answer.find("\"queued\":").context("queued")? + 9;
    let digits = answer[from..].split([',', '}']).next().unwrap_or("");
    Ok(digits.trim().parse()?)
}

/// From exec until clients are served.
pub fn start(broker: &dyn Broker, _: &Scenario) -> Result<Sample> {
    let begun = Instant::now();
    let process = broker.start_alone()?;
    let ready_ms = begun.elapsed().as_secs_f64() * 1000.0;
    Ok(Sample {
        ready_ms: Some(ready_ms),
        resident_kib: Some(process.resident_kib()?),
        ..Sample::default()
    })
}
