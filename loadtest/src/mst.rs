//! The Merkle search tree of a repository (protocol.md, section 6), with the proofs that a commit carries.
//!
//! Persistent: nodes are shared until they change, so that thousands of repositories start from one pre-filled tree at
//! no cost. A subtree may be a [`Link::Stub`], known by its CID alone: a proof read back from a commit is such a tree, and
//! undoing a commit's operations on it must end at the root before.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use crate::dagcbor::{self, Cid};

/// An operation that needs a subtree of which only the CID is known, or a node that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    /// The node is not in the proof.
    #[error("node {0} is not there")]
    Absent(Cid),
    /// The key to remove or to look up is not in the tree.
    #[error("key {0} is not in the tree")]
    NoKey(String),
    /// The block is not a tree node.
    #[error("block {0} is not a tree node")]
    BadNode(Cid),
}

#[derive(Debug, Clone)]
enum Link {
    Node(Arc<Node>),
    Stub(Cid),
}

#[derive(Debug, Clone, Default)]
struct Node {
    left: Option<Link>,
    entries: Vec<Entry>,
    cid: OnceLock<Cid>,
}

#[derive(Debug, Clone)]
struct Entry {
    key: Arc<str>,
    value: Cid,
    right: Option<Link>,
}

/// The layer of a key: half the leading zero bits of its SHA-256.
pub fn height(key: &str) -> u32 {
    let mut zeros = 0;
    for byte in Sha256::digest(key.as_bytes()) {
        zeros += byte.leading_zeros();
        if byte != 0 {
            break;
        }
    }
    zeros / 2
}

impl Link {
    fn cid(&self) -> Cid {
        match self {
            Self::Node(node) => node.cid(),
            Self::Stub(cid) => *cid,
        }
    }

    fn node(&self) -> Result<&Node, TreeError> {
        match self {
            Self::Node(node) => Ok(node),
            Self::Stub(cid) => Err(TreeError::Absent(*cid)),
        }
    }

    /// The node for a change: copied if it is shared, its CID forgotten.
    fn change(&mut self) -> Result<&mut Node, TreeError> {
        match self {
            Self::Node(node) => {
                let node = Arc::make_mut(node);
                node.cid = OnceLock::new();
                Ok(node)
            }
            Self::Stub(cid) => Err(TreeError::Absent(*cid)),
        }
    }
}

impl From<Node> for Link {
    fn from(node: Node) -> Self {
        Self::Node(Arc::new(node))
    }
}

impl Node {
    fn cid(&self) -> Cid {
        *self.cid.get_or_init(|| Cid::of(&self.encode()))
    }

    fn is_empty(&self) -> bool {
        self.left.is_none() && self.entries.is_empty()
    }

    /// How many entries are before `key`, and whether the next one is it.
    fn find(&self, key: &str) -> (usize, bool) {
        match self.entries.binary_search_by(|entry| (*entry.key).cmp(key)) {
            Ok(at) => (at, true),
            Err(at) => (at, false),
        }
    }

    /// The subtree before entry `at`.
    fn gap(&self, at: usize) -> Option<&Link> {
        match at {
            0 => self.left.as_ref(),
            at => self.entries[at - 1].right.as_ref(),
        }
    }

    fn gap_mut(&mut self, at: usize) -> &mut Option<Link> {
        match at {
            0 => &mut self.left,
            at => &mut self.entries[at - 1].right,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 110 * self.entries.len());
        out.extend_from_slice(&[0xa2, 0x61, b'e']);
        dagcbor::head(&mut out, 4, self.entries.len() as u64);
        let mut last: &[u8] = b"";
        for entry in &self.entries {
            let key = entry.key.as_bytes();
            let shared = last.iter().zip(key).take_while(|(a, b)| a == b).count();
            out.extend_from_slice(&[0xa4, 0x61, b'k']);
            dagcbor::bytes(&mut out, &key[shared..]);
            out.extend_from_slice(&[0x61, b'p']);
            dagcbor::head(&mut out, 0, shared as u64);
            out.extend_from_slice(&[0x61, b't']);
            dagcbor::link_or_null(&mut out, entry.right.as_ref().map(Link::cid).as_ref());
            out.extend_from_slice(&[0x61, b'v']);
            dagcbor::link(&mut out, &entry.value);
            last = key;
        }
        out.extend_from_slice(&[0x61, b'l']);
        dagcbor::link_or_null(&mut out, self.left.as_ref().map(Link::cid).as_ref());
        out
    }
}

/// A tree.
#[derive(Debug, Clone)]
pub struct Mst {
    root: Link,
    layer: u32,
}

impl Default for Mst {
    fn default() -> Self {
        Self {
            root: Node::default().into(),
            layer: 0,
        }
    }
}

