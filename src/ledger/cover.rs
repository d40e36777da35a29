//! How the intervals of several streams cover the time of a slot, and what is to be fetched where they don't.
//!
//! Numbers of two streams say nothing of each other; only times can be compared, and those of one event may differ by up to
//! the overlap. So an interval surely covers what lies half an overlap within its ends. Two intervals of different streams
//! join where these parts touch: where the later one begins at least an overlap before the earlier one ends. A gap in one
//! stream's numbers is uncertain from half an overlap before it to half an overlap behind it, and is closed by the others only
//! if their parts cover all of that.
//!
//! ```text
//! A   ───────────────┤            ├──────────────     numbers are missing in A
//! B         ├────────────────────────────┤            held
//! B, sure       ├────────────────────┤                half an overlap less at each end: covers what A misses
//! ```
//!
//! Before the first begin and behind the last end nothing is wanted here.

use super::held::{Interval, Stream};

/// Positions are twice the microseconds, so that half an overlap is a whole number.
type Position = i128;

/// What is to be fetched of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    /// Of the streams as they were given.
    pub stream: usize,
    /// Behind this `seq`; `None`: from the time on.
    pub from_seq: Option<u64>,
    /// Up to this `seq`, where the next interval begins.
    pub to_seq: u64,
    /// Microseconds.
    pub from_time: u64,
    /// Microseconds.
    pub to_time: u64,
}

/// Between two spans of one stream, with the times that are surely outside of both.
struct Between {
    from: (u64, u64),
    to: (u64, u64),
}

/// One stream: what it surely covers, and what lies between.
struct Line {
    number: usize,
    overlap: Position,
    sure: Vec<(Position, Position)>,
    between: Vec<Between>,
    first: Interval,
    /// Whether it begins before all others, so that nothing is wanted before it.
    begins: bool,
}

