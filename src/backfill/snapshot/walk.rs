//! The records of a repository, in the order of their keys: depth first, without recursion, without allocating for a record.
//!
//! Keys must ascend over the whole tree, so that no record comes twice; subtrees without any key can't repeat without end either,
//! since a tree has no more nodes than the CAR has blocks.

use super::SnapshotError;
use super::arena::Place;
use super::sections::Sections;
use super::trail::{Places, Source, Trail};
use crate::decode::tree::Node;
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

/// A record that a walk came to, not read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub collection: &'a str,
    pub rkey: &'a str,
    pub cid: &'a Cid,
    pub place: Option<Place>,
}

/// A walk over a tree.
#[derive(Debug)]
pub(super) struct Walk<'s> {
    mode: Mode,
    limits: TreeLimits,
    sections: &'s Sections,
    source: Source<'s>,
    /// From one above the root, whose only link is the root, to where the walk is; those behind `depth` are kept for their buffers.
    frames: Vec<Frame>,
    depth: usize,
    /// Which link of the node at hand the walk goes into next.
    next: Option<usize>,
    /// The last key, and where in it the slash is.
    last: Vec<u8>,
    slash: usize,
    /// For [`Sections::load`].
    buffer: Vec<u8>,
    nodes: u64,
    absent_nodes: u64,
    records: u64,
}

/// A node that the walk is in, taken apart.
#[derive(Debug)]
struct Frame {
    cid: Cid,
    entries: Vec<Entry>,
    /// What its keys do not share with the ones before, one after the other.
    suffixes: Vec<u8>,
    /// Its links: record and subtree of each entry, then the subtree before them all.
    cids: Vec<Cid>,
    places: Places,
    /// How many entries and links the walk has passed.
    passed: usize,
    used: usize,
    /// The last key of this node.
    key: Vec<u8>,
}

/// An entry of a node.
#[derive(Debug)]
struct Entry {
    shared: usize,
    /// Where its suffix ends.
    end: usize,
    /// Whether there is a subtree after it.
    right: bool,
}

impl<'s> Walk<'s> {
    /// A walk from the root of a tree.
    pub fn new(
        data: Cid,
        mode: Mode,
        limits: TreeLimits,
        sections: &'s Sections,
        mut source: Source<'s>,
    ) -> Result<Self, SnapshotError> {
        let mut above = Frame::new(data);
        above.cids.push(data);
        source.links(sections, &above.cids, &mut above.places)?;
        Ok(Self {
            mode,
            limits,
            sections,
            source,
            frames: vec![above],
            depth: 1,
            next: Some(0),
            last: Vec::new(),
            slash: 0,
            buffer: Vec::new(),
            nodes: 0,
            absent_nodes: 0,
            records: 0,
        })
    }

