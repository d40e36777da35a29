//! The search itself: which cursor to ask at next, and what an answer means. Pure: it neither waits nor connects.

use super::bracket::{FEW, High, Low, Narrowing, float, rate, whole, width};
use super::{Found, SeekOptions};
use crate::relay::{Notice, Probe, Sample};

/// The time that a second witness should be earlier, in microseconds.
const WITNESS_MICROS: f64 = 30e6;
/// The least distance of a second witness, in frames; a probe reads fewer.
const WITNESS_FRAMES: u64 = 64;
/// The first reach above the oldest where no head is known, in frames; each next one is so many times as far.
const REACH: u64 = 4096;
const REACH_GROWS: u64 = 8;
/// Largest cursor.
const MAX_CURSOR: u64 = (1 << 53) - 1;
/// How often the oldest is asked for again because the relay starts somewhere else.
const MOST_REREADS: u32 = 2;
const FEWEST_PROBES: u32 = 4;

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Probe there.
    Ask(Option<u64>),
    /// The answer.
    Done(Found),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Oldest,
    Newest,
    /// Narrowing the bracket, at the cursor asked last.
    Within(u64),
    /// Asking a little before the lower end for a second witness.
    Witness(u64),
    /// Asking for the oldest again.
    Reread,
    Done(Found),
}

/// What a probe at a cursor within the bracket says.
enum Answer {
    /// What follows the cursor is early enough.
    Early(Low),
    /// What follows is too late, or the cursor is above the head.
    Late(High),
    /// Frames of other numbers than those that were asked for.
    Elsewhere,
    /// No frame, or none with a time.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Search {
    options: SeekOptions,
    /// Frames of this time or earlier are early enough.
    goal: u64,
    /// The time to hit: in the middle of what is good enough.
    aim: u64,
    asked: u32,
    phase: Phase,
    /// Rising. The first is the oldest, which is early enough whatever comes.
    lows: Vec<Low>,
    /// The number of the lower end up to which a witness was heard.
    witnessed: u64,
    high: Option<High>,
    /// The cursor of the head, if that is early enough.
    head: Option<u64>,
    narrowing: Option<Narrowing>,
    /// Frames per microsecond among the oldest.
    oldest_rate: Option<f64>,
    /// Frames per microsecond from the oldest to the newest.
    mean_rate: Option<f64>,
    reach: u64,
    /// Where to ask instead of where nothing came.
    beside: Option<u64>,
    /// The last answer was earlier than one of a lower cursor.
    doubted: bool,
    rereads: u32,
}

impl Search {
    pub(super) fn new(wanted: u64, options: &SeekOptions) -> Self {
        let goal = wanted.saturating_sub(options.margin);
        Self {
            options: SeekOptions {
                probes: options.probes.max(FEWEST_PROBES),
                ..*options
            },
            goal,
            aim: goal.saturating_sub(options.slack / 2),
            asked: 0,
            phase: Phase::Oldest,
            lows: Vec::new(),
            witnessed: 0,
            high: None,
            head: None,
            narrowing: None,
            oldest_rate: None,
            mean_rate: None,
            reach: REACH,
            beside: None,
            doubted: false,
            rereads: 0,
        }
    }

    /// How many probes were made.
    pub(super) fn asked(&self) -> u32 {
        self.asked
    }

    /// What to do next.
    pub(super) fn step(&self) -> Step {
        match self.phase {
            Phase::Oldest | Phase::Reread => Step::Ask(Some(0)),
            Phase::Newest => Step::Ask(None),
            Phase::Within(cursor) | Phase::Witness(cursor) => Step::Ask(Some(cursor)),
            Phase::Done(found) => Step::Done(found),
        }
    }

    /// Takes the answer to the last [`Step::Ask`].
    pub(super) fn take(&mut self, probe: &Probe) {
        self.asked += 1;
        self.phase = match self.phase {
            Phase::Oldest => self.take_oldest(probe),
            Phase::Newest => self.take_newest(probe),
            Phase::Within(cursor) => self.take_within(cursor, probe),
            Phase::Witness(cursor) => self.take_witness(cursor, probe),
            Phase::Reread => self.take_reread(probe),
            done @ Phase::Done(_) => done,
        };
    }

    fn take_oldest(&mut self, probe: &Probe) -> Phase {
        let Some(seq) = probe.first() else {
            return Phase::Newest;
        };
        match probe.time {
            Some(time) if time > self.goal => Phase::Done(Found::Oldest { seq, time }),
            time => {
                let cursor = seq.saturating_sub(1);
                self.lows.push(Low { cursor, time });
                self.witnessed = cursor;
                self.oldest_rate = rate_within(probe);
                Phase::Newest
            }
        }
    }

