//! Which records of a repository are in a window of days: those created or changed since its start, as far as that can be told.
//!
//! Where the server honoured `since`, it sent what is newer and left the rest out: a record is in the window if its block is there.
//! Where it ignored `since`, it sent everything, and no block says when it was written: a record is in the window if its key is a TID
//! of the window, or else if its `createdAt` (text at the top of the record) lies in it. Keys and `createdAt` are the user's own
//! choice: a record that was changed since, but says of itself that it is older, is left out there, and so is one that says nothing.
//! Either sign is enough, since a record too many does no harm.
//!
//! Where nothing is absent and no key is a TID before the window, both look alike, as of an account younger than the window: all of it is
//! in the window then.
//!
//! A server that honours `since` leaves a new record out if its block existed before (deleted and created again with the same
//! content). If its key is a TID of the window and the store does not hold it with this CID, it has to be fetched by itself.

use std::ops::ControlFlow;

use super::{Leaf, Mode, Snapshot, SnapshotError, Verified};
use crate::config::CollectionFilter;
use crate::decode::cbor::{CborError, Cursor, TEXT};
use crate::decode::{Tid, time};

/// The window that a snapshot was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its start, in microseconds since the epoch.
    pub start: u64,
    /// Whether the server honoured `since`, as far as anything speaks against it.
    pub honoured: bool,
}

/// What is to be done about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is in the window: write it.
    Write,
    /// It is not.
    Leave,
    /// It is in the window, but its block is absent and it is not held: fetch it by itself.
    Fetch,
}

impl Window {
    /// The window of a snapshot: `since` was ignored if nothing is absent although a key is older.
    pub fn of(snapshot: &Snapshot, start: u64, verified: &Verified) -> Result<Self, SnapshotError> {
        let mut window = Self {
            start,
            honoured: true,
        };
        if verified.anything_absent() {
            return Ok(window);
        }
        let mut walk = snapshot.walk(Mode::Windowed)?;
        while let Some(step) = walk.next()? {
            let key = Tid::parse(step.rkey.as_bytes());
            if key.is_some_and(|tid| tid.micros() < start) {
                window.honoured = false;
                break;
            }
        }
        Ok(window)
    }

    /// How many records of wanted collections would have to be fetched by themselves, were none of them held.
    pub fn lacking(
        &self,
        snapshot: &Snapshot,
        filter: &CollectionFilter,
    ) -> Result<u64, SnapshotError> {
        let mut lacking = 0;
        snapshot.records(Mode::Windowed, filter, |leaf| {
            if self.decide(&leaf, || false) == Decision::Fetch {
                lacking += 1;
            }
            ControlFlow::Continue(())
        })?;
        Ok(lacking)
    }

    /// The `since` of the request: a TID made of the start, which needs not be the `rev` of any commit.
    pub fn since(&self) -> Tid {
        Tid::new(self.start, 0)
    }

    /// Decides about a record. `held` says whether the store has it with this CID, and is asked only if that matters.
    pub fn decide(&self, leaf: &Leaf<'_>, held: impl FnOnce() -> bool) -> Decision {
        let new_key =
            || Tid::parse(leaf.rkey.as_bytes()).is_some_and(|tid| tid.micros() >= self.start);
        match leaf.record {
            Some(_) if self.honoured => Decision::Write,
            Some(record) if new_key() || self.created_since(record) => Decision::Write,
            None if new_key() && !held() => Decision::Fetch,
            _ => Decision::Leave,
        }
    }

    fn created_since(&self, record: &[u8]) -> bool {
        let created = created_at(record).ok().flatten();
        let created = created.and_then(time::parse_datetime);
        created.is_some_and(|created| created >= self.start)
    }
}

/// The text `createdAt` at the top of a record of canonical DAG-CBOR.
fn created_at(record: &[u8]) -> Result<Option<&str>, CborError> {
    const NAME: &[u8] = b"createdAt";
    let mut cursor = Cursor::new(record);
    let mut last = None;
    for _ in 0..cursor.map()? {
        let key = cursor.key(&mut last)?;
        if key == NAME {
            let is_text = cursor.peek_byte().is_some_and(|first| first >> 5 == TEXT);
            return if is_text {
                cursor.text().map(Some)
            } else {
                Ok(None)
            };
        }
        // Keys are sorted by length first.
        if key.len() > NAME.len() {
            break;
        }
        cursor.skip()?;
    }
    Ok(None)
}
