//! Which pages of a discovery are done: the checkpoint moves over pages whose repositories are all settled, in their order.
//!
//! What is settled behind the checkpoint is kept beside it, so that a job that was killed goes on with the repositories that are left.

use std::collections::{HashSet, VecDeque};

use super::record::{Checkpoint, Counts, Settled};

/// Repositories that are kept as settled behind the checkpoint. Those of later pages are done again after a kill.
const MAX_SETTLED: usize = 20_000;

/// A page whose repositories are not all settled.
#[derive(Debug)]
struct Open {
    left: usize,
    next: Checkpoint,
    /// Of those that are settled.
    counts: Counts,
    settled: Vec<u64>,
    /// Those that were before this run.
    kept: Vec<u64>,
}

/// The pages of one run.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// The number of the first open page.
    first: u64,
    open: VecDeque<Open>,
    /// Everything before this is done,
    done: Checkpoint,
    /// and counted here, as are those that were settled behind it before this run.
    counts: Counts,
    /// Those that were, and that no page of this run had yet.
    before: HashSet<u64>,
}

/// What may be saved of a run: where to go on, and what was settled behind that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub checkpoint: Checkpoint,
    /// Of all that is settled here.
    pub counts: Counts,
    pub settled: Settled,
}

impl Pages {
    /// Goes on where a run ended.
    pub fn at(from: Progress) -> Self {
        Self {
            done: from.checkpoint,
            counts: from.counts,
            before: from.settled.0.into_iter().collect(),
            ..Self::default()
        }
    }

    /// A page that ends at `next`, of repositories by the hash of their DID; gives its number. Those that were settled before are
    /// taken out.
    pub fn begin<T>(
        &mut self,
        repos: &mut Vec<T>,
        hash: impl Fn(&T) -> u64,
        next: Checkpoint,
    ) -> u64 {
        let mut kept = Vec::new();
        if !self.before.is_empty() {
            repos.retain(|repo| {
                let hash = hash(repo);
                let known = self.before.remove(&hash);
                if known {
                    kept.push(hash);
                }
                !known
            });
        }
        let number = self.first + self.open.len() as u64;
        self.open.push_back(Open {
            left: repos.len(),
            next,
            counts: Counts::default(),
            settled: Vec::new(),
            kept,
        });
        self.advance();
        number
    }

    /// How many repositories were found so far.
    pub fn found(&self) -> u64 {
        let open = self.open.iter().map(|open| open.counts.found);
        self.counts.found + open.sum::<u64>() + self.left()
    }

    fn left(&self) -> u64 {
        self.open.iter().map(|open| open.left as u64).sum()
    }

