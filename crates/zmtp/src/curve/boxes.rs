//! Keys and authenticated encryption: the only file that names the library which does it.
//!
//! A box is NaCl's `crypto_box`: XSalsa20 and Poly1305, with a key that two Curve25519 keys agree on.

use std::fmt;

use dryoc::classic::crypto_box::{
    crypto_box_beforenm, crypto_box_detached_afternm_inplace,
    crypto_box_open_detached_afternm_inplace,
};
use dryoc::classic::crypto_core::{crypto_core_hsalsa20, crypto_scalarmult_base};
use dryoc::classic::crypto_hash::crypto_hash_sha256;
use dryoc::classic::crypto_onetimeauth::{crypto_onetimeauth, crypto_onetimeauth_verify};
use zeroize::{Zeroize, Zeroizing};

use super::salsa20::{self, BLOCK_BYTES, Keystream, Range};
use crate::z85;

/// Bytes of a key, public or secret.
pub const KEY_BYTES: usize = 32;
/// Bytes that authenticate a box; they precede what is encrypted.
pub(super) const MAC_BYTES: usize = 16;
/// Bytes of the key that authenticates one box.
const MAC_KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// A key that others may know. It is shown as Z85, as libzmq's users write keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key in these bytes. Whether it is a good one is seen when it is used.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&z85::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A secret key with its public one. It never shows the secret, and erases it when it is dropped.
#[derive(Clone)]
pub struct KeyPair {
    public: PublicKey,
    secret: [u8; KEY_BYTES],
}

impl KeyPair {
    /// The pair of a secret key. 32 random bytes are one.
    pub fn from_secret(secret: [u8; KEY_BYTES]) -> Self {
        let mut public = [0; KEY_BYTES];
        crypto_scalarmult_base(&mut public, &secret);
        Self {
            public: PublicKey(public),
            secret,
        }
    }

    /// What others may know of it.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The secret key, for who writes it to a file.
    pub fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    /// The key that this pair and the pair of the other side agree on. `None` if theirs is no good: a
    /// point of low order, with which anybody agrees on the same key.
    pub(super) fn agree(&self, theirs: &PublicKey) -> Option<BoxKey> {
        let agreed = crypto_box_beforenm(&theirs.0, &self.secret).ok()?;
        Some(BoxKey(agreed))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({}, …)", self.public)
    }
}

impl Drop for KeyPair {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// The SHA-256 digest of something.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    crypto_hash_sha256(&mut digest, bytes);
    digest
}

/// A key with which boxes are sealed and opened. It is erased when it is dropped.
pub(super) struct BoxKey([u8; KEY_BYTES]);

/// What goes into a box beside its key; no two boxes of one key may have the same.
pub(super) struct Nonce([u8; NONCE_BYTES]);

impl Nonce {
    /// One that is counted.
    pub(super) fn counted(prefix: &[u8; 16], counter: u64) -> Self {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..16].copy_from_slice(prefix);
        nonce[16..].copy_from_slice(&counter.to_be_bytes());
        Self(nonce)
    }

    /// One that is random.
    pub(super) fn random(prefix: &[u8; 8], random: &[u8; 16]) -> Self {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..8].copy_from_slice(prefix);
        nonce[8..].copy_from_slice(random);
        Self(nonce)
    }
}

impl BoxKey {
    /// A key that only one side has, for what it wants back unread and unchanged.
    pub(super) fn of_one_side(random: [u8; KEY_BYTES]) -> Self {
        Self(random)
    }

    /// Opens a box in place; what was in it. `None`, and nothing is changed, if it was not sealed with
    /// this key and nonce.
    pub(super) fn open<'a>(&self, nonce: &Nonce, sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (mac, data) = sealed.split_first_chunk_mut::<MAC_BYTES>()?;
        let opened = crypto_box_open_detached_afternm_inplace(data, mac, &nonce.0, &self.0);
        opened.ok().map(|()| data)
    }

    /// Seals in place: the first [`MAC_BYTES`] are for what authenticates the rest.
    pub(super) fn seal(&self, nonce: &Nonce, room_and_data: &mut [u8]) {
        if let Some((mac, data)) = room_and_data.split_first_chunk_mut::<MAC_BYTES>() {
            crypto_box_detached_afternm_inplace(data, mac, &nonce.0, &self.0);
        }
    }

    /// A box with these parts in it.
    pub(super) fn sealed(&self, nonce: &Nonce, parts: &[&[u8]]) -> Vec<u8> {
        let mut sealed = vec![0; MAC_BYTES];
        parts.iter().for_each(|part| sealed.extend_from_slice(part));
        self.seal(nonce, &mut sealed);
        sealed
    }
}

