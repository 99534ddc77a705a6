//! A disk in memory that loses, tears and refuses what a real one may.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use super::directory::{Directory, SegmentFile};

const SECTOR: usize = 512;
const RESERVE: &str = "reserve";

/// Numbers that depend on nothing but the seed (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }
}

#[derive(Debug, Default, Clone)]
struct Inode {
    /// What is read.
    cache: Vec<u8>,
    /// What a crash leaves.
    durable: Vec<u8>,
    /// Sectors of the cache that were not written to the disk.
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn write_back(&mut self, sector: usize) {
        let (start, end) = (sector * SECTOR, self.cache.len().min((sector + 1) * SECTOR));
        if start < end {
            self.durable.resize(self.durable.len().max(end), 0);
            self.durable[start..end].copy_from_slice(&self.cache[start..end]);
        }
    }

    /// Writes back any of the dirty sectors; the others count as written.
    fn write_back_some(&mut self, rng: &mut Rng) {
        if rng.one_in(2) {
            self.durable.truncate(self.cache.len());
        }
        for sector in std::mem::take(&mut self.dirty) {
            if rng.one_in(2) {
                self.write_back(sector);
            }
        }
        if rng.one_in(4) && self.durable.len() < self.cache.len() {
            self.durable.resize(self.cache.len(), 0);
        }
    }
}

#[derive(Debug)]
struct State {
    rng: Rng,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Creations and removals that were not synced.
    pending: Vec<(String, Option<usize>)>,
    /// Removed files that are created again with what they have; the second ones when the directory
    /// was synced.
    spares: Vec<usize>,
    removed: Vec<usize>,
    /// A write or sync fails once in so many; 0: never.
    fails_one_in: u64,
    /// A read fails once in so many; 0: never.
    reads_fail_one_in: u64,
    /// Syncs that still work; then nothing but writing does.
    syncs_left: Option<u64>,
    bytes_max: usize,
    /// A file that grows has zeros behind what is written.
    takes_space_ahead: bool,
    unreadable: Option<(String, u64)>,
}

impl State {
    fn fails(&mut self) -> bool {
        self.syncs_left == Some(0) || (self.fails_one_in > 0 && self.rng.one_in(self.fails_one_in))
    }

    fn sync_fails(&mut self) -> bool {
        let fails = self.fails();
        self.syncs_left = self.syncs_left.map(|left| left.saturating_sub(1));
        fails
    }

    fn used(&self) -> usize {
        let named = self.names.values().chain(&self.spares).chain(&self.removed);
        named.map(|n| self.inodes[*n].cache.len()).sum()
    }
}

/// The disk, and the directory on it. Clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk(Rc<RefCell<State>>);

#[derive(Debug)]
pub(crate) struct SimFile {
    disk: SimDisk,
    inode: usize,
}

