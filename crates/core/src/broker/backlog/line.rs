//! A line of many items that grows and shrinks in pieces.
//!
//! In one piece of memory, a line that grows is copied into one of twice the size, again and again: a million
//! items would need the memory of two million, and for a moment that of three.

use std::collections::VecDeque;

/// How many items a piece has room for.
const PIECE: usize = if cfg!(test) { 4 } else { 512 };

/// A queue with two ends. No piece of it is empty.
#[derive(Debug)]
pub(super) struct Line<T> {
    pieces: VecDeque<VecDeque<T>>,
    len: usize,
    /// A piece that was emptied, for the next that is needed.
    spare: Option<VecDeque<T>>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            pieces: VecDeque::new(),
            len: 0,
            spare: None,
        }
    }
}

impl<T> Line<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.pieces.front()?.front()
    }

    pub(super) fn back(&self) -> Option<&T> {
        self.pieces.back()?.back()
    }

    pub(super) fn push_back(&mut self, item: T) {
        self.len += 1;
        match self.pieces.back_mut() {
            Some(piece) if piece.len() < PIECE => piece.push_back(item),
            _ => {
                let piece = self.piece_of(item);
                self.pieces.push_back(piece);
            }
        }
    }

    pub(super) fn push_front(&mut self, item: T) {
        self.len += 1;
        match self.pieces.front_mut() {
            Some(piece) if piece.len() < PIECE => piece.push_front(item),
            _ => {
                let piece = self.piece_of(item);
                self.pieces.push_front(piece);
            }
        }
    }

    fn piece_of(&mut self, item: T) -> VecDeque<T> {
        let mut piece = match self.spare.take() {
            Some(spare) => spare,
            // A short line, of which there are many, is not to have a piece that is nearly empty.
            None if self.pieces.is_empty() => VecDeque::new(),
            None => VecDeque::with_capacity(PIECE),
        };
        piece.push_back(item);
        piece
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let piece = self.pieces.front_mut()?;
        let item = piece.pop_front();
        if piece.is_empty() {
            self.spare = self.pieces.pop_front();
        }
        self.len -= usize::from(item.is_some());
        item
    }

    pub(super) fn pop_back(&mut self) -> Option<T> {
        let piece = self.pieces.back_mut()?;
        let item = piece.pop_back();
        if piece.is_empty() {
            self.spare = self.pieces.pop_back();
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// Takes the item with this key out of the middle. They are in the order of their keys.
    pub(super) fn remove_by_key<K: Ord>(&mut self, key: &K, of: impl Fn(&T) -> K) -> Option<T> {
        let ends_before = |piece: &VecDeque<T>| piece.back().is_some_and(|last| of(last) < *key);
        let at = self.pieces.partition_point(ends_before);
        let piece = self.pieces.get_mut(at)?;
        let found = piece.binary_search_by_key(key, of).ok()?;
        let item = piece.remove(found);
        if piece.is_empty() {
            self.pieces.remove(at);
        }
        self.len -= usize::from(item.is_some());
        item
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_has_what_a_sorted_list_has(
            steps in prop::collection::vec((0..5_u8, any::<prop::sample::Index>()), 0..200),
        ) {
            let (mut line, mut list) = (Line::default(), BTreeSet::new());
            let (mut front, mut back) = (0, 0);
            for (what, which) in steps {
                match what {
                    0 => {
                        front -= 1;
                        line.push_front(front);
                        list.insert(front);
                    }
                    1 => {
                        back += 1;
                        line.push_back(back);
                        list.insert(back);
                    }
                    2 => prop_assert_eq!(line.pop_front(), list.pop_first()),
                    3 => prop_assert_eq!(line.pop_back(), list.pop_last()),
                    _ => {
                        let key = front - 1 + which.index((back - front + 3) as usize) as i32;
                        let taken = line.remove_by_key(&key, |item| *item);
                        prop_assert_eq!(taken, list.take(&key));
                    }
                }
                prop_assert_eq!(line.front(), list.first());
                prop_assert_eq!(line.back(), list.last());
                prop_assert_eq!(line.len(), list.len());
                prop_assert!(line.pieces.iter().all(|piece| !piece.is_empty()));
            }
        }
    }
}
