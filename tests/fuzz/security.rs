//! The targets of CURVE and its keys.

use bytes::BytesMut;
use event_manager_core::security::{NamePattern, Network, Subjects};
use event_manager_wire::model::SubjectPattern;
use event_manager_zmtp::curve::{
    Certificate, CurveClient, CurveServer, KEY_BYTES, KeyPair, OpenError, Opener, Session,
    parse_key,
};
use event_manager_zmtp::{
    FrameError, Handshake, HandshakeError, LocalSocket, Mechanism, Peer, encode_frame, z85,
};

use super::in_pieces;

const GREETING: usize = 64;

fn pair(byte: u8) -> KeyPair {
    KeyPair::from_secret([byte; KEY_BYTES])
}

fn server() -> Handshake {
    let curve = CurveServer::new([pair(1)].as_slice().into(), &[0x51; 96]);
    let offered = vec![Mechanism::CurveServer(Box::new(curve))];
    let local = LocalSocket::Subscribers;
    Handshake::start(local, offered, 8192, &mut BytesMut::new()).dialled_by_peer()
}

fn client(out: &mut BytesMut) -> Handshake {
    let curve = CurveClient::new(pair(2), *pair(1).public(), &[0x43; 48]).expect("a good key");
    let offered = vec![Mechanism::CurveClient(Box::new(curve))];
    Handshake::start(LocalSocket::Publishers, offered, 8192, out)
}

/// Bytes that are changed in a stream: their places, and what is changed.
type Changes = Vec<(usize, u8)>;

/// Such changes: a count, then each.
fn split_changes(input: &[u8]) -> Option<(Changes, &[u8])> {
    let (&count, rest) = input.split_first()?;
    let (changes, rest) = rest.split_at_checked(usize::from(count % 8) * 3)?;
    let changes = changes.as_chunks::<3>().0.iter();
    let changes = changes.map(|[high, low, by]| {
        let place = u16::from_be_bytes([*high, *low]);
        (usize::from(place), *by)
    });
    Some((changes.collect(), rest))
}

/// One direction, with somebody on the network who changes bytes and cuts it into pieces.
struct Wire<'a> {
    changes: Changes,
    lengths: &'a [u8],
    /// What was said, and how much of it has passed.
    said: BytesMut,
    passed: usize,
    pieces: usize,
}

impl<'a> Wire<'a> {
    fn new(changes: Changes, lengths: &'a [u8]) -> Self {
        Self {
            changes,
            lengths,
            said: BytesMut::new(),
            passed: 0,
            pieces: 0,
        }
    }

    /// The next piece; empty if all has passed.
    fn next(&mut self) -> Vec<u8> {
        let cycled = self.lengths.get(self.pieces % self.lengths.len().max(1));
        let len = cycled.map_or(usize::MAX, |&len| usize::from(len).max(1));
        let end = self.passed.saturating_add(len).min(self.said.len());
        let mut piece = self.said[self.passed..end].to_vec();
        for (place, by) in &self.changes {
            if (self.passed..end).contains(place) {
                piece[place - self.passed] ^= by;
            }
        }
        (self.passed, self.pieces) = (end, self.pieces + 1);
        piece
    }

    /// Whether any byte of what was said from there on is another.
    fn is_changed(&self, from: usize) -> bool {
        (from..self.said.len()).any(|at| {
            let changes = self.changes.iter().filter(|(place, _)| *place == at);
            changes.fold(0, |all, (_, by)| all ^ by) != 0
        })
    }
}

type Ended = Result<Peer, HandshakeError>;