impl fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxKey(…)")
    }
}

impl Drop for BoxKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A key for boxes of one direction, whose nonces differ in a counter only: what doesn't depend on that
/// is computed already.
pub(super) struct CountedKey(salsa20::Key);

impl CountedKey {
    /// The key of nonces with this prefix.
    pub(super) fn new(key: &BoxKey, prefix: &[u8; 16]) -> Self {
        let mut subkey = Zeroizing::new([0; KEY_BYTES]);
        crypto_core_hsalsa20(&mut subkey, prefix, &key.0, None);
        Self(salsa20::Key::new(&subkey))
    }

    /// For some boxes whose counters and lengths are known together.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch(Keystream::new(&self.0))
    }

    /// The same, for each set of instructions that this machine has.
    #[cfg(test)]
    pub(super) fn batches(&self) -> Vec<Batch<'_>> {
        let all = Keystream::of_each_level(&self.0).into_iter();
        all.map(Batch).collect()
    }
}

impl fmt::Debug for CountedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountedKey(…)")
    }
}

/// What is in a box: its counter, and how many bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    pub(super) counter: u64,
    pub(super) bytes: usize,
}

impl Content {
    /// Half a block is the key of its authentication, the rest encrypts it.
    fn blocks(self) -> Range {
        Range {
            counter: self.counter,
            next: 0,
            end: (MAC_KEY_BYTES + self.bytes).div_ceil(BLOCK_BYTES) as u64,
        }
    }
}

/// Boxes of one direction that are sealed or opened together, which costs less. What is said of those
/// that come `later` changes no box, only the cost.
pub(super) struct Batch<'a>(Keystream<'a>);

