//! What waits: repairs and the quarantine, and the bound on the quarantine's bytes.
//!
//! Both are spread over slots, so a listing asks several partitions at once, in their order. Repairs: slot, DID, id. The
//! quarantine: day, slot, id. Each worker keeps its own slots within their share of the bound, so that none has to know
//! of the others.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::reader::{Ask, Reader, Row, broken, natural};
use crate::slot::slot_of;
use crate::store::limits::page_limit;
use crate::store::{Page, QuarantineEntry, REPAIRS_OF, Repair, RepairKind, StoreError};

/// Partitions that are asked at once.
const AT_ONCE: usize = 16;
/// Rows of a request.
const ROWS: usize = 500;
/// Rows of a request of which only a few small columns are wanted.
const SMALL_ROWS: usize = 5000;
/// Pieces of a frame (512 KiB each) of a request.
const PIECES: usize = 4;
/// Slots that there are.
const SLOTS: u128 = 256;

/// did, id, kind, reason, version.
type RepairRow = (String, String, Option<String>, Option<String>, Option<i64>);

/// id, received, reason, detail, source, seq, did, size, evicted.
type EntryRow = (
    String,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<i64>,
    Option<bool>,
);

/// id, size, evicted, when it was written.
type SizeRow = (String, Option<i64>, Option<bool>, Option<i64>);

/// (day, slot) of the quarantine.
type Place = (i32, i32);

/// A frame whose bytes are held.
struct HeldFrame {
    id: String,
    size: u64,
    /// Microseconds of the writer's clock.
    written: i64,
}

/// The day and the slot that an id of the quarantine (`DAY-SLOT-HASH`) names; what is no such id is in (0, 0).
pub(super) fn place_of(id: &str) -> Place {
    let place = || {
        let mut parts = id.splitn(3, '-');
        let (day, slot) = (parts.next()?, parts.next()?);
        parts.next()?;
        let digits =
            |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !digits(day, 8) || !digits(slot, 2) {
            return None;
        }
        Some((day.parse().ok()?, i32::from_str_radix(slot, 16).ok()?))
    };
    place().unwrap_or_default()
}

fn bad_cursor(cursor: &str) -> StoreError {
    StoreError::Query(format!("{cursor:?} is no cursor of this listing"))
}

/// The items of a page of which one more than fits was read.
fn cut<T>(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let cursor = items.last().filter(|_| more).map(cursor);
    Page { items, cursor }
}

impl Reader {
    /// At most `most` rows of one partition (or a few more).
    async fn some<R: Row, V: SerializeRow + Sync>(
        &self,
        ask: &Ask<'_, V>,
        most: usize,
    ) -> Result<Vec<R>, StoreError> {
        let mut found = Vec::new();
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging.filter(|_| found.len() < most) {
            let (rows, next) = self.page(ask, from).await?;
            found.extend(rows);
            paging = next;
        }
        Ok(found)
    }

    /// A page of repairs, by slot, DID and id.
    pub(super) async fn repairs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repair>, StoreError> {
        let limit = page_limit(limit);
        let position =
            cursor.map(|cursor| cursor.split_once('/').ok_or_else(|| bad_cursor(cursor)));
        let (did, id) = position.transpose()?.unwrap_or_default();
        let first = cursor.map_or(0, |_| slot_of(did));
        let first_rows = (limit + 1).min(ROWS);
        let firsts = (first..=u8::MAX).map(|slot| {
            let beyond = if slot == first { (did, id) } else { ("", "") };
            self.repairs_beyond(slot, beyond, first_rows)
        });
        let mut firsts = stream::iter(firsts).buffered(AT_ONCE);
        let mut items: Vec<Repair> = Vec::new();
        while items.len() <= limit
            && let Some((slot, repairs)) = firsts.try_next().await?
        {
            // A full answer may have more behind it.
            let mut full = repairs.len() >= first_rows;
            items.extend(repairs);
            while let Some(last) = items.last().filter(|_| full && items.len() <= limit) {
                let beyond = (last.did.as_str(), last.id.as_str());
                let (_, repairs) = self.repairs_beyond(slot, beyond, ROWS).await?;
                full = repairs.len() >= ROWS;
                items.extend(repairs);
            }
        }
        Ok(cut(items, limit, |last| {
            format!("{}/{}", last.did, last.id)
        }))
    }