    fn take_newest(&mut self, probe: &Probe) -> Phase {
        let (Some(oldest), first) = (self.lows.first().copied(), probe.first()) else {
            return Phase::Done(alone(probe, self.goal));
        };
        let Some(seq) = first else {
            // A quiet relay: the head is wherever it is.
            return self.next();
        };
        let cursor = seq.saturating_sub(1).max(oldest.cursor);
        self.mean_rate = rate((oldest.cursor, oldest.time), (cursor, probe.time));
        match probe.time {
            Some(time) if time <= self.goal && cursor > oldest.cursor => {
                self.lows.push(Low {
                    cursor,
                    time: Some(time),
                });
                self.head = Some(cursor);
                self.next()
            }
            time => {
                self.high = Some(High {
                    cursor,
                    first: Some(seq),
                    time,
                });
                self.next()
            }
        }
    }

    fn take_within(&mut self, cursor: u64, probe: &Probe) -> Phase {
        self.beside = None;
        match self.judge(cursor, probe) {
            Answer::Late(High {
                first: Some(seq),
                time: Some(time),
                ..
            }) if probe.notice == Some(Notice::OutdatedCursor) => {
                Phase::Done(Found::Oldest { seq, time })
            }
            Answer::Early(low) if self.is_doubtful(low) && !self.doubted => {
                self.doubted = true;
                self.ask_beside(cursor)
            }
            Answer::Early(low) => {
                self.doubted = false;
                self.lows.push(low);
                self.moved(true);
                self.next()
            }
            Answer::Late(high) => {
                self.doubted = false;
                self.high = Some(high);
                self.moved(false);
                self.next()
            }
            Answer::Elsewhere if self.may_have_dropped(cursor, probe) => {
                self.rereads += 1;
                self.beside = Some(beside(self.low().cursor, cursor));
                Phase::Reread
            }
            Answer::Elsewhere | Answer::Nothing => self.ask_beside(cursor),
        }
    }

    /// Whether it is worth a probe that the relay may have dropped what was its oldest. One that sends older frames than were
    /// asked for has not.
    fn may_have_dropped(&self, cursor: u64, probe: &Probe) -> bool {
        let older = probe.first().is_some_and(|first| first < cursor);
        !older && self.rereads < MOST_REREADS && self.can_ask()
    }

    /// Compares what came with what was asked.
    fn judge(&self, cursor: u64, probe: &Probe) -> Answer {
        let beyond = Answer::Late(High {
            cursor,
            first: None,
            time: None,
        });
        // Without a frame from above there may be no head above.
        let headless = self.high.is_none_or(|high| high.first.is_none());
        if probe.notice == Some(Notice::FutureCursor) {
            return if headless { beyond } else { Answer::Elsewhere };
        }
        let Some(first) = probe.first() else {
            return if headless { beyond } else { Answer::Nothing };
        };
        if first < cursor {
            return if headless { beyond } else { Answer::Elsewhere };
        }
        let highest = self.high.and_then(|high| high.first);
        if highest.is_some_and(|highest| first > highest) {
            return Answer::Elsewhere;
        }
        match probe.time {
            None => Answer::Nothing,
            // All of a hole below the first frame is as good.
            Some(time) if time <= self.goal => Answer::Early(Low {
                cursor: first.saturating_sub(1),
                time: Some(time),
            }),
            Some(time) => Answer::Late(High {
                cursor,
                first: Some(first),
                time: Some(time),
            }),
        }
    }

    /// Whether it is so much earlier than what is below it that one of the two must be wrong.
    fn is_doubtful(&self, low: Low) -> bool {
        let below = self.low().time.unwrap_or_default();
        low.time
            .is_some_and(|time| time.saturating_add(self.options.margin) < below)
    }

    fn take_witness(&mut self, cursor: u64, probe: &Probe) -> Phase {
        match self.judge(cursor, probe) {
            Answer::Late(high) if high.first.is_some() => {
                // What seemed early was not: a burst of old events.
                self.lows.retain(|low| low.cursor < cursor);
                self.high = Some(high);
                self.witnessed = self.witnessed.min(self.low().cursor);
                self.next()
            }
            // What can't be heard again is taken as it is.
            _ => {
                self.witnessed = self.low().cursor;
                self.next()
            }
        }
    }

    /// The relay started elsewhere: it may have dropped what was its oldest.
    fn take_reread(&mut self, probe: &Probe) -> Phase {
        let Some(seq) = probe.first() else {
            return self.next();
        };
        let cursor = seq.saturating_sub(1);
        let moved = cursor > self.lows.first().map_or(0, |oldest| oldest.cursor);
        match probe.time {
            Some(time) if time > self.goal && moved => Phase::Done(Found::Oldest { seq, time }),
            time if moved => {
                self.lows.retain(|low| low.cursor > cursor);
                self.lows.insert(0, Low { cursor, time });
                self.witnessed = self.witnessed.max(cursor);
                self.beside = self.beside.filter(|beside| *beside > self.low().cursor);
                self.next()
            }
            _ => self.next(),
        }
    }

    fn ask_beside(&mut self, cursor: u64) -> Phase {
        self.beside = Some(beside(self.low().cursor, cursor));
        self.next()
    }

