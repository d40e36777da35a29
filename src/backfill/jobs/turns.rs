//! Who is next: work waits by host, each host has so many places, and those that have the fewest are first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Whether a host that has so many of its places may take one more, while so many of `all` are taken.
///
/// The more it has, the more must be free: hosts that are slow, however many they are, leave some to others.
pub(super) fn may_take(here: usize, per_host: usize, taken: usize, all: usize) -> bool {
    let kept = all * here / (2 * per_host);
    here < per_host && taken + kept < all
}

/// Work that waits by host.
#[derive(Debug)]
pub(super) struct Turns<Work> {
    /// Places of one host,
    per_host: usize,
    /// and of all.
    all: usize,
    taken: usize,
    by_name: HashMap<Arc<str>, Host<Work>>,
    /// Hosts with work that waits and a free place.
    turns: BTreeSet<Turn>,
    /// Turns that were given so far.
    given: u64,
}

#[derive(Debug)]
struct Host<Work> {
    waiting: VecDeque<Work>,
    taken: usize,
    resting: bool,
    turn: Option<Turn>,
}

/// By places, then by age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    taken: usize,
    number: u64,
    name: Arc<str>,
}

impl<Work> Turns<Work> {
    /// With so many places at each host and at all hosts together.
    pub fn new(per_host: usize, all: usize) -> Self {
        Self {
            per_host: per_host.max(1),
            all: all.max(1),
            taken: 0,
            by_name: HashMap::new(),
            turns: BTreeSet::new(),
            given: 0,
        }
    }

    /// With so many places at each host from now on; who has more keeps them.
    pub fn resize(&mut self, per_host: usize) {
        let per_host = per_host.max(1);
        if std::mem::replace(&mut self.per_host, per_host) == per_host {
            return;
        }
        let names: Vec<Arc<str>> = self.by_name.keys().cloned().collect();
        for name in names {
            self.host(&name, |_| {});
        }
    }

    /// Work for a host.
    pub fn wait(&mut self, name: &Arc<str>, work: Work) {
        self.host(name, |host| host.waiting.push_back(work));
    }

    /// The next work there is a place for, while no more than `most` are taken; the place is taken until the host is
    /// [left](Self::leave).
    pub fn next(&mut self, most: usize) -> Option<(Arc<str>, Work)> {
        let all = self.all.min(most);
        let turn = self.turns.first()?;
        if !may_take(turn.taken, self.per_host, self.taken, all) {
            return None;
        }
        let name = turn.name.clone();
        let work = self.host(&name, |host| {
            let work = host.waiting.pop_front();
            host.taken += usize::from(work.is_some());
            work
        })?;
        self.taken += 1;
        Some((name, work))
    }

    /// A place of a host is free again.
    pub fn leave(&mut self, name: &Arc<str>) {
        self.taken = self.taken.saturating_sub(1);
        self.host(name, |host| host.taken = host.taken.saturating_sub(1));
    }

    /// The host gets no turn before it is [woken](Self::wake); work that was begun waits again, as the first.
    pub fn rest(&mut self, name: &Arc<str>, work: Work) {
        self.taken = self.taken.saturating_sub(1);
        self.host(name, |host| {
            host.taken = host.taken.saturating_sub(1);
            host.waiting.push_front(work);
            host.resting = true;
        });
    }

    /// The host takes its turns again.
    pub fn wake(&mut self, name: &Arc<str>) {
        self.host(name, |host| host.resting = false);
    }

