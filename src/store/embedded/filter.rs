//! Clean-up: compaction drops the rows that newer rows replace, and records that a range delete covers.
//!
//! A compaction sees the rows it merges in the order of their keys, the newest of a group first. It keeps that one and
//! drops the rest: whatever else of the group stands in files it does not see, the one that it keeps still hides it. The
//! newest row always stays, also a delete, so a late older write stays hidden; only a range delete, which is kept for
//! ever and was synced before it could be seen here, lets all that it covers go.

use std::panic::RefUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use fjall::Keyspace;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};

use super::keys::{DID, Rank, split_collection, take_inverted};
use super::rows::{range_group, repo_group, split_record, take_scope};

/// The keyspace of range deletes, once it is open; taken away before the database is let go of.
#[derive(Default)]
pub(super) struct Ranges(Mutex<Option<Keyspace>>);

impl Ranges {
    /// Sets or takes away the keyspace.
    pub(super) fn set(&self, keyspace: Option<Keyspace>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = keyspace;
    }

    fn get(&self) -> Option<Keyspace> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The filter of a keyspace, if it has one.
pub(super) fn factory(keyspace: &str, ranges: &Arc<Ranges>) -> Option<Arc<dyn Factory>> {
    match keyspace {
        "records" => Some(Arc::new(RecordsFactory(ranges.clone()))),
        "repos" => Some(Arc::new(NewestFactory(repo_group))),
        "ranges" => Some(Arc::new(NewestFactory(range_group))),
        _ => None,
    }
}

/// Finds the part of a key that rows which replace each other have in common.
type Group = fn(&[u8]) -> Option<&[u8]>;

struct NewestFactory(Group);

impl Factory for NewestFactory {
    fn name(&self) -> &str {
        "newest"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Newest {
            group: self.0,
            last: Vec::new(),
        })
    }
}

/// Keeps the first row of each group.
struct Newest {
    group: Group,
    last: Vec<u8>,
}

impl Newest {
    /// Whether an earlier row of this compaction replaces this one. Rows that can't be read stay.
    fn replaced(&mut self, key: &[u8]) -> bool {
        let Some(group) = (self.group)(key) else {
            return false;
        };
        if self.last == group {
            return true;
        }
        self.last.clear();
        self.last.extend_from_slice(group);
        false
    }
}

impl CompactionFilter for Newest {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        Ok(verdict(self.replaced(item.key())))
    }
}

fn verdict(drop: bool) -> Verdict {
    if drop {
        Verdict::Destroy
    } else {
        Verdict::Keep
    }
}

struct RecordsFactory(Arc<Ranges>);

impl RefUnwindSafe for RecordsFactory {}

impl Factory for RecordsFactory {
    fn name(&self) -> &str {
        "records"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Records {
            newest: Newest {
                group: |key| split_record(key).map(|(group, _)| group),
                last: Vec::new(),
            },
            covers: self.0.get().map(Covers::new),
        })
    }
}

/// Keeps the first row of each record, unless a range delete covers it.
struct Records {
    newest: Newest,
    covers: Option<Covers>,
}

impl CompactionFilter for Records {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let key = item.key();
        if self.newest.replaced(key) {
            return Ok(Verdict::Destroy);
        }
        let covered = match &mut self.covers {
            Some(covers) => covers.covers(key)?,
            None => false,
        };
        Ok(verdict(covered))
    }
}

/// The range deletes of the DID that a compaction stands at, and where the next DID with any is.
struct Covers {
    ranges: Keyspace,
    did: Vec<u8>,
    scopes: Vec<(Option<Vec<u8>>, u64)>,
    next: Next,
}

/// The first DID with range deletes at or behind the last question.
enum Next {
    Unknown,
    At(Vec<u8>),
    End,
}

impl Covers {
    fn new(ranges: Keyspace) -> Self {
        Self {
            ranges,
            did: Vec::new(),
            scopes: Vec::new(),
            next: Next::Unknown,
        }
    }

    fn covers(&mut self, key: &[u8]) -> Result<bool, fjall::LsmError> {
        let Some((did, rest)) = DID.split(key) else {
            return Ok(false);
        };
        if self.did != did {
            self.move_to(did)?;
        }
        if self.scopes.is_empty() {
            return Ok(false);
        }
        let collection = split_collection(rest).map(|(code, _)| code);
        let Some((rank, _)) = split_record(key).and_then(|(_, tail)| Rank::take(tail)) else {
            return Ok(false);
        };
        Ok(self.scopes.iter().any(|(scope, version)| {
            let inside = scope.is_none() || scope.as_deref() == collection;
            inside && rank.version <= *version
        }))
    }

    /// Seeks only where a DID may have range deletes, so a store with few of them pays next to nothing.
    fn move_to(&mut self, did: &[u8]) -> Result<(), fjall::LsmError> {
        self.did.clear();
        self.did.extend_from_slice(did);
        self.scopes.clear();
        match &self.next {
            Next::End => return Ok(()),
            Next::At(next) if next.as_slice() > did => return Ok(()),
            Next::At(_) | Next::Unknown => {}
        }
        self.next = Next::End;
        for row in self.ranges.range(did.to_vec()..) {
            let key = row.key().map_err(lsm)?;
            let Some((of, rest)) = DID.split(&key) else {
                continue;
            };
            if of != did {
                self.next = Next::At(of.to_vec());
                break;
            }
            if let Some((scope, version)) = take_scope(rest)
                && let Some((version, _)) = take_inverted(version)
                && self
                    .scopes
                    .last()
                    .is_none_or(|(last, _)| last.as_deref() != scope)
            {
                self.scopes.push((scope.map(<[u8]>::to_vec), version));
            }
        }
        Ok(())
    }
}

fn lsm(error: fjall::Error) -> fjall::LsmError {
    match error {
        fjall::Error::Storage(error) => error,
        fjall::Error::Io(error) => fjall::LsmError::Io(error),
        _ => fjall::LsmError::Unrecoverable,
    }
}
