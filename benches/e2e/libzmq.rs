//! libzmq: its own proxy, the best router of services that can be built on it, and its sockets as
//! ends for any broker that speaks ZMTP. The parts are processes of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use zmq::{Context, Message, Socket, SocketType};

use crate::brokers::Broker;
use crate::client;
use crate::report::Sample;
use crate::scenario::Scenario;

/// High enough that nothing is dropped in runs with a window.
const HWM: i32 = 100_000;

fn bind(context: &Context, kind: SocketType) -> Result<(Socket, String)> {
    let socket = context.socket(kind)?;
    socket.set_sndhwm(HWM)?;
    socket.set_rcvhwm(HWM)?;
    socket.bind("tcp://127.0.0.1:*")?;
    let endpoint = socket
        .get_last_endpoint()?
        .ok()
        .context("an endpoint in UTF-8")?;
    let port = endpoint.rsplit(':').next().context("a port")?.to_owned();
    Ok((socket, port))
}

/// `zmq_proxy` between XSUB and XPUB.
pub fn play_proxy() -> Result<()> {
    let context = Context::new();
    let (publishers, publishers_port) = bind(&context, zmq::XSUB)?;
    let (subscribers, subscribers_port) = bind(&context, zmq::XPUB)?;
    println!("{publishers_port} {subscribers_port}");
    Ok(zmq::proxy(&publishers, &subscribers)?)
}

/// A router of services: one thread, one ROUTER a service with its workers in turn, events taken in
/// batches. `subjects` has one for each service.
pub fn play_services(subjects: &[String]) -> Result<()> {
    const BATCH: usize = 256;
    let context = Context::new();
    let (publishers, publishers_port) = bind(&context, zmq::SUB)?;
    publishers.set_subscribe(b"")?;
    let mut routers = vec![];
    let mut line = publishers_port;
    for _ in subjects {
        let (router, port) = bind(&context, zmq::ROUTER)?;
        line.push(' ');
        line.push_str(&port);
        routers.push((router, Vec::<Vec<u8>>::new(), 0));
    }
    println!("{line}");
    loop {
        let mut items: Vec<_> = routers
            .iter()
            .map(|(router, ..)| router.as_poll_item(zmq::POLLIN))
            .collect();
        items.push(publishers.as_poll_item(zmq::POLLIN));
        zmq::poll(&mut items, -1)?;
        let ready: Vec<bool> = items.iter().map(zmq::PollItem::is_readable).collect();
        for (_, (router, workers, _)) in ready.iter().zip(&mut routers).filter(|(ready, _)| **ready)
        {
            while let Ok(frames) = router.recv_multipart(zmq::DONTWAIT) {
                workers.push(frames[0].clone());
            }
        }
        for _ in 0..BATCH {
            let mut subject = Message::new();
            if publishers.recv(&mut subject, zmq::DONTWAIT).is_err() {
                break;
            }
            let mut payload = Message::new();
            publishers.recv(&mut payload, 0)?;
            for ((router, workers, next), wanted) in routers.iter_mut().zip(subjects) {
                if !subject.starts_with(wanted.as_bytes()) || workers.is_empty() {
                    continue;
                }
                *next = (*next + 1) % workers.len();
                router.send(&workers[*next], zmq::SNDMORE)?;
                router.send(&subject[..], zmq::SNDMORE)?;
                router.send(&payload[..], 0)?;
            }
        }
    }
}

/// As fast as goes with a window, with libzmq's PUB and SUB.
pub fn run_ends(broker: &dyn Broker, scenario: &Scenario, duration: Duration) -> Result<Sample> {
    let setup = broker.set_up(scenario)?;
    let (publishers, subscribers) = setup.zmtp.clone().context("a broker that speaks ZMTP")?;
    let context = Context::new();
    let subscriber = context.socket(zmq::SUB)?;
    subscriber.set_rcvhwm(HWM)?;
    subscriber.set_rcvtimeo(2000)?;
    subscriber.set_subscribe(scenario.subject(0).as_bytes())?;
    subscriber.connect(&subscribers)?;
    let publisher = context.socket(zmq::PUB)?;
    publisher.set_sndhwm(HWM)?;
    publisher.connect(&publishers)?;
    meet(&publisher, &subscriber, scenario)?;
    let (received, window) = (AtomicU64::new(0), scenario.window_events());
    let cpu = setup.process.cpu()?;
    let begun = Instant::now();
    let sent = std::thread::scope(|scope| -> Result<u64> {
        let receiving = scope.spawn(|| -> Result<()> {
            let subscriber = subscriber;
            let mut message = Message::new();
            for expected in 0.. {
                subscriber.recv(&mut message, 0)?;
                subscriber.recv(&mut message, 0)?;
                if message.len() == 1 {
                    break;
                }
                let stamp = format!("{:08}", expected % 100_000_000);
                ensure!(
                    message.starts_with(stamp.as_bytes()),
                    "event {expected} was lost or came twice"
                );
                received.store(expected + 1, Ordering::Relaxed);
            }
            Ok(())
        });
        let subject = scenario.subject(0);
        let mut sent = 0;
        while begun.elapsed() < duration && !receiving.is_finished() {
            if sent - received.load(Ordering::Relaxed) >= window {
                std::thread::yield_now();
                continue;
            }
            publisher.send(&subject, zmq::SNDMORE)?;
            publisher.send(client::payload(scenario.size, sent as usize), 0)?;
            sent += 1;
        }
        publisher.send(&subject, zmq::SNDMORE)?;
        publisher.send("e", 0)?;
        receiving.join().ok().context("the receiver panicked")??;
        Ok(sent)
    })?;
    let elapsed = begun.elapsed();
    let cpu = setup.process.cpu()?.since(cpu);
    Ok(Sample {
        events_per_second: Some(sent as f64 / elapsed.as_secs_f64()),
        cpu_us: Some(cpu.total_us / sent as f64),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}

/// Sends until something arrives, and takes it all.
fn meet(publisher: &Socket, subscriber: &Socket, scenario: &Scenario) -> Result<()> {
    let subject = scenario.subject(0);
    let mut sent = 0;
    let begun = Instant::now();
    let mut got = 0;
    while got == 0 {
        ensure!(
            begun.elapsed() < Duration::from_secs(5),
            "nothing goes through"
        );
        sent += 1;
        publisher.send_multipart([subject.as_bytes(), format!("meet{sent}").as_bytes()], 0)?;
        if subscriber.poll(zmq::POLLIN, 10)? > 0 {
            got = 1;
        }
    }
    publisher.send_multipart([subject.as_bytes(), b"met"], 0)?;
    loop {
        let frames = subscriber.recv_multipart(0)?;
        if frames[1] == b"met" {
            return Ok(());
        }
    }
}