    async fn repairs_beyond(
        &self,
        slot: u8,
        (did, id): (&str, &str),
        most: usize,
    ) -> Result<(u8, Vec<Repair>), StoreError> {
        let ask = Ask {
            table: "repairs",
            statement: &self.statements.repairs,
            values: (i32::from(slot), did, id),
            rows: most,
        };
        let rows = self.some::<RepairRow, _>(&ask, most).await?;
        let repairs: Result<_, _> = rows.into_iter().map(read_repair).collect();
        Ok((slot, repairs?))
    }

    /// The repairs of one repository.
    pub(super) async fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError> {
        let ask = Ask {
            table: "repairs",
            statement: &self.statements.repairs_of,
            values: (i32::from(slot_of(did)), did),
            rows: ROWS,
        };
        let rows = self.some::<RepairRow, _>(&ask, REPAIRS_OF).await?;
        rows.into_iter().take(REPAIRS_OF).map(read_repair).collect()
    }

    /// Every (day, slot) of the quarantine that has rows, the oldest first.
    async fn places(&self) -> Result<BTreeSet<Place>, StoreError> {
        let ask = Ask {
            table: "quarantine",
            statement: &self.statements.quarantine_partitions,
            values: (),
            rows: SMALL_ROWS,
        };
        let mut places = BTreeSet::new();
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging {
            let (rows, next) = self.page::<Place, _>(&ask, from).await?;
            places.extend(rows);
            paging = next;
        }
        Ok(places)
    }

