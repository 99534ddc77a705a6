//! mosquitto: MQTT 3.1.1 with QoS 0.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Broker, Setup, is_plain_fan, missing_program, program};
use crate::client::{Fixed, Publisher, Receiver, payload};
use crate::process::{Process, connect_soon, free_port};
use crate::scenario::{Kind, Scenario};

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Mosquitto;

fn push_packet(out: &mut Vec<u8>, first: u8, parts: &[&[u8]]) {
    out.push(first);
    let mut len: usize = parts.iter().map(|part| part.len()).sum();
    loop {
        let more = len >= 128;
        out.push((len % 128) as u8 | u8::from(more) << 7);
        len /= 128;
        if !more {
            break;
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn publish(out: &mut Vec<u8>, subject: &str, payload: &[u8]) {
    push_packet(out, 0x30, &[&text(subject), payload]);
}

fn connect(port: u16) -> Result<TcpStream> {
    let mut stream = connect_soon(port, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut packet = vec![];
    // A clean session, no keep-alive, a name of the broker's choice.
    push_packet(
        &mut packet,
        0x10,
        &[&text("MQTT"), &[4, 2, 0, 0], &text("")],
    );
    stream.write_all(&packet)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [0x20, 2, 0, 0], "CONNACK: {answer:?}");
    Ok(stream)
}

fn subscribe(port: u16, subject: &str) -> Result<TcpStream> {
    let mut stream = connect(port)?;
    let mut packet = vec![];
    push_packet(&mut packet, 0x82, &[&[0, 1], &text(subject), &[0]]);
    stream.write_all(&packet)?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [0x90, 3, 0, 1, 0], "SUBACK: {answer:?}");
    Ok(stream)
}

fn start() -> Result<(Process, u16)> {
    let port = free_port()?;
    let config = std::env::temp_dir().join(format!("e2e-mosquitto-{port}"));
    std::fs::write(
        &config,
        format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nset_tcp_nodelay true\n"
        ),
    )?;
    let mut command = Command::new(program("mosquitto").context("mosquitto")?);
    let process = Process::quiet(command.arg("-c").arg(config))?;
    connect(port)?;
    Ok((process, port))
}

impl Broker for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn supports(&self, scenario: &Scenario) -> bool {
        is_plain_fan(scenario) || scenario.kind == Kind::Start
    }

    fn missing(&self) -> Option<String> {
        missing_program("mosquitto")
    }

    fn start_alone(&self) -> Result<Process> {
        Ok(start()?.0)
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let (process, port) = start()?;
        let subject = scenario.subject(0);
        let mut event = vec![];
        publish(&mut event, &subject, &payload(scenario.size, 0));
        let receivers = (0..scenario.pattern.receivers())
            .map(|_| {
                let stream = subscribe(port, &subject)?;
                Receiver::new(stream, scenario, Fixed::like(&event, scenario.size))
            })
            .collect::<Result<_>>()?;
        let publishers = (0..scenario.publishers)
            .map(|_| Publisher::new(connect(port)?, scenario, publish))
            .collect::<Result<_>>()?;
        let mut setup = Setup::new(process, publishers, receivers);
        setup.connect = Some(Box::new(move || subscribe(port, &subject)));
        Ok(setup)
    }
}