    /// The next record; none: the tree is at its end. After an error there is nothing to go on with.
    #[inline]
    pub fn next(&mut self) -> Result<Option<Step<'_>>, SnapshotError> {
        let Some(record) = self.advance()? else {
            return Ok(None);
        };
        let frame = self.frames.get(self.depth - 1);
        let Some((cid, place)) = frame.and_then(|frame| frame.link(record)) else {
            return Ok(None);
        };
        if place.is_none() && self.mode == Mode::Full {
            let path = String::from_utf8_lossy(&self.last).into_owned();
            return Err(SnapshotError::MissingBlock { cid: *cid, path });
        }
        let path = std::str::from_utf8(&self.last).unwrap_or_default();
        let (collection, rkey) = path.split_at_checked(self.slash).unwrap_or_default();
        Ok(Some(Step {
            collection,
            rkey: rkey.get(1..).unwrap_or_default(),
            cid,
            place,
        }))
    }

    /// Goes on to the next key, and says which link of the node at hand its record is.
    fn advance(&mut self) -> Result<Option<usize>, SnapshotError> {
        while let Some(frame) = self
            .depth
            .checked_sub(1)
            .and_then(|at| self.frames.get_mut(at))
        {
            if let Some(link) = self.next.take() {
                if let Some((cid, place)) = frame.link(link) {
                    let cid = *cid;
                    self.descend(cid, place)?;
                }
                continue;
            }
            let Some(record) = frame.step()? else {
                self.depth -= 1;
                continue;
            };
            if frame.key.as_slice() <= self.last.as_slice() {
                return Err(bad_tree(frame.cid, "keys do not ascend"));
            }
            self.slash = slash(&frame.key, self.last.get(..=self.slash))
                .ok_or_else(|| bad_tree(frame.cid, "a key is not a path"))?;
            self.last.clear();
            self.last.extend_from_slice(&frame.key);
            let right = record + 1;
            self.next = (frame.used > right).then_some(right);
            self.records += 1;
            if self.records > self.limits.records {
                return Err(too_large("records", self.limits.records));
            }
            return Ok(Some(record));
        }
        Ok(None)
    }

    /// Goes into a subtree.
    fn descend(&mut self, cid: Cid, place: Option<Place>) -> Result<(), SnapshotError> {
        if self.depth == self.frames.len() {
            if self.depth > self.limits.depth {
                return Err(too_large("levels of the tree", self.limits.depth as u64));
            }
            self.frames.push(Frame::new(cid));
        }
        let Some(frame) = self.frames.get_mut(self.depth) else {
            return Ok(());
        };
        let Some(place) = place else {
            self.absent_nodes += 1;
            return match self.mode {
                Mode::Windowed => Ok(()),
                Mode::Full => Err(absent_node(cid, &self.last)),
            };
        };
        self.nodes += 1;
        if self.nodes > self.sections.len() {
            return Err(bad_tree(cid, "a subtree repeats"));
        }
        self.sections.load(place, &mut self.buffer)?;
        let block = self.sections.block(place, &self.buffer);
        let has_left = frame.open(cid, block, self.limits.node_entries)?;
        self.source
            .links(self.sections, &frame.cids, &mut frame.places)?;
        self.next = has_left.then(|| frame.cids.len() - 1);
        self.depth += 1;
        Ok(())
    }

    /// What the walk noted, which has come to its end.
    pub fn trail(self) -> Option<Trail> {
        self.source.trail()
    }

    /// Nodes that were read.
    pub fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Subtrees that are absent.
    pub fn absent_nodes(&self) -> u64 {
        self.absent_nodes
    }
}

impl Frame {
    fn new(cid: Cid) -> Self {
        Self {
            cid,
            entries: Vec::new(),
            suffixes: Vec::new(),
            cids: Vec::new(),
            places: Places::new(),
            passed: 0,
            used: 0,
            key: Vec::new(),
        }
    }

    /// Takes a node apart, and says whether there is a subtree before its first entry.
    fn open(&mut self, cid: Cid, block: &[u8], max_entries: u64) -> Result<bool, SnapshotError> {
        let Self {
            entries,
            suffixes,
            cids,
            ..
        } = self;
        entries.clear();
        suffixes.clear();
        cids.clear();
        let node = Node::parse(block, |entry| {
            suffixes.extend_from_slice(entry.suffix);
            cids.push(entry.value);
            cids.extend(entry.right);
            entries.push(Entry {
                shared: entry.shared,
                end: suffixes.len(),
                right: entry.right.is_some(),
            });
        });
        let node = node.map_err(|error| bad_tree(cid, error))?;
        if node.len > max_entries {
            return Err(too_large("entries of a node", max_entries));
        }
        cids.extend(node.left);
        (self.cid, self.passed, self.used) = (cid, 0, 0);
        self.key.clear();
        Ok(node.left.is_some())
    }

    /// A link, and where its block is, if it is there.
    fn link(&self, at: usize) -> Option<(&Cid, Option<Place>)> {
        Some((self.cids.get(at)?, *self.places.get(at)?))
    }

    /// Puts the next key into `key`, and says which link its record is; none: there are no more.
    fn step(&mut self) -> Result<Option<usize>, SnapshotError> {
        let Some(entry) = self.entries.get(self.passed) else {
            return Ok(None);
        };
        let before = self.passed.checked_sub(1);
        let before = before.and_then(|before| self.entries.get(before));
        let start = before.map_or(0, |before| before.end);
        let suffix = self.suffixes.get(start..entry.end).unwrap_or_default();
        if entry.shared + suffix.len() > MAX_KEY {
            return Err(bad_tree(self.cid, "a key is too long"));
        }
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(suffix);
        let record = self.used;
        self.used += 1 + usize::from(entry.right);
        self.passed += 1;
        Ok(Some(record))
    }
}

/// Where the slash of a path is, if it is one. Most are in the `collection` of the one before, which needs no second look.
fn slash(key: &[u8], collection: Option<&[u8]>) -> Option<usize> {
    if let Some(collection) = collection
        && let Some(rkey) = key.strip_prefix(collection)
    {
        return syntax::is_rkey_bytes(rkey).then(|| collection.len() - 1);
    }
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
