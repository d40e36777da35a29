//! Which gaps are read together, and what of them each slot misses.

use crate::ledger::Gap;
use crate::slot::SlotSet;

/// What is read of a stream, for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Behind each number, up to the next one, the slots that miss it; ascending, the last has none.
    wanted: Vec<(u64, SlotSet)>,
}

impl Scope {
    /// What these gaps of one stream miss; those of which only the time is known begin behind `start`, and those without an end
    /// go on for ever.
    pub fn of(gaps: &[Gap], start: u64) -> Self {
        let ends = |gap: &Gap| {
            let from = gap.from_seq.unwrap_or(start);
            (from, gap.to_seq.unwrap_or(u64::MAX), gap.slots)
        };
        let gaps: Vec<_> = gaps.iter().map(ends).collect();
        let mut places: Vec<u64> = gaps.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
        places.sort_unstable();
        places.dedup();
        let slots_behind = |place: u64| {
            let around = gaps
                .iter()
                .filter(|(from, to, _)| (*from..*to).contains(&place));
            around.fold(SlotSet::default(), |all, (_, _, slots)| all.union(*slots))
        };
        let mut wanted: Vec<(u64, SlotSet)> = Vec::new();
        for place in places {
            let slots = slots_behind(place);
            if wanted.last().map(|(_, before)| *before) != Some(slots) {
                wanted.push((place, slots));
            }
        }
        Self { wanted }
    }

    /// The slots that miss the frame of this number.
    pub fn slots_at(&self, seq: u64) -> SlotSet {
        let next = self.wanted.partition_point(|(behind, _)| *behind < seq);
        let at = next.checked_sub(1).and_then(|at| self.wanted.get(at));
        at.map(|(_, slots)| *slots).unwrap_or_default()
    }

    /// The slots that miss any frame behind this number.
    pub fn slots_behind(&self, seq: u64) -> SlotSet {
        let last = self.wanted.partition_point(|(behind, _)| *behind <= seq);
        let ahead = self.wanted.iter().skip(last.saturating_sub(1));
        ahead.fold(SlotSet::default(), |all, (_, slots)| all.union(*slots))
    }

    /// The last number that is missed; `u64::MAX` where some have no end.
    pub fn end(&self) -> u64 {
        self.wanted.last().map_or(0, |(end, _)| *end)
    }
}

/// Gaps of one stream that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The one that begins first.
    pub first: Gap,
    /// All of them, the first one too.
    pub gaps: Vec<Gap>,
}

impl Task {
    /// The latest time at which one of them ends (microseconds).
    pub fn to_time(&self) -> u64 {
        let ends = self.gaps.iter().map(|gap| gap.to_time);
        ends.max().unwrap_or_default()
    }

    /// What is missed behind `start` of what these gaps know now. Only what is part of this task counts.
    pub fn scope(&self, gaps: &[Gap], start: u64) -> Scope {
        let (first, end) = (&self.first, self.end());
        let inside = |gap: &&Gap| {
            gap.lost.is_none()
                && (&gap.relay, gap.generation) == (&first.relay, first.generation)
                && gap.from_seq.unwrap_or(start) < end
                && gap.to_seq.unwrap_or(u64::MAX) > start
        };
        let gaps: Vec<Gap> = gaps.iter().filter(inside).cloned().collect();
        Scope::of(&gaps, start)
    }

    fn end(&self) -> u64 {
        let ends = self.gaps.iter().map(|gap| gap.to_seq.unwrap_or(u64::MAX));
        ends.max().unwrap_or_default()
    }
}

/// What to read next of these gaps, of those that are `due`: first what lies between held intervals, the oldest first, for a
/// relay drops the oldest; then the window.
pub fn next(gaps: &[Gap], due: impl Fn(&Gap) -> bool) -> Option<Task> {
    let open: Vec<&Gap> = gaps.iter().filter(|gap| gap.lost.is_none()).collect();
    let order = |gap: &&&Gap| (gap.from_seq.is_none(), gap.from_time, gap.from_seq);
    let first = *open.iter().filter(|gap| due(gap)).min_by_key(order)?;
    let mut task = Task {
        first: first.clone(),
        gaps: vec![first.clone()],
    };
    let mut rest: Vec<&Gap> = open.into_iter().filter(|gap| *gap != first).collect();
    rest.sort_by_key(|gap| (gap.from_seq, gap.from_time));
    for gap in rest {
        if joins(&task, gap) {
            task.gaps.push(gap.clone());
        }
    }
    Some(task)
}

/// Whether a gap begins where others of the same stream are read anyway.
fn joins(task: &Task, gap: &Gap) -> bool {
    let first = &task.first;
    if (&gap.relay, gap.generation) != (&first.relay, first.generation) {
        return false;
    }
    match (first.from_seq, gap.from_seq) {
        (Some(from), Some(seq)) => seq >= from && seq <= task.end(),
        // Found by one search for the earliest of their times.
        (None, None) => gap.from_time <= task.to_time(),
        (None, Some(seq)) => seq <= task.end(),
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(from: Option<u64>, to: Option<u64>, slots: SlotSet) -> Gap {
        Gap {
            relay: "r".into(),
            generation: 0,
            from_seq: from,
            to_seq: to,
            from_time: from.unwrap_or_default(),
            to_time: to.unwrap_or(1_000),
            lost: None,
            after_held: true,
            slots,
        }
    }

    #[test]
    fn each_slot_is_read_where_it_misses_something() {
        let (even, odd) = (SlotSet::owned_by(0, 2), SlotSet::owned_by(1, 2));
        let scope = Scope::of(
            &[
                gap(None, Some(50), even),
                gap(None, Some(70), odd),
                gap(Some(60), Some(80), even),
            ],
            10,
        );
        for (seq, slots) in [
            (10, SlotSet::default()),
            (11, SlotSet::ALL),
            (50, SlotSet::ALL),
            (51, odd),
            (61, SlotSet::ALL),
            (71, even),
            (80, even),
            (81, SlotSet::default()),
        ] {
            assert_eq!(scope.slots_at(seq), slots, "{seq}");
        }
        assert_eq!(scope.end(), 80);
        for (seq, slots) in [
            (0, SlotSet::ALL),
            (69, SlotSet::ALL),
            (70, even),
            (79, even),
            (80, SlotSet::default()),
        ] {
            assert_eq!(scope.slots_behind(seq), slots, "behind {seq}");
        }
        assert_eq!(Scope::of(&[gap(None, None, even)], 7).end(), u64::MAX);
        assert_eq!(Scope::default().end(), 0);
    }

    #[test]
    fn what_lies_between_goes_first_and_overlapping_gaps_go_together() {
        let all = SlotSet::ALL;
        let even = SlotSet::owned_by(0, 2);
        let gaps = [
            gap(None, Some(50), all),
            gap(Some(200), Some(300), all),
            gap(Some(100), Some(150), all),
            gap(Some(120), Some(180), even),
        ];
        let task = next(&gaps, |_| true).unwrap();
        assert_eq!(task.first, gaps[2]);
        assert_eq!(task.gaps, [gaps[2].clone(), gaps[3].clone()]);
        let due = |gap: &Gap| gap.from_seq.is_none();
        assert_eq!(next(&gaps, due).unwrap().gaps, [gaps[0].clone()]);
        assert_eq!(next(&gaps, |_| false), None);
        // What was closed meanwhile is read no more, nor what lies elsewhere.
        let now = [
            gap(Some(100), Some(130), even),
            gap(Some(400), Some(500), all),
        ];
        assert_eq!(task.scope(&now, 100), Scope::of(&now[..1], 100));
    }
}
