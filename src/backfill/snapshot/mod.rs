//! Snapshots: a repository as its host exports it, checked as a whole before anything of it is written.
//!
//! [`CarReader`] takes the bytes as they arrive and hashes every block; [`Snapshot::open`] checks the commit,
//! [`Snapshot::verify_signature`] who signed it, and [`Snapshot::verify`] walks the whole tree. Only then does
//! [`Snapshot::records`] give the records to write, whose blocks it need not search for again. Memory is bounded by a [`Budget`] that
//! all fetches share; beyond it blocks wait in a temporary file. [`window`] decides which records of a windowed snapshot count.
//!
//! All of it is computation, and reading and writing of that file: it belongs on a thread that may block.

mod arena;
mod blocks;
mod budget;
mod error;
mod index;
mod sections;
mod trail;
mod walk;
pub mod window;

use std::ops::ControlFlow;

use crate::config::CollectionFilter;
use crate::decode::commit::CommitBlock;
use crate::decode::{Cid, REV_AHEAD_MICROS, SigningKey, Tid, signature};

pub use blocks::{Blocks, CarLimits, CarReader};
pub use budget::{Budget, Share};
pub use error::SnapshotError;
use trail::{Source, Trail};
pub use walk::{Leaf, Mode, TreeLimits};
use walk::{Step, Walk};

/// What a snapshot may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotLimits {
    /// Of the tree.
    pub tree: TreeLimits,
    /// Different collections.
    pub collections: usize,
    /// Whether commits of version 2, which only old exports have, are taken.
    pub version_2: bool,
}

impl Default for SnapshotLimits {
    fn default() -> Self {
        Self {
            tree: TreeLimits::default(),
            collections: 10_000,
            version_2: false,
        }
    }
}

/// A repository whose commit was read.
#[derive(Debug)]
pub struct Snapshot {
    blocks: Blocks,
    share: Share,
    /// Of the walk that verified it, and the memory that this takes of the share.
    trail: Option<Trail>,
    noted: u64,
    limits: SnapshotLimits,
    commit: Vec<u8>,
    sig: Vec<u8>,
    data: Cid,
    rev: Tid,
}

/// What a whole walk found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Of all collections, in the order of the tree.
    pub collections: Vec<(String, Counts)>,
    /// Of all records.
    pub total: Counts,
    /// Nodes of the tree that are there.
    pub nodes: u64,
    /// Subtrees that are absent ([`Mode::Windowed`] only).
    pub absent_nodes: u64,
}

impl Verified {
    /// Whether anything is absent, which shows that the server honoured `since`.
    pub fn anything_absent(&self) -> bool {
        self.absent_nodes > 0 || self.total.absent > 0
    }
}

/// Of some records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records, without those that are absent.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Leaves whose record is absent ([`Mode::Windowed`] only).
    pub absent: u64,
}

impl Counts {
    fn add(&mut self, step: &Step<'_>) {
        match step.place {
            Some(place) => {
                self.records += 1;
                self.bytes += place.len() as u64;
            }
            None => self.absent += 1,
        }
    }
}

/// After so many records the caller is asked whether to go on.
const BETWEEN_LOOKS: u64 = 1024;

impl Snapshot {
    /// Reads the commit and checks whose it is, its version and its revision.
    ///
    /// [`SnapshotError::RootAbsent`] is how a server says that nothing is newer than `since`.
    pub fn open(
        mut blocks: Blocks,
        did: &str,
        now_micros: u64,
        limits: SnapshotLimits,
    ) -> Result<Self, SnapshotError> {
        let root = blocks.root();
        let mut buffer = Vec::new();
        let Some(block) = blocks.get(&root, &mut buffer)? else {
            return Err(SnapshotError::RootAbsent(root));
        };
        let bad = |what: String| SnapshotError::BadCommit(root, what);
        let commit = CommitBlock::parse(block).map_err(|error| bad(error.to_string()))?;
        if commit.did != did {
            return Err(SnapshotError::WrongDid(commit.did.to_owned()));
        }
        if commit.version != 3 && !limits.version_2 {
            return Err(bad(format!("version {}", commit.version)));
        }
        let rev = commit.rev.unwrap_or_default();
        if rev.micros() > now_micros.saturating_add(REV_AHEAD_MICROS) {
            return Err(SnapshotError::RevAhead(rev));
        }
        let (commit, sig, data) = (block.to_vec(), commit.sig.to_vec(), commit.data);
        let share = blocks.take_share();
        Ok(Self {
            blocks,
            share,
            trail: None,
            noted: 0,
            limits,
            commit,
            sig,
            data,
            rev,
        })
    }

