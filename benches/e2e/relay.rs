//! The floor: receives and sends, and parses nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::Result;
use zmq::PollItem;

/// As much as the daemon reads at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Takes so many receivers and publishers, in the order of their connections: receivers first.
pub fn play(receivers: usize, publishers: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let mut connections = vec![];
    for _ in 0..receivers + publishers {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        connections.push(stream);
    }
    let mut publishers = connections.split_off(receivers);
    match &mut publishers[..] {
        [publisher] => relay_one(publisher, connections),
        _ => relay_many(&mut publishers, connections),
    }
}

fn relay_one(publisher: &mut TcpStream, mut receivers: Vec<TcpStream>) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let n = publisher.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        for receiver in &mut receivers {
            receiver.write_all(&buffer[..n])?;
        }
    }
}

/// Reads all that can be read, then writes it at once. Whole events come in a read here: publishers
/// write them whole, and little at a time.
fn relay_many(publishers: &mut [TcpStream], mut receivers: Vec<TcpStream>) -> Result<()> {
    for publisher in publishers.iter() {
        publisher.set_nonblocking(true)?;
    }
    let fds: Vec<_> = publishers.iter().map(AsRawFd::as_raw_fd).collect();
    let mut items: Vec<_> = fds
        .iter()
        .map(|fd| PollItem::from_fd(*fd, zmq::POLLIN))
        .collect();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        zmq::poll(&mut items, -1)?;
        let mut filled = 0;
        for (publisher, item) in publishers.iter_mut().zip(&items) {
            if !item.is_readable() || filled == buffer.len() {
                continue;
            }
            match publisher.read(&mut buffer[filled..]) {
                Ok(0) => return Ok(()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        for receiver in &mut receivers {
            receiver.write_all(&buffer[..filled])?;
        }
    }
}
