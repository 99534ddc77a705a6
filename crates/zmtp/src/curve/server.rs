//! The side that is connected to.

use std::sync::Arc;

use zeroize::Zeroize;

use super::boxes::{BoxKey, KEY_BYTES, KeyPair, Nonce, PublicKey};
use super::stream::Session;
use super::{
    COOKIE_BYTES, COOKIE_NONCE, CurveError, Fields, HELLO_BYTES, HELLO_NONCE, INITIATE_BYTES_MIN,
    INITIATE_NONCE, READY_NONCE, VOUCH_BYTES, VOUCH_NONCE, WELCOME_NONCE,
};

const HELLO: &[u8; 6] = b"\x05HELLO";
const INITIATE: &[u8; 9] = b"\x08INITIATE";

/// Random bytes that a server needs for each connection.
pub const SERVER_RANDOM_BYTES: usize = 96;

/// A server in the middle of a handshake.
///
/// Between WELCOME and INITIATE it keeps one key of its own: the client's short-term key and ours come
/// back in the cookie, which only this key opens. It is of this connection: a recorded handshake is
/// worth nothing on another one.
#[derive(Debug)]
pub struct CurveServer {
    keys: Arc<[KeyPair]>,
    state: State,
    /// The counter of the client's last command.
    pub(super) counter: u64,
}

#[derive(Debug)]
enum State {
    /// A HELLO is to come.
    Hello(Box<Random>),
    /// An INITIATE is to come.
    Initiate {
        /// Opens the cookie.
        cookie: BoxKey,
        /// Which of our keys the client was given.
        key: usize,
    },
    Done,
}

/// What must be unguessable.
#[derive(Debug)]
struct Random {
    secret: [u8; KEY_BYTES],
    cookie_key: [u8; KEY_BYTES],
    cookie_nonce: [u8; 16],
    welcome_nonce: [u8; 16],
}

impl Drop for Random {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.cookie_key.zeroize();
    }
}

/// Who a client is, and what goes on with it.
#[derive(Debug)]
pub struct Initiated {
    /// The key that the client owns.
    pub client: PublicKey,
    /// The key of ours that it was given.
    pub server: PublicKey,
    /// Its metadata, as in the READY of NULL.
    pub metadata: Vec<u8>,
    /// For the READY.
    pub agreed: Agreed,
}

/// What a server and its client agreed on, before the client is told.
#[derive(Debug)]
pub struct Agreed {
    key: BoxKey,
    counter: u64,
}

impl Agreed {
    /// The body of a READY with this metadata, and what goes on after it.
    pub fn ready(self, metadata: &[u8]) -> (Vec<u8>, Session) {
        const COUNTER: u64 = 1;
        let sealed = self
            .key
            .sealed(&Nonce::counted(READY_NONCE, COUNTER), &[metadata]);
        let body = [b"\x05READY", &COUNTER.to_be_bytes()[..], &sealed].concat();
        (body, Session::of_server(self.key, self.counter, COUNTER))
    }
}

impl CurveServer {
    /// A server with these keys: a client may have been given any of them. The random bytes are for
    /// this connection only.
    pub fn new(keys: Arc<[KeyPair]>, random: &[u8; SERVER_RANDOM_BYTES]) -> Self {
        let (secret, rest) = random.split_at(KEY_BYTES);
        let (cookie_key, rest) = rest.split_at(KEY_BYTES);
        let mut parts = Random {
            secret: [0; KEY_BYTES],
            cookie_key: [0; KEY_BYTES],
            cookie_nonce: [0; 16],
            welcome_nonce: [0; 16],
        };
        parts.secret.copy_from_slice(secret);
        parts.cookie_key.copy_from_slice(cookie_key);
        parts.cookie_nonce.copy_from_slice(&rest[..16]);
        parts.welcome_nonce.copy_from_slice(&rest[16..]);
        Self {
            keys,
            state: State::Hello(Box::new(parts)),
            counter: 0,
        }
    }

    /// Whether keys are agreed on for this command, and whether for the first time.
    pub(crate) fn agreement(&self, body: &[u8]) -> Option<bool> {
        match self.state {
            State::Hello(_) => {
                let may_be_one = body.len() == HELLO_BYTES && body.starts_with(HELLO);
                may_be_one.then_some(true)
            }
            State::Initiate { .. } => {
                let may_be_one = body.len() >= INITIATE_BYTES_MIN && body.starts_with(INITIATE);
                may_be_one.then_some(false)
            }
            State::Done => None,
        }
    }

