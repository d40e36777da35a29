//! What is in a repository: made anew from its seed whenever it is asked for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::dagcbor::Cid;
use crate::mst::Mst;
use crate::records;
use crate::repo::{Curve, Key, Repo, Signatures};
use crate::tid::Tid;

const HOUR: u64 = 3_600_000_000;
const DAY: u64 = 24 * HOUR;

/// A number of its own for each part of a seed.
pub(super) fn mix(seed: u64, at: usize) -> u64 {
    let mut value = seed ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A commit of one record that was made after the start.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub rev: Tid,
    pub path: Arc<str>,
    /// The seed of the record's content; none: it is removed.
    pub content: Option<u64>,
}

/// All that a repository is made from.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub did: String,
    /// Of its own.
    pub seed: u64,
    /// Records of its history; some of them are gone at the end of it.
    pub records: usize,
    /// When the history ends, in microseconds since the epoch.
    pub now: u64,
    /// Share of P-256 keys.
    pub p256: f64,
    pub edits: Vec<Edit>,
}

/// A block of a repository.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub cid: Cid,
    /// The commit that brought it.
    pub rev: Tid,
    pub bytes: Bytes,
}

/// A repository as its host has it.
pub(super) struct Built {
    pub key: Key,
    pub rev: Tid,
    pub commit: Cid,
    pub tree: Mst,
    /// By path: the CID, and the commit that wrote it.
    pub records: BTreeMap<Arc<str>, (Cid, Tid)>,
    /// As a PDS sends them: newest `rev` first, then by the text of the CID, descending.
    pub blocks: Vec<Block>,
}

/// The signing key; `nth` counts those that an account has had.
pub(super) fn key(seed: u64, p256: f64, nth: usize) -> Key {
    let mut rng = ChaCha8Rng::seed_from_u64(mix(seed ^ 0x6b65_7973, nth));
    let mut secret = [0; 32];
    rng.fill_bytes(&mut secret);
    match rng.random_bool(p256) {
        true => Key::new(Curve::P256, secret),
        false => Key::new(Curve::K256, secret),
    }
}

struct Builder {
    rng: ChaCha8Rng,
    repo: Repo,
    records: BTreeMap<Arc<str>, (Cid, Tid)>,
    blocks: HashMap<Cid, (Tid, Bytes)>,
}

impl Recipe {
    /// When its commits before the start were made: at least one, oldest first. Half of all repositories rest for a month.
    fn revs(&self, rng: &mut ChaCha8Rng) -> Vec<Tid> {
        let mut age = match rng.random_bool(0.5) {
            true => rng.random_range(HOUR..30 * DAY),
            false => rng.random_range(30 * DAY..400 * DAY),
        };
        let mut revs = Vec::new();
        for _ in 0..rng.random_range(1..=4) {
            revs.push(Tid::new(self.now - age, rng.next_u64()));
            age += rng.random_range(HOUR..100 * DAY);
        }
        revs.reverse();
        revs
    }

    /// Makes the repository.
    pub(super) fn build(&self) -> Built {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let revs = self.revs(&mut rng);
        let repo = Repo {
            did: self.did.clone(),
            key: key(self.seed, self.p256, 0),
            tree: Mst::default(),
            head: None,
        };
        let mut builder = Builder {
            rng,
            repo,
            records: BTreeMap::new(),
            blocks: HashMap::new(),
        };
        for (at, rev) in revs.iter().enumerate() {
            let share = self.records * (at + 1) / revs.len() - self.records * at / revs.len();
            builder.history(*rev, share);
            builder.settle(*rev);
        }
        for edit in &self.edits {
            builder.edit(edit);
            builder.settle(edit.rev);
        }
        let last = self.edits.last().map(|edit| edit.rev);
        let rev = last.or(revs.last().copied());
        builder.finish(rev.unwrap_or(Tid::new(self.now, 0)))
    }
}

impl Builder {
    fn put(&mut self, path: Arc<str>, bytes: Vec<u8>, rev: Tid) {
        let cid = Cid::of(&bytes);
        let whole = "a whole tree has no stubs";
        self.repo.tree.insert(path.clone(), cid).expect(whole);
        self.records.insert(path, (cid, rev));
        self.blocks.entry(cid).or_insert((rev, bytes.into()));
    }

    fn remove(&mut self, path: &str) {
        if self.records.remove(path).is_some() {
            self.repo.tree.remove(path).expect("the tree has all paths");
        }
    }

    fn any_path(&mut self) -> Option<Arc<str>> {
        let at = self.rng.random_range(0..self.records.len().max(1));
        self.records.keys().nth(at).cloned()
    }

    /// `creates` new records; one that was there is written anew, and one removed.
    fn history(&mut self, rev: Tid, creates: usize) {
        if let Some(path) = self.any_path() {
            let value = records::content_of(&mut self.rng, &path, rev.micros());
            self.put(path, value.encode(), rev);
        }
        if let Some(path) = self.any_path() {
            self.remove(&path);
        }
        for _ in 0..creates {
            let micros = rev.micros() - self.rng.random_range(0..HOUR);
            let draft = records::draft(&mut self.rng, micros);
            self.put(draft.path, draft.value.encode(), rev);
        }
    }

    fn edit(&mut self, edit: &Edit) {
        match edit.content {
            Some(seed) => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let value = records::content_of(&mut rng, &edit.path, edit.rev.micros());
                self.put(edit.path.clone(), value.encode(), edit.rev);
            }
            None => self.remove(&edit.path),
        }
    }

    /// Takes the new nodes in and drops what nothing refers to any more, as a PDS does with each commit.
    fn settle(&mut self, rev: Tid) {
        let mut live: HashSet<Cid> = self.records.values().map(|(cid, _)| *cid).collect();
        for (cid, bytes) in self.repo.tree.nodes() {
            live.insert(cid);
            self.blocks.entry(cid).or_insert((rev, bytes.into()));
        }
        self.blocks.retain(|cid, _| live.contains(cid));
    }

    fn finish(mut self, rev: Tid) -> Built {
        let commit = self.repo.commit(rev, Signatures::Real, &mut self.rng);
        self.blocks.insert(commit.cid, (rev, commit.block.into()));
        let blocks = self.blocks.into_iter();
        let mut blocks: Vec<Block> = blocks
            .map(|(cid, (rev, bytes))| Block { cid, rev, bytes })
            .collect();
        blocks.sort_by_cached_key(|block| Reverse((block.rev, block.cid.to_string())));
        Built {
            key: self.repo.key,
            rev,
            commit: commit.cid,
            tree: self.repo.tree,
            records: self.records,
            blocks,
        }
    }
}

impl Built {
    /// A block by its CID.
    pub(super) fn block(&self, cid: &Cid) -> Option<&Block> {
        self.blocks.iter().find(|block| block.cid == *cid)
    }

    /// The collections of its records, in order.
    pub(super) fn collections(&self) -> Vec<&str> {
        let paths = self.records.keys();
        let mut names: Vec<&str> = paths
            .filter_map(|path| path.split_once('/').map(|(name, _)| name))
            .collect();
        names.dedup();
        names
    }

    /// The record that was written last.
    pub(super) fn newest(&self) -> Option<(&Arc<str>, Cid)> {
        let newest = self.records.iter().max_by_key(|(_, (_, rev))| *rev);
        newest.map(|(path, (cid, _))| (path, *cid))
    }
}
