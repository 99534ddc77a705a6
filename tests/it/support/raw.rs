//! Peers that speak ZMTP by hand, so that they can do what libzmq never would.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// A TCP connection to one of the daemon's sockets.
pub struct RawPeer(pub TcpStream);

/// `tcp://host:port` as TCP has it.
pub fn tcp_address(address: &str) -> &str {
    address.strip_prefix("tcp://").expect("a TCP address")
}

/// A greeting of ZMTP 3.1 with the NULL mechanism.
pub fn greeting() -> Vec<u8> {
    let mut greeting = vec![0; 64];
    greeting[0] = 0xFF;
    greeting[9] = 0x7F;
    greeting[10..12].copy_from_slice(&[3, 1]);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// A READY command with a socket type and an identity.
pub fn ready(socket_type: &str, identity: &str) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in [("Socket-Type", socket_type), ("Identity", identity)] {
        body.push(name.len() as u8);
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    let mut frame = vec![4, body.len() as u8];
    frame.extend(body);
    frame
}

/// A short frame.
pub fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    [&[flags, body.len() as u8], body].concat()
}

impl RawPeer {
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(tcp_address(address)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.set_write_timeout(Some(PATIENCE)).expect("an option");
        Self(stream)
    }

    /// A peer whose handshake is done.
    pub fn met(address: &str, socket_type: &str) -> Self {
        let mut peer = Self::connect(address);
        peer.send(&greeting());
        peer.send(&ready(socket_type, ""));
        peer.read_exactly(64);
        let header = peer.read_exactly(2);
        peer.read_exactly(header[1].into());
        peer
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("a write");
    }

    pub fn read_exactly(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("a read");
        bytes
    }

    /// Reads until the daemon closes the connection; what it said before.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut said = vec![];
        match self.0.read_to_end(&mut said) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection was not closed: {error}"),
        }
        said
    }
}
