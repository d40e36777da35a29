//! The sections of a CAR, each a CID and its block, found by their CIDs.

use std::path::PathBuf;

use super::SnapshotError;
use super::arena::{Arena, Place};
use super::budget::Share;
use super::index::Index;
use crate::decode::Cid;

/// The sections: their bytes as they came, and where they are.
#[derive(Debug)]
pub(super) struct Sections {
    arena: Arena,
    index: Index,
}

impl Sections {
    /// None. The temporary file, if one is needed, is made in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            arena: Arena::new(folder),
            index: Index::new(),
        }
    }

    /// Bytes that were appended.
    pub fn bytes(&self) -> u64 {
        self.arena.len()
    }

    /// How many different ones there are.
    pub fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// Whether some of it is in a file.
    pub fn spilled(&self) -> bool {
        self.arena.spilled()
    }

    /// Appends bytes of a section.
    pub fn append(&mut self, bytes: &[u8], share: &mut Share) -> Result<(), SnapshotError> {
        self.arena.append(bytes, share)
    }

    /// Lets a section that was appended be found, unless the same was before: a search never passes many that are the same.
    pub fn insert(
        &mut self,
        cid: &Cid,
        section: Place,
        share: &mut Share,
    ) -> Result<(), SnapshotError> {
        if self.find(cid)?.is_some() {
            return Ok(());
        }
        if self.index.is_full() {
            self.grow_index(share)?;
        }
        self.index.insert(prefix(cid), section);
        Ok(())
    }

    /// The index can't be anywhere but in memory: for it, blocks go to the file.
    fn grow_index(&mut self, share: &mut Share) -> Result<(), SnapshotError> {
        let (old, new) = (self.index.bytes(), self.index.grown_bytes());
        // Both are there while one is copied to the other.
        if !share.try_take(new) {
            self.arena.spill(share)?;
            if !share.try_take(new) {
                return Err(SnapshotError::NoMemory);
            }
        }
        self.index.grow();
        share.give_back(old);
        Ok(())
    }

    /// Where a block is.
    pub fn find(&self, cid: &Cid) -> Result<Option<Place>, SnapshotError> {
        let whole = cid.to_bytes();
        for section in self.index.find(prefix(cid)) {
            if let Some(block) = self.block_of(section, &whole)? {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Where blocks are, in the order of their CIDs. Faster than one by one: no search waits for the memory of the one before.
    pub fn find_all(
        &self,
        cids: &[Cid],
        places: &mut Vec<Option<Place>>,
    ) -> Result<(), SnapshotError> {
        places.clear();
        // Almost always the only one with its prefix, but that it is the right one is for the CID to say.
        places.extend(cids.iter().map(|cid| self.index.find(prefix(cid)).next()));
        for (cid, place) in cids.iter().zip(places) {
            if let Some(section) = *place {
                *place = match self.block_of(section, &cid.to_bytes())? {
                    None => self.find(cid)?,
                    found => found,
                };
            }
        }
        Ok(())
    }

    /// The block of a section, if that begins with a CID.
    #[inline]
    fn block_of(
        &self,
        section: Place,
        cid: &[u8; Cid::LEN],
    ) -> Result<Option<Place>, SnapshotError> {
        let (head, block) = section.split(Cid::LEN);
        let mut buffer = Vec::new();
        self.arena.load(head, &mut buffer)?;
        let found = self.arena.loaded(head, &buffer).first_chunk();
        Ok((found == Some(cid)).then_some(block))
    }

    /// Gets a block ready for [`Sections::block`] with the same buffer.
    #[inline]
    pub fn load(&self, block: Place, buffer: &mut Vec<u8>) -> Result<(), SnapshotError> {
        Ok(self.arena.load(block, buffer)?)
    }

    /// A block that was loaded.
    #[inline]
    pub fn block<'a>(&'a self, block: Place, buffer: &'a [u8]) -> &'a [u8] {
        self.arena.loaded(block, buffer)
    }
}

fn prefix(cid: &Cid) -> u64 {
    let first = cid.hash().first_chunk().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}
