//! The blocks of a CAR, taken as its bytes arrive, and found by their CIDs.
//!
//! Every block is hashed. Sections are kept as they came, each CID with its block; the index has 16 bytes for each: the first 8 bytes of
//! the hash and the place. It is sorted at the end, so that no choice of hashes makes it slow.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::SnapshotError;
use super::arena::{Arena, MAX_ARENA, MAX_PLACE, Place};
use super::budget::{Budget, Share};
use crate::decode::Cid;
use crate::decode::car::{CarError, header_roots};

/// What a CAR may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarLimits {
    /// Bytes of the CAR; at most 4 TiB.
    pub bytes: u64,
    /// Blocks, each counted as often as it is sent.
    pub blocks: u64,
    /// Bytes of one block; below 4 MiB.
    pub block_bytes: u64,
    /// Bytes of the header.
    pub header_bytes: u64,
}

impl Default for CarLimits {
    fn default() -> Self {
        Self {
            bytes: 16 << 30,
            blocks: 64_000_000,
            block_bytes: 2 << 20,
            header_bytes: 4 << 10,
        }
    }
}

const CID_LEN: u64 = Cid::LEN as u64;

/// What the next byte belongs to.
#[derive(Debug)]
enum State {
    /// The length of a section.
    Length { value: u64, shift: u32 },
    /// The header, of which so many bytes are to come.
    Header { left: u64 },
    /// The CID of a block of this length.
    Cid { block_len: u64 },
    /// A block, of which so many bytes are to come.
    Block {
        cid: Cid,
        hash: Sha256,
        left: u64,
        place: Place,
    },
}

const BETWEEN: State = State::Length { value: 0, shift: 0 };

/// Takes the bytes of a CAR in pieces of any size.
#[derive(Debug)]
pub struct CarReader {
    limits: CarLimits,
    share: Share,
    state: State,
    /// The header or the CID, as far as it has come.
    head: Vec<u8>,
    root: Option<Cid>,
    bytes: u64,
    arena: Arena,
    index: Vec<Entry>,
    failed: bool,
}

impl CarReader {
    /// A reader that takes its memory from `budget` and makes its temporary file, if it needs one, in `folder`.
    pub fn new(budget: &Budget, folder: impl Into<PathBuf>, limits: CarLimits) -> Self {
        let limits = CarLimits {
            bytes: limits.bytes.min(MAX_ARENA),
            block_bytes: limits.block_bytes.min(MAX_PLACE - CID_LEN),
            ..limits
        };
        Self {
            limits,
            share: budget.share(),
            state: BETWEEN,
            head: Vec::new(),
            root: None,
            bytes: 0,
            arena: Arena::new(folder.into()),
            index: Vec::new(),
            failed: false,
        }
    }

