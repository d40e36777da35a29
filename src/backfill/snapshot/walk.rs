//! The records of a repository, in the order of their keys: depth first, without recursion, without allocating for a record.
//!
//! A [`Walk`] borrows nothing, so that it can stop anywhere and go on later, on another thread. Keys must ascend over the whole
//! tree, so that no record comes twice; subtrees without any key can't repeat without end either, since a tree has no more nodes
//! than the CAR has blocks.

use super::arena::Place;
use super::{Blocks, SnapshotError};
use crate::decode::cbor::Cursor;
use crate::decode::tree::{Entry, Node};
use crate::decode::{Cid, syntax};

/// What a tree may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// Nodes from the root to a record.
    pub depth: usize,
    /// Entries of one node.
    pub node_entries: u64,
    /// Records.
    pub records: u64,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self {
            depth: 64,
            node_entries: 1024,
            records: 32_000_000,
        }
    }
}

/// Whether blocks may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A whole repository: an absent node or record is an error.
    Full,
    /// The answer to a `getRepo` with `since`: what is absent is older.
    Windowed,
}

/// A record of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// NSID.
    pub collection: &'a str,
    /// Record key.
    pub rkey: &'a str,
    /// The record's CID.
    pub cid: Cid,
    /// The record; none: its block is absent ([`Mode::Windowed`] only).
    pub record: Option<&'a [u8]>,
}

/// Bytes of the longest path: collection, slash, record key.
const MAX_KEY: usize = 317 + 1 + 512;

/// A walk over a tree.
#[derive(Debug)]
pub struct Walk {
    mode: Mode,
    limits: TreeLimits,
    /// The subtree to go into next.
    next: Option<Cid>,
    /// From the root to where the walk is; those behind `depth` are kept for their buffers.
    frames: Vec<Frame>,
    depth: usize,
    /// The last key.
    last: Vec<u8>,
    record: Vec<u8>,
    nodes: u64,
    records: u64,
    absent_nodes: u64,
    absent_records: u64,
}

/// A node that the walk is in.
#[derive(Debug)]
struct Frame {
    cid: Cid,
    place: Place,
    /// Where [`Blocks::find`] put it, if it does not lie in memory in one piece.
    buffer: Vec<u8>,
    /// What of the node's end has not been read, in bytes and in entries.
    rest: usize,
    entries: u64,
    /// The last key of this node.
    key: Vec<u8>,
}

impl Walk {
    /// A walk from the root of a tree.
    pub fn new(data: Cid, mode: Mode, limits: TreeLimits) -> Self {
        Self {
            mode,
            limits,
            next: Some(data),
            frames: Vec::new(),
            depth: 0,
            last: Vec::new(),
            record: Vec::new(),
            nodes: 0,
            records: 0,
            absent_nodes: 0,
            absent_records: 0,
        }
    }

    /// The next record; none: the tree is at its end. After an error there is nothing to go on with.
    pub fn next<'a>(&'a mut self, blocks: &'a Blocks) -> Result<Option<Leaf<'a>>, SnapshotError> {
        let Some((cid, slash)) = self.advance(blocks)? else {
            return Ok(None);
        };
        let place = blocks.find(&cid, &mut self.record)?;
        if place.is_none() {
            self.absent_records += 1;
            if self.mode == Mode::Full {
                let path = String::from_utf8_lossy(&self.last).into_owned();
                return Err(SnapshotError::MissingBlock { cid, path });
            }
        }
        let record = place.map(|place| blocks.block(place, &self.record));
        let path = std::str::from_utf8(&self.last).unwrap_or_default();
        let (collection, rkey) = path.split_at_checked(slash).unwrap_or_default();
        Ok(Some(Leaf {
            collection,
            rkey: rkey.get(1..).unwrap_or_default(),
            cid,
            record,
        }))
    }

    /// Goes on to the next key: the record's CID and where in the key the slash is.
    fn advance(&mut self, blocks: &Blocks) -> Result<Option<(Cid, usize)>, SnapshotError> {
        loop {
            if let Some(cid) = self.next.take() {
                self.descend(cid, blocks)?;
                continue;
            }
            let Some(at) = self.depth.checked_sub(1) else {
                return Ok(None);
            };
            let Some(frame) = self.frames.get_mut(at) else {
                return Ok(None);
            };
            if frame.entries == 0 {
                self.depth = at;
                continue;
            }
            let (value, right) = frame.step(blocks)?;
            if frame.key.as_slice() <= self.last.as_slice() {
                return Err(bad_tree(frame.cid, "keys do not ascend"));
            }
            let slash = slash(&frame.key);
            let slash = slash.ok_or_else(|| bad_tree(frame.cid, "a key is not a path"))?;
            self.last.clear();
            self.last.extend_from_slice(&frame.key);
            self.next = right;
            self.records += 1;
            if self.records > self.limits.records {
                return Err(too_large("records", self.limits.records));
            }
            return Ok(Some((value, slash)));
        }
    }