/// Both sides talk until one has ended, or both wait; how each ended.
fn talk(to_server: &mut Wire<'_>, to_client: &mut Wire<'_>) -> [Option<Ended>; 2] {
    let mut server = Some(server());
    let mut client = client(&mut to_server.said);
    // What a side says first is the same of both.
    let opening = to_server.said[..11].to_vec();
    to_client.said.extend_from_slice(&opening);
    let mut ended: [Option<Ended>; 2] = [None, None];
    loop {
        let (up, down) = (to_server.next(), to_client.next());
        if up.is_empty() && down.is_empty() {
            return ended;
        }
        if let Some(mut handshake) = server.take_if(|_| !up.is_empty()) {
            match handshake.receive(&up, &mut to_client.said) {
                Ok(None) => server = Some(handshake),
                Ok(Some(peer)) => {
                    handshake.finish(&mut to_client.said);
                    ended[0] = Some(Ok(peer));
                }
                Err(error) => ended[0] = Some(Err(error)),
            }
        }
        if !down.is_empty() && ended[1].is_none() {
            match client.receive(&down, &mut to_server.said) {
                Ok(None) => {}
                Ok(Some(peer)) => ended[1] = Some(Ok(peer)),
                Err(error) => ended[1] = Some(Err(error)),
            }
        }
    }
}

/// A server's handshake: noise, or that of a client that somebody has changed on its way. Who gets in
/// owns the key that it names, and not a byte of what it said about that is another.
pub fn curve_server(input: &[u8]) {
    let Some((&mode, input)) = input.split_first() else {
        return;
    };
    if mode % 2 == 0 {
        let mut server = server();
        let mut greeting = BytesMut::new();
        let _client = client(&mut greeting);
        let mut out = BytesMut::new();
        let _ = server.receive(&greeting, &mut out);
        let met = server.receive(input, &mut out);
        assert!(!matches!(met, Ok(Some(_))), "by chance");
        return;
    }
    let Some((changes, lengths)) = split_changes(input) else {
        return;
    };
    let mut to_server = Wire::new(changes, lengths);
    let mut to_client = Wire::new(vec![], lengths);
    let [server, client] = talk(&mut to_server, &mut to_client);
    if let Some(Ok(peer)) = server {
        let keys = peer.keys.expect("it has keys");
        assert_eq!(keys.client, *pair(2).public());
        assert_eq!(keys.server, *pair(1).public());
        // HELLO's padding may be anything.
        let hello = GREETING + 2;
        let padding = hello + 8..hello + 80;
        let changes = to_server.changes.iter();
        let changes = changes.filter(|(place, _)| !padding.contains(place));
        let others = Wire {
            changes: changes.copied().collect(),
            ..to_server
        };
        assert!(!others.is_changed(GREETING), "{:?}", others.changes);
        assert!(matches!(client, Some(Ok(_))), "{client:?}");
    }
}

/// A client's handshake with a server that says anything, or that somebody has changed on its way. A
/// server that isn't left owns the key that the client was given.
pub fn curve_client(input: &[u8]) {
    let Some((&mode, input)) = input.split_first() else {
        return;
    };
    if mode % 2 == 0 {
        let mut out = BytesMut::new();
        let mut client = client(&mut out);
        let met = client.receive(input, &mut out);
        assert!(!matches!(met, Ok(Some(_))), "by chance");
        return;
    }
    let Some((changes, lengths)) = split_changes(input) else {
        return;
    };
    let mut to_server = Wire::new(vec![], lengths);
    let mut to_client = Wire::new(changes, lengths);
    let [_, client] = talk(&mut to_server, &mut to_client);
    if let Some(Ok(peer)) = client {
        assert_eq!(peer.keys.expect("it has keys").server, *pair(1).public());
        assert!(!to_client.is_changed(GREETING), "{:?}", to_client.changes);
    }
}

/// Both sides after a handshake: of the client, of the server.
fn met() -> [Session; 2] {
    let (mut to_server, mut to_client) = (BytesMut::new(), Greeting::opening());
    let mut client = client(&mut to_server);
    let mut server = server();
    let mut is_met = false;
    loop {
        is_met |= server
            .receive(&to_server.split(), &mut to_client)
            .expect("it is good")
            .is_some();
        if is_met {
            break;
        }
        client
            .receive(&to_client.split(), &mut to_server)
            .expect("it is good");
    }
    let of_server = server.finish(&mut to_client).1.expect("keys");
    client
        .receive(&to_client, &mut to_server)
        .expect("it is good");
    [client.finish(&mut to_server).1.expect("keys"), of_server]
}

struct Greeting;

