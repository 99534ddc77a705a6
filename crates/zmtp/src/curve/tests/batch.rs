//! Boxes of a batch beside those of dryoc, and of RustCrypto.

use std::hint::black_box;
use std::time::Duration;

use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use proptest::prelude::*;

use super::boxes::{BoxKey, Content, CountedKey, MAC_BYTES, Nonce};
use super::salsa20;

const PREFIX: &[u8; 16] = b"CurveZMQMESSAGEC";

/// What one side of a batch does to events of two frames, and how long that takes for each box.
#[test]
#[ignore = "prints a table: cargo test --release -p zmq-event-manager-zmtp --lib -- --ignored --nocapture cost"]
#[allow(clippy::disallowed_methods, reason = "a clock is what this reads")]
fn what_a_box_costs() {
    const BOXES: usize = 32;
    let key = BoxKey::of_one_side([7; 32]);
    let counted = CountedKey::new(&key, PREFIX);
    let content = |len, i| Content {
        counter: 3 + i as u64,
        bytes: len,
    };
    let alone = |plain: &[Vec<u8>]| {
        let mut boxes = plain.to_vec();
        for (i, one) in boxes.iter_mut().enumerate() {
            key.seal(&Nonce::counted(PREFIX, content(0, i).counter), one);
        }
        boxes
    };
    println!("ns for each box, sealed and opened: dryoc, alone, in a batch of {BOXES}");
    for lens in [
        [6, 6],
        [65, 65],
        [6, 65],
        [257, 257],
        [1025, 1025],
        [6, 1025],
        [16385, 16385],
    ] {
        let plain: Vec<_> = (0..BOXES)
            .map(|i| vec![i as u8; 16 + lens[i % 2]])
            .collect();
        let sealed = alone(&plain);
        let later = |i: usize| (i + 1..BOXES).map(move |i| content(lens[i % 2], i));
        let mut found: [Vec<Duration>; 6] = Default::default();
        let rounds = 16_000_000 / (BOXES * (500 + lens[1]));
        for _ in 0..rounds {
            for (way, found) in found.iter_mut().enumerate() {
                let mut boxes = black_box(if way < 3 {
                    plain.clone()
                } else {
                    sealed.clone()
                });
                let begun = std::time::Instant::now();
                let mut batch = counted.batch();
                for (i, one) in boxes.iter_mut().enumerate() {
                    let counter = content(0, i).counter;
                    match way {
                        0 => key.seal(&Nonce::counted(PREFIX, counter), one),
                        1 => counted.batch().seal(counter, one, std::iter::empty()),
                        2 => batch.seal(counter, one, later(i)),
                        3 => drop(key.open(&Nonce::counted(PREFIX, counter), one).unwrap()),
                        4 => drop(
                            counted
                                .batch()
                                .open(counter, one, std::iter::empty())
                                .unwrap(),
                        ),
                        _ => drop(batch.open(counter, one, later(i)).unwrap()),
                    }
                }
                drop(batch);
                found.push(begun.elapsed());
                black_box(&boxes);
            }
        }
        let median = |found: &mut Vec<Duration>| {
            found.sort();
            found[rounds / 2].as_nanos() / BOXES as u128
        };
        println!("{lens:>15?} {:>6?}", found.each_mut().map(median));
    }
}