impl Batch<'_> {
    /// As [`BoxKey::open`], with a counted nonce.
    pub(super) fn open<'a>(
        &mut self,
        counter: u64,
        sealed: &'a mut [u8],
        later: impl Iterator<Item = Content> + Clone,
    ) -> Option<&'a mut [u8]> {
        let (mac, data) = sealed.split_first_chunk_mut::<MAC_BYTES>()?;
        let genuine = |key: &_, data: &_| crypto_onetimeauth_verify(mac, data, key).is_ok();
        self.encrypt(counter, data, later, genuine)?;
        Some(data)
    }

    /// As [`BoxKey::seal`], with a counted nonce.
    pub(super) fn seal(
        &mut self,
        counter: u64,
        room_and_data: &mut [u8],
        later: impl Iterator<Item = Content> + Clone,
    ) {
        if let Some((mac, data)) = room_and_data.split_first_chunk_mut::<MAC_BYTES>()
            && let Some(key) = self.encrypt(counter, data, later, |_, _| true)
        {
            crypto_onetimeauth(mac, data, &key);
        }
    }

    /// Encrypts, or decrypts, which is the same, if it may, which it is asked before anything is
    /// changed; the key that authenticates what is encrypted.
    fn encrypt(
        &mut self,
        counter: u64,
        data: &mut [u8],
        later: impl Iterator<Item = Content> + Clone,
        may: impl FnOnce(&[u8; MAC_KEY_BYTES], &[u8]) -> bool,
    ) -> Option<Zeroizing<[u8; MAC_KEY_BYTES]>> {
        let bytes = data.len();
        let mut blocks = Content { counter, bytes }.blocks();
        let later = later.map(Content::blocks);
        let words = self.0.take(&mut blocks, later.clone());
        let (key_words, words) = words.split_first_chunk::<{ MAC_KEY_BYTES / 4 }>()?;
        let mut key = Zeroizing::new([0; MAC_KEY_BYTES]);
        salsa20::xor(&mut *key, key_words);
        if !may(&key, data) {
            return None;
        }
        salsa20::xor(data, words);
        let mut done = 4 * words.len();
        while !blocks.is_empty() {
            let words = self.0.take(&mut blocks, later.clone());
            salsa20::xor(&mut data[done..], words);
            done += 4 * words.len();
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crypto_box::aead::{AeadInPlace, generic_array::GenericArray};

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        assert_eq!(hex.len(), 2 * N);
        std::array::from_fn(byte)
    }

    /// The examples of "Cryptography in NaCl" (Bernstein, 2009), sections 2 to 10.
    #[test]
    fn the_vectors_of_nacl_hold() {
        let alice = KeyPair::from_secret(bytes(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        ));
        assert_eq!(
            alice.public().0,
            bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
        );
        let bob = KeyPair::from_secret(bytes(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        ));
        assert_eq!(
            bob.public().0,
            bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        let agreed = alice.agree(bob.public()).unwrap();
        assert_eq!(
            agreed.0,
            bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
        );
        assert_eq!(bob.agree(alice.public()).unwrap().0, agreed.0);
        let nonce = Nonce(bytes("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37"));
        let text: [u8; 131] = bytes(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
        );
        let sealed = agreed.sealed(&nonce, &[&text]);
        assert_eq!(
            sealed[..16],
            bytes::<16>("f3ffc7703f9400e52a7dfb4b3d3305d9")
        );
        assert_eq!(
            sealed[16..32],
            bytes::<16>("8e993b9f48681273c29650ba32fc76ce")
        );
        let mut opened = sealed.clone();
        assert_eq!(*agreed.open(&nonce, &mut opened).unwrap(), text);

        let (prefix, counter) = nonce.0.split_first_chunk().unwrap();
        let counter = u64::from_be_bytes(counter.try_into().unwrap());
        for mut batch in CountedKey::new(&agreed, prefix).batches() {
            let mut again = [&[0; MAC_BYTES], &text[..]].concat();
            batch.seal(counter, &mut again, std::iter::empty());
            assert_eq!(again, sealed);
        }
    }

    /// RustCrypto's implementation is another one.
    #[test]
    fn another_implementation_makes_the_same_boxes_of_every_length() {
        let (ours, theirs) = (
            KeyPair::from_secret([7; KEY_BYTES]),
            KeyPair::from_secret([9; KEY_BYTES]),
        );
        let agreed = ours.agree(theirs.public()).unwrap();
        let other = crypto_box::SalsaBox::new(
            &crypto_box::PublicKey::from(ours.public().0),
            &crypto_box::SecretKey::from(*theirs.secret()),
        );
        for len in 0..=1100usize {
            let text: Vec<_> = (0..len).map(|i| (i * 31 + len) as u8).collect();
            let nonce = Nonce::counted(b"CurveZMQMESSAGES", len as u64 * 0x0101_0101);
            let mut expected = text.clone();
            let mac = other
                .encrypt_in_place_detached(GenericArray::from_slice(&nonce.0), b"", &mut expected)
                .unwrap();
            let sealed = agreed.sealed(&nonce, &[&text]);
            assert_eq!(sealed, [&mac[..], &expected].concat(), "{len}");
            let mut opened = sealed;
            assert_eq!(*agreed.open(&nonce, &mut opened).unwrap(), text, "{len}");
        }
    }

    #[test]
    fn a_changed_box_is_not_opened_and_stays_as_it_is() {
        let key = BoxKey::of_one_side([3; KEY_BYTES]);
        let nonce = Nonce::random(b"COOKIE--", &[1; 16]);
        let sealed = key.sealed(&nonce, &[b"some", b"thing"]);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let before = changed.clone();
            assert_eq!(key.open(&nonce, &mut changed), None, "{bit}");
            assert_eq!(changed, before);
        }
        let other = Nonce::random(b"COOKIE--", &[2; 16]);
        assert_eq!(key.open(&other, &mut sealed.clone()), None);
        assert_eq!(key.open(&nonce, &mut [0; MAC_BYTES - 1]), None);
        let other = BoxKey::of_one_side([4; KEY_BYTES]);
        assert_eq!(other.open(&nonce, &mut sealed.clone()), None);
        assert_eq!(
            *key.open(&nonce, &mut sealed.clone()).unwrap(),
            *b"something"
        );
    }

    /// libsodium's list of points of low order, each with and without its highest bit.
    #[test]
    fn points_of_low_order_agree_with_nobody() {
        let ours = KeyPair::from_secret([5; KEY_BYTES]);
        for hex in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ] {
            for highest in [0, 0x80] {
                let mut point = bytes(hex);
                point[31] |= highest;
                assert!(ours.agree(&PublicKey(point)).is_none(), "{hex}");
            }
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let pair = KeyPair::from_secret([0x41; KEY_BYTES]);
        let agreed = pair.agree(KeyPair::from_secret([2; KEY_BYTES]).public());
        let shown = format!("{pair:?} {agreed:?}");
        assert_eq!(
            shown,
            format!("KeyPair({}, …) Some(BoxKey(…))", pair.public())
        );
        assert!(!shown.contains(&z85::encode(pair.secret())));
    }
}
