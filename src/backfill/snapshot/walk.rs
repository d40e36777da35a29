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
    pub cid: Cid,
    pub place: Option<Place>,
}

/// A walk over a tree.
#[derive(Debug)]
pub(super) struct Walk<'s> {
    mode: Mode,
    limits: TreeLimits,
    sections: &'s Sections,
    source: Source<'s>,
    /// The subtree to go into next.
    next: Option<Link>,
    /// From the root to where the walk is; those behind `depth` are kept for their buffers.
    frames: Vec<Frame>,
    depth: usize,
    /// The last key, and where in it the slash is.
    last: Vec<u8>,
    slash: usize,
    /// For [`Sections::load`].
    buffer: Vec<u8>,
    nodes: u64,
    absent_nodes: u64,
    records: u64,
}

/// A block that a node names, and where it is, if it is there.
#[derive(Debug, Clone, Copy)]
struct Link {
    cid: Cid,
    place: Option<Place>,
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
        let mut root = Places::new();
        source.links(sections, &[data], &mut root)?;
        let place = root.first().copied().flatten();
        Ok(Self {
            mode,
            limits,
            sections,
            source,
            next: Some(Link { cid: data, place }),
            frames: Vec::new(),
            depth: 0,
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
        let Some(Link { cid, place }) = self.advance()? else {
            return Ok(None);
        };
        if place.is_none() && self.mode == Mode::Full {
            let path = String::from_utf8_lossy(&self.last).into_owned();
            return Err(SnapshotError::MissingBlock { cid, path });
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

    /// Goes on to the next key, and gives its record.
    fn advance(&mut self) -> Result<Option<Link>, SnapshotError> {
        loop {
            if let Some(link) = self.next.take() {
                self.descend(link)?;
                continue;
            }
            let Some(at) = self.depth.checked_sub(1) else {
                return Ok(None);
            };
            let Some(frame) = self.frames.get_mut(at) else {
                return Ok(None);
            };
            let Some((record, right)) = frame.step()? else {
                self.depth = at;
                continue;
            };
            if frame.key.as_slice() <= self.last.as_slice() {
                return Err(bad_tree(frame.cid, "keys do not ascend"));
            }
            self.slash = slash(&frame.key, self.last.get(..=self.slash))
                .ok_or_else(|| bad_tree(frame.cid, "a key is not a path"))?;
            self.last.clear();
            self.last.extend_from_slice(&frame.key);
            self.next = right;
            self.records += 1;
            if self.records > self.limits.records {
                return Err(too_large("records", self.limits.records));
            }
            return Ok(Some(record));
        }
    }

    /// Goes into a subtree.
    fn descend(&mut self, Link { cid, place }: Link) -> Result<(), SnapshotError> {
        if self.depth == self.frames.len() {
            if self.depth >= self.limits.depth {
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
        let left = frame.open(cid, block, self.limits.node_entries)?;
        self.source
            .links(self.sections, &frame.cids, &mut frame.places)?;
        self.next = match left {
            true => frame.link(frame.cids.len() - 1),
            false => None,
        };
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
        let node = Node::parse_each(block, |entry| {
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

    fn link(&self, at: usize) -> Option<Link> {
        let (cid, place) = (*self.cids.get(at)?, *self.places.get(at)?);
        Some(Link { cid, place })
    }

    /// Puts the next key into `key`, and gives its record and the subtree after it; none: there are no more.
    fn step(&mut self) -> Result<Option<(Link, Option<Link>)>, SnapshotError> {
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
        let Some(record) = self.link(self.used) else {
            return Ok(None);
        };
        let right = match entry.right {
            true => self.link(self.used + 1),
            false => None,
        };
        self.used += 1 + usize::from(entry.right);
        self.passed += 1;
        Ok(Some((record, right)))
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
