//! Who is next: work waits by host, each host has so many places, and hosts that have a free one take turns.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Work that waits by host.
#[derive(Debug)]
pub(super) struct Turns<Work> {
    /// Places of one host.
    places: usize,
    by_name: HashMap<Arc<str>, Host<Work>>,
    /// Hosts with work that waits and a free place.
    turns: VecDeque<Arc<str>>,
}

#[derive(Debug)]
struct Host<Work> {
    waiting: VecDeque<Work>,
    taken: usize,
    /// Whether it is among the turns.
    queued: bool,
}

impl<Work> Turns<Work> {
    /// With so many places at each host.
    pub fn new(places: usize) -> Self {
        Self {
            places: places.max(1),
            by_name: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    /// Work for a host.
    pub fn wait(&mut self, name: &Arc<str>, work: Work) {
        let host = self.by_name.entry(name.clone()).or_insert_with(|| Host {
            waiting: VecDeque::new(),
            taken: 0,
            queued: false,
        });
        host.waiting.push_back(work);
        host.queue(name, self.places, &mut self.turns);
    }

    /// The next work there is a place for; the place is taken until the host is [left](Self::leave).
    pub fn next(&mut self) -> Option<Work> {
        let name = self.turns.pop_front()?;
        let host = self.by_name.get_mut(&name)?;
        host.queued = false;
        let work = host.waiting.pop_front()?;
        host.taken += 1;
        host.queue(&name, self.places, &mut self.turns);
        Some(work)
    }

    /// A place of a host is free again.
    pub fn leave(&mut self, name: &Arc<str>) {
        let Some(host) = self.by_name.get_mut(name) else {
            return;
        };
        host.taken = host.taken.saturating_sub(1);
        host.queue(name, self.places, &mut self.turns);
        if host.taken == 0 && host.waiting.is_empty() {
            self.by_name.remove(name);
        }
    }
}

impl<Work> Host<Work> {
    fn queue(&mut self, name: &Arc<str>, places: usize, turns: &mut VecDeque<Arc<str>>) {
        if !self.queued && self.taken < places && !self.waiting.is_empty() {
            self.queued = true;
            turns.push_back(name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_take_turns_and_keep_to_their_places() {
        let [one, two]: [Arc<str>; 2] = ["one".into(), "two".into()];
        let mut hosts = Turns::new(2);
        for work in 0..4 {
            hosts.wait(&one, ("one", work));
        }
        hosts.wait(&two, ("two", 0));
        let taken: Vec<_> = std::iter::from_fn(|| hosts.next()).collect();
        assert_eq!(taken, [("one", 0), ("two", 0), ("one", 1)]);
        hosts.leave(&two);
        assert_eq!(hosts.next(), None);
        hosts.leave(&one);
        assert_eq!((hosts.next(), hosts.next()), (Some(("one", 2)), None));
        hosts.leave(&one);
        hosts.leave(&one);
        assert_eq!((hosts.next(), hosts.next()), (Some(("one", 3)), None));
        hosts.leave(&one);
        assert!(hosts.by_name.is_empty() && hosts.turns.is_empty());
    }
}
