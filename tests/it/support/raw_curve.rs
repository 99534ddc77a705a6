//! A client of CURVE by another implementation than the daemon's (RustCrypto), for peers that do by
//! hand what no library would. Each part of its handshake can be another than it should be.

use crypto_box::aead::AeadInPlace;
use crypto_box::{PublicKey, SalsaBox, SecretKey};

use super::keys::{SERVER, pair};
use super::raw::{COMMAND, RawPeer, greeting_of};

const LONG: u8 = 2;
/// Of the flags within a box.
pub const INNER_MORE: u8 = 1;
pub const INNER_COMMAND: u8 = 2;

/// A greeting of ZMTP 3.1 with the CURVE mechanism.
pub fn curve_greeting() -> Vec<u8> {
    let mut greeting = greeting_of(1);
    greeting[12..17].copy_from_slice(b"CURVE");
    greeting
}

/// A frame of any length.
pub fn any_frame(flags: u8, body: &[u8]) -> Vec<u8> {
    match u8::try_from(body.len()) {
        Ok(len) => [&[flags, len], body].concat(),
        Err(_) => {
            let len = (body.len() as u64).to_be_bytes();
            [&[flags | LONG], &len[..], body].concat()
        }
    }
}

/// Properties as READY and INITIATE have them.
pub fn metadata(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let one = |(name, value): &(&str, &[u8])| {
        let len = (value.len() as u32).to_be_bytes();
        [&[name.len() as u8][..], name.as_bytes(), &len, value].concat()
    };
    properties.iter().flat_map(one).collect()
}

fn counted(prefix: &[u8; 16], counter: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

fn of_random(prefix: &[u8; 8], random: &[u8]) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(prefix);
    nonce[8..].copy_from_slice(random);
    nonce
}

fn seal(key: &SalsaBox, nonce: &[u8; 24], content: &[u8]) -> Vec<u8> {
    let mut sealed = content.to_vec();
    let mac = key.encrypt_in_place_detached(nonce.into(), b"", &mut sealed);
    [&mac.expect("it fits")[..], &sealed].concat()
}

fn open(key: &SalsaBox, nonce: &[u8; 24], sealed: &[u8]) -> Vec<u8> {
    let (mac, content) = sealed.split_at(16);
    let mut content = content.to_vec();
    let opened = key.decrypt_in_place_detached(nonce.into(), b"", &mut content, mac.into());
    opened.expect("it was sealed for us");
    content
}

/// Its keys, and how far it has come.
pub struct RawCurve {
    own: SecretKey,
    short_term: SecretKey,
    /// The server's long-term key.
    server: PublicKey,
    /// What was agreed on, and the server's short-term key, after its WELCOME.
    agreed: Option<(SalsaBox, PublicKey)>,
    /// Of the last command or message.
    pub counter: u64,
}

/// What an INITIATE says, each part of which may be a lie.
pub struct Initiate {
    pub cookie: Vec<u8>,
    pub counter: u64,
    /// The long-term key that it names.
    pub named: PublicKey,
    /// Seals the vouch.
    pub vouching: SalsaBox,
    /// What is vouched for: the short-term key, and whose client it is.
    pub vouched: [PublicKey; 2],
    pub metadata: Vec<u8>,
}

impl RawCurve {
    /// A client with this key, of a server with this key, on a connection of its own.
    pub fn new(own: u8, server: u8) -> Self {
        Self {
            own: SecretKey::from(*pair(own).secret()),
            short_term: SecretKey::from(event_manager::ambient::random_bytes()),
            server: PublicKey::from(*pair(server).public().as_bytes()),
            agreed: None,
            counter: 1,
        }
    }

    /// The body of its HELLO.
    pub fn hello(&self) -> Vec<u8> {
        self.hello_with(&[0; 64])
    }

    /// The same with these bytes in its box.
    pub fn hello_with(&self, content: &[u8; 64]) -> Vec<u8> {
        let key = SalsaBox::new(&self.server, &self.short_term);
        let short_term = self.short_term.public_key();
        let sealed = seal(&key, &counted(b"CurveZMQHELLO---", 1), content);
        let counter = 1u64.to_be_bytes();
        let head = [&b"\x05HELLO\x01\0"[..], &[0; 72], short_term.as_bytes()];
        [&head.concat()[..], &counter, &sealed].concat()
    }

    /// Reads a WELCOME's body; what an honest INITIATE says.
    pub fn welcomed(&mut self, welcome: &[u8], metadata: &[u8]) -> Initiate {
        assert_eq!(&welcome[..8], b"\x07WELCOME");
        let key = SalsaBox::new(&self.server, &self.short_term);
        let opened = open(
            &key,
            &of_random(b"WELCOME-", &welcome[8..24]),
            &welcome[24..],
        );
        let server = PublicKey::from_slice(&opened[..32]).expect("32 bytes");
        let agreed = SalsaBox::new(&server, &self.short_term);
        self.agreed = Some((agreed, server.clone()));
        Initiate {
            cookie: opened[32..].to_vec(),
            counter: 2,
            named: self.own.public_key(),
            vouching: SalsaBox::new(&server, &self.own),
            vouched: [self.short_term.public_key(), self.server.clone()],
            metadata: metadata.to_vec(),
        }
    }