    /// A page of the quarantine, by day, slot and id.
    pub(super) async fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        let limit = page_limit(limit);
        let position =
            cursor.map(|cursor| quarantine_position(cursor).ok_or_else(|| bad_cursor(cursor)));
        let (first, id) = position.transpose()?.unwrap_or(((i32::MIN, i32::MIN), ""));
        let places = self.places().await?;
        let places = places.range(first..).copied();
        let first_rows = (limit + 1).min(ROWS);
        let firsts = places.map(|place| {
            let beyond = if place == first { id } else { "" };
            self.entries_of(place, beyond, first_rows)
        });
        let mut firsts = stream::iter(firsts).buffered(AT_ONCE);
        let mut items: Vec<QuarantineEntry> = Vec::new();
        while items.len() <= limit
            && let Some((place, entries)) = firsts.try_next().await?
        {
            let mut full = entries.len() >= first_rows;
            items.extend(entries);
            while let Some(last) = items.last().filter(|_| full && items.len() <= limit) {
                let (_, entries) = self.entries_of(place, &last.id, ROWS).await?;
                full = entries.len() >= ROWS;
                items.extend(entries);
            }
        }
        Ok(cut(items, limit, |last| {
            let (day, slot) = place_of(&last.id);
            format!("{day}/{slot}/{}", last.id)
        }))
    }

    async fn entries_of(
        &self,
        (day, slot): Place,
        beyond: &str,
        most: usize,
    ) -> Result<(Place, Vec<QuarantineEntry>), StoreError> {
        let ask = Ask {
            table: "quarantine",
            statement: &self.statements.quarantine,
            values: (day, slot, beyond),
            rows: most,
        };
        let rows = self.some::<EntryRow, _>(&ask, most).await?;
        let entries: Result<_, _> = rows.into_iter().map(read_entry).collect();
        Ok(((day, slot), entries?))
    }

    /// One row of the quarantine with its bytes.
    pub(super) async fn quarantined(
        &self,
        id: &str,
    ) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        let Some(entry) = self.entry(id).await? else {
            return Ok(None);
        };
        if entry.evicted {
            return Ok(Some((entry, Vec::new())));
        }
        let raw = self.raw(id, entry.size).await?;
        if raw.len() as u64 == entry.size {
            return Ok(Some((entry, raw)));
        }
        // It may have been evicted or released meanwhile.
        let Some(mut entry) = self.entry(id).await? else {
            return Ok(None);
        };
        if !entry.evicted && !raw.is_empty() {
            return Err(broken("quarantine_raw", id));
        }
        // Eviction drops the bytes first; its mark follows.
        entry.evicted = true;
        Ok(Some((entry, Vec::new())))
    }

    /// One row of the quarantine.
    pub(super) async fn entry(&self, id: &str) -> Result<Option<QuarantineEntry>, StoreError> {
        if id.is_empty() {
            return Ok(None);
        }
        let (day, slot) = place_of(id);
        let statement = &self.statements.quarantined;
        let row = self.row("quarantine", statement, &(day, slot, id)).await?;
        row.map(read_entry).transpose()
    }

    /// The bytes of a frame; one piece more than its size is never read.
    async fn raw(&self, id: &str, size: u64) -> Result<Vec<u8>, StoreError> {
        let ask = Ask {
            table: "quarantine_raw",
            statement: &self.statements.raw,
            values: (id,),
            rows: PIECES,
        };
        let mut raw = Vec::new();
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging.filter(|_| raw.len() as u64 <= size) {
            let (pieces, next) = self.page::<(Vec<u8>,), _>(&ask, from).await?;
            for (piece,) in pieces {
                raw.extend_from_slice(&piece);
            }
            paging = next;
        }
        Ok(raw)
    }

    /// Repairs of the own slots by reason, and bytes that their quarantine holds.
    pub(super) async fn health_counts(&self) -> Result<(BTreeMap<String, u64>, u64), StoreError> {
        let mut reasons = BTreeMap::new();
        let statement = &self.statements.repair_reasons;
        let counts = self.slots.iter().map(|slot| self.reasons(statement, slot));
        let mut counts = stream::iter(counts).buffer_unordered(AT_ONCE);
        while let Some(counted) = counts.try_next().await? {
            for (reason, count) in counted {
                *reasons.entry(reason).or_default() += count;
            }
        }
        drop(counts);
        let bytes = self.quarantine_bytes().await?;
        Ok((reasons, bytes.values().sum()))
    }

    async fn reasons(
        &self,
        statement: &PreparedStatement,
        slot: u8,
    ) -> Result<BTreeMap<String, u64>, StoreError> {
        let ask = Ask {
            table: "repairs",
            statement,
            values: (i32::from(slot),),
            rows: SMALL_ROWS,
        };
        let mut reasons = BTreeMap::new();
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging {
            let (rows, next) = self.page::<(Option<String>,), _>(&ask, from).await?;
            for (reason,) in rows {
                *reasons.entry(reason.unwrap_or_default()).or_default() += 1;
            }
            paging = next;
        }
        Ok(reasons)
    }

    /// Bytes that each own partition of the quarantine holds, the oldest first.
    async fn quarantine_bytes(&self) -> Result<BTreeMap<Place, u64>, StoreError> {
        let own = |slot: i32| u8::try_from(slot).is_ok_and(|slot| self.slots.contains(slot));
        let places = self.places().await?.into_iter();
        let sums = places
            .filter(|(_, slot)| own(*slot))
            .map(|place| self.sum(place));
        stream::iter(sums)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn sum(&self, place: Place) -> Result<(Place, u64), StoreError> {
        let mut sum = 0_u64;
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging {
            let (frames, next) = self.held_frames(place, from).await?;
            for frame in frames {
                sum = sum.saturating_add(frame.size);
            }
            paging = next;
        }
        Ok((place, sum))
    }

    /// A page of the frames whose bytes are held.
    async fn held_frames(
        &self,
        (day, slot): Place,
        from: PagingState,
    ) -> Result<(Vec<HeldFrame>, Option<PagingState>), StoreError> {
        let ask = Ask {
            table: "quarantine",
            statement: &self.statements.quarantine_sizes,
            values: (day, slot),
            rows: SMALL_ROWS,
        };
        let (rows, next) = self.page::<SizeRow, _>(&ask, from).await?;
        let mut frames = Vec::new();
        for (id, size, evicted, written) in rows {
            if evicted == Some(true) {
                continue;
            }
            let size = size.and_then(natural);
            let (Some(size), Some(written)) = (size, written) else {
                return Err(broken("quarantine", &id));
            };
            frames.push(HeldFrame { id, size, written });
        }
        Ok((frames, next))
    }

    /// Drops frames of the own slots, those of the oldest days first, until the own share of the bound holds; their rows
    /// stay. Gives the bytes that are left.
    pub(super) async fn evict(&self) -> Result<u64, StoreError> {
        let share = u128::from(self.quarantine_max_bytes) * u128::from(self.slots.len()) / SLOTS;
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        let held = self.quarantine_bytes().await?;
        let mut total: u64 = held.values().sum();
        for place in held.into_keys() {
            let mut paging = Some(PagingState::start());
            while let Some(from) = paging.filter(|_| total > share) {
                let (frames, next) = self.held_frames(place, from).await?;
                for frame in frames {
                    if total <= share {
                        break;
                    }
                    self.evict_frame(place, &frame).await?;
                    total = total.saturating_sub(frame.size);
                }
                paging = next;
            }
        }
        Ok(total)
    }

    /// Drops the bytes of a frame, then says so in its row: stopped between the two, the next eviction does it again.
    ///
    /// Both happen at the time at which the row was written: of equal times a delete wins, as does `true` over `false`,
    /// and a row that was released meanwhile does not come back.
    async fn evict_frame(&self, (day, slot): Place, frame: &HeldFrame) -> Result<(), StoreError> {
        let (id, at) = (frame.id.as_str(), frame.written);
        let statement = &self.statements.drop_raw;
        let dropped = (at, id);
        self.requests
            .write("quarantine_raw", statement, &dropped)
            .await?;
        let statement = &self.statements.mark_evicted;
        let marked = (at, day, slot, id);
        self.requests.write("quarantine", statement, &marked).await
    }
}