/// What RustCrypto makes of these bytes.
fn of_rust_crypto(secret: [u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    let nonce = [&PREFIX[..], &counter.to_be_bytes()].concat();
    let mut data = text.to_vec();
    let mac = XSalsa20Poly1305::new(&secret.into())
        .encrypt_in_place_detached(nonce[..].into(), b"", &mut data)
        .unwrap();
    [&mac[..], &data].concat()
}

/// All that make boxes make the same ones. `later` is what is said of those that come later.
fn all_agree(secret: [u8; 32], contents: &[(u64, usize)], later: &[(u64, usize)]) {
    let key = BoxKey::of_one_side(secret);
    let counted = CountedKey::new(&key, PREFIX);
    let later = |i: usize| {
        let later = later.get(i + 1..).unwrap_or_default().iter();
        later.map(|&(counter, bytes)| Content { counter, bytes })
    };
    let boxes: Vec<(u64, Vec<u8>, Vec<u8>)> = contents
        .iter()
        .map(|&(counter, len)| {
            let text: Vec<_> = (0..len).map(|at| (at * 31 + len) as u8).collect();
            let sealed = key.sealed(&Nonce::counted(PREFIX, counter), &[&text]);
            assert!(sealed == of_rust_crypto(secret, counter, &text), "{len}");
            (counter, text, sealed)
        })
        .collect();
    for (mut sealing, mut opening) in counted.batches().into_iter().zip(counted.batches()) {
        for (i, (counter, text, sealed)) in boxes.iter().enumerate() {
            let mut bytes = [&[0; MAC_BYTES], &text[..]].concat();
            sealing.seal(*counter, &mut bytes, later(i));
            assert!(bytes == *sealed, "{i} {contents:?}");
            let opened = opening.open(*counter, &mut bytes, later(i));
            assert!(
                opened.is_some_and(|opened| opened == text),
                "{i} {contents:?}"
            );
        }
    }
}

#[test]
fn boxes_of_every_length_are_those_of_others() {
    let contents: Vec<_> = (0..=1100)
        .map(|len| (len as u64 * 0x0101_0101, len))
        .collect();
    all_agree([7; 32], &contents, &contents);
    let backwards: Vec<_> = contents.into_iter().rev().collect();
    all_agree([8; 32], &backwards, &[]);
}

fn contents() -> impl Strategy<Value = Vec<(u64, usize)>> {
    let len = prop_oneof![8 => 0..300usize, 3 => 0..3000usize, 1 => 0..70_000usize];
    let counter = prop_oneof![any::<u64>(), 1..9u64, Just(u64::MAX)];
    proptest::collection::vec((counter, len), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn boxes_of_any_batch_are_those_of_others(secret: [u8; 32], contents in contents()) {
        all_agree(secret, &contents, &contents);
    }

    #[test]
    fn what_is_said_of_later_boxes_changes_none(
        secret: [u8; 32],
        contents in contents(),
        later in contents(),
        lies in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let said: Vec<_> = contents
            .iter()
            .zip(later)
            .zip(lies)
            .map(|((content, lie), lies)| match lies {
                true => (content.0, lie.1),
                false => *content,
            })
            .collect();
        all_agree(secret, &contents, &said);
    }
}

#[test]
fn a_changed_box_of_a_batch_is_not_opened_and_stays_as_it_is() {
    let counted = CountedKey::new(&BoxKey::of_one_side([3; 32]), PREFIX);
    let lens = [5, 70, 1100, 0];
    let later = |i: usize| {
        let later = lens.into_iter().enumerate().skip(i + 1);
        later.map(|(i, bytes)| Content {
            counter: i as u64,
            bytes,
        })
    };
    let mut batch = counted.batch();
    let mut sealed = lens.map(|len| vec![b'x'; MAC_BYTES + len]);
    for (i, one) in sealed.iter_mut().enumerate() {
        batch.seal(i as u64, one, later(i));
    }
    let mut batch = counted.batch();
    for (i, one) in sealed.iter().enumerate() {
        for bit in 0..one.len() * 8 {
            let mut changed = one.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let before = changed.clone();
            assert_eq!(batch.open(i as u64, &mut changed, later(i)), None);
            assert_eq!(changed, before, "{i} {bit}");
        }
        let mut again = one.clone();
        assert_eq!(batch.open(i as u64 + 1, &mut again, later(i)), None);
        let opened = batch.open(i as u64, &mut again, later(i)).unwrap();
        assert_eq!(*opened, vec![b'x'; lens[i]]);
    }
    assert_eq!(batch.open(0, &mut [0; MAC_BYTES - 1], later(3)), None);
}

#[test]
fn keys_and_keystream_are_not_shown_and_are_erased() {
    let counted = CountedKey::new(&BoxKey::of_one_side([3; 32]), PREFIX);
    assert_eq!(format!("{counted:?}"), "CountedKey(…)");
    assert!(std::mem::needs_drop::<salsa20::Key>());
    assert!(std::mem::needs_drop::<salsa20::Keystream<'_>>());
}