impl Mst {
    /// The CID of the root.
    pub fn root(&self) -> Cid {
        self.root.cid()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Result<Option<Cid>, TreeError> {
        let mut link = Some(&self.root);
        while let Some(at) = link {
            let node = at.node()?;
            match node.find(key) {
                (at, true) => return Ok(Some(node.entries[at].value)),
                (at, false) => link = node.gap(at),
            }
        }
        Ok(None)
    }

    /// Sets the value of a key, new or not.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, value: Cid) -> Result<(), TreeError> {
        let key = key.into();
        let height = height(&key);
        let entry = Entry {
            key: key.clone(),
            value,
            right: None,
        };
        if matches!(&self.root, Link::Node(node) if node.is_empty()) {
            self.layer = height;
            self.root = leaf(entry).into();
        } else if height > self.layer {
            let root = std::mem::replace(&mut self.root, Node::default().into());
            let (left, right) = split(root, &key)?;
            let rise = height - self.layer - 1;
            self.layer = height;
            self.root = Node {
                left: left.map(|link| lift(link, rise)),
                entries: vec![Entry {
                    right: right.map(|link| lift(link, rise)),
                    ..entry
                }],
                cid: OnceLock::new(),
            }
            .into();
        } else {
            insert(&mut self.root, self.layer - height, entry)?;
        }
        Ok(())
    }

    /// Removes a key and gives its value.
    pub fn remove(&mut self, key: &str) -> Result<Cid, TreeError> {
        let height = height(key);
        if height > self.layer {
            return Err(TreeError::NoKey(key.to_owned()));
        }
        let value = remove(&mut self.root, self.layer - height, key)?;
        while let Link::Node(node) = &self.root {
            if !node.entries.is_empty() {
                break;
            }
            match node.left.clone() {
                Some(child) => {
                    self.root = child;
                    self.layer -= 1;
                }
                None => {
                    self.layer = 0;
                    break;
                }
            }
        }
        Ok(value)
    }

    /// The nodes that prove what these keys are, or that they are not there, and that allow a reader to undo the change:
    /// the search path of each, and where a key is found, both sides of the gap that its removal would close.
    pub fn proof<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> Vec<(Cid, Vec<u8>)> {
        let mut seen = HashSet::new();
        let mut nodes = Vec::new();
        let mut take = |node: &Node| {
            if seen.insert(node.cid()) {
                nodes.push((node.cid(), node.encode()));
            }
        };
        if let Link::Node(root) = &self.root {
            take(root);
        }
        for key in keys {
            let mut link = Some(&self.root);
            while let Some(Link::Node(node)) = link {
                take(node);
                let (at, found) = node.find(key);
                link = node.gap(at);
                if found {
                    let mut side = node.gap(at);
                    while let Some(Link::Node(node)) = side {
                        take(node);
                        side = node.gap(node.entries.len());
                    }
                    let mut side = node.gap(at + 1);
                    while let Some(Link::Node(node)) = side {
                        take(node);
                        side = node.gap(0);
                    }
                    break;
                }
            }
        }
        nodes
    }

