//! How much of what waits for the disk is whose, of clients that have names: none takes more of the room
//! than it leaves to others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use event_manager_core::queues::{APPENDING_BYTES_MAX, EmissionId};
use event_manager_core::security::Identity;

/// Above what everybody's events may take, there is room for those of clients that have little there.
const ROOM_BYTES: usize = APPENDING_BYTES_MAX + APPENDING_BYTES_MAX / 2;

/// An emission that waits, and how many queues have not told of it.
struct Waiting {
    client: Identity,
    bytes: usize,
    awaited: usize,
}

/// All that waits for the disk and was emitted by clients that have names.
#[derive(Default)]
pub(crate) struct Appending {
    waiting: HashMap<EmissionId, Waiting>,
    bytes_of: HashMap<Identity, usize>,
}

impl Appending {
    /// Whether the client may have this much wait as well, where so much waits of all.
    pub(crate) fn has_room(&self, client: &Identity, bytes: usize, waiting: usize) -> bool {
        let own = self.bytes_of.get(client).copied().unwrap_or_default();
        own + bytes <= ROOM_BYTES.saturating_sub(waiting)
    }

    /// An emission of the client waits, until so many queues have told of it.
    pub(crate) fn add(
        &mut self,
        number: EmissionId,
        client: &Identity,
        bytes: usize,
        awaited: usize,
    ) {
        if awaited > 0 {
            *self.bytes_of.entry(client.clone()).or_default() += bytes;
            let client = client.clone();
            self.waiting.insert(
                number,
                Waiting {
                    client,
                    bytes,
                    awaited,
                },
            );
        }
    }

    /// One of its queues has told: with the last one, it waits no more.
    pub(crate) fn told(&mut self, number: EmissionId) {
        let Entry::Occupied(mut found) = self.waiting.entry(number) else {
            return;
        };
        found.get_mut().awaited -= 1;
        if found.get().awaited > 0 {
            return;
        }
        let Waiting { client, bytes, .. } = found.remove();
        if let Entry::Occupied(mut own) = self.bytes_of.entry(client) {
            *own.get_mut() -= bytes;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn client(name: &str) -> Identity {
        Identity::Client(name.into())
    }

    #[test]
    fn who_floods_the_disk_leaves_room_to_others() {
        let mut appending = Appending::default();
        let mut waiting = 0;
        let mut number = 0;
        let mut emit = |appending: &mut Appending, name: &str| {
            let has_room =
                waiting <= APPENDING_BYTES_MAX || appending.has_room(&client(name), MIB, waiting);
            if has_room {
                number += 1;
                waiting += MIB;
                appending.add(EmissionId(number), &client(name), MIB, 1);
            }
            has_room
        };
        let flooded = (0..100).filter(|_| emit(&mut appending, "flooding"));
        assert_eq!(flooded.count() * MIB, APPENDING_BYTES_MAX + MIB);
        // Two others have half of what is left, then a quarter.
        let first = (0..100).filter(|_| emit(&mut appending, "first")).count();
        let second = (0..100).filter(|_| emit(&mut appending, "second")).count();
        assert_eq!((first, second), (8, 4));
        // What is on disk is nobody's any more.
        (1..=number).for_each(|number| appending.told(EmissionId(number)));
        assert!(appending.waiting.is_empty() && appending.bytes_of.is_empty());
    }

    #[test]
    fn an_event_of_several_queues_waits_until_all_have_told() {
        let mut appending = Appending::default();
        appending.add(EmissionId(1), &client("a"), 2 * MIB, 2);
        assert!(!appending.has_room(&client("a"), MIB, ROOM_BYTES - 2 * MIB));
        appending.told(EmissionId(1));
        assert!(!appending.has_room(&client("a"), MIB, ROOM_BYTES - 2 * MIB));
        appending.told(EmissionId(1));
        assert!(appending.has_room(&client("a"), MIB, ROOM_BYTES - 2 * MIB));
        // Of those that no client emitted, nothing is known.
        appending.told(EmissionId(2));
        appending.add(EmissionId(3), &client("a"), MIB, 0);
        assert!(appending.waiting.is_empty() && appending.bytes_of.is_empty());
    }
}