/// `day/slot/id`.
fn quarantine_position(cursor: &str) -> Option<(Place, &str)> {
    let mut parts = cursor.splitn(3, '/');
    let (day, slot) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(((day, slot), parts.next()?))
}

fn read_repair((did, id, kind, reason, version): RepairRow) -> Result<Repair, StoreError> {
    let read = || {
        let kind: RepairKind = serde_json::from_value(serde_json::Value::String(kind?)).ok()?;
        Some((kind, reason?, natural(version?)?))
    };
    let Some((kind, reason, version)) = read() else {
        return Err(broken("repairs", &format!("{did}/{id}")));
    };
    Ok(Repair {
        did,
        id,
        kind,
        reason,
        version,
    })
}

fn read_entry(row: EntryRow) -> Result<QuarantineEntry, StoreError> {
    let id = row.0.clone();
    entry_of(row).ok_or_else(|| broken("quarantine", &id))
}

fn entry_of(row: EntryRow) -> Option<QuarantineEntry> {
    let (id, received, reason, detail, source, seq, did, size, evicted) = row;
    let seq = match seq {
        Some(seq) => Some(natural(seq)?),
        None => None,
    };
    Some(QuarantineEntry {
        id,
        received: natural(received?)?,
        reason: reason?,
        detail: detail?,
        source: source?,
        seq,
        did,
        size: natural(size?)?,
        evicted: evicted.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_their_place() {
        assert_eq!(place_of("20261123-0a-00ff00ff00ff00ff"), (20_261_123, 10));
        assert_eq!(place_of("20261123-ff-x-y"), (20_261_123, 255));
        for odd in [
            "",
            "x",
            "20261123-0a",
            "2026112-0a-1",
            "+2026112-0a-1",
            "20261123-+a-1",
            "20261123-100-1",
        ] {
            assert_eq!(place_of(odd), (0, 0), "{odd}");
        }
    }

    #[test]
    fn cursors_of_the_quarantine_are_read_back() {
        assert_eq!(
            quarantine_position("20261123/10/a/b"),
            Some(((20_261_123, 10), "a/b"))
        );
        for odd in ["", "1", "1/2", "x/2/a", "1/y/a"] {
            assert_eq!(quarantine_position(odd), None, "{odd}");
        }
    }
}
