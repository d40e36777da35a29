//! What may be claimed of the facts that come with the records of another store.
//!
//! Such records come without the markers of what was deleted: a store gives what it holds, not what it hides. Two things
//! follow. A replay of a gap could bring an old create back whose delete lies in a later interval: [`before_young_gaps`].
//! And a delete that only the other store has seen hides nothing in a store that holds the record: [`before_held`].
//! Both take claims away and never add one, so what is no longer claimed is read from the stream again.

use std::collections::BTreeMap;

use crate::slot::SlotSet;
use crate::store::{Fact, FactKind};

/// Gaps that began so long ago (microseconds) are repaired by full snapshots only, which bring no old creates back: three
/// days more than what is ever replayed.
pub const OLD_GAP: u64 = 10 * 24 * 3_600_000_000;

/// A part of a stream that is no longer claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Host of the relay.
    pub relay: String,
    /// Its `seq` space.
    pub generation: u32,
    /// Exclusive.
    pub from_seq: u64,
    /// Inclusive: the last number that was claimed behind it.
    pub to_seq: u64,
    /// Time at `from_seq`, microseconds.
    pub from_time: u64,
    /// Time at `to_seq`, microseconds.
    pub to_time: u64,
    /// The slots that no longer claim it.
    pub slots: SlotSet,
}

/// A `seq` and its time (microseconds).
type Place = (u64, u64);

/// Per stream and slot, the place behind which nothing is claimed.
#[derive(Debug, Default)]
struct Ends<'a>(BTreeMap<(&'a str, u32), Box<[Option<Place>; 256]>>);

impl<'a> Ends<'a> {
    fn set(&mut self, stream: (&'a str, u32), slot: u8, end: Place) {
        let slots = self
            .0
            .entry(stream)
            .or_insert_with(|| Box::new([None; 256]));
        if let Some(held) = slots.get_mut(usize::from(slot)) {
            *held = Some(end);
        }
    }

    fn of(&self, fact: &Fact, slot: u8) -> Option<Place> {
        let slots = self.0.get(&stream(fact))?;
        slots.get(usize::from(slot)).copied().flatten()
    }
}

/// Takes away what lies behind a gap that began after `now` - [`OLD_GAP`], per slot and stream, from the gap's start on.
/// Gives what stays, and what was cut.
///
/// Nothing replays a frame that was passed, so such a fact makes no gap here.
pub fn before_young_gaps(facts: &[Fact], now: u64) -> (Vec<Fact>, Vec<Cut>) {
    let young = now.saturating_sub(OLD_GAP);
    let mut ends = Ends::default();
    for (stream, mut of_stream) in by_stream(facts) {
        of_stream.sort_by_key(|fact| fact.from_seq);
        for slot in SlotSet::ALL.iter() {
            let held = of_stream.iter().filter(|fact| fact.slots.contains(slot));
            if let Some(end) = start_of_young_gap(held, young) {
                ends.set(stream, slot, end);
            }
        }
    }
    let keep = |fact: &Fact| {
        let stays = |slot: &u8| {
            ends.of(fact, *slot)
                .is_none_or(|(seq, _)| fact.to_seq <= seq)
        };
        let slots = collect(fact.slots.iter().filter(stays));
        (!slots.is_empty()).then(|| Fact {
            slots,
            ..fact.clone()
        })
    };
    let kept: Vec<Fact> = facts.iter().filter_map(keep).collect();
    (kept, cuts(facts, |fact, slot| ends.of(fact, slot)))
}

/// Where the first young gap begins. Facts come in the order of their starts.
fn start_of_young_gap<'a>(facts: impl Iterator<Item = &'a &'a Fact>, young: u64) -> Option<Place> {
    let mut end: Option<Place> = None;
    for fact in facts {
        if let Some(place) = end
            && fact.from_seq > place.0
            && place.1 > young
        {
            return Some(place);
        }
        end = end.max(Some((fact.to_seq, fact.to_time)));
    }
    None
}

