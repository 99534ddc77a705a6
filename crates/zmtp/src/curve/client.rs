//! The side that connects.

use zeroize::Zeroize;

use super::boxes::{BoxKey, KEY_BYTES, KeyPair, Nonce, PublicKey};
use super::stream::Session;
use crate::mechanism::PeerKeys;

use super::{
    COOKIE_BYTES, CurveError, Fields, HELLO_NONCE, INITIATE_NONCE, READY_NONCE, VOUCH_NONCE,
    WELCOME_BYTES, WELCOME_NONCE,
};

/// Random bytes that a client needs for each connection.
pub const CLIENT_RANDOM_BYTES: usize = 48;

/// The counters of a client's commands; messages go on from there.
const HELLO_COUNTER: u64 = 1;
const INITIATE_COUNTER: u64 = 2;

/// A client in the middle of a handshake.
#[derive(Debug)]
pub struct CurveClient {
    ours: KeyPair,
    server: PublicKey,
    short_term: KeyPair,
    vouch_nonce: [u8; 16],
    state: State,
}

#[derive(Debug)]
enum State {
    /// A WELCOME is to come.
    Welcome(BoxKey),
    /// A READY is to come.
    Ready(BoxKey),
    Done,
}

impl CurveClient {
    /// A client with its own keys, of the server with this key. The random bytes are for this
    /// connection only.
    ///
    /// # Errors
    /// [`CurveError::LowOrder`] if the server's key is none.
    pub fn new(
        ours: KeyPair,
        server: PublicKey,
        random: &[u8; CLIENT_RANDOM_BYTES],
    ) -> Result<Self, CurveError> {
        let mut secret = [0; KEY_BYTES];
        secret.copy_from_slice(&random[..KEY_BYTES]);
        let mut vouch_nonce = [0; 16];
        vouch_nonce.copy_from_slice(&random[KEY_BYTES..]);
        let short_term = KeyPair::from_secret(secret);
        secret.zeroize();
        let agreed = short_term.agree(&server).ok_or(CurveError::LowOrder)?;
        Ok(Self {
            ours,
            server,
            short_term,
            vouch_nonce,
            state: State::Welcome(agreed),
        })
    }

    /// The keys of both sides.
    pub(crate) fn keys(&self) -> PeerKeys {
        PeerKeys {
            client: *self.ours.public(),
            server: self.server,
        }
    }

    /// Whether the server has answered the HELLO, which only the owner of its key can.
    pub(crate) fn is_welcome(&self) -> bool {
        matches!(self.state, State::Ready(_) | State::Done)
    }

    /// The body of the HELLO; nothing after the WELCOME.
    pub fn hello(&self) -> Vec<u8> {
        let State::Welcome(agreed) = &self.state else {
            return vec![];
        };
        let sealed = agreed.sealed(&Nonce::counted(HELLO_NONCE, HELLO_COUNTER), &[&[0; 64]]);
        let parts: [&[u8]; 6] = [
            b"\x05HELLO",
            &[1, 0],
            &[0; 72],
            self.short_term.public().as_bytes(),
            &HELLO_COUNTER.to_be_bytes(),
            &sealed,
        ];
        parts.concat()
    }

    /// Reads a WELCOME; returns the body of an INITIATE with this metadata.
    ///
    /// # Errors
    /// The connection must end.
    pub fn welcome(&mut self, body: &[u8], metadata: &[u8]) -> Result<Vec<u8>, CurveError> {
        let State::Welcome(agreed) = std::mem::replace(&mut self.state, State::Done) else {
            return Err(CurveError::Malformed("a WELCOME at the wrong time"));
        };
        if body.len() != WELCOME_BYTES {
            return Err(CurveError::Malformed("its WELCOME has not 168 bytes"));
        }
        let mut fields = Fields(body);
        if fields.take::<8>()? != b"\x07WELCOME" {
            return Err(CurveError::Malformed("another command in place of WELCOME"));
        }
        let nonce = Nonce::random(WELCOME_NONCE, fields.take()?);
        let mut sealed = fields.0.to_vec();
        let opened = agreed.open(&nonce, &mut sealed).ok_or(CurveError::Forged)?;
        let mut fields = Fields(opened);
        let server = PublicKey::from_bytes(*fields.take()?);
        let cookie = fields.take::<COOKIE_BYTES>()?;
        let session = self.short_term.agree(&server).ok_or(CurveError::LowOrder)?;
        let vouch = self
            .ours
            .agree(&server)
            .ok_or(CurveError::LowOrder)?
            .sealed(
                &Nonce::random(VOUCH_NONCE, &self.vouch_nonce),
                &[self.short_term.public().as_bytes(), self.server.as_bytes()],
            );
        let sealed = session.sealed(
            &Nonce::counted(INITIATE_NONCE, INITIATE_COUNTER),
            &[
                self.ours.public().as_bytes(),
                &self.vouch_nonce,
                &vouch,
                metadata,
            ],
        );
        self.state = State::Ready(session);
        let parts: [&[u8]; 4] = [
            b"\x08INITIATE",
            cookie,
            &INITIATE_COUNTER.to_be_bytes(),
            &sealed,
        ];
        Ok(parts.concat())
    }

    /// Reads a READY: the server's metadata, and what goes on after it.
    ///
    /// # Errors
    /// The connection must end.
    pub fn ready(&mut self, body: &[u8]) -> Result<(Vec<u8>, Session), CurveError> {
        let State::Ready(session) = std::mem::replace(&mut self.state, State::Done) else {
            return Err(CurveError::Malformed("a READY at the wrong time"));
        };
        let mut fields = Fields(body);
        if fields.take::<6>()? != b"\x05READY" {
            return Err(CurveError::Malformed("another command in place of READY"));
        }
        let counter = fields.take_counter()?;
        let mut sealed = fields.0.to_vec();
        let metadata = session
            .open(&Nonce::counted(READY_NONCE, counter), &mut sealed)
            .ok_or(CurveError::Forged)?
            .to_vec();
        let session = Session::of_client(session, counter, INITIATE_COUNTER);
        Ok((metadata, session))
    }
}