    /// Takes the next bytes. May write to a file. After an error nothing more is taken.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.failed {
            return Err(SnapshotError::Truncated);
        }
        let taken = self.take(bytes);
        self.failed = taken.is_err();
        taken
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > self.limits.bytes {
            return Err(too_large("bytes", self.limits.bytes));
        }
        while let Some((first, after)) = bytes.split_first() {
            bytes = match &mut self.state {
                State::Length { value, shift } => {
                    if let Some(len) = length(value, shift, *first)? {
                        self.state = self.section(len)?;
                    }
                    after
                }
                State::Header { left } => {
                    let (now, later) = split(bytes, *left);
                    *left -= now.len() as u64;
                    self.head.extend_from_slice(now);
                    if *left == 0 {
                        let header = header_roots(&self.head);
                        let (root, _) = header.map_err(|_| bad_car(CarError::BadHeader))?;
                        self.root = Some(root);
                        self.state = BETWEEN;
                    }
                    later
                }
                State::Cid { block_len } => {
                    let (now, later) = split(bytes, CID_LEN - self.head.len() as u64);
                    self.head.extend_from_slice(now);
                    if self.head.len() == Cid::LEN {
                        let block_len = *block_len;
                        self.block_begins(block_len)?;
                    }
                    later
                }
                State::Block {
                    cid,
                    hash,
                    left,
                    place,
                } => {
                    let (now, later) = split(bytes, *left);
                    hash.update(now);
                    self.arena.append(now, &mut self.share)?;
                    *left -= now.len() as u64;
                    if *left == 0 {
                        let (cid, place) = (*cid, *place);
                        let hash = std::mem::take(hash);
                        self.block_ends(cid, hash, place)?;
                    }
                    later
                }
            };
        }
        Ok(())
    }

    /// What follows a length.
    fn section(&mut self, len: u64) -> Result<State, SnapshotError> {
        self.head.clear();
        let CarLimits {
            block_bytes,
            header_bytes,
            blocks,
            ..
        } = self.limits;
        if self.root.is_none() {
            return match len {
                0 => Err(bad_car(CarError::BadHeader)),
                len if len > header_bytes => Err(too_large("bytes of a header", header_bytes)),
                left => Ok(State::Header { left }),
            };
        }
        let block_len = len.checked_sub(CID_LEN).ok_or(bad_car(CarError::BadCid))?;
        if block_len > block_bytes {
            return Err(too_large("bytes of a block", block_bytes));
        }
        if self.index.len() as u64 >= blocks {
            return Err(SnapshotError::TooManyBlocks(blocks));
        }
        Ok(State::Cid { block_len })
    }

    fn block_begins(&mut self, left: u64) -> Result<(), SnapshotError> {
        let cid = Cid::from_bytes(&self.head).ok_or(bad_car(CarError::BadCid))?;
        let place = Place::new(self.arena.len(), CID_LEN + left);
        self.arena.append(&self.head, &mut self.share)?;
        let hash = Sha256::new();
        if left == 0 {
            return self.block_ends(cid, hash, place);
        }
        self.state = State::Block {
            cid,
            hash,
            left,
            place,
        };
        Ok(())
    }

    fn block_ends(&mut self, cid: Cid, hash: Sha256, place: Place) -> Result<(), SnapshotError> {
        if <[u8; 32]>::from(hash.finalize()) != *cid.hash() {
            return Err(SnapshotError::BadCid(cid));
        }
        if self.index.len() == self.index.capacity() {
            self.grow_index()?;
        }
        let prefix = prefix(&cid);
        self.index.push(Entry { prefix, place });
        self.state = BETWEEN;
        Ok(())
    }

    /// The index can't be anywhere but in memory: for it, blocks go to the file.
    fn grow_index(&mut self) -> Result<(), SnapshotError> {
        let old = self.index.capacity();
        let new = (old / 2 * 3).max(256);
        let (old_bytes, new_bytes) = (index_bytes(old), index_bytes(new));
        // Both are there while one is copied to the other.
        if !self.share.try_take(new_bytes) {
            self.arena.spill(&mut self.share)?;
            if !self.share.try_take(new_bytes) {
                return Err(SnapshotError::NoMemory);
            }
        }
        self.index.reserve_exact(new - old);
        self.share.give_back(old_bytes);
        Ok(())
    }

    /// Bytes that were taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the CAR, which must be at the end of a section.
    pub fn finish(mut self) -> Result<Blocks, SnapshotError> {
        let between = matches!(self.state, State::Length { shift: 0, .. });
        let (Some(root), true, false) = (self.root, between, self.failed) else {
            return Err(SnapshotError::Truncated);
        };
        self.index.sort_unstable();
        let mut blocks = Blocks {
            root,
            bytes: self.bytes,
            arena: self.arena,
            index: self.index,
            _share: self.share,
        };
        blocks.forget_duplicates()?;
        Ok(blocks)
    }
}

fn index_bytes(entries: usize) -> u64 {
    (entries * size_of::<Entry>()) as u64
}

fn prefix(cid: &Cid) -> u64 {
    let first = cid.hash().first_chunk().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}

fn split(bytes: &[u8], at: u64) -> (&[u8], &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

#[cold]
fn bad_car(error: CarError) -> SnapshotError {
    SnapshotError::BadCar(error)
}

#[cold]
fn too_large(what: &'static str, limit: u64) -> SnapshotError {
    SnapshotError::TooLarge { what, limit }
}

/// Adds a byte to an unsigned LEB128 number of at most 32 bits in its shortest form; the number, if that was its last.
fn length(value: &mut u64, shift: &mut u32, byte: u8) -> Result<Option<u64>, SnapshotError> {
    *value |= u64::from(byte & 127) << *shift;
    let overlong = byte == 0 && *shift > 0;
    if overlong || *shift > 28 || *value > u64::from(u32::MAX) {
        return Err(bad_car(CarError::BadLength));
    }
    *shift += 7;
    Ok((byte & 128 == 0).then_some(*value))
}

/// A block: the first bytes of its hash, and where its CID and itself are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    prefix: u64,
    place: Place,
}

/// All blocks of a CAR.
#[derive(Debug)]
pub struct Blocks {
    root: Cid,
    bytes: u64,
    arena: Arena,
    index: Vec<Entry>,
    _share: Share,
}

