use super::*;
use event_manager_zmtp::encode_message;
use proptest::prelude::*;

fn event(n: u8, size: usize) -> Bytes {
    encode_message(&[vec![n], vec![n; size]])
}

/// A socket with room for so many bytes.
struct Room(usize, Vec<u8>);

impl Room {
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let n = all.len().min(self.0).min(5000);
        self.0 -= n;
        self.1.extend_from_slice(&all[..n]);
        Ok(n)
    }
}

proptest! {
    #[test]
    fn bytes_leave_in_order_and_events_are_counted(
        pushes in proptest::collection::vec((0usize..4000, any::<bool>(), 0usize..6000, 0..4u8), 1..40)
    ) {
        let mut outbox = Outbox::default();
        let mut room = Room(0, vec![]);
        let (mut expected, mut messages, mut all, mut reported) = (vec![], vec![], vec![], 0);
        for (n, (size, large, more_room, kind)) in pushes.into_iter().enumerate() {
            let message = event(n as u8, size);
            if kind == 3 {
                expected.extend_from_slice(b"\x01\0");
            }
            expected.extend_from_slice(&message);
            let is_event = kind > 0;
            messages.push((expected.len(), is_event));
            all.push(Unwritten { message: message.clone(), is_event });
            let backing = message.len() * if large { 100 } else { 1 };
            match kind {
                0 if large => outbox.push_joined([&message[..1], &message[1..], &[], &[]]),
                1 => outbox.push_copy(&message, 1),
                3 => outbox.push_behind(*b"\x01\0", &message),
                _ => outbox.push(&message, 0..message.len(), is_event.into(), backing),
            }
            let events = || messages.iter().filter(|(_, is_event)| *is_event);
            room.0 += more_room;
            let written = outbox.write_to(|slices| room.write(slices)).unwrap();
            reported += written.events as usize;
            prop_assert_eq!(written.blocked, outbox.bytes() > 0);
            prop_assert_eq!(outbox.bytes(), expected.len() - room.1.len());
            prop_assert!(outbox.segments.iter().all(|s| !s.pins()) || !written.blocked);
            let whole = events().filter(|(end, _)| *end <= room.1.len()).count();
            prop_assert!(reported <= whole);
            prop_assert_eq!(outbox.events() as usize + reported, events().count());
        }
        let whole = messages.iter().filter(|(end, _)| *end <= room.1.len()).count();
        let whole_events = messages[..whole].iter().filter(|(_, is_event)| *is_event).count();
        let (unwritten, late) = outbox.take_unwritten();
        prop_assert_eq!(reported + late as usize, whole_events);
        prop_assert_eq!(&unwritten[..], &all[whole..]);
        prop_assert!(outbox.is_empty());
    }
}

#[test]
fn the_oldest_whole_messages_are_shed() {
    let mut outbox = Outbox::default();
    for n in 0..10 {
        let message = event(n, 3000);
        outbox.push(&message, 0..message.len(), 1, 3000);
    }
    let mut room = Room(10, vec![]);
    outbox.write_to(|slices| room.write(slices)).unwrap();
    let dropped = outbox.shed(10_000);
    assert!(outbox.bytes() <= 10_000);
    assert_eq!(dropped + outbox.events(), 10);
    room.0 = usize::MAX;
    outbox.write_to(|slices| room.write(slices)).unwrap();
    assert_eq!(
        room.1[..event(0, 3000).len()],
        event(0, 3000),
        "the one in progress stays whole"
    );
    assert_eq!(room.1[room.1.len() - 3000..], [9; 3000]);
}

#[test]
fn what_was_written_before_an_error_is_told() {
    let mut outbox = Outbox::default();
    for n in 0..3 {
        outbox.push_copy(&event(n, 10), 1);
    }
    let mut takes = [event(0, 10).len() + 1].into_iter();
    let result = outbox.write_to(|_| takes.next().ok_or(io::ErrorKind::BrokenPipe.into()));
    assert!(result.is_err());
    assert_eq!(outbox.events(), 3);
    let (unwritten, written) = outbox.take_unwritten();
    assert_eq!(unwritten, [1, 2].map(|n| unwritten_event(&event(n, 10))));
    assert_eq!(written, 1);
}

fn unwritten_event(message: &Bytes) -> Unwritten {
    Unwritten {
        message: message.clone(),
        is_event: true,
    }
}

#[test]
fn commands_are_not_taken_for_events() {
    let mut outbox = Outbox::default();
    outbox.push_commands(&[4, 5, 4, b'P', b'I', b'N', b'G']);
    outbox.push_copy(&event(1, 10), 1);
    let only = vec![unwritten_event(&event(1, 10))];
    assert_eq!(outbox.take_unwritten(), (only, 0));
}

#[test]
fn an_idle_outbox_holds_little() {
    let mut outbox = Outbox::default();
    for _ in 0..60 {
        outbox.push_copy(&event(1, 900), 1);
    }
    outbox
        .write_to(|slices| Ok(slices.iter().map(|s| s.len()).sum()))
        .unwrap();
    assert!(outbox.is_empty() && outbox.tail.capacity() <= IDLE_BYTES_MAX);
}