    fn low(&self) -> Low {
        self.lows.last().copied().unwrap_or(Low {
            cursor: 0,
            time: None,
        })
    }

    fn moved(&mut self, low: bool) {
        if let Some(narrowing) = &mut self.narrowing {
            narrowing.moved(low);
        }
    }

    fn can_ask(&self) -> bool {
        self.asked < self.options.probes
    }

    /// What to do with the bracket as it is. The last probe is kept for a witness.
    fn next(&mut self) -> Phase {
        let low = self.low();
        let more = self.asked + 1 < self.options.probes;
        match self.high {
            Some(high) if !more || self.is_narrow(low, high) => self.end(low),
            None if !more || self.head == Some(low.cursor) => self.end(low),
            Some(high) => {
                let share = self.options.share;
                let narrowing = *self
                    .narrowing
                    .get_or_insert_with(|| Narrowing::new(width(low, high), share));
                let within = |cursor: &u64| *cursor > low.cursor && *cursor < high.cursor;
                let guess = || narrowing.guess(low, high, self.aim, self.rate());
                Phase::Within(self.beside.filter(within).unwrap_or_else(guess))
            }
            None => self.reach_out(low),
        }
    }

    fn is_narrow(&self, low: Low, high: High) -> bool {
        let near = |time: u64| time.saturating_add(self.options.slack) >= self.goal;
        let enough = self.narrowing.map_or(FEW, |narrowing| narrowing.enough);
        width(low, high) <= enough || low.time.is_some_and(near)
    }

    /// Looks for a place that is late enough, where the head is not known.
    fn reach_out(&mut self, low: Low) -> Phase {
        if low
            .time
            .is_some_and(|time| time.saturating_add(self.options.slack) >= self.goal)
            || low.cursor >= MAX_CURSOR
        {
            return self.end(low);
        }
        let micros = low.time.map(|time| self.goal.saturating_sub(time));
        let ahead = micros.zip(self.rate());
        let ahead = ahead.map(|(micros, rate)| whole(float(micros) * rate * 1.25));
        let reach = self.reach.max(ahead.unwrap_or_default());
        self.reach = reach.saturating_mul(REACH_GROWS);
        Phase::Within(low.cursor.saturating_add(reach).min(MAX_CURSOR))
    }

    /// Frames per microsecond below the lower end, as far as is known.
    fn rate(&self) -> Option<f64> {
        let place = |low: &Low| (low.cursor, low.time);
        let (oldest, low) = (self.lows.first()?, self.lows.last()?);
        rate(place(oldest), place(low)).or(self.oldest_rate)
    }

    /// The answer is `low`, once a second witness agrees.
    fn end(&mut self, low: Low) -> Phase {
        let witness = self.witness_place(low).filter(|_| self.can_ask());
        if low.cursor > self.witnessed
            && let Some(place) = witness
        {
            return Phase::Witness(place);
        }
        Phase::Done(match low.time {
            Some(time) if self.head == Some(low.cursor) => Found::Head {
                cursor: low.cursor,
                time,
            },
            time => Found::At {
                cursor: low.cursor,
                time,
            },
        })
    }

    /// A little before `low`; `None` if what is known there is witness enough.
    fn witness_place(&self, low: Low) -> Option<u64> {
        let above = self.high.and_then(|high| {
            let low = (low.cursor, low.time);
            rate(low, (high.cursor, high.time))
        });
        // A time that is wrong makes a rate too low, and what is too near is no second witness.
        let rates = [above, self.rate(), self.mean_rate];
        let rate = rates.into_iter().flatten().fold(0.0, f64::max);
        let back = whole(rate * WITNESS_MICROS).max(WITNESS_FRAMES);
        let near = low.cursor.saturating_sub(back.saturating_mul(4));
        let place = low.cursor.saturating_sub(back);
        let oldest = self.lows.first()?.cursor;
        let known = self
            .lows
            .iter()
            .rev()
            .skip(1)
            .any(|other| (near..=place).contains(&other.cursor));
        (place > oldest && !known).then_some(place)
    }
}

fn rate_within(probe: &Probe) -> Option<f64> {
    let place = |sample: &Sample| (sample.seq, sample.time);
    let (first, last) = (probe.samples.first()?, probe.samples.last()?);
    rate(place(first), place(last))
}

/// The answer if the relay serves no oldest frame.
fn alone(newest: &Probe, goal: u64) -> Found {
    match newest.first().zip(newest.time) {
        Some((seq, time)) if time <= goal => Found::Head {
            cursor: seq.saturating_sub(1),
            time,
        },
        Some((seq, time)) => Found::Oldest { seq, time },
        None => Found::Silent,
    }
}

/// A cursor to ask at where `cursor` gave nothing: an eighth of the way back to `low`.
fn beside(low: u64, cursor: u64) -> u64 {
    let way = cursor.saturating_sub(low);
    cursor.saturating_sub((way / 8).max(1))
}