    /// Every node that can be seen, parents first.
    pub fn nodes(&self) -> Vec<(Cid, Vec<u8>)> {
        fn walk(link: &Link, out: &mut Vec<(Cid, Vec<u8>)>) {
            if let Link::Node(node) = link {
                out.push((node.cid(), node.encode()));
                node.left.iter().for_each(|left| walk(left, out));
                let rights = node.entries.iter().filter_map(|entry| entry.right.as_ref());
                rights.for_each(|right| walk(right, out));
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &mut out);
        out
    }

    /// Reads a tree from blocks; what is not among them becomes a stub.
    pub fn from_blocks(root: Cid, blocks: &HashMap<Cid, Vec<u8>>) -> Result<Self, TreeError> {
        let root = load(root, blocks)?;
        let layer = match &root {
            Link::Node(node) => node.entries.first().map_or(0, |entry| height(&entry.key)),
            Link::Stub(cid) => return Err(TreeError::Absent(*cid)),
        };
        Ok(Self { root, layer })
    }

    /// Every key and value that can be seen, in order.
    pub fn leaves(&self) -> Vec<(Arc<str>, Cid)> {
        fn walk(link: &Link, out: &mut Vec<(Arc<str>, Cid)>) {
            if let Link::Node(node) = link {
                node.left.iter().for_each(|left| walk(left, out));
                for entry in &node.entries {
                    out.push((entry.key.clone(), entry.value));
                    entry.right.iter().for_each(|right| walk(right, out));
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &mut out);
        out
    }
}

fn leaf(entry: Entry) -> Node {
    Node {
        entries: vec![entry],
        ..Node::default()
    }
}

/// Puts `layers` nodes without entries on top.
fn lift(mut link: Link, layers: u32) -> Link {
    for _ in 0..layers {
        link = Node {
            left: Some(link),
            ..Node::default()
        }
        .into();
    }
    link
}

fn insert(link: &mut Link, above: u32, entry: Entry) -> Result<(), TreeError> {
    let node = link.change()?;
    let (at, found) = node.find(&entry.key);
    if above > 0 {
        match node.gap_mut(at) {
            Some(child) => insert(child, above - 1, entry)?,
            gap => *gap = Some(lift(leaf(entry).into(), above - 1)),
        }
    } else if found {
        node.entries[at].value = entry.value;
    } else {
        let (left, right) = match node.gap_mut(at).take() {
            Some(child) => split(child, &entry.key)?,
            None => (None, None),
        };
        *node.gap_mut(at) = left;
        node.entries.insert(at, Entry { right, ..entry });
    }
    Ok(())
}

/// Parts a subtree into what is before `key` and what is after it.
fn split(mut link: Link, key: &str) -> Result<(Option<Link>, Option<Link>), TreeError> {
    let node = link.change()?;
    let (at, _) = node.find(key);
    let (left, right) = match node.gap_mut(at).take() {
        Some(child) => split(child, key)?,
        None => (None, None),
    };
    let after = Node {
        left: right,
        entries: node.entries.split_off(at),
        cid: OnceLock::new(),
    };
    *node.gap_mut(at) = left;
    let before = (!node.is_empty()).then_some(link);
    Ok((before, (!after.is_empty()).then(|| after.into())))
}

/// Removes `key`, `above` layers down. A node that this empties is dropped by its parent.
fn remove(link: &mut Link, above: u32, key: &str) -> Result<Cid, TreeError> {
    let node = link.change()?;
    let (at, found) = node.find(key);
    if above == 0 {
        if !found {
            return Err(TreeError::NoKey(key.to_owned()));
        }
        let left = node.gap_mut(at).take();
        let entry = node.entries.remove(at);
        *node.gap_mut(at) = merge(left, entry.right)?;
        return Ok(entry.value);
    }
    let gap = node.gap_mut(at);
    let Some(child) = gap else {
        return Err(TreeError::NoKey(key.to_owned()));
    };
    let value = remove(child, above - 1, key)?;
    if matches!(child, Link::Node(node) if node.is_empty()) {
        *gap = None;
    }
    Ok(value)
}

fn merge(left: Option<Link>, right: Option<Link>) -> Result<Option<Link>, TreeError> {
    let (mut left, mut right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (left, right) => return Ok(left.or(right)),
    };
    let after = right.change()?;
    let before = left.change()?;
    let at = before.entries.len();
    let inner = merge(before.gap_mut(at).take(), after.left.take())?;
    *before.gap_mut(at) = inner;
    before.entries.append(&mut after.entries);
    Ok(Some(left))
}

fn load(cid: Cid, blocks: &HashMap<Cid, Vec<u8>>) -> Result<Link, TreeError> {
    use ciborium::Value as Cbor;
    let Some(block) = blocks.get(&cid) else {
        return Ok(Link::Stub(cid));
    };
    let bad = || TreeError::BadNode(cid);
    let field = |map: &Cbor, name: &str| -> Option<Cbor> {
        let pairs = map.as_map()?;
        let pair = pairs.iter().find(|(key, _)| key.as_text() == Some(name))?;
        Some(pair.1.clone())
    };
    let link = |value: &Cbor| -> Option<Cid> {
        match value {
            Cbor::Tag(42, inner) => Cid::from_bytes(inner.as_bytes()?.get(1..)?),
            _ => None,
        }
    };
    let sub = |value: Option<Cbor>| -> Result<Option<Link>, TreeError> {
        match value {
            Some(Cbor::Null) => Ok(None),
            Some(value) => load(link(&value).ok_or_else(bad)?, blocks).map(Some),
            None => Err(bad()),
        }
    };
    let map: Cbor = ciborium::from_reader(block.as_slice()).map_err(|_| bad())?;
    let mut node = Node {
        left: sub(field(&map, "l"))?,
        ..Node::default()
    };
    let mut last = Vec::new();
    let entries = field(&map, "e").ok_or_else(bad)?;
    for entry in entries.as_array().ok_or_else(bad)? {
        let shared = field(entry, "p").and_then(|p| p.as_integer());
        let shared = usize::try_from(shared.ok_or_else(bad)?).map_err(|_| bad())?;
        let suffix = field(entry, "k").and_then(|k| k.as_bytes().cloned());
        last.truncate(shared);
        last.extend_from_slice(&suffix.ok_or_else(bad)?);
        let value = field(entry, "v").and_then(|v| link(&v)).ok_or_else(bad)?;
        node.entries.push(Entry {
            key: std::str::from_utf8(&last).map_err(|_| bad())?.into(),
            value,
            right: sub(field(entry, "t"))?,
        });
    }
    Ok(node.into())
}
