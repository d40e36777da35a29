//! What a reader must hold, and changes to it.

use std::collections::HashMap;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::content::mix;
use super::fault::{Failure, Fault, Outcome};
use super::{Network, RelayRepos, pds};
use crate::oracle::{Oracle, Record, RepoState};
use crate::tid::Tid;

/// What must become of a repository when its host is asked for all of it, as often as it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// It is had.
    Records {
        /// The newest commit.
        rev: String,
        /// All of its records, by path.
        records: Vec<ExpectedRecord>,
    },
    /// It can't be had; nothing of it may be written.
    Fails(Failure),
    /// Its account is not active: the status that its host, or the absence of it there, tells.
    Inactive(&'static str),
}

/// A record as it must be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedRecord {
    /// `collection/rkey`
    pub path: String,
    /// The CID.
    pub cid: String,
    /// The commit that wrote it last.
    pub rev: String,
}

/// A commit that was made at a test's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `collection/rkey`
    pub path: String,
    /// The new CID; none: it was removed.
    pub cid: Option<String>,
    /// The commit.
    pub rev: String,
}

impl Network {
    /// What must become of a repository as things are now; `None` for a DID that is not of this network.
    pub fn expected(&self, did: &str) -> Option<Expected> {
        let at = self.shared.find(did)?;
        let fault = self.shared.fault(at);
        Some(match fault.map_or(Outcome::Records, Fault::outcome) {
            Outcome::Inactive(status) => Expected::Inactive(status),
            Outcome::Fails(failure) if !self.is_rescued(at, fault, failure) => {
                Expected::Fails(failure)
            }
            _ => self.records(at),
        })
    }

    /// Whether it is had all the same: from a relay with copies, if the DID document can be had and the host gives nothing (what
    /// it gives wrong is its word); or since there is no record whose block could be missing.
    fn is_rescued(&self, at: usize, fault: Option<Fault>, failure: Failure) -> bool {
        let without_document = fault.is_some_and(Fault::is_of_transport)
            && self.shared.account(at).did.starts_with("did:web:");
        let copied = self.shared.options.relay_repos == RelayRepos::Serve
            && !without_document
            && failure.is_of_host();
        copied || fault == Some(Fault::MissingBlock) && self.shared.built(at).records.is_empty()
    }

    fn records(&self, at: usize) -> Expected {
        let built = self.shared.built(at);
        let records = built
            .records
            .iter()
            .map(|(path, (cid, rev))| ExpectedRecord {
                path: path.to_string(),
                cid: cid.to_string(),
                rev: rev.to_string(),
            });
        Expected::Records {
            rev: built.rev.to_string(),
            records: records.collect(),
        }
    }

    /// The same of all repositories, as [`check`](crate::check()) compares it with a dump: the records of those that can be had,
    /// and how their accounts stand. Handles are not told. Every record is of the newest revision: a repository does not tell which
    /// commit wrote it.
    pub fn oracle(&self) -> Oracle {
        let mut oracle = Oracle::default();
        for (at, did) in self.dids().into_iter().enumerate() {
            let (rev, status) = match self.expected(&did) {
                Some(Expected::Records { rev, .. }) => {
                    self.add_records(at, &did, &rev, &mut oracle);
                    (Some(rev), None)
                }
                Some(Expected::Inactive(status)) => (None, Some(status.to_owned())),
                _ => continue,
            };
            let state = RepoState {
                did: did.clone(),
                handle: None,
                active: status.is_none(),
                status,
                commit_rev: rev.clone(),
                rev,
            };
            oracle.repos.insert(did, state);
        }
        oracle
    }

    fn add_records(&self, at: usize, did: &str, rev: &str, oracle: &mut Oracle) {
        let built = self.shared.built(at);
        let values: HashMap<_, _> = built
            .blocks
            .iter()
            .map(|block| (block.cid, block))
            .collect();
        for (path, (cid, _)) in &built.records {
            let (collection, rkey) = path.split_once('/').unwrap_or((path, ""));
            let record = Record {
                did: did.to_owned(),
                collection: collection.to_owned(),
                rkey: rkey.to_owned(),
                cid: cid.to_string(),
                rev: rev.to_owned(),
                value: values
                    .get(cid)
                    .map(|block| pds::record_json(block))
                    .unwrap_or_default(),
            };
            let key = (did.to_owned(), collection.to_owned(), rkey.to_owned());
            oracle.records.insert(key, record);
        }
    }

    /// Writes a record anew, or makes one where there is none.
    pub fn edit(&self, did: &str) -> Option<Change> {
        let at = self.shared.find(did)?;
        match self.some_path(at) {
            Some(path) => Some(self.commit(at, path, true)),
            None => self.create(did),
        }
    }

    /// Creates a record.
    pub fn create(&self, did: &str) -> Option<Change> {
        let at = self.shared.find(did)?;
        let path = format!("app.bsky.feed.post/{}", self.shared.next_rev());
        Some(self.commit(at, path.into(), true))
    }

    /// Removes a record, if there is one.
    pub fn delete(&self, did: &str) -> Option<Change> {
        let at = self.shared.find(did)?;
        let path = self.some_path(at)?;
        Some(self.commit(at, path, false))
    }

    fn some_path(&self, at: usize) -> Option<Arc<str>> {
        let built = self.shared.built(at);
        let mut rng = ChaCha8Rng::seed_from_u64(self.content_seed(at));
        let nth = rng.random_range(0..built.records.len().max(1));
        built.records.keys().nth(nth).cloned()
    }

    /// Another one for each edit.
    fn content_seed(&self, at: usize) -> u64 {
        mix(
            self.shared.seed(at),
            1_000 + self.shared.account(at).edits.len(),
        )
    }

    fn commit(&self, at: usize, path: Arc<str>, write: bool) -> Change {
        let content = write.then(|| self.content_seed(at));
        let rev: Tid = self.shared.edit(at, path.clone(), content);
        let built = self.shared.built(at);
        let record = built.records.get(&path);
        Change {
            path: path.to_string(),
            cid: record.filter(|_| write).map(|(cid, _)| cid.to_string()),
            rev: rev.to_string(),
        }
    }
}
