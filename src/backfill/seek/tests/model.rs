//! A relay of some 90 million frames that exists only as functions of a number.

use std::ops::Range;

use crate::backfill::seek::Probes;
use crate::relay::{Notice, Probe, ProbeError, Sample};

pub const MINUTE: u64 = 60_000_000;
pub const DAY: u64 = 24 * 60 * MINUTE;
pub const NOW: u64 = 1_790_000_000_000_000;
/// Frames that a probe reads.
const READ: usize = 15;

/// A part of the stream with one rate, from a number and a time on.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    seq: u64,
    time: u64,
    micros_per_number: u64,
}

/// The frames.
#[derive(Debug)]
pub struct Stream {
    stretches: Vec<Stretch>,
    /// The next number.
    end: u64,
    /// One of so many numbers has a frame.
    pub sparse: u64,
    /// Numbers without frames.
    pub holes: Vec<Range<u64>>,
    /// A frame is stamped up to so much earlier than it came.
    pub lag: u64,
    /// Numbers whose frames are all stamped so much earlier: a host that delivers its backlog.
    pub bursts: Vec<Range<u64>>,
    pub backlog: u64,
    /// Of 1,000 frames so many have no readable time, so many one of long ago, so many one of next year.
    pub untimed: u64,
    pub ancient: u64,
    pub ahead: u64,
}

/// A number that looks random.
fn hash(seq: u64, salt: u64) -> u64 {
    fastrand::Rng::with_seed(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt).u64(..)
}

impl Stream {
    /// Frames from `first` on, in stretches of so many numbers, microseconds a number, and microseconds of silence before.
    pub fn of(first: u64, parts: &[(u64, u64, u64)]) -> Self {
        let length: u64 = parts
            .iter()
            .map(|(count, each, wait)| count * each + wait)
            .sum();
        let (mut seq, mut time) = (first, NOW - length);
        let mut stretches = Vec::new();
        for &(count, micros_per_number, wait) in parts {
            time += wait;
            stretches.push(Stretch {
                seq,
                time,
                micros_per_number,
            });
            seq += count;
            time += count * micros_per_number;
        }
        Self {
            stretches,
            end: seq,
            sparse: 1,
            holes: Vec::new(),
            lag: 0,
            bursts: Vec::new(),
            backlog: 0,
            untimed: 0,
            ancient: 0,
            ahead: 0,
        }
    }

    /// 90 million frames in three days, evenly.
    pub fn even() -> Self {
        Self::of(1_000_000_000, &[(90_000_000, 2_880, 0)])
    }

