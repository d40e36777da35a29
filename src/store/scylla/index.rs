//! `records_by_collection`: what is new in a collection, and the sweep of the hints that came to nothing.
//!
//! A hint is the key of an upsert and its version. It holds while the record is of that `rev` and version; readers confirm
//! each. Versions only grow, so a hint that failed once fails for ever, unless a power cut took the record and left the hint: the
//! sweep rests until that is read again. It deletes it at its own version, which
//! leaves a newer hint of the same record alone. A hint must be written after its record was acknowledged, or the sweep
//! could take it for one that failed.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use scylla::response::PagingState;

use super::reader::{Ask, Reader, Rows, broken, natural, tid};
use crate::decode::Tid;
use crate::store::limits::page_limit;
use crate::store::{IndexEntry, Page, StoreError};

const TABLE: &str = "records_by_collection";
/// Hints that one question looks at before it gives back what it has.
const LOOKS: usize = 20_000;
/// Months that one question looks at.
const MONTHS: usize = 48;
/// Hints that are confirmed at once.
const WAVE: usize = 64;
/// Requests that are on their way at once.
const AT_ONCE: usize = 32;
/// Hints of a slot's second page and those behind it.
const REFILL: usize = 128;
/// Hints that one step of the sweep looks at.
const SWEEP_STEP: usize = 256;
/// Partitions of hints that the sweep takes note of at once.
const PARTITIONS: usize = 1000;
/// Behind every DID, in a cursor.
const NO_DID: &str = "~";

/// rkey, did, rev, version.
type HintRow = (String, String, Option<String>, Option<i64>);
/// collection, month, slot.
type Partition = (String, i32, i32);

/// The month of a record key as `records_by_collection` has it: YYYYMM (UTC), 0 if it is no TID.
pub(super) fn month_of(rkey: &str) -> i32 {
    let month = || {
        let micros = i64::try_from(tid(rkey)?.micros()).ok()?;
        let time = jiff::Timestamp::from_microsecond(micros).ok()?;
        let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
        Some(i32::from(date.year()) * 100 + i32::from(date.month()))
    };
    month().unwrap_or(0)
}

/// The least TID of a month.
fn first_of(month: i32) -> Option<String> {
    let year = i16::try_from(month / 100).ok()?;
    let date = jiff::civil::Date::new(year, i8::try_from(month % 100).ok()?, 1).ok()?;
    let start = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    let micros = natural(start.timestamp().as_microsecond())?;
    String::from_utf8(Tid::new(micros, 0).encode().to_vec()).ok()
}

/// A hint as its row says it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hint {
    rkey: String,
    did: String,
    rev: Tid,
    version: u64,
}

/// In a heap the newest comes first: the greatest record key, then the least DID.
#[derive(PartialEq, Eq)]
struct Head {
    hint: Hint,
    lane: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let keys = self.hint.rkey.cmp(&other.hint.rkey);
        keys.then_with(|| other.hint.did.cmp(&self.hint.did))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A month of a collection, and where in it to start.
#[derive(Clone, Copy)]
struct Month<'a> {
    collection: &'a str,
    month: i32,
    beyond: Option<(&'a str, &'a str)>,
}

/// What a slot's next request asks for.
enum Phase {
    /// Other DIDs of the record key that it starts beyond.
    SameKey,
    /// The record keys before it.
    Before,
    /// All.
    All,
}

/// The hints of one slot, as far as they were read.
struct Lane {
    slot: i32,
    hints: VecDeque<Hint>,
    next: Option<(Phase, PagingState)>,
}

/// The hints of all slots, merged.
struct Merge<'a> {
    reader: &'a Reader,
    month: Month<'a>,
    lanes: Vec<Lane>,
    heads: BinaryHeap<Head>,
}

impl<'a> Merge<'a> {
    async fn of(reader: &'a Reader, month: Month<'a>, limit: usize) -> Result<Self, StoreError> {
        let first = limit / 128 + 4;
        let lanes = (0..=i32::from(u8::MAX)).map(|slot| reader.lane(month, slot, first));
        let lanes = stream::iter(lanes).buffered(AT_ONCE);
        let mut merge = Self {
            reader,
            month,
            lanes: lanes.try_collect().await?,
            heads: BinaryHeap::new(),
        };
        for lane in 0..merge.lanes.len() {
            merge.advance(lane).await?;
        }
        Ok(merge)
    }