impl Greeting {
    /// What a side says first.
    fn opening() -> BytesMut {
        BytesMut::from(&[0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3][..])
    }
}

/// What passes between two sides: boxes as they were sealed, up to where it is something else.
#[derive(Default)]
struct Traffic {
    sealed: Vec<u8>,
    /// The frames in the boxes that are to be opened.
    plain: Vec<u8>,
    is_changed: bool,
}

impl Traffic {
    fn read(input: &[u8], client: &mut Session) -> Self {
        let mut traffic = Self::default();
        let mut acts = input.iter().copied();
        while let (false, Some(act)) = (traffic.is_changed, acts.next()) {
            let [length, place, by] = std::array::from_fn(|_| acts.next().unwrap_or_default());
            let (mut frame, mut sealed) = (BytesMut::new(), BytesMut::new());
            let body = vec![act; usize::from(length) * 3];
            encode_frame(&mut frame, &body, act & 8 != 0);
            let taken = client.sealer.seal(&frame, &mut sealed, usize::MAX);
            assert_eq!(taken, Ok(frame.len()));
            match act % 8 {
                // Never sent: libzmq leaves gaps, too.
                0 => continue,
                1 => {
                    traffic.sealed.extend_from_slice(&sealed);
                    traffic.plain.extend_from_slice(&frame);
                    traffic.is_changed = true;
                }
                2 => {
                    let at = usize::from(place) * 4 % sealed.len();
                    sealed[at] ^= by;
                    // The flag of a command, around a box: the RFC has it.
                    let is_same = by == 0 || (at == 0 && by == 4);
                    if is_same {
                        traffic.plain.extend_from_slice(&frame);
                    }
                    traffic.is_changed = !is_same;
                }
                3 => {
                    traffic.is_changed = true;
                    sealed = BytesMut::from(&[place, by][..]);
                }
                _ => traffic.plain.extend_from_slice(&frame),
            }
            traffic.sealed.extend_from_slice(&sealed);
        }
        traffic
    }
}

/// Opens as a connection does; what was opened, and why it ended.
fn open(opener: &mut Opener, pieces: &[&[u8]]) -> (Vec<u8>, Option<OpenError>) {
    const BODY_BYTES_MAX: usize = 100_000;
    let (mut bytes, mut plain_end, mut sealed_from) = (vec![], 0, 0);
    for piece in pieces {
        bytes.extend_from_slice(piece);
        match opener.open(&mut bytes, plain_end, sealed_from, BODY_BYTES_MAX) {
            Ok(opened) => {
                assert!(opened.plain_end <= opened.sealed_from && opened.missing > 0);
                assert!(opened.sealed_from <= bytes.len());
                (plain_end, sealed_from) = (opened.plain_end, opened.sealed_from);
            }
            Err(refused) => {
                bytes.truncate(refused.plain_end);
                return (bytes, Some(refused.error));
            }
        }
    }
    bytes.truncate(plain_end);
    (bytes, None)
}

/// Boxes: whatever somebody does with them on their way, those in front of it are opened, once and in
/// their order, and nothing after it. It makes no difference in which pieces they arrive.
pub fn boxes(input: &[u8]) {
    let Some((lengths, acts)) = input
        .split_first()
        .and_then(|(&count, rest)| rest.split_at_checked(usize::from(count % 16)))
    else {
        return;
    };
    let mut ends = vec![];
    for is_whole in [false, true] {
        let [mut client, mut server] = met();
        let traffic = Traffic::read(acts, &mut client);
        let count = lengths.len() as u8;
        let lengths = [&[count], lengths, &traffic.sealed].concat();
        let Some((pieces, whole)) = in_pieces(&lengths) else {
            return;
        };
        let pieces = if is_whole { vec![whole] } else { pieces };
        let (opened, error) = open(&mut server.opener, &pieces);
        let (found, beyond) = opened.split_at(traffic.plain.len().min(opened.len()));
        assert_eq!(found, traffic.plain);
        let is_too_large = matches!(
            error,
            Some(OpenError::Frame(FrameError::MessageTooLarge(..)))
        );
        assert!(beyond.is_empty() || (is_too_large && beyond.len() <= 9));
        assert!(error.is_none() || traffic.is_changed, "{error:?}");
        ends.push((opened, error));
        // Noise from the start.
        let [_, mut server] = met();
        let (opened, error) = open(&mut server.opener, &[acts]);
        assert!(opened.is_empty() || (error.is_some() && opened.len() <= 9));
    }
    assert_eq!(ends[0], ends[1]);
}