    /// Changes a host, and then its turn.
    fn host<T>(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Host<Work>) -> T) -> T {
        let host = self.by_name.entry(name.clone()).or_insert_with(|| Host {
            waiting: VecDeque::new(),
            taken: 0,
            resting: false,
            turn: None,
        });
        let changed = change(host);
        let ready = !host.resting && host.taken < self.per_host && !host.waiting.is_empty();
        let same = |turn: &Turn| ready && turn.taken == host.taken;
        if !host.turn.as_ref().is_some_and(same) {
            if let Some(turn) = host.turn.take() {
                self.turns.remove(&turn);
            }
            if ready {
                self.given += 1;
                let turn = Turn {
                    taken: host.taken,
                    number: self.given,
                    name: name.clone(),
                };
                host.turn = Some(turn.clone());
                self.turns.insert(turn);
            }
        }
        if host.taken == 0 && host.waiting.is_empty() && !host.resting {
            self.by_name.remove(name);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(hosts: &mut Turns<u32>) -> Vec<(String, u32)> {
        let next = std::iter::from_fn(|| hosts.next(usize::MAX));
        next.map(|(name, work)| (name.to_string(), work)).collect()
    }

    fn works(list: &[(&str, u32)]) -> Vec<(String, u32)> {
        list.iter()
            .map(|(name, work)| ((*name).to_owned(), *work))
            .collect()
    }

    #[test]
    fn hosts_take_turns_and_keep_to_their_places() {
        let [one, two]: [Arc<str>; 2] = ["one".into(), "two".into()];
        let mut hosts = Turns::new(2, 100);
        (0..4).for_each(|work| hosts.wait(&one, work));
        hosts.wait(&two, 0);
        assert_eq!(
            taken(&mut hosts),
            works(&[("one", 0), ("two", 0), ("one", 1)])
        );
        hosts.leave(&two);
        assert_eq!(taken(&mut hosts), []);
        hosts.leave(&one);
        assert_eq!(taken(&mut hosts), works(&[("one", 2)]));
        hosts.leave(&one);
        hosts.leave(&one);
        assert_eq!(taken(&mut hosts), works(&[("one", 3)]));
        hosts.leave(&one);
        assert!(hosts.by_name.is_empty() && hosts.turns.is_empty());
    }

    #[test]
    fn hosts_that_never_end_leave_places_to_others() {
        let mut hosts = Turns::new(8, 64);
        for slow in 0..20 {
            let name: Arc<str> = format!("slow {slow}").into();
            (0..20).for_each(|work| hosts.wait(&name, work));
        }
        assert!(taken(&mut hosts).len() >= 40);
        let quick: Arc<str> = "quick".into();
        (0..20).for_each(|work| hosts.wait(&quick, work));
        for _ in 0..20 {
            let next = taken(&mut hosts);
            assert!(!next.is_empty() && next.iter().all(|(name, _)| name == "quick"));
            next.iter().for_each(|_| hosts.leave(&quick));
            if hosts.by_name.len() == 20 {
                return;
            }
        }
        panic!("{hosts:?}");
    }

    #[test]
    fn who_rests_has_no_turn() {
        let [one, two]: [Arc<str>; 2] = ["one".into(), "two".into()];
        let mut hosts = Turns::new(2, 100);
        (0..2).for_each(|work| hosts.wait(&one, work));
        hosts.wait(&two, 0);
        let (name, work) = hosts.next(100).unwrap();
        hosts.rest(&name, work);
        assert_eq!(taken(&mut hosts), works(&[("two", 0)]));
        hosts.leave(&two);
        hosts.wake(&one);
        assert_eq!(taken(&mut hosts), works(&[("one", 0), ("one", 1)]));
        (0..2).for_each(|_| hosts.leave(&one));
        assert!(hosts.by_name.is_empty() && hosts.taken == 0);
    }

    #[test]
    fn more_places_are_taken_at_once_and_fewer_once_some_are_left() {
        let one: Arc<str> = "one".into();
        let mut hosts = Turns::new(2, 100);
        (0..9).for_each(|work| hosts.wait(&one, work));
        assert_eq!(taken(&mut hosts).len(), 2);
        hosts.resize(4);
        assert_eq!(taken(&mut hosts).len(), 2);
        hosts.resize(1);
        (0..3).for_each(|_| {
            hosts.leave(&one);
            assert_eq!(taken(&mut hosts), []);
        });
        hosts.leave(&one);
        assert_eq!(taken(&mut hosts).len(), 1);
    }

    #[test]
    fn no_more_than_is_said() {
        let one: Arc<str> = "one".into();
        let mut hosts = Turns::new(8, 100);
        (0..9).for_each(|work| hosts.wait(&one, work));
        assert_eq!(hosts.next(0), None);
        let some: Vec<_> = std::iter::from_fn(|| hosts.next(4)).collect();
        assert!((1..=4).contains(&some.len()), "{some:?}");
    }
}
