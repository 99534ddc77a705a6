//! The floor: receives and sends, and parses nothing.

use std::io::{Read, Write};
use std::net::TcpListener;

use anyhow::Result;

/// Takes one publisher and so many receivers, in the order of their connections: all receivers first.
pub fn play(receivers: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let mut connections = vec![];
    for _ in 0..receivers + 1 {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        connections.push(stream);
    }
    let Some(mut publisher) = connections.pop() else {
        return Ok(());
    };
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = publisher.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        for receiver in &mut connections {
            receiver.write_all(&buffer[..n])?;
        }
    }
}