    fn agreed(&self) -> &SalsaBox {
        &self.agreed.as_ref().expect("it was welcomed").0
    }

    /// The body of an INITIATE.
    pub fn initiate(&mut self, says: &Initiate) -> Vec<u8> {
        let vouched = says.vouched.each_ref().map(|key| *key.as_bytes());
        let random: [u8; 16] = event_manager::ambient::random_bytes();
        let vouch = seal(
            &says.vouching,
            &of_random(b"VOUCH---", &random),
            vouched.as_flattened(),
        );
        let content = [&says.named.as_bytes()[..], &random, &vouch, &says.metadata].concat();
        let nonce = counted(b"CurveZMQINITIATE", says.counter);
        let sealed = seal(self.agreed(), &nonce, &content);
        self.counter = says.counter;
        let counter = says.counter.to_be_bytes();
        [b"\x08INITIATE", &says.cookie[..], &counter, &sealed].concat()
    }

    /// The metadata in a READY's body.
    pub fn ready(&self, body: &[u8]) -> Vec<u8> {
        assert_eq!(&body[..6], b"\x05READY");
        let counter = u64::from_be_bytes(body[6..14].try_into().expect("8 bytes"));
        let nonce = counted(b"CurveZMQREADY---", counter);
        open(self.agreed(), &nonce, &body[14..])
    }

    /// The body of a MESSAGE with this counter and content: flags, then the frame's body.
    pub fn sealed(&self, counter: u64, content: &[u8]) -> Vec<u8> {
        let nonce = counted(b"CurveZMQMESSAGEC", counter);
        let sealed = seal(self.agreed(), &nonce, content);
        [b"\x07MESSAGE", &counter.to_be_bytes()[..], &sealed].concat()
    }

    /// The next MESSAGE, as a frame.
    pub fn message(&mut self, flags: u8, body: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let content = [&[flags], body].concat();
        any_frame(0, &self.sealed(self.counter, &content))
    }

    /// The flags and the content of a MESSAGE's body.
    pub fn opened(&self, body: &[u8]) -> (u8, Vec<u8>) {
        assert_eq!(&body[..8], b"\x07MESSAGE");
        let counter = u64::from_be_bytes(body[8..16].try_into().expect("8 bytes"));
        let nonce = counted(b"CurveZMQMESSAGES", counter);
        let opened = open(self.agreed(), &nonce, &body[16..]);
        (opened[0], opened[1..].to_vec())
    }
}

/// A connection with such a client.
pub struct CurvePeer {
    pub raw: RawPeer,
    pub curve: RawCurve,
}

impl CurvePeer {
    /// A peer that has sent its HELLO, and has read the WELCOME; what it would say honestly.
    pub fn welcomed(address: &str, own: u8, metadata: &[u8]) -> (Self, Initiate) {
        let mut raw = RawPeer::connect(address);
        let mut curve = RawCurve::new(own, SERVER);
        raw.send(&curve_greeting());
        raw.send(&any_frame(COMMAND, &curve.hello()));
        assert_eq!(raw.read_exactly(64)[12..18], *b"CURVE\0");
        let (flags, welcome) = raw.read_frame();
        assert_eq!(flags, COMMAND);
        let says = curve.welcomed(&welcome, metadata);
        (Self { raw, curve }, says)
    }

    /// The same of a socket of this type, without a routing id.
    pub fn welcomed_as(address: &str, own: u8, socket_type: &str) -> (Self, Initiate) {
        Self::welcomed(
            address,
            own,
            &metadata(&[("Socket-Type", socket_type.as_bytes())]),
        )
    }

    /// A peer whose handshake is done.
    pub fn met(address: &str, own: u8, socket_type: &str) -> Self {
        let (mut peer, says) = Self::welcomed_as(address, own, socket_type);
        peer.initiate(&says);
        peer.is_ready();
        peer
    }

    pub fn initiate(&mut self, says: &Initiate) {
        let initiate = self.curve.initiate(says);
        self.raw.send(&any_frame(COMMAND, &initiate));
    }

    /// Reads the READY.
    pub fn is_ready(&mut self) {
        let (flags, ready) = self.raw.read_frame();
        assert_eq!(flags, COMMAND);
        assert!(self.curve.ready(&ready).starts_with(b"\x0bSocket-Type"));
    }

    /// Sends a frame in its box.
    pub fn send(&mut self, flags: u8, body: &[u8]) {
        let message = self.curve.message(flags, body);
        self.raw.send(&message);
    }

    /// Reads a frame from its box.
    pub fn read(&mut self) -> (u8, Vec<u8>) {
        let (flags, body) = self.raw.read_frame();
        assert_eq!(flags, 0, "libzmq reads no other");
        self.curve.opened(&body)
    }
}