    /// Puts the next hint of a lane among the heads.
    async fn advance(&mut self, lane: usize) -> Result<(), StoreError> {
        let Some(from) = self.lanes.get_mut(lane) else {
            return Ok(());
        };
        if from.hints.is_empty() {
            self.reader.refill(self.month, from, REFILL).await?;
        }
        let hint = from.hints.pop_front();
        self.heads.extend(hint.map(|hint| Head { hint, lane }));
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Hint>, StoreError> {
        let Some(Head { hint, lane }) = self.heads.pop() else {
            return Ok(None);
        };
        self.advance(lane).await?;
        Ok(Some(hint))
    }

    async fn wave(&mut self) -> Result<Vec<Hint>, StoreError> {
        let mut wave = Vec::new();
        while wave.len() < WAVE
            && let Some(hint) = self.next().await?
        {
            wave.push(hint);
        }
        Ok(wave)
    }
}

/// Where a pass of the sweep is.
#[derive(Default)]
pub(super) struct SweepCursor {
    /// Partitions that were found and not swept yet.
    found: VecDeque<Partition>,
    /// Where to find more.
    find: Find,
    /// The page of the first partition that comes next.
    rows: Option<PagingState>,
    /// Hints that hold, so far.
    pub kept: u64,
    /// Hints that were deleted, so far.
    pub removed: u64,
}

#[derive(Default)]
enum Find {
    #[default]
    Start,
    Next(PagingState),
    Done,
}

impl Reader {
    /// What is new in a collection.
    pub(super) async fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        if !self.index {
            return Err(StoreError::Query(
                "what is new in a collection is not kept: set store.index = true".to_owned(),
            ));
        }
        let limit = page_limit(limit);
        let position = cursor.map(|cursor| {
            let parts = cursor.split_once('/');
            parts.ok_or_else(|| StoreError::Query(format!("{cursor:?} is no cursor of an index")))
        });
        let position = position.transpose()?;
        let from = position.map(|(rkey, _)| month_of(rkey));
        let mut items = Vec::new();
        let mut looked = 0;
        let months = self.months(collection).await?;
        let months = months.into_iter();
        let months = months.filter(|month| from.is_none_or(|from| *month <= from));
        for (asked, month) in months.enumerate() {
            if asked == MONTHS {
                // The months before this one were seen to their ends: go on below the last of them.
                let cursor = self.place_before(collection, month)?;
                return Ok(cut(items, limit, Some(cursor)));
            }
            let beyond = position.filter(|_| from == Some(month));
            let place = Month {
                collection,
                month,
                beyond,
            };
            let mut merge = Merge::of(self, place, limit).await?;
            loop {
                let wave = merge.wave().await?;
                let Some(last) = wave
                    .last()
                    .map(|hint| format!("{}/{}", hint.rkey, hint.did))
                else {
                    break;
                };
                looked += wave.len();
                self.show(collection, wave, &mut items).await?;
                if items.len() > limit || looked >= LOOKS {
                    return Ok(cut(items, limit, Some(last)));
                }
            }
        }
        Ok(cut(items, limit, None))
    }

    /// A cursor before all hints of a month.
    fn place_before(&self, collection: &str, month: i32) -> Result<String, StoreError> {
        // What is no TID comes behind all that is: no record key of month 0 is before it.
        let next = match (month, month % 100) {
            (0, _) => return Ok(format!("{}/{NO_DID}", char::MAX.to_string().repeat(129))),
            (_, 12) => month + 89,
            _ => month + 1,
        };
        let rkey = first_of(next).ok_or_else(|| broken("collection_months", collection))?;
        Ok(format!("{rkey}/{NO_DID}"))
    }

    /// The months of a collection, the newest first.
    async fn months(&self, collection: &str) -> Result<Vec<i32>, StoreError> {
        if collection.is_empty() {
            return Ok(Vec::new());
        }
        let ask = Ask {
            table: "collection_months",
            statement: &self.statements.months,
            values: (collection,),
            rows: PARTITIONS,
        };
        let mut months = Vec::new();
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging {
            let (rows, next) = self.page::<(i32,), _>(&ask, from).await?;
            months.extend(rows.into_iter().map(|(month,)| month));
            paging = next;
        }
        Ok(months)
    }