    /// Reads a HELLO; returns the body of the WELCOME.
    ///
    /// # Errors
    /// The connection must end.
    pub fn hello(&mut self, body: &[u8]) -> Result<Vec<u8>, CurveError> {
        let State::Hello(random) = std::mem::replace(&mut self.state, State::Done) else {
            return Err(CurveError::Malformed("a HELLO after the first"));
        };
        if body.len() != HELLO_BYTES {
            return Err(CurveError::Malformed("its HELLO has not 200 bytes"));
        }
        let mut fields = Fields(body);
        if fields.take::<6>()? != HELLO {
            return Err(CurveError::Malformed("another command in place of HELLO"));
        }
        if fields.take::<2>()? != &[1, 0] {
            return Err(CurveError::Malformed("its HELLO is not of version 1.0"));
        }
        fields.take::<72>()?;
        let client = PublicKey::from_bytes(*fields.take::<KEY_BYTES>()?);
        self.counter = fields.take_counter()?;
        let (key, agreed) = self.open_hello(&client, fields.0)?;
        let short_term = KeyPair::from_secret(random.secret);
        let cookie_key = BoxKey::of_one_side(random.cookie_key);
        let cookie = cookie_key.sealed(
            &Nonce::random(COOKIE_NONCE, &random.cookie_nonce),
            &[client.as_bytes(), short_term.secret()],
        );
        let welcome = agreed.sealed(
            &Nonce::random(WELCOME_NONCE, &random.welcome_nonce),
            &[
                short_term.public().as_bytes(),
                &random.cookie_nonce,
                &cookie,
            ],
        );
        self.state = State::Initiate {
            cookie: cookie_key,
            key,
        };
        Ok([b"\x07WELCOME", &random.welcome_nonce[..], &welcome].concat())
    }

    /// Which of our keys opens a HELLO's box, which has 64 zeros in it.
    fn open_hello(&self, client: &PublicKey, sealed: &[u8]) -> Result<(usize, BoxKey), CurveError> {
        let nonce = Nonce::counted(HELLO_NONCE, self.counter);
        for (i, key) in self.keys.iter().enumerate() {
            let agreed = key.agree(client).ok_or(CurveError::LowOrder)?;
            let mut sealed = sealed.to_vec();
            match agreed.open(&nonce, &mut sealed) {
                Some(zeros) if *zeros == [0; 64] => return Ok((i, agreed)),
                Some(_) => return Err(CurveError::Malformed("its HELLO is not for a handshake")),
                None => {}
            }
        }
        Err(CurveError::WrongServerKey)
    }

    /// Reads an INITIATE: who the client is.
    ///
    /// # Errors
    /// The connection must end.
    pub fn initiate(&mut self, body: &[u8]) -> Result<Initiated, CurveError> {
        let State::Initiate { cookie, key } = std::mem::replace(&mut self.state, State::Done)
        else {
            return Err(CurveError::Malformed("an INITIATE at the wrong time"));
        };
        if body.len() < INITIATE_BYTES_MIN {
            return Err(CurveError::Malformed("its INITIATE is too short"));
        }
        let mut fields = Fields(body);
        if fields.take::<9>()? != INITIATE {
            return Err(CurveError::Malformed(
                "another command in place of INITIATE",
            ));
        }
        let (client, short_term) = open_cookie(&cookie, fields.take()?)?;
        let counter = fields.take_counter()?;
        if counter <= self.counter {
            return Err(CurveError::Replayed);
        }
        let agreed = short_term.agree(&client).ok_or(CurveError::LowOrder)?;
        let mut sealed = fields.0.to_vec();
        let opened = agreed
            .open(&Nonce::counted(INITIATE_NONCE, counter), &mut sealed)
            .ok_or(CurveError::Forged)?;
        let mut fields = Fields(opened);
        let named = PublicKey::from_bytes(*fields.take::<KEY_BYTES>()?);
        let server = *self.keys[key].public();
        check_vouch(&named, &short_term, fields.take()?, &client, &server)?;
        Ok(Initiated {
            client: named,
            server,
            metadata: fields.0.to_vec(),
            agreed: Agreed {
                key: agreed,
                counter,
            },
        })
    }
}

/// The client's short-term key and our own pair, from a cookie of ours.
fn open_cookie(
    key: &BoxKey,
    cookie: &[u8; COOKIE_BYTES],
) -> Result<(PublicKey, KeyPair), CurveError> {
    let mut fields = Fields(cookie);
    let nonce = Nonce::random(COOKIE_NONCE, fields.take()?);
    let mut sealed = fields.0.to_vec();
    let opened = key.open(&nonce, &mut sealed).ok_or(CurveError::Forged)?;
    let mut fields = Fields(opened);
    let client = PublicKey::from_bytes(*fields.take()?);
    let short_term = KeyPair::from_secret(*fields.take()?);
    sealed.zeroize();
    Ok((client, short_term))
}

/// That the client owns the key that it names: only its owner can have put the client's short-term key
/// into a box for our own, and only for us.
fn check_vouch(
    named: &PublicKey,
    short_term: &KeyPair,
    vouch: &[u8; VOUCH_BYTES],
    client: &PublicKey,
    server: &PublicKey,
) -> Result<(), CurveError> {
    let mut fields = Fields(vouch);
    let nonce = Nonce::random(VOUCH_NONCE, fields.take()?);
    let agreed = short_term.agree(named).ok_or(CurveError::LowOrder)?;
    let mut sealed = fields.0.to_vec();
    let opened = agreed.open(&nonce, &mut sealed).ok_or(CurveError::Vouch)?;
    match opened == [*client.as_bytes(), *server.as_bytes()].as_flattened() {
        true => Ok(()),
        false => Err(CurveError::Vouch),
    }
}
