//! How far back slots hold anything, and what is too old to be replayed.
//!
//! A store forgets after ten days that a record was deleted, by its own clock. A replay of frames from before that delete would
//! then bring the record back. So a gap of more than seven days ago is replayed only where nothing later was taken in so
//! long ago; else its repositories are to be repaired by full snapshots, which tell what is no more.

use std::collections::HashMap;

use super::held::Interval;
use crate::slot::SlotSet;
use crate::store::{Fact, LONGEST_REPLAY};

/// A replay that begins with frames of so long ago is done before anything is forgotten (microseconds).
const REPLAYED: u64 = LONGEST_REPLAY.as_secs() * 1_000_000;

/// What was taken in since when; and what so long ago that what it deleted may be forgotten.
pub(super) struct Aged {
    /// Frames of before this time are too old, if anything later is aged (microseconds).
    limit: u64,
    /// By set of slots, the latest end of what is aged.
    until: Vec<(SlotSet, u64)>,
    /// By set of slots, the earliest begin of what is held.
    began: Vec<(SlotSet, u64)>,
}

impl Aged {
    /// At the time of `now` (microseconds).
    pub fn of(facts: &[Fact], now: u64) -> Self {
        let limit = now.saturating_sub(REPLAYED);
        // Nothing was taken in before its run began, nor before it was published.
        let aged = |fact: &&Fact| {
            fact.kind.is_held() && fact.run < limit && Interval::of(fact).from_time < limit
        };
        let mut until: HashMap<SlotSet, u64> = HashMap::new();
        for fact in facts.iter().filter(aged) {
            let end = until.entry(fact.slots).or_default();
            *end = fact.to_time.max(*end);
        }
        let mut began: HashMap<SlotSet, u64> = HashMap::new();
        for fact in facts.iter().filter(|fact| fact.kind.is_held()) {
            let begin = began.entry(fact.slots).or_insert(u64::MAX);
            *begin = Interval::of(fact).from_time.min(*begin);
        }
        Self {
            limit,
            until: until.into_iter().collect(),
            began: began.into_iter().collect(),
        }
    }

    /// The time (microseconds) from which on some slots can be replayed.
    pub fn replayed_from(&self, slots: SlotSet) -> u64 {
        let sets = self.until.iter();
        let of_slots = sets.filter(|(set, _)| !set.intersection(slots).is_empty());
        let until = of_slots.map(|(_, until)| *until).max();
        until.unwrap_or_default().min(self.limit)
    }

    /// The time (microseconds) before which nothing of any of these slots was held, of whatever collections.
    pub fn began(&self, slots: SlotSet) -> u64 {
        let sets = self.began.iter();
        let of_slots = sets.filter(|(set, _)| !set.intersection(slots).is_empty());
        of_slots.map(|(_, begin)| *begin).min().unwrap_or(u64::MAX)
    }
}