    /// The commit.
    pub fn commit(&self) -> Cid {
        self.blocks.root()
    }

    /// Its revision; zero for a commit of version 2.
    pub fn rev(&self) -> Tid {
        self.rev
    }

    /// The root of the tree.
    pub fn data(&self) -> Cid {
        self.data
    }

    /// The blocks.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Checks that one of the keys signed the commit, and gives it.
    pub fn verify_signature(&self, keys: &[SigningKey]) -> Result<SigningKey, SnapshotError> {
        let mut why = "no key is known".to_owned();
        for key in keys {
            match signature::verify(&self.commit, &self.sig, key) {
                Ok(()) => return Ok(*key),
                Err(error) => why = error.to_string(),
            }
        }
        Err(SnapshotError::BadSignature(why))
    }

    /// A walk over the tree, which follows the one that verified it, if that left a trail.
    fn walk(&self, mode: Mode) -> Result<Walk<'_>, SnapshotError> {
        let (source, sections) = (Source::follow(self.trail.as_ref()), self.blocks.sections());
        Walk::new(self.data, mode, self.limits.tree, sections, source)
    }

    /// Walks the whole tree and checks that all is there, in order, and within the limits. `go_on` is asked now and then.
    ///
    /// It reads no record, but notes where each is, if the budget has 8 bytes for every block: later walks need not search then.
    pub fn verify(
        &mut self,
        mode: Mode,
        go_on: impl FnMut() -> bool,
    ) -> Result<Verified, SnapshotError> {
        self.trail = None;
        self.share.give_back(self.noted);
        let before = self.share.held();
        let verified = self.verify_noting(mode, go_on);
        // The memory of a walk that did not come to its end is free again.
        self.noted = self.trail.as_ref().map_or(0, Trail::bytes);
        self.share
            .give_back(self.share.held() - before - self.noted);
        verified
    }

    fn verify_noting(
        &mut self,
        mode: Mode,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<Verified, SnapshotError> {
        let mut verified = Verified::default();
        let sections = self.blocks.sections();
        let source = Source::note(&mut self.share, sections);
        let mut walk = Walk::new(self.data, mode, self.limits.tree, sections, source)?;
        let mut seen = 0;
        while let Some(step) = walk.next()? {
            verified.add(&step, self.limits.collections)?;
            seen += 1;
            if seen % BETWEEN_LOOKS == 0 && !go_on() {
                return Err(SnapshotError::Cancelled);
            }
        }
        (verified.nodes, verified.absent_nodes) = (walk.nodes(), walk.absent_nodes());
        self.trail = walk.trail();
        Ok(verified)
    }

    /// Visits the records of wanted collections in the order of the tree, until `visit` breaks. [`SnapshotError::Cancelled`] then.
    pub fn records(
        &self,
        mode: Mode,
        filter: &CollectionFilter,
        mut visit: impl FnMut(Leaf<'_>) -> ControlFlow<()>,
    ) -> Result<(), SnapshotError> {
        let (mut walk, mut buffer) = (self.walk(mode)?, Vec::new());
        let sections = self.blocks.sections();
        while let Some(step) = walk.next()? {
            if !filter.wants(step.collection) {
                continue;
            }
            let record = match step.place {
                Some(place) => {
                    sections.load(place, &mut buffer)?;
                    Some(sections.block(place, &buffer))
                }
                None => None,
            };
            let leaf = Leaf {
                collection: step.collection,
                rkey: step.rkey,
                cid: *step.cid,
                record,
            };
            if visit(leaf).is_break() {
                return Err(SnapshotError::Cancelled);
            }
        }
        Ok(())
    }
}

impl Verified {
    fn add(&mut self, step: &Step<'_>, limit: usize) -> Result<(), SnapshotError> {
        self.total.add(step);
        // The records of a collection follow one another.
        let same = |(name, _): &&mut (String, Counts)| name == step.collection;
        if let Some((_, counts)) = self.collections.last_mut().filter(same) {
            counts.add(step);
            return Ok(());
        }
        if self.collections.len() >= limit {
            let (what, limit) = ("collections", limit as u64);
            return Err(SnapshotError::TooLarge { what, limit });
        }
        let mut counts = Counts::default();
        counts.add(step);
        self.collections.push((step.collection.to_owned(), counts));
        Ok(())
    }
}
