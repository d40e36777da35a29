//! Which pages of a discovery are done: the checkpoint moves over pages whose repositories are all settled, in their order.

use std::collections::VecDeque;

use super::record::{Checkpoint, Counts};

/// A page whose repositories are not all settled.
#[derive(Debug)]
struct Open {
    left: usize,
    next: Checkpoint,
    counts: Counts,
}

/// The pages of one run.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// The number of the first open page.
    first: u64,
    open: VecDeque<Open>,
    /// Everything before this is done,
    done: Checkpoint,
    /// and counted here.
    counts: Counts,
    /// Repositories of all pages, before too.
    found: u64,
}

impl Pages {
    /// Goes on at a checkpoint.
    pub fn at(done: Checkpoint, counts: Counts) -> Self {
        Self {
            done,
            found: counts.found,
            counts,
            ..Self::default()
        }
    }

    /// A page of so many repositories that ends at `next`; gives its number.
    pub fn begin(&mut self, repos: usize, next: Checkpoint) -> u64 {
        let number = self.first + self.open.len() as u64;
        self.open.push_back(Open {
            left: repos,
            next,
            counts: Counts {
                found: repos as u64,
                ..Counts::default()
            },
        });
        self.found += repos as u64;
        self.advance();
        number
    }

    /// How many repositories were found so far.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// A repository of a page is settled.
    pub fn settle(&mut self, page: u64, counts: &Counts) {
        let at = page
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(open) = at.and_then(|at| self.open.get_mut(at)) {
            open.left = open.left.saturating_sub(1);
            open.counts.add(counts);
        }
        self.advance();
    }

    fn advance(&mut self) {
        while self.open.front().is_some_and(|open| open.left == 0)
            && let Some(open) = self.open.pop_front()
        {
            self.first += 1;
            self.counts.add(&open.counts);
            self.done = open.next;
        }
    }

    /// What is done for good.
    pub fn done(&self) -> (&Checkpoint, &Counts) {
        (&self.done, &self.counts)
    }

    /// What was counted, with that of pages that are not done.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        self.open.iter().for_each(|open| counts.add(&open.counts));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(cursor: &str) -> Checkpoint {
        Checkpoint {
            source: 0,
            cursor: Some(cursor.to_owned()),
        }
    }

    #[test]
    fn the_checkpoint_waits_for_the_first_open_page() {
        let one = Counts {
            processed: 1,
            ..Counts::default()
        };
        let mut pages = Pages::at(at("0"), Counts::default());
        let first = pages.begin(2, at("1"));
        let second = pages.begin(1, at("2"));
        pages.settle(second, &one);
        assert_eq!(pages.done().0, &at("0"));
        assert_eq!((pages.counts().found, pages.counts().processed), (3, 1));
        pages.settle(first, &one);
        assert_eq!(pages.done().0, &at("0"));
        pages.settle(first, &one);
        assert_eq!(pages.done(), (&at("2"), &pages.counts()));
        let third = pages.begin(1, at("3"));
        assert_eq!(third, 2);
        // An empty page is done at once, but not before the one before it.
        pages.begin(0, at("4"));
        assert_eq!(pages.done().0, &at("2"));
        pages.settle(third, &one);
        assert_eq!((pages.done().0, pages.done().1.processed), (&at("4"), 4));
    }
}