    pub fn first(&self) -> u64 {
        self.stretches[0].seq
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// When a number came.
    pub fn came(&self, seq: u64) -> u64 {
        let at = self.stretches.partition_point(|stretch| stretch.seq <= seq);
        let stretch = self.stretches[at.max(1) - 1];
        stretch.time + seq.saturating_sub(stretch.seq) * stretch.micros_per_number
    }

    /// The first number that came at `time` or later.
    pub fn number_at(&self, time: u64) -> u64 {
        let (mut low, mut high) = (self.first(), self.end);
        while low < high {
            let middle = low.midpoint(high);
            match self.came(middle) < time {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    fn stamp(&self, seq: u64) -> Option<u64> {
        let came = self.came(seq);
        if self.bursts.iter().any(|burst| burst.contains(&seq)) {
            return Some(came - self.backlog);
        }
        let lot = hash(seq, 1) % 1_000;
        if lot < self.untimed {
            None
        } else if lot < self.untimed + self.ancient {
            Some(came / 2)
        } else if lot < self.untimed + self.ancient + self.ahead {
            Some(came + 365 * DAY)
        } else {
            Some(came - hash(seq, 2) % (self.lag + 1))
        }
    }

    fn has(&self, seq: u64) -> bool {
        hash(seq, 3).is_multiple_of(self.sparse)
    }

    /// The first number of the holes that `seq` is in; itself where it is in none. Holes may overlap.
    pub fn hole_before(&self, mut seq: u64) -> u64 {
        while let Some(hole) = self
            .holes
            .iter()
            .find(|hole| hole.start < seq && seq < hole.end)
        {
            seq = hole.start;
        }
        seq
    }

    fn past_holes(&self, mut seq: u64) -> u64 {
        while let Some(hole) = self.holes.iter().find(|hole| hole.contains(&seq)) {
            seq = hole.end;
        }
        seq
    }

    /// The frames from `seq` on.
    fn read(&self, mut seq: u64, end: u64) -> Vec<Sample> {
        let mut samples = Vec::new();
        while seq < end && samples.len() < READ {
            seq = self.past_holes(seq);
            if seq < end && self.has(seq) {
                samples.push(Sample {
                    seq,
                    time: self.stamp(seq),
                });
            }
            seq += 1;
        }
        samples
    }
}

/// Where a relay starts that does not start where it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// It says so: `OutdatedCursor` and the oldest, or `FutureCursor` and nothing.
    Told,
    Oldest,
    Live,
    Nothing,
}

impl Instead {
    pub const ALL: [Self; 4] = [Self::Told, Self::Oldest, Self::Live, Self::Nothing];
}

/// A relay in memory.
#[derive(Debug)]
pub struct Relay {
    pub stream: Stream,
    /// The oldest number that is retained.
    pub oldest: u64,
    /// The next number that is not there yet; moves with each probe.
    pub head: u64,
    pub inclusive: bool,
    pub outdated: Instead,
    pub future: Instead,
    /// Nothing is new while a probe looks.
    pub quiet: bool,
    /// Of 100 probes at cursors that are there, so many start elsewhere, and where.
    pub misplaced: (u64, Instead),
    /// The oldest number from the probe of this number on.
    pub drops: Option<(u64, u64)>,
    /// What the head was when the first probe came.
    pub head_at_first: u64,
    pub asked: Vec<Option<u64>>,
}

impl Relay {
    pub fn of(stream: Stream) -> Self {
        Self {
            oldest: stream.first(),
            head: (stream.end() - 100_000.min(stream.end() / 2)).max(stream.first()),
            stream,
            inclusive: false,
            outdated: Instead::Told,
            future: Instead::Told,
            quiet: false,
            misplaced: (0, Instead::Oldest),
            drops: None,
            head_at_first: 0,
            asked: Vec::new(),
        }
    }

    fn start_instead(&self, instead: Instead) -> Option<u64> {
        match instead {
            Instead::Told | Instead::Oldest => Some(self.oldest),
            Instead::Live => (!self.quiet).then_some(self.head),
            Instead::Nothing => None,
        }
    }

    /// The number from which on it sends, and what it says before.
    fn place(&self, cursor: Option<u64>) -> (Option<u64>, Option<Notice>) {
        let Some(cursor) = cursor else {
            return (self.start_instead(Instead::Live), None);
        };
        let (share, elsewhere) = self.misplaced;
        if cursor == 0 {
            return (Some(self.oldest), None);
        }
        if cursor >= self.head {
            return match self.future {
                Instead::Told => (None, Some(Notice::FutureCursor)),
                other => (self.start_instead(other), None),
            };
        }
        if cursor + 1 < self.oldest {
            let notice = (self.outdated == Instead::Told).then_some(Notice::OutdatedCursor);
            return (self.start_instead(self.outdated), notice);
        }
        if hash(self.asked.len() as u64, self.head) % 100 < share {
            return (self.start_instead(elsewhere), None);
        }
        let from = if self.inclusive { cursor } else { cursor + 1 };
        (Some(from.max(self.oldest)), None)
    }

    fn answer(&mut self, cursor: Option<u64>) -> Probe {
        if self.asked.is_empty() {
            self.head_at_first = self.head;
        }
        self.asked.push(cursor);
        if let Some((after, oldest)) = self.drops
            && self.asked.len() as u64 >= after
        {
            self.oldest = oldest;
        }
        let (from, notice) = self.place(cursor);
        // A live subscriber waits for what is new.
        let more = if self.quiet {
            0
        } else {
            1_000 * self.stream.sparse
        };
        let end = (self.head + more).min(self.stream.end());
        let samples = from.map_or_else(Vec::new, |from| self.stream.read(from, end));
        let mut probe = Probe::new(cursor, &samples, NOW);
        probe.notice = notice;
        self.head = end;
        probe
    }
}

impl Probes for Relay {
    async fn probe(&mut self, cursor: Option<u64>) -> Result<Probe, ProbeError> {
        Ok(self.answer(cursor))
    }
}