/// Takes away what does not lie before all that the store itself holds of the slot; what the store holds needs no second
/// claim. In another stream only what ended earlier is known to lie before. Gives what stays, and what was cut.
pub fn before_held(facts: &[Fact], held: &[Fact]) -> (Vec<Fact>, Vec<Cut>) {
    let held: Vec<&Fact> = held
        .iter()
        .filter(|fact| fact.kind != FactKind::Passed)
        .collect();
    // Where the store's own facts of a slot begin: in each stream, and at all.
    let mut begins = Ends::default();
    let mut earliest: [Option<u64>; 256] = [None; 256];
    for fact in &held {
        let place = (fact.from_seq, fact.from_time);
        for slot in fact.slots.iter() {
            let before = begins
                .of(fact, slot)
                .map_or(place, |before| before.min(place));
            begins.set(stream(fact), slot, before);
            if let Some(time) = earliest.get_mut(usize::from(slot)) {
                *time = Some(time.map_or(fact.from_time, |time| time.min(fact.from_time)));
            }
        }
    }
    let earliest = |slot: u8| earliest.get(usize::from(slot)).copied().flatten();
    let end = |fact: &Fact, slot: u8| {
        let start = (fact.from_seq, fact.from_time);
        match (begins.of(fact, slot), earliest(slot)) {
            (Some(place), Some(time)) if place.1 <= time => Some(place),
            (place, Some(time)) if fact.to_time > time => {
                Some(place.map_or(start, |place| place.min(start)))
            }
            (place, _) => place,
        }
    };
    let mut kept = Vec::new();
    for fact in facts {
        let stays = |slot: &u8| end(fact, *slot).is_none_or(|(seq, _)| seq > fact.from_seq);
        let slots = collect(fact.slots.iter().filter(stays));
        // One row has one end, which is the least of its slots'.
        let own = (fact.to_seq, fact.to_time);
        let least = slots.iter().filter_map(|slot| end(fact, slot)).min();
        let (to_seq, to_time) = match least {
            Some((seq, time)) if seq < own.0 => (seq, time.min(own.1)),
            _ => own,
        };
        if !slots.is_empty() {
            kept.push(Fact {
                slots,
                to_seq,
                to_time,
                ..fact.clone()
            });
        }
    }
    (kept, cuts(facts, end))
}

/// What lies behind the ends of its slots, one row for each end.
fn cuts(facts: &[Fact], end: impl Fn(&Fact, u8) -> Option<Place>) -> Vec<Cut> {
    let mut cuts: BTreeMap<(&str, u32, u64), Cut> = BTreeMap::new();
    for fact in facts.iter().filter(|fact| fact.kind != FactKind::Passed) {
        for slot in fact.slots.iter() {
            let Some((seq, time)) = end(fact, slot).filter(|(seq, _)| fact.to_seq > *seq) else {
                continue;
            };
            let key = (fact.relay.as_str(), fact.generation, seq);
            let cut = cuts.entry(key).or_insert_with(|| Cut {
                relay: fact.relay.clone(),
                generation: fact.generation,
                from_seq: seq,
                to_seq: fact.to_seq,
                from_time: time,
                to_time: fact.to_time,
                slots: SlotSet::default(),
            });
            cut.slots.insert(slot);
            if fact.to_seq > cut.to_seq {
                (cut.to_seq, cut.to_time) = (fact.to_seq, fact.to_time);
            }
        }
    }
    cuts.into_values().collect()
}

fn stream(fact: &Fact) -> (&str, u32) {
    (fact.relay.as_str(), fact.generation)
}

fn by_stream(facts: &[Fact]) -> BTreeMap<(&str, u32), Vec<&Fact>> {
    let mut streams: BTreeMap<(&str, u32), Vec<&Fact>> = BTreeMap::new();
    for fact in facts {
        streams.entry(stream(fact)).or_default().push(fact);
    }
    streams
}

fn collect(slots: impl Iterator<Item = u8>) -> SlotSet {
    let mut set = SlotSet::default();
    slots.for_each(|slot| set.insert(slot));
    set
}

#[cfg(test)]
mod tests;