fn eio() -> io::Error {
    io::Error::other("injected EIO")
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            rng: Rng(seed),
            inodes: vec![],
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: vec![],
            spares: vec![],
            removed: vec![],
            fails_one_in: 0,
            reads_fail_one_in: 0,
            syncs_left: None,
            bytes_max: usize::MAX,
            takes_space_ahead: false,
            unreadable: None,
        })))
    }

    /// Lets one write or sync in `n` fail; 0: none.
    pub(crate) fn fail_one_in(&self, n: u64) {
        let mut state = self.0.borrow_mut();
        state.fails_one_in = n;
        state.syncs_left = None;
    }

    /// Lets one read in `n` fail; 0: none.
    pub(crate) fn fail_reads_one_in(&self, n: u64) {
        self.0.borrow_mut().reads_fail_one_in = n;
    }

    /// Whether reads may fail.
    pub(crate) fn fails_reads(&self) -> bool {
        self.0.borrow().reads_fail_one_in > 0
    }

    /// Lets so many syncs succeed, and from then on nothing that isn't a write.
    pub(crate) fn fail_syncs_after(&self, syncs: u64) {
        self.0.borrow_mut().syncs_left = Some(syncs);
    }

    /// From now on a file that grows has zeros behind what is written.
    pub(crate) fn take_space_ahead(&self) {
        self.0.borrow_mut().takes_space_ahead = true;
    }

    /// Leaves so much room.
    pub(crate) fn leave_room(&self, bytes: usize) {
        let mut state = self.0.borrow_mut();
        state.bytes_max = state.used().saturating_add(bytes);
    }

    /// The byte of this file can't be read.
    pub(crate) fn make_unreadable(&self, name: &str, offset: u64) {
        self.0.borrow_mut().unreadable = Some((name.into(), offset));
    }

    /// It can be read again.
    pub(crate) fn make_readable(&self) {
        self.0.borrow_mut().unreadable = None;
    }

    /// The power fails: of what was not synced, anything may be lost.
    pub(crate) fn crash(&self) {
        let mut state = self.0.borrow_mut();
        let State {
            rng,
            inodes,
            names,
            durable_names,
            pending,
            removed,
            ..
        } = &mut *state;
        removed.clear();
        for (name, inode) in pending.drain(..) {
            if rng.one_in(2) {
                match inode {
                    Some(inode) => durable_names.insert(name, inode),
                    None => durable_names.remove(&name),
                };
            }
        }
        names.clone_from(durable_names);
        for inode in inodes {
            inode.write_back_some(rng);
            inode.cache.clone_from(&inode.durable);
        }
    }

    /// Changes a bit of a file, in memory and on the disk.
    pub(crate) fn flip(&self, name: &str, offset: usize, bit: u32) {
        let mut state = self.0.borrow_mut();
        let inode = state.names[name];
        let Inode { cache, durable, .. } = &mut state.inodes[inode];
        for bytes in [cache, durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// Somebody puts a file there, unless there is one of that name.
    pub(crate) fn put(&self, name: &str, content: &[u8]) -> bool {
        let mut state = self.0.borrow_mut();
        if state.names.contains_key(name) || state.durable_names.contains_key(name) {
            return false;
        }
        // What happened to the name before can't come after it.
        state.pending.retain(|(pending, _)| pending != name);
        let inode = state.inodes.len();
        state.inodes.push(Inode {
            cache: content.to_vec(),
            durable: content.to_vec(),
            dirty: BTreeSet::new(),
        });
        state.names.insert(name.into(), inode);
        state.durable_names.insert(name.into(), inode);
        true
    }

    pub(crate) fn contents(&self) -> Vec<Vec<u8>> {
        let state = self.0.borrow();
        let inodes = state.names.values();
        inodes
            .map(|inode| state.inodes[*inode].cache.clone())
            .collect()
    }

    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.0.borrow();
        let inode = state.names.get(name)?;
        Some(state.inodes[*inode].cache.clone())
    }
}