/// Z85: what is read is written as it was.
pub fn z85_texts(input: &[u8]) {
    let whole = &input[..input.len() / 4 * 4];
    assert_eq!(z85::decode(&z85::encode(input)).as_deref(), Some(whole));
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Some(bytes) = z85::decode(text) {
        assert_eq!(z85::encode(&bytes), text);
        assert_eq!(bytes.len(), text.len() / 5 * 4);
    }
}

/// Certificates, keys and networks: what is read can be written and read again, and no complaint shows
/// what may be nearly a secret.
pub fn certificates(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match Certificate::parse(text) {
        Ok(found) => {
            let again = match &found.pair {
                None => Certificate::public_text(&found.public),
                Some(pair) => Certificate::secret_text(pair),
            };
            let again = Certificate::parse(&again).expect("our own");
            assert_eq!(again.public, found.public);
            let secret = |read: &Certificate| read.pair.as_ref().map(|pair| *pair.secret());
            assert_eq!(secret(&again), secret(&found));
        }
        Err(error) => assert!(error.to_string().len() < 120, "{error}"),
    }
    for line in text.lines() {
        if let Some(key) = parse_key(line) {
            assert_eq!(parse_key(&z85::encode(&key)), Some(key));
            assert!([40, 43, 44, 64].contains(&line.len()));
        }
        if let Ok(network) = line.parse::<Network>() {
            let shown = network.to_string();
            assert_eq!(shown.parse(), Ok(network));
            let address = shown.split('/').next().expect("an address");
            assert!(network.contains(address.parse().expect("an address")));
        }
    }
}

/// The longest subject whose end is known.
const SUBJECT_BYTES_MAX: usize = 24;
/// Of an input, so many patterns and subjects are used: what is compared grows with both.
const LINES_MAX: usize = 12;

/// Rights: patterns that are allowed, an empty line, patterns that are asked for, an empty line, subjects.
/// What is allowed is what the patterns match one by one; what they are said to cover has no subject that
/// isn't allowed; and whoever may hear a subject may subscribe to any beginning of it.
pub fn rights(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut blocks = text.split("\n\n");
    let mut lines = || blocks.next().unwrap_or_default().lines().take(LINES_MAX);
    let patterns = |lines: Vec<&str>| -> Vec<SubjectPattern> {
        let parsed = lines
            .into_iter()
            .map(|line| SubjectPattern::parse(line, 255));
        parsed.filter_map(Result::ok).collect()
    };
    let allowed = patterns(lines().collect());
    let asked = patterns(lines().collect());
    let rights: Subjects = allowed.iter().cloned().collect();
    for name in allowed.iter().map(SubjectPattern::text) {
        if let Ok(pattern) = NamePattern::parse(name) {
            assert!(name.ends_with('*') || pattern.matches(name));
        }
    }
    for subject in lines().map(str::as_bytes) {
        let has = rights.have(subject, SUBJECT_BYTES_MAX);
        let is_whole = subject.len() <= SUBJECT_BYTES_MAX;
        let matches = allowed.iter().any(|pattern| pattern.matches(subject));
        assert!(has == matches || (matches && !is_whole));
        for pattern in &asked {
            let is_heard = is_whole && pattern.matches(subject);
            assert!(!(rights.cover(pattern) && is_heard) || has);
        }
        for len in 0..=subject.len() {
            assert!(!has || rights.may_begin_with(&subject[..len]));
        }
    }
    for pattern in &allowed {
        assert!(rights.cover(pattern), "{pattern:?} is allowed itself");
        let again = SubjectPattern::parse(&pattern.to_string(), 255);
        assert_eq!(again.as_ref(), Ok(pattern));
    }
}
