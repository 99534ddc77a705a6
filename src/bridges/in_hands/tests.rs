use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::ambient::now;
use crate::engines::{Failure, Pending};

/// An engine that does what it is told; whether it knows events by tokens.
struct Known(bool);

impl Queue for Known {
    fn take(&mut self, _: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>> {
        Box::pin(std::future::pending())
    }

    fn want_nothing(&mut self) -> Pending<'_, Vec<Receipt>> {
        Box::pin(async { vec![] })
    }

    fn acknowledge<'a>(&'a mut self, _: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn extend<'a>(&'a mut self, _: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn give_back<'a>(&'a mut self, _: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn token(&self, held: Receipt) -> Option<String> {
        self.0.then(|| held.0.to_string())
    }

    fn recall(&mut self, token: &str) -> Option<Receipt> {
        Some(Receipt(token.parse().unwrap()))
    }
}

fn incoming(position: u64, receipt: u64) -> Incoming {
    Incoming {
        receipt: Receipt(receipt),
        position: Some(position.to_string()),
        subject: String::new(),
        headers: vec![],
        body: Bytes::from_static(b"body"),
        given_before: 0,
    }
}

#[test]
fn what_is_done_after_the_connection_was_lost_is_told_by_the_next() {
    let (mut hands, mut queue) = (InHands::default(), Known(true));
    assert_eq!(hands.take(&incoming(7, 1), "", &queue), Some(1));
    assert_eq!(hands.disconnect(), Vec::<u64>::new());
    hands.settle(Settlement::Done(1), now());
    hands.reconnect(&mut queue);
    let batch = hands.to_acknowledge(10).unwrap();
    assert_eq!(batch.receipts, [Receipt(1)]);
    hands.told(&batch);
    assert!(hands.is_empty() && hands.books.done == 1);
}

#[test]
fn what_no_other_connection_settles_is_not_done_twice_here() {
    let (mut hands, queue) = (InHands::default(), Known(false));
    assert_eq!(hands.take(&incoming(7, 1), "", &queue), Some(1));
    assert_eq!(hands.disconnect(), [1]);
    hands.settle(Settlement::Done(1), now());
    assert_eq!((hands.len(), hands.books.returned), (0, 1));
    // It is given again, and the engine hears at once that it is done.
    assert_eq!(hands.take(&incoming(7, 2), "", &queue), None);
    assert_eq!(hands.to_acknowledge(10).unwrap().receipts, [Receipt(2)]);
    // One that is still worked on goes on.
    assert_eq!(hands.take(&incoming(8, 3), "", &queue), Some(3));
    assert_eq!(hands.disconnect(), [3]);
    assert_eq!(hands.take(&incoming(8, 4), "", &queue), None);
    hands.settle(Settlement::Done(3), now());
    assert_eq!(hands.to_acknowledge(10).unwrap().receipts, [Receipt(4)]);
}

#[test]
fn two_events_with_the_same_id_are_two_where_the_engine_can_t_tell() {
    let (mut hands, queue) = (InHands::default(), Known(false));
    let nameless = |receipt| Incoming {
        position: None,
        ..incoming(0, receipt)
    };
    assert_eq!(hands.take(&nameless(1), "id", &queue), Some(1));
    assert_eq!(hands.take(&nameless(2), "id", &queue), Some(2));
    for number in [1, 2] {
        hands.settle(Settlement::Done(number), now());
        let batch = hands.to_acknowledge(10).unwrap();
        assert_eq!(batch.receipts, [Receipt(number)]);
        hands.told(&batch);
    }
    // After a lost connection, what is given is what is in hands still.
    assert_eq!(hands.take(&nameless(3), "id", &queue), Some(3));
    assert_eq!(hands.disconnect(), [3]);
    assert_eq!(hands.take(&nameless(4), "id", &queue), None);
    hands.settle(Settlement::Done(3), now());
    assert_eq!(hands.to_acknowledge(10).unwrap().receipts, [Receipt(4)]);
}

#[test]
fn what_could_not_be_a_dead_letter_goes_back_later() {
    let (mut hands, queue) = (InHands::default(), Known(true));
    hands.take(&incoming(7, 1), "", &queue);
    let (now, later) = (now(), now() + Duration::from_secs(5));
    hands.settle(Settlement::Later(1), later);
    assert!(hands.to_give_back(10, now).is_none());
    let batch = hands.to_give_back(10, later).unwrap();
    hands.told(&batch);
    assert!(hands.is_empty() && hands.books.returned == 1);
}

proptest! {
    #[test]
    fn the_books_balance(
        steps in prop::collection::vec((0..9_u8, 0..12_u64), 0..200),
        has_tokens in any::<bool>(),
    ) {
        let (mut hands, mut queue) = (InHands::default(), Known(has_tokens));
        let mut receipt = 0;
        for (what, which) in steps {
            match what {
                0..=2 => {
                    receipt += 1;
                    hands.take(&incoming(which, receipt), "", &queue);
                }
                3 => hands.settle(Settlement::Done(which), now()),
                4 => hands.settle(Settlement::Dead(which), now()),
                5 => hands.settle(Settlement::Returned(which), now()),
                6 => hands.settle(Settlement::Later(which), now()),
                7 => {
                    for orphan in hands.disconnect() {
                        if orphan % 2 == 0 {
                            hands.let_go(orphan);
                        }
                    }
                    hands.reconnect(&mut queue);
                }
                _ => {
                    while let Some(batch) = hands.to_acknowledge(3) {
                        hands.told(&batch);
                    }
                    while let Some(batch) = hands.to_give_back(3, now()) {
                        hands.told(&batch);
                    }
                }
            }
            let Books { taken, done, dead, returned, .. } = hands.books;
            prop_assert_eq!(taken, done + dead + returned + hands.len() as u64);
            prop_assert!(hands.by_name.len() <= hands.len());
        }
    }
}
