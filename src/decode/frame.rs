//! Frames to events: the header, the message, and for commits the blocks (protocol.md, sections 1, 2 and 5).
//!
//! A [`Decoder`] keeps its buffers from frame to frame, so that a good frame allocates nothing; all that an event holds
//! borrows from the frame or from the decoder.

use super::blocks::BlockTable;
use super::car::Car;
use super::cbor::Cursor;
use super::commit::CommitBlock;
use super::error::DecodeError;
use super::message::{CommitMessage, Fields, Header, parse_rev};
use super::ops::{self, Op, Ops};
use super::peek::Kind;
use super::{Cid, Commit, Event, Reason, Sync, Tid};

/// Which CIDs are recomputed from the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Verify {
    /// Of every block.
    #[default]
    All,
    /// Of the commit and of the records that are stored.
    Records,
    /// Of none: who sends the frames is trusted.
    None,
}

/// The most that a frame may hold. Beyond it, it is quarantined as [`Reason::TooLarge`]. The defaults are a multiple of what the
/// protocol allows (protocol.md, section 1), since relays decide what they let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Operations of a commit.
    pub ops: usize,
    /// Blocks of a commit.
    pub blocks: usize,
    /// Bytes of one record.
    pub record_bytes: usize,
    /// Bytes of all records of a commit together; one block may be the record of several operations.
    pub records_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 16 << 20,
            ops: 8192,
            blocks: 100_000,
            record_bytes: 4 << 20,
            records_bytes: 16 << 20,
        }
    }
}

/// What a [`Decoder`] checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Which CIDs are recomputed.
    pub verify: Verify,
    /// Whether records are checked against the data model, so that `OpView::fault` is set. Off where
    /// [`super::record_to_json`] is called for each record anyhow: it makes the same check in the same pass.
    pub check_records: bool,
    /// Limits on what one frame may hold.
    pub limits: Limits,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            verify: Verify::All,
            check_records: true,
            limits: Limits::default(),
        }
    }
}

/// How far a `rev` may be ahead of the clock, in microseconds.
pub const REV_AHEAD_MICROS: u64 = 5 * 60 * 1_000_000;

/// Decodes frames, one after the other.
#[derive(Debug, Default)]
pub struct Decoder {
    options: DecodeOptions,
    ops: Vec<Op>,
    blocks: BlockTable,
    order: Vec<u32>,
}