/// What is to be fetched so that the time from the first begin to the last end is covered.
pub(super) fn holes(streams: &[Stream<'_>], overlap: u64) -> Vec<Hole> {
    // Without any overlap two spans of one stream with equal times would join over what is between them.
    let overlap = Position::from(overlap.max(1));
    let spans: Vec<_> = streams.iter().map(Stream::spans).collect();
    let begin = spans.iter().filter_map(|spans| spans.first());
    let end = spans.iter().filter_map(|spans| spans.last());
    let begin = begin.map(|first| first.from_time).min();
    let end = end.map(|last| last.to_time).max();
    let (Some(begin), Some(end)) = (begin, end) else {
        return Vec::new();
    };
    let lines: Vec<Line> = spans
        .iter()
        .enumerate()
        .filter_map(|(number, spans)| Line::new(number, spans, overlap, (begin, end)))
        .collect();
    let mut holes: Vec<Hole> = Vec::new();
    for segment in uncovered(&lines) {
        for hole in cheapest(&lines, segment) {
            if !holes.contains(&hole) {
                holes.push(hole);
            }
        }
    }
    let passed = |hole: Hole| {
        let stream = streams.get(hole.stream);
        cut(hole, stream.map_or(&[], |stream| &stream.passed))
    };
    let outside = holes.into_iter().flat_map(passed);
    outside
        .filter(|(_, inside)| !inside)
        .map(|(hole, _)| hole)
        .collect()
}

impl Line {
    fn new(
        number: usize,
        spans: &[Interval],
        overlap: Position,
        (begin, end): (u64, u64),
    ) -> Option<Self> {
        let first = *spans.first()?;
        let last = *spans.last()?;
        let begins = first.from_time == begin;
        let mut sure = Vec::new();
        let mut between = Vec::new();
        let mut from = match begins {
            true => Position::MIN,
            false => twice(first.from_time) + overlap,
        };
        for (span, next) in spans.iter().zip(spans.iter().skip(1)) {
            // Times may go back where numbers go on: then neither side is sure of what is between the two.
            let before = span.to_time.min(next.from_time);
            let behind = span.to_time.max(next.from_time);
            sure.push((from, twice(before) - overlap));
            between.push(Between {
                from: (span.to_seq, before),
                to: (next.from_seq, behind),
            });
            from = twice(behind) + overlap;
        }
        let to = match last.to_time == end {
            true => Position::MAX,
            false => twice(last.to_time) - overlap,
        };
        sure.push((from, to));
        sure.retain(|(from, to)| from <= to);
        Some(Self {
            number,
            overlap,
            sure,
            between,
            first,
            begins,
        })
    }

    /// What this stream would have to fetch to cover a segment, and whether it ends where the segment does; `None` if it
    /// does not go on behind it.
    fn fetching(&self, (x, y): (Position, Position)) -> Option<(Vec<Hole>, bool)> {
        if !self.sure.iter().any(|(_, to)| *to >= y) {
            return None;
        }
        let start = micros(x - self.overlap);
        let mut exact = true;
        let mut holes = Vec::new();
        let first = twice(self.first.from_time) + self.overlap;
        if !self.begins && first > x {
            exact &= first <= y;
            holes.push(Hole {
                stream: self.number,
                from_seq: None,
                to_seq: self.first.from_seq,
                from_time: start.min(self.first.from_time),
                to_time: self.first.from_time,
            });
        }
        for between in &self.between {
            let from = twice(between.from.1) - self.overlap;
            let to = twice(between.to.1) + self.overlap;
            if from >= y || to <= x {
                continue;
            }
            exact &= to <= y;
            let from = match from >= x {
                true => (Some(between.from.0), between.from.1),
                false => (None, start),
            };
            holes.push(Hole {
                stream: self.number,
                from_seq: from.0,
                to_seq: between.to.0,
                from_time: from.1,
                to_time: between.to.1,
            });
        }
        Some((holes, exact))
    }
}

/// What no stream surely covers.
fn uncovered(lines: &[Line]) -> Vec<(Position, Position)> {
    let mut sure: Vec<_> = lines.iter().flat_map(|line| &line.sure).collect();
    sure.sort_unstable();
    let mut reach = Position::MIN;
    let mut segments = Vec::new();
    for (from, to) in sure {
        if *from > reach {
            segments.push((reach, *from));
        }
        reach = reach.max(*to);
    }
    segments
}

/// The stream that has the least to fetch, and that needs nothing behind the segment; else the one that goes on there.
fn cheapest(lines: &[Line], segment: (Position, Position)) -> Vec<Hole> {
    let candidates = lines.iter().filter_map(|line| {
        let (holes, exact) = line.fetching(segment)?;
        let time = holes.iter().map(|hole| hole.to_time - hole.from_time);
        let goes_on = line.sure.iter().any(|(from, _)| *from == segment.1);
        Some(((!exact, time.sum::<u64>(), !goes_on), holes))
    });
    let best = candidates.min_by_key(|(cost, _)| *cost);
    best.map(|(_, holes)| holes).unwrap_or_default()
}

/// Cuts a hole at the ends of intervals (apart from each other, ascending), and says of each piece whether it is in one.
pub(super) fn cut(hole: Hole, intervals: &[Interval]) -> Vec<(Hole, bool)> {
    let mut rest = hole;
    let mut pieces = Vec::new();
    for interval in intervals {
        let is_before = match rest.from_seq {
            Some(seq) => interval.to_seq <= seq,
            None => interval.to_time <= rest.from_time,
        };
        if is_before || interval.from_seq >= rest.to_seq {
            continue;
        }
        let within = |time: u64| time.clamp(rest.from_time, rest.to_time);
        let begins_behind = match rest.from_seq {
            Some(seq) => interval.from_seq > seq,
            None => interval.from_seq > 0 && interval.from_time > rest.from_time,
        };
        if begins_behind {
            let from_time = within(interval.from_time);
            let before = Hole {
                to_seq: interval.from_seq,
                to_time: from_time,
                ..rest
            };
            pieces.push((before, false));
            rest.from_seq = Some(interval.from_seq);
            rest.from_time = from_time;
        }
        let reaches = interval.to_seq >= rest.to_seq;
        let (to_seq, to_time) = match reaches {
            true => (rest.to_seq, rest.to_time),
            false => (
                interval.to_seq,
                interval.to_time.clamp(rest.from_time, rest.to_time),
            ),
        };
        let inside = Hole {
            to_seq,
            to_time,
            ..rest
        };
        pieces.push((inside, true));
        if reaches {
            return pieces;
        }
        rest.from_seq = Some(to_seq);
        rest.from_time = to_time;
    }
    pieces.push((rest, false));
    pieces
}

fn twice(time: u64) -> Position {
    Position::from(time) * 2
}

/// The microseconds at a position, rounded down.
fn micros(position: Position) -> u64 {
    u64::try_from(position.max(0) / 2).unwrap_or(u64::MAX)
}