impl Directory for SimDisk {
    type File = SimFile;

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = self.0.borrow().names.keys().cloned().collect();
        names.retain(|name| name != RESERVE);
        names.reverse();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.0.borrow_mut();
        if state.used() >= state.bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let reused = state.spares.pop();
        let inode = reused.unwrap_or(state.inodes.len());
        if reused.is_none() {
            state.inodes.push(Inode::default());
        }
        state.names.insert(name.into(), inode);
        state.pending.push((name.into(), Some(inode)));
        if state.fails() {
            return Err(eio());
        }
        drop(state);
        Ok(SimFile {
            disk: self.clone(),
            inode,
        })
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.names.contains_key(RESERVE) {
            return Ok(());
        }
        if state.fails() {
            return Err(eio());
        }
        if state.used() + bytes as usize > state.bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode {
            cache: vec![0; bytes as usize],
            durable: vec![0; bytes as usize],
            dirty: BTreeSet::new(),
        });
        state.names.insert(RESERVE.into(), inode);
        state.durable_names.insert(RESERVE.into(), inode);
        Ok(())
    }

    fn create_reserved(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.0.borrow_mut();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.names.remove(RESERVE).ok_or(io::ErrorKind::NotFound)?;
        state.durable_names.remove(RESERVE);
        state.names.insert(name.into(), inode);
        state.pending.push((name.into(), Some(inode)));
        if state.fails() {
            return Err(eio());
        }
        drop(state);
        Ok(SimFile {
            disk: self.clone(),
            inode,
        })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let inode = self.0.borrow().names.get(name).copied();
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile {
            disk: self.clone(),
            inode,
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.fails() {
            return Err(eio());
        }
        let Some(inode) = state.names.remove(name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if state.rng.one_in(2) {
            state.removed.push(inode);
        }
        state.pending.push((name.into(), None));
        Ok(())
    }

    fn set_aside(&self, name: &str) -> io::Result<String> {
        let mut state = self.0.borrow_mut();
        if state.fails() {
            return Err(eio());
        }
        let aside = (0..).map(|n| format!("{name}.refused-{n}"));
        let aside = aside
            .into_iter()
            .find(|aside| !state.names.contains_key(aside));
        let aside = aside.unwrap();
        let inode = state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(aside.clone(), inode);
        state.durable_names.remove(name);
        state.durable_names.insert(aside.clone(), inode);
        Ok(aside)
    }

    fn give_back(&self) {
        let mut state = self.0.borrow_mut();
        state.spares.clear();
        state.removed.clear();
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.sync_fails() {
            return Err(eio());
        }
        state.pending.clear();
        state.durable_names = state.names.clone();
        let State {
            spares, removed, ..
        } = &mut *state;
        spares.append(removed);
        Ok(())
    }
}

impl SegmentFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.0.borrow().inodes[self.inode].cache.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        let (offset, end) = (offset as usize, offset as usize + into.len());
        let one_in = state.reads_fail_one_in;
        if one_in > 0 && state.rng.one_in(one_in) {
            return Err(eio());
        }
        if let Some((name, at)) = &state.unreadable
            && state.names.get(name) == Some(&self.inode)
            && (offset..end).contains(&(*at as usize))
        {
            return Err(eio());
        }
        let bytes = state.inodes[self.inode].cache.get(offset..end);
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        let fails = state.syncs_left.is_none() && state.fails();
        let offset = offset as usize;
        let mut room = state.bytes_max.saturating_sub(state.used());
        let (len, end) = (state.inodes[self.inode].cache.len(), offset + bytes.len());
        if state.takes_space_ahead && end > len {
            let to = end + state.rng.below(2000) as usize;
            let more = room.min(to - len);
            room -= more;
            let inode = &mut state.inodes[self.inode];
            inode.cache.resize(len + more, 0);
            inode
                .dirty
                .extend(len / SECTOR..(len + more).div_ceil(SECTOR));
        }
        let grows_from = state.inodes[self.inode].cache.len().max(offset);
        let mut writable = bytes.len().min(grows_from - offset + room);
        if fails {
            writable = state.rng.below(writable as u64 + 1) as usize;
        }
        let inode = &mut state.inodes[self.inode];
        let end = offset + writable;
        inode.cache.resize(inode.cache.len().max(end), 0);
        inode.cache[offset..end].copy_from_slice(&bytes[..writable]);
        inode.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
        if fails {
            return Err(eio());
        }
        if writable < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn hollow(&self, from: u64) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        if state.fails() {
            return Err(eio());
        }
        let inode = &mut state.inodes[self.inode];
        let (from, end) = (from as usize, inode.cache.len());
        inode.cache[from.min(end)..].fill(0);
        inode.dirty.extend(from / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        if state.fails() {
            return Err(eio());
        }
        state.inodes[self.inode].cache.resize(bytes as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        let fails = state.sync_fails();
        let State { rng, inodes, .. } = &mut *state;
        let inode = &mut inodes[self.inode];
        if fails {
            // The kernel takes them for clean: they can be read, and are lost.
            inode.write_back_some(rng);
            return Err(eio());
        }
        inode.durable.truncate(inode.cache.len());
        for sector in std::mem::take(&mut inode.dirty) {
            inode.write_back(sector);
        }
        Ok(())
    }
}