impl Blocks {
    /// The first root that the header names.
    pub fn root(&self) -> Cid {
        self.root
    }

    /// Bytes of the CAR.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many different blocks there are.
    pub fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether some of it is in a file.
    pub fn spilled(&self) -> bool {
        self.arena.spilled()
    }

    /// A block. `buffer` is used where it does not lie in memory in one piece.
    #[inline]
    pub fn get<'a>(
        &'a self,
        cid: &Cid,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, SnapshotError> {
        let place = self.find(cid, buffer)?;
        Ok(place.map(|place| self.block(place, buffer)))
    }

    /// Where a block is, for [`Blocks::block`] with the same buffer.
    #[inline]
    pub(super) fn find(
        &self,
        cid: &Cid,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Place>, SnapshotError> {
        let prefix = prefix(cid);
        let from = self.first(prefix);
        for entry in self.index.get(from..).unwrap_or_default() {
            if entry.prefix != prefix {
                break;
            }
            let section = match self.arena.slice(entry.place) {
                Some(section) => section,
                None => {
                    self.arena.read(entry.place, buffer)?;
                    buffer.as_slice()
                }
            };
            if section.starts_with(&cid.to_bytes()) {
                return Ok(Some(entry.place.after(Cid::LEN)));
            }
        }
        Ok(None)
    }

    /// A block that was found, with the buffer of that call.
    #[inline]
    pub(super) fn block<'a>(&'a self, place: Place, buffer: &'a [u8]) -> &'a [u8] {
        let read = || buffer.get(Cid::LEN..).unwrap_or_default();
        self.arena.slice(place).unwrap_or_else(read)
    }

    /// The first entry that is not below a prefix. Hashes are spread evenly, so that it is near where its value says, and nearer
    /// still where its distance from what is there says; if not, this is as slow as a binary search.
    #[inline]
    fn first(&self, prefix: u64) -> usize {
        let len = self.index.len();
        let below = |at: usize| {
            let entry = self.index.get(at);
            entry.is_some_and(|entry| entry.prefix < prefix)
        };
        let entries_of = |distance: u64| {
            let scaled = (u128::from(distance) * len as u128) >> 64;
            usize::try_from(scaled).unwrap_or_default()
        };
        let mut near = entries_of(prefix);
        for _ in 0..2 {
            if let Some(entry) = self.index.get(near) {
                let off = entries_of(prefix.abs_diff(entry.prefix));
                near = if entry.prefix < prefix {
                    (near + off).min(len - 1)
                } else {
                    near.saturating_sub(off)
                };
            }
        }
        let (mut low, mut high, mut step) = (near, near, 4);
        if below(near) {
            while high < len && below(high) {
                (low, high) = (high + 1, high + step);
                step *= 2;
            }
        } else {
            while low > 0 && !below(low) {
                (low, high) = (low.saturating_sub(step), low);
                step *= 2;
            }
        }
        let (low, high) = (low.min(len), high.min(len));
        let between = self.index.get(low..high).unwrap_or_default();
        low + between.partition_point(|entry| entry.prefix < prefix)
    }

    #[inline]
    fn cid_at(&self, place: Place) -> Result<Option<Cid>, SnapshotError> {
        let head = Place::new(place.start(), CID_LEN);
        if let Some(bytes) = self.arena.slice(head) {
            return Ok(Cid::from_bytes(bytes));
        }
        let mut buffer = Vec::with_capacity(Cid::LEN);
        self.arena.read(head, &mut buffer)?;
        Ok(Cid::from_bytes(&buffer))
    }

    /// Keeps the first of each block, so that a lookup never passes many that are the same.
    fn forget_duplicates(&mut self) -> Result<(), SnapshotError> {
        let mut index = std::mem::take(&mut self.index);
        // What was kept of those with the prefix at hand: one, or a few whose hashes collide.
        let (mut kept, mut run) = (0, 0);
        for at in 0..index.len() {
            let Some(entry) = index.get(at).copied() else {
                break;
            };
            let same = index
                .get(run)
                .is_some_and(|first| first.prefix == entry.prefix);
            if run == kept || !same {
                run = kept;
            } else {
                let cid = self.cid_at(entry.place)?;
                let mut known = false;
                for other in index.get(run..kept).unwrap_or_default() {
                    known = known || self.cid_at(other.place)? == cid;
                }
                if known {
                    continue;
                }
            }
            index.swap(kept, at);
            kept += 1;
        }
        index.truncate(kept);
        self.index = index;
        Ok(())
    }
}
