//! Where the blocks of a CAR are, by their hashes: an open-addressing table that is filled as the blocks come.
//!
//! A slot has the first 8 bytes of a hash and a [`Place`]. Where the search for it begins depends on a seed of this table, so that no
//! choice of hashes makes it slow.

use std::hash::{BuildHasher, RandomState};

use super::arena::Place;

/// Slots of the first table.
const FIRST: usize = 512;

/// A block, or none.
#[derive(Debug, Clone, Copy)]
struct Slot {
    prefix: u64,
    place: Option<Place>,
}

const EMPTY: Slot = Slot {
    prefix: 0,
    place: None,
};

/// The table. Several blocks with the same prefix may be in it.
#[derive(Debug)]
pub(super) struct Index {
    slots: Vec<Slot>,
    len: usize,
    seed: [u64; 2],
}

impl Index {
    /// An empty one, which takes no memory yet.
    pub fn new() -> Self {
        let random = RandomState::new();
        Self {
            slots: Vec::new(),
            len: 0,
            seed: [random.hash_one(0), random.hash_one(1) | 1],
        }
    }

    /// How many blocks are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> u64 {
        bytes_of(self.slots.len())
    }

    /// Whether it has to grow before anything else is put into it: an eighth of the slots is kept empty, for searches to end at.
    pub fn is_full(&self) -> bool {
        self.len >= self.slots.len() / 8 * 7
    }

    /// The memory that it takes when it has grown.
    pub fn grown_bytes(&self) -> u64 {
        bytes_of(self.grown())
    }

    fn grown(&self) -> usize {
        (self.slots.len() / 2 * 3).max(FIRST)
    }

    /// Grows. The slots are gone through in the order of what begins a search, so that this is almost a copy.
    pub fn grow(&mut self) {
        let grown = vec![EMPTY; self.grown()];
        let old = std::mem::replace(&mut self.slots, grown);
        for Slot { prefix, place } in old {
            if let Some(place) = place {
                self.put(prefix, place);
            }
        }
    }

    /// Puts a block into it, which must not be full.
    pub fn insert(&mut self, prefix: u64, place: Place) {
        self.put(prefix, place);
        self.len += 1;
    }

    fn put(&mut self, prefix: u64, place: Place) {
        let start = self.start(prefix);
        let (before, from) = self.slots.split_at_mut(start);
        let mut slots = from.iter_mut().chain(before);
        if let Some(slot) = slots.find(|slot| slot.place.is_none()) {
            let place = Some(place);
            *slot = Slot { prefix, place };
        }
    }

    /// The blocks with a prefix.
    #[inline]
    pub fn find(&self, prefix: u64) -> impl Iterator<Item = Place> + '_ {
        let (before, from) = self.slots.split_at(self.start(prefix));
        from.iter()
            .chain(before)
            .take_while(|slot| slot.place.is_some())
            .filter(move |slot| slot.prefix == prefix)
            .filter_map(|slot| slot.place)
    }

    /// Where the search for a prefix begins, below the number of slots.
    #[inline]
    fn start(&self, prefix: u64) -> usize {
        let [first, second] = self.seed;
        let seeded = prefix ^ first;
        let mixed = high_half(seeded, second) ^ seeded.wrapping_mul(second);
        usize::try_from(high_half(mixed, self.slots.len() as u64)).unwrap_or_default()
    }
}

/// Of the product.
fn high_half(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

fn bytes_of(slots: usize) -> u64 {
    (slots * size_of::<Slot>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_takes_16_bytes() {
        assert_eq!(size_of::<Slot>(), 16);
    }

    fn put(index: &mut Index, prefix: u64, place: Place) {
        if index.is_full() {
            let bytes = index.grown_bytes();
            index.grow();
            assert_eq!(index.bytes(), bytes);
        }
        index.insert(prefix, place);
    }

    #[test]
    fn finds_what_was_put_into_it() {
        let mut index = Index::new();
        assert_eq!(index.find(0).count(), 0);
        let place = |n: u64| Place::new(100 * n, 40);
        for n in 0..20_000 {
            put(&mut index, n / 2, place(n));
        }
        assert_eq!(index.len(), 20_000);
        assert!(index.bytes() < 20_000 * 16 * 2);
        for n in 0..10_000 {
            let mut found: Vec<_> = index.find(n).collect();
            found.sort_by_key(|place| place.start());
            assert_eq!(found, [place(2 * n), place(2 * n + 1)]);
        }
        assert_eq!(index.find(10_000).chain(index.find(u64::MAX)).count(), 0);
    }

    /// Hashes that are near one another, or alike at either end, as a host may choose them.
    #[test]
    fn no_choice_of_hashes_makes_it_slow() {
        for stride in [1, 1 << 20, 1 << 48, (1 << 32) + 1] {
            let mut index = Index::new();
            for n in 0..20_000 {
                put(&mut index, stride * n, Place::new(100 * n, 40));
            }
            let runs = index.slots.split(|slot| slot.place.is_none());
            let longest = runs.map(<[Slot]>::len).max();
            assert!(longest.is_some_and(|longest| longest < 1000), "{stride}");
        }
    }
}