    async fn lane(&self, month: Month<'_>, slot: i32, rows: usize) -> Result<Lane, StoreError> {
        let phase = match month.beyond {
            Some(_) => Phase::SameKey,
            None => Phase::All,
        };
        let mut lane = Lane {
            slot,
            hints: VecDeque::new(),
            next: Some((phase, PagingState::start())),
        };
        self.refill(month, &mut lane, rows).await?;
        Ok(lane)
    }

    /// Reads on until there is a hint or the end.
    async fn refill(
        &self,
        month: Month<'_>,
        lane: &mut Lane,
        rows: usize,
    ) -> Result<(), StoreError> {
        while lane.hints.is_empty()
            && let Some((phase, paging)) = lane.next.take()
        {
            let (found, next) = self
                .hint_page(month, lane.slot, &phase, rows, paging)
                .await?;
            lane.next = match (phase, next) {
                (phase, Some(next)) => Some((phase, next)),
                (Phase::SameKey, None) => Some((Phase::Before, PagingState::start())),
                (Phase::Before | Phase::All, None) => None,
            };
            for row in found {
                lane.hints.push_back(read_hint(month.collection, row)?);
            }
        }
        Ok(())
    }

    async fn hint_page(
        &self,
        place: Month<'_>,
        slot: i32,
        phase: &Phase,
        rows: usize,
        paging: PagingState,
    ) -> Result<Rows<HintRow>, StoreError> {
        let (collection, month) = (place.collection, place.month);
        let (rkey, did) = place.beyond.unwrap_or_default();
        let statements = &self.statements;
        match phase {
            Phase::SameKey => {
                let ask = Ask {
                    table: TABLE,
                    statement: &statements.hints_of,
                    values: (collection, month, slot, rkey, did),
                    rows,
                };
                self.page(&ask, paging).await
            }
            Phase::Before => {
                let ask = Ask {
                    table: TABLE,
                    statement: &statements.hints_before,
                    values: (collection, month, slot, rkey),
                    rows,
                };
                self.page(&ask, paging).await
            }
            Phase::All => {
                let ask = Ask {
                    table: TABLE,
                    statement: &statements.hints,
                    values: (collection, month, slot),
                    rows,
                };
                self.page(&ask, paging).await
            }
        }
    }

    /// Adds what hints name, if it is so and its account is to be shown.
    async fn show(
        &self,
        collection: &str,
        hints: Vec<Hint>,
        items: &mut Vec<IndexEntry>,
    ) -> Result<(), StoreError> {
        let entries = hints.into_iter().map(|hint| self.visible(collection, hint));
        let mut entries = stream::iter(entries).buffered(AT_ONCE);
        while let Some(entry) = entries.try_next().await? {
            items.extend(entry);
        }
        Ok(())
    }

    async fn visible(
        &self,
        collection: &str,
        hint: Hint,
    ) -> Result<Option<IndexEntry>, StoreError> {
        let Some(entry) = self.confirm(collection, &hint).await? else {
            return Ok(None);
        };
        let status = self.status(&entry.did).await?;
        Ok(status
            .is_none_or(|(_, status)| status.active)
            .then_some(entry))
    }

    /// What a hint names, if that is what the record is.
    async fn confirm(
        &self,
        collection: &str,
        hint: &Hint,
    ) -> Result<Option<IndexEntry>, StoreError> {
        let record = self.record_head(&hint.did, collection, &hint.rkey).await?;
        let record =
            record.filter(|record| (record.rev, record.version) == (hint.rev, hint.version));
        Ok(record.map(|record| IndexEntry {
            did: record.did,
            rkey: record.rkey,
            cid: record.cid,
            rev: record.rev,
        }))
    }

    /// One pass of the sweep over the hints of the own slots; gives how many were left.
    pub(super) async fn sweep(&self) -> Result<u64, StoreError> {
        let mut cursor = SweepCursor::default();
        loop {
            let kept = cursor.kept;
            match self.sweep_step(cursor).await? {
                Some(next) => cursor = next,
                None => return Ok(kept),
            }
        }
    }

