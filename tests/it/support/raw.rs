//! Peers that speak ZMTP by hand, so that they can do what libzmq never would.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{PATIENCE, tunnel};

/// Another frame of the message follows.
pub const MORE: u8 = 1;
/// The frame is a command.
pub const COMMAND: u8 = 4;

/// A TCP connection to one of the daemon's sockets.
pub struct RawPeer(pub TcpStream);

/// `tcp://host:port` as TCP has it.
pub fn tcp_address(address: &str) -> &str {
    address.strip_prefix("tcp://").expect("a TCP address")
}

/// A greeting of ZMTP 3.1 with the NULL mechanism.
pub fn greeting() -> Vec<u8> {
    greeting_of(1)
}

/// A greeting of this minor version of ZMTP 3.
pub fn greeting_of(minor: u8) -> Vec<u8> {
    let mut greeting = vec![0; 64];
    greeting[0] = 0xFF;
    greeting[9] = 0x7F;
    greeting[10..12].copy_from_slice(&[3, minor]);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// A READY command with a socket type and an identity.
pub fn ready(socket_type: &str, identity: &str) -> Vec<u8> {
    ready_with(socket_type, &[("Identity", identity.as_bytes())])
}

/// A READY command with a socket type and other properties.
pub fn ready_with(socket_type: &str, properties: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    let own = ("Socket-Type", socket_type.as_bytes());
    for (name, value) in [own].iter().chain(properties) {
        body.push(name.len() as u8);
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value);
    }
    match u8::try_from(body.len()) {
        Ok(_) => frame(COMMAND, &body),
        Err(_) => [&[6][..], &(body.len() as u64).to_be_bytes(), &body].concat(),
    }
}

/// A short frame.
pub fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    [&[flags, body.len() as u8], body].concat()
}

/// A short command.
pub fn command(name: &str, rest: &[u8]) -> Vec<u8> {
    let name = [&[name.len() as u8], name.as_bytes()].concat();
    frame(COMMAND, &[&name[..], rest].concat())
}

/// A message of short frames.
pub fn message(frames: &[&str]) -> Vec<u8> {
    let last = frames.len() - 1;
    let flags = |n| if n < last { MORE } else { 0 };
    let frames = frames.iter().enumerate();
    frames
        .flat_map(|(n, body)| frame(flags(n), body.as_bytes()))
        .collect()
}

impl RawPeer {
    pub fn connect(address: &str) -> Self {
        let address = tunnel::to(address);
        let stream = TcpStream::connect(tcp_address(&address)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.set_write_timeout(Some(PATIENCE)).expect("an option");
        stream.set_nodelay(true).expect("an option");
        Self(stream)
    }

    /// A peer whose handshake is done.
    pub fn met(address: &str, socket_type: &str) -> Self {
        Self::met_as(address, socket_type, "", 1)
    }

    /// The same with an identity and a minor version.
    pub fn met_as(address: &str, socket_type: &str, identity: &str, minor: u8) -> Self {
        Self::met_by(address, minor, &ready(socket_type, identity))
    }

    /// The same of another event manager.
    pub fn met_hub(address: &str, socket_type: &str, hub: &str) -> Self {
        let ready = ready_with(socket_type, &[("X-EM-Hub", hub.as_bytes())]);
        Self::met_by(address, 1, &ready)
    }

    fn met_by(address: &str, minor: u8, own_ready: &[u8]) -> Self {
        let mut peer = Self::connect(address);
        peer.send(&greeting_of(minor));
        peer.send(own_ready);
        peer.read_exactly(64);
        let (flags, ready) = peer.read_frame();
        assert!(flags == COMMAND && ready.starts_with(b"\x05READY"));
        peer
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("a write");
    }

    /// Sends as long as the daemon listens: it may end the connection before all is sent.
    pub fn send_while_heard(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    pub fn read_exactly(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("a read");
        bytes
    }

    /// Reads a frame: its flags without that of its length, and its body.
    pub fn read_frame(&mut self) -> (u8, Vec<u8>) {
        const LONG: u8 = 2;
        let flags = self.read_exactly(1)[0];
        let len = if flags & LONG == 0 {
            self.read_exactly(1)[0].into()
        } else {
            let len = self.read_exactly(8).try_into().expect("8 bytes");
            usize::try_from(u64::from_be_bytes(len)).expect("it fits")
        };
        (flags & !LONG, self.read_exactly(len))
    }

    /// Reads the frames of a message.
    pub fn read_message(&mut self) -> Vec<Vec<u8>> {
        let mut frames = vec![];
        loop {
            let (flags, body) = self.read_frame();
            assert_eq!(flags & COMMAND, 0, "a command: {body:?}");
            frames.push(body);
            if flags & MORE == 0 {
                return frames;
            }
        }
    }

    /// Waits until the daemon has taken all that was sent. Nothing else may be under way to us.
    pub fn settle(&mut self) {
        self.send(&command("PING", b"\0\0settle"));
        assert_eq!(self.read_frame(), (COMMAND, b"\x04PONGsettle".to_vec()));
    }

    /// Whether nothing arrives for a while. Only for what must not arrive at all.
    pub fn is_silent(&mut self, ms: u64) -> bool {
        let for_ms = |ms| Some(Duration::from_millis(ms));
        self.0.set_read_timeout(for_ms(ms)).expect("an option");
        let result = self.0.read(&mut [0]);
        self.0.set_read_timeout(Some(PATIENCE)).expect("an option");
        result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
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