impl Decoder {
    /// A decoder with empty buffers.
    pub fn new(options: DecodeOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Decodes a frame: exactly two items of strict DAG-CBOR, the fields of its message checked, and for `#commit` and
    /// `#sync` the blocks checked as [`DecodeOptions`] say. `now_micros` is the wall clock, to refuse a `rev` from the future.
    ///
    /// Tolerated as live relays send it: an empty `since`, any `time`, missing `tooBig`, `rebase`, `blobs`, `prevData` and
    /// op `prev`, unknown fields, and retired types ([`Event::Unknown`]).
    pub fn decode<'a>(
        &'a mut self,
        frame: &'a [u8],
        now_micros: u64,
    ) -> Result<Event<'a>, DecodeError> {
        let limit = self.options.limits.frame_bytes;
        if frame.len() > limit {
            let detail = format!("{} bytes, the limit is {limit}", frame.len());
            return Err(DecodeError::new(Reason::TooLarge, detail));
        }
        let mut cursor = Cursor::new(frame);
        let header = Header::parse(&mut cursor)?;
        match header.kind {
            Kind::Commit => self.commit(frame, cursor, now_micros).map(Event::Commit),
            Kind::Sync => self.sync(frame, cursor, now_micros).map(Event::Sync),
            _ => {
                let fields = Fields::parse(frame, &mut cursor)?;
                fields.into_event(header)
            }
        }
    }

    fn commit<'a>(
        &'a mut self,
        frame: &'a [u8],
        mut cursor: Cursor<'a>,
        now_micros: u64,
    ) -> Result<Commit<'a>, DecodeError> {
        let message =
            CommitMessage::parse(frame, &mut cursor, &mut self.ops, &self.options.limits)?;
        check_rev(message.rev, now_micros)?;
        ops::leave_out_overridden(frame, &mut self.ops, &mut self.order);
        let data = self.open_blocks(frame, &message)?;
        self.find_records(frame, message.too_big)?;
        Ok(Commit {
            seq: message.seq,
            repo: message.repo,
            rev: message.rev,
            since: message.since,
            time: message.time,
            commit: message.commit,
            data,
            prev_data: message.prev_data,
            too_big: message.too_big,
            ops: Ops::new(frame, &self.ops),
        })
    }

    /// Reads the CAR and checks its commit block. Gives the root of the tree.
    fn open_blocks(
        &mut self,
        frame: &[u8],
        message: &CommitMessage<'_>,
    ) -> Result<Option<Cid>, DecodeError> {
        let bytes = message.blocks.of(frame);
        if bytes.is_empty() && message.too_big {
            self.blocks.clear();
            return Ok(None);
        }
        let car = Car::parse(bytes)?;
        if car.root != message.commit {
            return Err(DecodeError::new(
                Reason::BadCar,
                "the first root is not the commit",
            ));
        }
        let Self {
            blocks,
            options,
            ops,
            ..
        } = self;
        let lookups = ops.len() + 1;
        let limit = options.limits.blocks;
        blocks.read(frame, message.blocks, &car, options.verify, lookups, limit)?;
        match blocks.block(frame, message.commit, options.verify)? {
            Some(block) => {
                check_commit(block.of(frame), message.repo, |own| own == message.rev).map(Some)
            }
            None if message.too_big => Ok(None),
            None => Err(DecodeError::new(
                Reason::MissingBlock,
                "the commit's block is missing",
            )),
        }
    }

    /// Finds the record of each create and update.
    fn find_records(&mut self, frame: &[u8], too_big: bool) -> Result<(), DecodeError> {
        let Self {
            options,
            ops,
            blocks,
            ..
        } = self;
        let mut total: usize = 0;
        for op in ops.iter_mut().filter(|op| !op.left_out) {
            let Some(cid) = op.cid else {
                continue;
            };
            match blocks.record(frame, cid, options)? {
                Some((record, fault)) => {
                    total = total.saturating_add(record.len());
                    check_size(record.len(), total, &options.limits)?;
                    op.record = record;
                    op.fault = fault;
                }
                None if too_big => op.left_out = true,
                None => {
                    let detail = format!("the record {cid} is missing");
                    return Err(DecodeError::new(Reason::MissingBlock, detail));
                }
            }
        }
        Ok(())
    }

    fn sync<'a>(
        &mut self,
        frame: &'a [u8],
        mut cursor: Cursor<'a>,
        now_micros: u64,
    ) -> Result<Sync<'a>, DecodeError> {
        let fields = Fields::parse(frame, &mut cursor)?;
        let (seq, did) = (fields.seq()?, fields.did()?);
        let rev = fields.rev.ok_or_else(|| DecodeError::missing("rev"))?;
        let rev = parse_rev(rev.as_bytes())?;
        check_rev(rev, now_micros)?;
        let span = fields
            .blocks
            .ok_or_else(|| DecodeError::missing("blocks"))?;
        let car = Car::parse(span.of(frame))?;
        let Self {
            blocks, options, ..
        } = self;
        blocks.read(frame, span, &car, options.verify, 1, options.limits.blocks)?;
        let Some(block) = blocks.block(frame, car.root, options.verify)? else {
            return Err(DecodeError::new(
                Reason::MissingBlock,
                "the commit's block is missing",
            ));
        };
        // A host that took the repository in from another one names a revision of its own for a commit that it did not make.
        let data = check_commit(block.of(frame), did, |own| own <= rev)?;
        Ok(Sync {
            seq,
            did,
            rev,
            time: fields.time,
            commit: car.root,
            data,
        })
    }
}

fn check_size(record: usize, total: usize, limits: &Limits) -> Result<(), DecodeError> {
    if record > limits.record_bytes {
        let detail = format!(
            "a record of {record} bytes, the limit is {}",
            limits.record_bytes
        );
        return Err(DecodeError::new(Reason::TooLarge, detail));
    }
    if total > limits.records_bytes {
        let detail = format!("records of more than {} bytes", limits.records_bytes);
        return Err(DecodeError::new(Reason::TooLarge, detail));
    }
    Ok(())
}

/// Checks that a block is a commit of this repository, at a revision that is the one announced. Gives the root of the tree.
fn check_commit(
    block: &[u8],
    did: &str,
    is_announced: impl FnOnce(Tid) -> bool,
) -> Result<Cid, DecodeError> {
    let commit = CommitBlock::parse(block)
        .map_err(|error| DecodeError::new(Reason::BadCommit, error.to_string()))?;
    if commit.version != 3 {
        return Err(DecodeError::new(
            Reason::BadCommit,
            "the commit is not of version 3",
        ));
    }
    if commit.did != did {
        return Err(DecodeError::new(
            Reason::BadCommit,
            "the commit is of another repository",
        ));
    }
    if !commit.rev.is_some_and(is_announced) {
        return Err(DecodeError::new(
            Reason::BadCommit,
            "the commit has another rev",
        ));
    }
    Ok(commit.data)
}

fn check_rev(rev: Tid, now_micros: u64) -> Result<(), DecodeError> {
    if rev.micros() > now_micros.saturating_add(REV_AHEAD_MICROS) {
        let detail = format!("rev {rev} is more than 5 minutes ahead of the clock");
        return Err(DecodeError::new(Reason::FutureRev, detail));
    }
    Ok(())
}