    /// One step of the sweep: a page of partitions, or of hints; `None` once there was nothing left to look at.
    pub(super) async fn sweep_step(
        &self,
        mut cursor: SweepCursor,
    ) -> Result<Option<SweepCursor>, StoreError> {
        let Some((collection, month, slot)) = cursor.found.front().cloned() else {
            return self.find_partitions(cursor).await;
        };
        let ask = Ask {
            table: TABLE,
            statement: &self.statements.hints,
            values: (collection.as_str(), month, slot),
            rows: SWEEP_STEP,
        };
        let from = cursor.rows.take().unwrap_or_default();
        let (rows, next) = self.page::<HintRow, _>(&ask, from).await?;
        let hints: Result<Vec<Hint>, _> = rows
            .into_iter()
            .map(|row| read_hint(&collection, row))
            .collect();
        let place = (collection.as_str(), month, slot);
        let swept = hints?.into_iter().map(|hint| self.sweep_hint(place, hint));
        let mut swept = stream::iter(swept).buffer_unordered(AT_ONCE);
        while let Some(kept) = swept.try_next().await? {
            cursor.kept += u64::from(kept);
            cursor.removed += u64::from(!kept);
        }
        drop(swept);
        if next.is_none() {
            cursor.found.pop_front();
        }
        cursor.rows = next;
        Ok(Some(cursor))
    }

    async fn find_partitions(
        &self,
        mut cursor: SweepCursor,
    ) -> Result<Option<SweepCursor>, StoreError> {
        let from = match std::mem::replace(&mut cursor.find, Find::Done) {
            Find::Start => PagingState::start(),
            Find::Next(from) => from,
            Find::Done => return Ok(None),
        };
        let ask = Ask {
            table: TABLE,
            statement: &self.statements.hint_partitions,
            values: (),
            rows: PARTITIONS,
        };
        let (rows, next) = self.page::<Partition, _>(&ask, from).await?;
        let own = |slot: i32| u8::try_from(slot).is_ok_and(|slot| self.slots.contains(slot));
        let found = rows.into_iter().filter(|(_, _, slot)| own(*slot));
        cursor.found.extend(found);
        if let Some(next) = next {
            cursor.find = Find::Next(next);
        }
        Ok(Some(cursor))
    }

    /// Deletes a hint if it failed; whether it stays.
    async fn sweep_hint(
        &self,
        (collection, month, slot): (&str, i32, i32),
        hint: Hint,
    ) -> Result<bool, StoreError> {
        if self.confirm(collection, &hint).await?.is_some() {
            return Ok(true);
        }
        let at = i64::try_from(hint.version).map_err(|_| broken(TABLE, &hint.did))?;
        let (rkey, did) = (hint.rkey.as_str(), hint.did.as_str());
        let values = (at, collection, month, slot, rkey, did);
        let statement = &self.statements.drop_hint;
        self.requests.write(TABLE, statement, &values).await?;
        Ok(false)
    }
}

/// A page of what was found; `seen` is the last place that was looked at, if there may be more.
fn cut(mut items: Vec<IndexEntry>, limit: usize, seen: Option<String>) -> Page<IndexEntry> {
    let mut cursor = seen;
    if items.len() > limit {
        items.truncate(limit);
        let last = items.last();
        cursor = last.map(|last| format!("{}/{}", last.rkey, last.did));
    }
    Page { items, cursor }
}

fn read_hint(collection: &str, (rkey, did, rev, version): HintRow) -> Result<Hint, StoreError> {
    let read = || Some((tid(rev.as_deref()?)?, natural(version?)?));
    let Some((rev, version)) = read() else {
        return Err(broken(TABLE, &format!("{collection}/{rkey}/{did}")));
    };
    Ok(Hint {
        rkey,
        did,
        rev,
        version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_tids() {
        let at = |micros| String::from_utf8(Tid::new(micros, 5).encode().to_vec()).unwrap();
        assert_eq!(month_of(&at(0)), 197_001);
        assert_eq!(month_of(&at(1_764_547_199_999_999)), 202_511);
        assert_eq!(month_of(&at(1_764_547_200_000_000)), 202_512);
        assert_eq!(month_of("self"), 0);
        assert_eq!(month_of(""), 0);
    }

    #[test]
    fn a_month_starts_with_its_least_tid() {
        let first = first_of(202_512).unwrap();
        assert_eq!(month_of(&first), 202_512);
        let tid = Tid::parse(first.as_bytes()).unwrap();
        assert_eq!(tid, Tid::new(1_764_547_200_000_000, 0));
        assert_eq!(first_of(202_513), None);
        assert_eq!(first_of(-1), None);
    }
}
