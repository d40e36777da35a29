//! The blocks of one frame: read once, hashed as they are read, found by their CIDs.

use super::car::{Block, Car};
use super::error::DecodeError;
use super::ops::Span;
use super::record::check_record;
use super::{Cid, DecodeOptions, Reason, RecordFault, Verify};

/// A block of the frame.
#[derive(Debug, Clone, Copy)]
struct Entry {
    cid: Cid,
    data: Span,
    /// Whether its bytes were hashed and match.
    verified: bool,
    /// The result of the data model check, once it was made.
    checked: Option<Option<RecordFault>>,
}

/// The blocks of a frame, in buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    entries: Vec<Entry>,
    /// Places in `entries`, sorted by CID; empty until there is much to look up.
    sorted: Vec<u32>,
}

/// Up to this many comparisons are cheaper than sorting.
const FEW_COMPARISONS: usize = 2048;

impl BlockTable {
    /// Reads the blocks of a CAR at `blocks`, and hashes each under [`Verify::All`]. `lookups` is how many will be looked up.
    pub(crate) fn read(
        &mut self,
        frame: &[u8],
        blocks: Span,
        car: &Car<'_>,
        verify: Verify,
        lookups: usize,
        limit: usize,
    ) -> Result<(), DecodeError> {
        self.clear();
        let after = frame.len() - blocks.end();
        let mut sections = car.blocks();
        while let Some(block) = sections.next() {
            let block = block?;
            if self.entries.len() >= limit {
                let detail = format!("more than {limit} blocks");
                return Err(DecodeError::new(Reason::TooLarge, detail));
            }
            let verified = verify == Verify::All;
            if verified && !block.verify() {
                return Err(mismatch(block.cid));
            }
            self.entries.push(Entry {
                cid: block.cid,
                data: Span::before(frame, after + sections.remaining(), block.data.len()),
                verified,
                checked: None,
            });
        }
        if self.entries.len().saturating_mul(lookups) > FEW_COMPARISONS {
            self.sort();
        }
        Ok(())
    }

    /// Forgets the blocks.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.sorted.clear();
    }

    fn sort(&mut self) {
        let entries = &self.entries;
        let cid = |at: u32| entries.get(at as usize).map(|entry| entry.cid);
        self.sorted
            .extend(0..u32::try_from(entries.len()).unwrap_or(u32::MAX));
        self.sorted.sort_unstable_by_key(|at| (cid(*at), *at));
    }

    /// The first block of this CID.
    #[inline]
    fn find(&mut self, cid: &Cid) -> Option<&mut Entry> {
        if self.sorted.is_empty() {
            return self.entries.iter_mut().find(|entry| entry.cid == *cid);
        }
        let entries = &self.entries;
        let at = self.sorted.partition_point(|at| {
            entries
                .get(*at as usize)
                .is_some_and(|entry| entry.cid < *cid)
        });
        let at = *self.sorted.get(at)?;
        self.entries
            .get_mut(at as usize)
            .filter(|entry| entry.cid == *cid)
    }

    /// The bytes of a block, verified unless that is off; `None` if the frame has none of this CID.
    pub(crate) fn block(
        &mut self,
        frame: &[u8],
        cid: Cid,
        verify: Verify,
    ) -> Result<Option<Span>, DecodeError> {
        let Some(entry) = self.find(&cid) else {
            return Ok(None);
        };
        entry.ensure_verified(frame, verify)?;
        Ok(Some(entry.data))
    }

    /// As [`BlockTable::block`], with the result of the data model check if it is asked for. The work is done once for each block, however
    /// many operations name it.
    pub(crate) fn record(
        &mut self,
        frame: &[u8],
        cid: Cid,
        options: &DecodeOptions,
    ) -> Result<Option<(Span, Option<RecordFault>)>, DecodeError> {
        let Some(entry) = self.find(&cid) else {
            return Ok(None);
        };
        entry.ensure_verified(frame, options.verify)?;
        let fault = if options.check_records {
            *entry
                .checked
                .get_or_insert_with(|| check_record(entry.data.of(frame)))
        } else {
            None
        };
        Ok(Some((entry.data, fault)))
    }
}

impl Entry {
    #[inline]
    fn ensure_verified(&mut self, frame: &[u8], verify: Verify) -> Result<(), DecodeError> {
        if verify == Verify::None || self.verified {
            return Ok(());
        }
        if !(Block {
            cid: self.cid,
            data: self.data.of(frame),
        })
        .verify()
        {
            return Err(mismatch(self.cid));
        }
        self.verified = true;
        Ok(())
    }
}

#[cold]
fn mismatch(cid: Cid) -> DecodeError {
    DecodeError::new(
        Reason::CidMismatch,
        format!("the bytes of block {cid} have another hash"),
    )
}
