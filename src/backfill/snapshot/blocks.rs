//! The blocks of a CAR, taken as its bytes arrive, and found by their CIDs.
//!
//! Every block is hashed. Sections are kept as they came, each CID with its block.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::SnapshotError;
use super::arena::{MAX_ARENA, MAX_PLACE, Place};
use super::budget::{Budget, Share};
use super::sections::Sections;
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
    /// Blocks that were taken, each as often as it was sent.
    blocks: u64,
    sections: Sections,
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
            blocks: 0,
            sections: Sections::new(folder.into()),
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
                    let block_len = *block_len;
                    let (section, after) = split(bytes, CID_LEN + block_len);
                    // Most come whole.
                    if self.head.is_empty() && section.len() as u64 == CID_LEN + block_len {
                        self.whole_section(section)?;
                        after
                    } else {
                        let (now, later) = split(bytes, CID_LEN - self.head.len() as u64);
                        self.head.extend_from_slice(now);
                        if self.head.len() == Cid::LEN {
                            self.block_begins(block_len)?;
                        }
                        later
                    }
                }
                State::Block {
                    cid,
                    hash,
                    left,
                    place,
                } => {
                    let (now, later) = split(bytes, *left);
                    hash.update(now);
                    self.sections.append(now, &mut self.share)?;
                    *left -= now.len() as u64;
                    if *left == 0 {
                        let (cid, place) = (*cid, *place);
                        let hash = std::mem::take(hash).finalize();
                        self.block_ends(&cid, hash.into(), place)?;
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
        if self.blocks >= blocks {
            return Err(SnapshotError::TooManyBlocks(blocks));
        }
        Ok(State::Cid { block_len })
    }

    fn whole_section(&mut self, section: &[u8]) -> Result<(), SnapshotError> {
        let (head, block) = section.split_at_checked(Cid::LEN).unwrap_or_default();
        let cid = Cid::from_bytes(head).ok_or(bad_car(CarError::BadCid))?;
        let place = Place::new(self.sections.bytes(), section.len() as u64);
        self.sections.append(section, &mut self.share)?;
        self.block_ends(&cid, Sha256::digest(block).into(), place)
    }

    fn block_begins(&mut self, left: u64) -> Result<(), SnapshotError> {
        let cid = Cid::from_bytes(&self.head).ok_or(bad_car(CarError::BadCid))?;
        let place = Place::new(self.sections.bytes(), CID_LEN + left);
        self.sections.append(&self.head, &mut self.share)?;
        let hash = Sha256::new();
        if left == 0 {
            return self.block_ends(&cid, hash.finalize().into(), place);
        }
        self.state = State::Block {
            cid,
            hash,
            left,
            place,
        };
        Ok(())
    }

    fn block_ends(&mut self, cid: &Cid, hash: [u8; 32], place: Place) -> Result<(), SnapshotError> {
        if hash != *cid.hash() {
            return Err(SnapshotError::BadCid(*cid));
        }
        self.blocks += 1;
        self.sections.insert(cid, place, &mut self.share)?;
        self.state = BETWEEN;
        Ok(())
    }

    /// Bytes that were taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the CAR, which must be at the end of a section.
    pub fn finish(self) -> Result<Blocks, SnapshotError> {
        let between = matches!(self.state, State::Length { shift: 0, .. });
        let (Some(root), true, false) = (self.root, between, self.failed) else {
            return Err(SnapshotError::Truncated);
        };
        Ok(Blocks {
            root,
            bytes: self.bytes,
            sections: self.sections,
            share: self.share,
        })
    }
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

/// All blocks of a CAR.
#[derive(Debug)]
pub struct Blocks {
    root: Cid,
    bytes: u64,
    sections: Sections,
    share: Share,
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
        self.sections.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether some of it is in a file.
    pub fn spilled(&self) -> bool {
        self.sections.spilled()
    }

    /// A block. `buffer` is used where it does not lie in memory in one piece.
    pub fn get<'a>(
        &'a self,
        cid: &Cid,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, SnapshotError> {
        let Some(place) = self.sections.find(cid)? else {
            return Ok(None);
        };
        self.sections.load(place, buffer)?;
        Ok(Some(self.sections.block(place, buffer)))
    }

    pub(super) fn sections(&self) -> &Sections {
        &self.sections
    }

    /// Hands on what was taken of the budget, to whoever keeps the blocks.
    pub(super) fn take_share(&mut self) -> Share {
        self.share.take()
    }
}
