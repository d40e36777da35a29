//! Slots: 256 parts of the key space, by a frozen hash of the DID.

use std::fmt;

/// The slot of a DID: the low byte of xxh3-64 (seed 0) of its bytes. Frozen: stored data depends on it.
pub fn slot_of(did: &str) -> u8 {
    slot_of_place(place(did))
}

/// The hash that places a DID: its low byte is the slot, the others choose the lane.
pub(crate) fn place(did: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(did.as_bytes())
}

pub(crate) fn slot_of_place(place: u64) -> u8 {
    let [low, ..] = place.to_le_bytes();
    low
}

/// The lane of a DID among `lanes`: independent of its slot, so that a worker with one slot uses all of its lanes.
pub(crate) fn lane_of_place(place: u64, lanes: usize) -> usize {
    usize::try_from((place >> 8) % (lanes.max(1) as u64)).unwrap_or_default()
}

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SlotSet([u64; 4]);

impl SlotSet {
    /// Every slot.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// The slots that worker `id` of `count` owns: those with `slot mod count = id`.
    pub fn owned_by(id: u16, count: u16) -> Self {
        let mut set = Self::default();
        for slot in 0..=u8::MAX {
            if u16::from(slot) % count.max(1) == id {
                set.insert(slot);
            }
        }
        set
    }

    /// Adds a slot.
    pub fn insert(&mut self, slot: u8) {
        if let Some(word) = self.0.get_mut(usize::from(slot >> 6)) {
            *word |= 1 << (slot & 63);
        }
    }

    /// Whether the slot is in the set.
    pub fn contains(&self, slot: u8) -> bool {
        self.0
            .get(usize::from(slot >> 6))
            .is_some_and(|word| word >> (slot & 63) & 1 == 1)
    }

    /// The slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|slot| self.contains(*slot))
    }

    /// The slots of either.
    pub fn union(self, other: Self) -> Self {
        self.with(other, |own, other| own | other)
    }

    /// The slots of both.
    pub fn intersection(self, other: Self) -> Self {
        self.with(other, |own, other| own & other)
    }

    /// The slots that the other does not have.
    pub fn difference(self, other: Self) -> Self {
        self.with(other, |own, other| own & !other)
    }

    fn with(mut self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = join(*own, other);
        }
        self
    }

    /// How many slots there are in the set.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The 32 bytes of the set, slot 0 in the lowest bit of the first byte.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`SlotSet::to_bytes`].
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut set = Self::default();
        for (word, from) in set.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = from
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        set
    }
}

/// As ranges, with a step as in a crontab: `0-127,130`; those of one worker of two: `1-255/2`.
impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots: Vec<u8> = self.iter().collect();
        let (mut rest, mut comma) = (&slots[..], "");
        while let [first, others @ ..] = rest {
            let step = others.first().map_or(0, |second| second - first);
            let fits = |pair: &&[u8]| matches!(pair, [one, next] if next - one == step);
            let steps = rest.windows(2).take_while(fits).count();
            // Two that are apart are no range.
            let steps = if step > 1 && steps == 1 { 0 } else { steps };
            let (range, behind) = rest.split_at(steps + 1);
            let last = range.last().unwrap_or(first);
            match (steps, step) {
                (0, _) => write!(f, "{comma}{first}")?,
                (_, 1) => write!(f, "{comma}{first}-{last}")?,
                _ => write!(f, "{comma}{first}-{last}/{step}")?,
            }
            (rest, comma) = (behind, ",");
        }
        Ok(())
    }
}

impl serde::Serialize for SlotSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&data_encoding::HEXLOWER.encode_display(&self.to_bytes()))
    }
}

impl<'de> serde::Deserialize<'de> for SlotSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes
            .map(Self::from_bytes)
            .ok_or_else(|| serde::de::Error::custom("not 64 hex digits"))
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all slots");
        }
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_shown_as_ranges() {
        let mut set = SlotSet::default();
        assert_eq!(set.to_string(), "");
        [0, 1, 2, 7, 254, 255]
            .into_iter()
            .for_each(|slot| set.insert(slot));
        assert_eq!(set.to_string(), "0-2,7,254-255");
        assert_eq!(SlotSet::ALL.to_string(), "0-255");
        assert_eq!(SlotSet::owned_by(1, 2).to_string(), "1-255/2");
        assert_eq!(SlotSet::owned_by(200, 256).to_string(), "200");
        let both = SlotSet::owned_by(0, 128).union(SlotSet::owned_by(1, 64));
        assert_eq!(both.to_string(), "0-1,65,128-129,193");
    }

    #[test]
    fn slots_are_frozen() {
        // From another implementation of xxh3: stored data depends on them.
        assert_eq!(slot_of("did:plc:ewvi7nxzyoun6zhxrhs64oiz"), 137);
        assert_eq!(slot_of("did:web:example.com"), 213);
    }

    #[test]
    fn workers_share_the_slots_without_overlap() {
        for count in [1, 2, 3, 7, 256] {
            let sets: Vec<_> = (0..count).map(|id| SlotSet::owned_by(id, count)).collect();
            for slot in 0..=255 {
                assert_eq!(sets.iter().filter(|set| set.contains(slot)).count(), 1);
            }
            assert_eq!(sets.iter().map(SlotSet::len).sum::<u32>(), 256);
        }
    }

    #[test]
    fn sets_are_joined_and_cut() {
        let (even, thirds) = (SlotSet::owned_by(0, 2), SlotSet::owned_by(0, 3));
        for slot in 0..=255 {
            let (a, b) = (slot % 2 == 0, slot % 3 == 0);
            assert_eq!(even.union(thirds).contains(slot), a || b);
            assert_eq!(even.intersection(thirds).contains(slot), a && b);
            assert_eq!(even.difference(thirds).contains(slot), a && !b);
        }
    }

    #[test]
    fn bytes_round_trip() {
        let set = SlotSet::owned_by(2, 7);
        assert_eq!(SlotSet::from_bytes(set.to_bytes()), set);
        assert_eq!(SlotSet::ALL.to_bytes(), [255; 32]);
        assert_eq!(SlotSet::owned_by(3, 256).to_bytes()[0], 8);
    }
}