    /// A repository of a page is settled.
    pub fn settle(&mut self, page: u64, hash: u64, counts: &Counts) {
        let at = page
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(open) = at.and_then(|at| self.open.get_mut(at)) {
            open.left = open.left.saturating_sub(1);
            open.counts.add(counts);
            open.settled.push(hash);
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

    /// How many are settled behind what is done.
    pub fn settled(&self) -> usize {
        let open = self.open.iter();
        let open = open.map(|open| open.settled.len() + open.kept.len());
        self.before.len() + open.sum::<usize>()
    }

    /// What is done for good.
    pub fn progress(&self) -> Progress {
        let mut counts = self.counts.clone();
        // Those of before this run are counted already: without them they would be done and counted again.
        let kept = self.open.iter().flat_map(|open| &open.kept);
        let mut settled: Vec<u64> = self.before.iter().chain(kept).copied().collect();
        for open in &self.open {
            if settled.len() + open.settled.len() > MAX_SETTLED {
                break;
            }
            settled.extend(&open.settled);
            counts.add(&open.counts);
        }
        Progress {
            checkpoint: self.done.clone(),
            counts,
            settled: Settled(settled),
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        self.open.iter().for_each(|open| counts.add(&open.counts));
        counts.found += self.left();
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

    fn begin(pages: &mut Pages, mut repos: Vec<u64>, next: &str) -> (u64, Vec<u64>) {
        let number = pages.begin(&mut repos, |hash| *hash, at(next));
        (number, repos)
    }

    fn one() -> Counts {
        Counts {
            found: 1,
            processed: 1,
            ..Counts::default()
        }
    }

    fn start() -> Pages {
        Pages::at(Progress {
            checkpoint: at("0"),
            ..Progress::default()
        })
    }

    #[test]
    fn the_checkpoint_waits_for_the_first_open_page() {
        let mut pages = start();
        let (first, _) = begin(&mut pages, vec![1, 2], "1");
        let (second, _) = begin(&mut pages, vec![3], "2");
        pages.settle(second, 3, &one());
        assert_eq!(pages.progress().checkpoint, at("0"));
        assert_eq!((pages.counts().found, pages.counts().processed), (3, 1));
        pages.settle(first, 1, &one());
        assert_eq!(pages.progress().checkpoint, at("0"));
        pages.settle(first, 2, &one());
        let progress = pages.progress();
        assert_eq!(
            (progress.checkpoint, progress.counts),
            (at("2"), pages.counts())
        );
        assert_eq!(progress.settled, Settled::default());
        let (third, _) = begin(&mut pages, vec![4], "3");
        assert_eq!(third, 2);
        // An empty page is done at once, but not before the one before it.
        begin(&mut pages, Vec::new(), "4");
        assert_eq!(pages.progress().checkpoint, at("2"));
        pages.settle(third, 4, &one());
        let progress = pages.progress();
        assert_eq!(
            (progress.checkpoint, progress.counts.processed),
            (at("4"), 4)
        );
    }

    /// Killed at any moment, each is counted once, and none that is settled is given out again.
    #[test]
    fn what_was_settled_behind_the_checkpoint_is_left_out_after_a_kill() {
        let mut pages = start();
        let (first, _) = begin(&mut pages, vec![1, 2, 3], "1");
        let (second, _) = begin(&mut pages, vec![4, 5], "2");
        pages.settle(first, 2, &one());
        pages.settle(second, 5, &one());
        let mut pages = Pages::at(pages.progress());
        assert_eq!((pages.counts().found, pages.counts().processed), (2, 2));
        // The listing is cut otherwise now.
        let (first, given) = begin(&mut pages, vec![1, 2], "1");
        assert_eq!(given, [1]);
        pages.settle(first, 1, &one());
        let mut pages = Pages::at(pages.progress());
        let (rest, given) = begin(&mut pages, vec![3, 4, 5], "2");
        assert_eq!(given, [3, 4]);
        pages.settle(rest, 3, &one());
        pages.settle(rest, 4, &one());
        let progress = pages.progress();
        assert_eq!(progress.checkpoint, at("2"));
        assert_eq!((progress.counts.found, progress.counts.processed), (5, 5));
        assert_eq!(progress.settled, Settled::default());
    }

    /// However many are settled behind the checkpoint, those that are not kept are not counted either.
    #[test]
    fn what_is_too_much_to_keep_is_done_and_counted_again() {
        let page = |number: u64| (number * 15_000..(number + 1) * 15_000).collect::<Vec<u64>>();
        let mut pages = start();
        begin(&mut pages, page(0), "1");
        let (second, repos) = begin(&mut pages, page(1), "2");
        repos
            .iter()
            .for_each(|hash| pages.settle(second, *hash, &one()));
        // The first page comes to be settled by half, which does not fit beside the second one.
        let mut pages = Pages::at(pages.progress());
        assert_eq!(pages.counts().processed, 15_000);
        let (first, repos) = begin(&mut pages, page(0), "1");
        begin(&mut pages, page(1), "2");
        repos
            .iter()
            .take(7_500)
            .for_each(|hash| pages.settle(first, *hash, &one()));
        let mut pages = Pages::at(pages.progress());
        let (first, repos) = begin(&mut pages, page(0), "1");
        repos
            .iter()
            .for_each(|hash| pages.settle(first, *hash, &one()));
        let (second, repos) = begin(&mut pages, page(1), "2");
        repos
            .iter()
            .for_each(|hash| pages.settle(second, *hash, &one()));
        let progress = pages.progress();
        assert_eq!(progress.checkpoint, at("2"));
        assert_eq!(progress.counts.processed, 30_000);
    }
}