    /// Goes into a subtree.
    fn descend(&mut self, cid: Cid, blocks: &Blocks) -> Result<(), SnapshotError> {
        if self.depth == self.frames.len() {
            if self.depth >= self.limits.depth {
                return Err(too_large("levels of the tree", self.limits.depth as u64));
            }
            self.frames.push(Frame::new(cid));
        }
        let Some(frame) = self.frames.get_mut(self.depth) else {
            return Ok(());
        };
        let Some(place) = blocks.find(&cid, &mut frame.buffer)? else {
            self.absent_nodes += 1;
            return match self.mode {
                Mode::Windowed => Ok(()),
                Mode::Full => Err(absent_node(cid, &self.last)),
            };
        };
        self.nodes += 1;
        if self.nodes > blocks.len() {
            return Err(bad_tree(cid, "a subtree repeats"));
        }
        self.next = frame.open(cid, place, blocks, self.limits.node_entries)?;
        self.depth += 1;
        Ok(())
    }

    /// Nodes that were read.
    pub fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Records that were passed, absent ones included.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Subtrees that are absent.
    pub fn absent_nodes(&self) -> u64 {
        self.absent_nodes
    }

    /// Records of those passed whose blocks are absent.
    pub fn absent_records(&self) -> u64 {
        self.absent_records
    }
}

impl Frame {
    fn new(cid: Cid) -> Self {
        Self {
            cid,
            place: Place::new(0, 0),
            buffer: Vec::new(),
            rest: 0,
            entries: 0,
            key: Vec::new(),
        }
    }

    /// Starts with a node that was found with this frame's buffer, and gives the subtree before its first entry.
    fn open(
        &mut self,
        cid: Cid,
        place: Place,
        blocks: &Blocks,
        max_entries: u64,
    ) -> Result<Option<Cid>, SnapshotError> {
        let block = blocks.block(place, &self.buffer);
        let node = Node::parse(block).map_err(|error| bad_tree(cid, error))?;
        if node.len > max_entries {
            return Err(too_large("entries of a node", max_entries));
        }
        (self.cid, self.place) = (cid, place);
        (self.rest, self.entries) = (node.entries().rest().len(), node.len);
        self.key.clear();
        Ok(node.left)
    }

    /// Reads the next entry into `key`, and gives its record and the subtree after it.
    fn step(&mut self, blocks: &Blocks) -> Result<(Cid, Option<Cid>), SnapshotError> {
        let cid = self.cid;
        let block = blocks.block(self.place, &self.buffer);
        let at = block.len().saturating_sub(self.rest);
        let mut cursor = Cursor::new(block.get(at..).unwrap_or_default());
        let entry = Entry::parse(&mut cursor).map_err(|error| bad_tree(cid, error))?;
        if entry.shared + entry.suffix.len() > MAX_KEY {
            return Err(bad_tree(cid, "a key is too long"));
        }
        self.rest = cursor.rest().len();
        self.entries -= 1;
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(entry.suffix);
        Ok((entry.value, entry.right))
    }
}

/// Where the slash of a path is, if it is one.
fn slash(key: &[u8]) -> Option<usize> {
    let slash = key.iter().position(|byte| *byte == b'/')?;
    let (collection, rkey) = key.split_at_checked(slash)?;
    let is_path = syntax::is_nsid_bytes(collection) && syntax::is_rkey_bytes(rkey.get(1..)?);
    is_path.then_some(slash)
}

#[cold]
fn absent_node(cid: Cid, last: &[u8]) -> SnapshotError {
    let path = format!("the subtree after {:?}", String::from_utf8_lossy(last));
    SnapshotError::MissingBlock { cid, path }
}

#[cold]
fn bad_tree(cid: Cid, what: impl ToString) -> SnapshotError {
    let what = what.to_string();
    SnapshotError::BadTree { cid, what }
}

#[cold]
fn too_large(what: &'static str, limit: u64) -> SnapshotError {
    SnapshotError::TooLarge { what, limit }
}
