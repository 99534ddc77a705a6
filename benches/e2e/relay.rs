//! The floor: receives and sends, and parses nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::Result;
use zmq::PollItem;

/// As much as the daemon reads at once.
const CHUNK_BYTES: usize = 256 << 10;
/// More than a publisher writes at once.
const ROOM_BYTES: usize = 64 << 10;

/// Takes so many receivers and publishers, in the order of their connections: receivers first. All
/// events have the same length.
pub fn play(receivers: usize, publishers: usize, event_bytes: usize) -> Result<()> {
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
        _ => relay_many(&mut publishers, connections, event_bytes),
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

/// Reads all that can be read, then writes it at once; of an event that is cut, the rest comes first.
fn relay_many(
    publishers: &mut [TcpStream],
    mut receivers: Vec<TcpStream>,
    event_bytes: usize,
) -> Result<()> {
    for publisher in publishers.iter() {
        publisher.set_nonblocking(true)?;
    }
    let fds: Vec<_> = publishers.iter().map(AsRawFd::as_raw_fd).collect();
    let readable = |fd: &i32| PollItem::from_fd(*fd, zmq::POLLIN);
    let mut items: Vec<_> = fds.iter().map(readable).collect();
    let mut cut: Vec<Vec<u8>> = vec![vec![]; publishers.len()];
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        zmq::poll(&mut items, -1)?;
        let mut filled = 0;
        for ((publisher, item), cut) in publishers.iter_mut().zip(&items).zip(&mut cut) {
            if !item.is_readable() || buffer.len() - filled < ROOM_BYTES {
                continue;
            }
            let begin = filled + cut.len();
            buffer[filled..begin].copy_from_slice(cut);
            let n = match publisher.read(&mut buffer[begin..]) {
                Ok(0) => return Ok(()),
                Ok(n) => cut.len() + n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let whole = n - n % event_bytes;
            *cut = buffer[filled + whole..filled + n].to_vec();
            filled += whole;
        }
        for receiver in &mut receivers {
            receiver.write_all(&buffer[..filled])?;
        }
    }
}
