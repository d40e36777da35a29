//! Where a walk has the places of blocks from: it searches for them, or follows an earlier walk.
//!
//! A [`Trail`] has the places of all links, node by node in the order in which a walk comes to the nodes. Every walk over a snapshot
//! reads the same blocks from the same root on, so that it asks for the same links in the same order; a trail is handed on only by a
//! walk that came to its end.

use super::SnapshotError;
use super::arena::Place;
use super::budget::Share;
use super::sections::Sections;
use crate::decode::Cid;

/// The places that a walk found; none: absent.
pub(super) type Places = Vec<Option<Place>>;

/// The places that a whole walk found.
#[derive(Debug)]
pub(super) struct Trail(Places);

/// Where a walk has the places of blocks from.
#[derive(Debug)]
pub(super) enum Source<'s> {
    /// It searches for them.
    Search,
    /// It searches for them and notes them, as long as there is memory for that.
    Note(Trail, &'s mut Share),
    /// It follows the walk that noted them.
    Follow(&'s [Option<Place>]),
}

impl<'s> Source<'s> {
    /// Notes about as many places as there are sections, or none if that is too much.
    pub fn note(share: &'s mut Share, sections: &Sections) -> Self {
        let mut trail = Trail(Vec::new());
        let places = usize::try_from(sections.len()).unwrap_or(usize::MAX);
        match trail.reserve(places, share) {
            true => Self::Note(trail, share),
            false => Self::Search,
        }
    }

    /// Follows a trail, if there is one.
    pub fn follow(trail: Option<&'s Trail>) -> Self {
        match trail {
            Some(Trail(places)) => Self::Follow(places),
            None => Self::Search,
        }
    }

    /// The places of the links of the next node.
    pub fn links(
        &mut self,
        sections: &Sections,
        cids: &[Cid],
        places: &mut Places,
    ) -> Result<(), SnapshotError> {
        if let Self::Follow(trail) = self
            && let Some((now, later)) = trail.split_at_checked(cids.len())
        {
            places.clear();
            places.extend_from_slice(now);
            *trail = later;
            return Ok(());
        }
        sections.find_all(cids, places)?;
        if let Self::Note(trail, share) = self
            && !trail.add(places, share)
        {
            *self = Self::Search;
        }
        Ok(())
    }

    /// The trail of a walk that came to its end, if there was memory for it.
    pub fn trail(self) -> Option<Trail> {
        match self {
            Self::Note(trail, _) => Some(trail),
            _ => None,
        }
    }
}

impl Trail {
    /// Adds places; false: there is no memory for them.
    fn add(&mut self, places: &Places, share: &mut Share) -> bool {
        let (len, room) = (self.0.len(), self.0.capacity());
        if room - len < places.len() && !self.reserve(room / 2 + places.len(), share) {
            return false;
        }
        self.0.extend_from_slice(places);
        true
    }

    /// Makes room for so many more than it has room for.
    fn reserve(&mut self, more: usize, share: &mut Share) -> bool {
        let Self(all) = self;
        let (old, new) = (all.capacity(), all.capacity().saturating_add(more));
        // Both are there while one is copied to the other.
        if !share.try_take(bytes_of(new)) {
            return false;
        }
        all.reserve_exact(new - all.len());
        share.give_back(bytes_of(old));
        true
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> u64 {
        bytes_of(self.0.capacity())
    }
}

fn bytes_of(places: usize) -> u64 {
    places.saturating_mul(size_of::<Option<Place>>()) as u64
}
