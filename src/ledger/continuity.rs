//! Whether a frame follows what was routed before, or something was skipped.
//!
//! A `seq` is read from a frame that nobody has checked yet, so a number that does more than follow is believed only of a
//! frame that is *sound* (it decodes whole), and only when a second such frame goes on behind it: else one broken frame could
//! move the watermark past frames that were never seen. Where a stream is resumed, the relay is asked for the last frame again
//! (the anchor): a relay that still has it skips nothing behind it, however sparse its numbers are.
//!
//! ```text
//! Start ──two sound frames, one above the other──> Following        nothing was held
//! Resumed ──anchor, or the next number──> Following
//! Resumed ──two sound frames below the anchor that are newer──> Following, in a new generation
//! Resumed, Following ──number too high──> doubted ──higher one──> Following, behind a gap
//!                                             └────anything else──> as before
//! ```

/// Steps in the numbering above which a relay counts as sparse: as many, and more than 1% of its frames.
const SPARSE_STEPS: u64 = 16;
/// By how many times the mean a sparse relay's steps may be larger; a larger one may be a jump.
const USUAL: u64 = 8;

/// What a frame's `seq` means for the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The second frame of a stream of which nothing is held: a span starts behind `from`.
    Starts {
        /// The number before the first frame's.
        from: u64,
    },
    /// Follows what was routed: the stream is routed up to `seq`.
    Follows,
    /// At or below what was routed: taken in again, which is harmless.
    Again,
    /// Not believed yet, or without a number: taken in; the stream stays where it is.
    Unproven,
    /// Numbers were skipped: a new span starts behind `to`; (`from`, `to`] is missing.
    Jump {
        /// What was routed before.
        from: u64,
        /// The number before the first one that came.
        to: u64,
    },
    /// Smaller numbers with newer times: the relay counts anew. A new generation starts behind `from`.
    Restarted {
        /// The number before the frame's.
        from: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Start,
    Resumed { time: u64 },
    Following,
}

/// Judges the numbers of one stream, over its reconnections.
///
/// Every number above where a span starts and up to [`Continuity::routed`] was seen, or is that of an unreadable frame; the
/// relay that is [sparse](Continuity::sparse) is the exception.
#[derive(Debug)]
pub struct Continuity {
    phase: Phase,
    routed: u64,
    /// Whether the frame of `routed` was seen, not passed.
    anchored: bool,
    /// A number that was too high and waits to be confirmed.
    doubted: Option<Doubted>,
    /// A number that was too low for its time and waits to be confirmed.
    lower: Option<u64>,
    /// Frames since `routed` that took a number which can't be read.
    unreadable: u64,
    /// Whether a broken frame came with a number that was routed before: it may have taken another one.
    misnumbered: bool,
    frames: u64,
    /// How many steps there were, and their sum.
    steps: (u64, u64),
}

#[derive(Debug, Clone, Copy)]
struct Doubted {
    seq: u64,
    /// Frames since then that took a number which can't be read.
    unreadable: u64,
}

/// How far apart the numbers of two frames may be of which one confirms the other where nothing else is known.
const START_STEP: u64 = 10_000;
/// How far a time may be ahead of what is held before smaller numbers mean a restart (microseconds).
const RESTART_MARGIN: u64 = 60_000_000;
/// The anchor itself is of another numbering if its time is so far from what is held, which is a median.
const ANCHOR_MARGIN: u64 = 3_600_000_000;

impl Continuity {
    /// A stream of which nothing is held.
    pub fn start() -> Self {
        Self {
            phase: Phase::Start,
            routed: 0,
            anchored: true,
            doubted: None,
            lower: None,
            unreadable: 0,
            misnumbered: false,
            frames: 0,
            steps: (0, 0),
        }
    }

    /// A stream that goes on behind `seq`, the frame of `time` (microseconds).
    pub fn resumed(seq: u64, time: u64) -> Self {
        Self {
            phase: Phase::Resumed { time },
            routed: seq,
            ..Self::start()
        }
    }

    /// Whether the frame behind which it goes on was seen; one that was passed is not asked for again.
    pub fn anchored(self, anchored: bool) -> Self {
        Self { anchored, ..self }
    }

    /// The same stream over a new connection, after a frame of `time` (microseconds).
    pub fn reconnected(&mut self, time: u64) {
        if self.phase != Phase::Start {
            self.phase = Phase::Resumed { time };
        }
        self.doubted = None;
        self.lower = None;
        self.unreadable = 0;
    }

    /// Whether the relay's numbering has so many holes that steps like those before mean nothing.
    pub fn sparse(&self) -> bool {
        self.steps.0 > SPARSE_STEPS && self.steps.0 * 100 > self.frames
    }

    /// Whether a sparse relay makes a step of this size now and then.
    fn is_usual(&self, step: u64) -> bool {
        let (count, sum) = self.steps;
        self.sparse() && step <= USUAL * (sum / count)
    }

    /// Up to where the stream was routed.
    pub fn routed(&self) -> u64 {
        self.routed
    }

    /// Whether it is not known yet how the stream goes on.
    pub fn resuming(&self) -> bool {
        self.phase != Phase::Following
    }

    /// Whether all that came is known to be part of the stream.
    pub fn is_sure(&self) -> bool {
        let doubts = self.doubted.is_some() || self.lower.is_some() || self.unreadable > 0;
        !self.resuming() && !doubts
    }

    /// Where the stream goes on, and whether that frame was seen; `None` before it started.
    pub fn tail(&self) -> Option<(u64, bool)> {
        (self.phase != Phase::Start).then_some((self.routed, self.anchored))
    }

    /// Whether what comes next is the frame behind the tail: the anchor came over this connection, or there is none.
    pub fn at_tail(&self) -> bool {
        match self.phase {
            Phase::Following => true,
            Phase::Resumed { .. } => !self.anchored,
            Phase::Start => false,
        }
    }

    /// Goes on behind a frame that was passed unread.
    pub fn pass(&mut self, seq: u64) {
        if seq > self.routed {
            self.routed = seq;
            self.anchored = false;
        }
    }

    /// Judges a frame by its number and its time (microseconds), where they can be read. Where much hangs on the number,
    /// `sound` is asked whether the frame decodes whole.
    pub fn judge(
        &mut self,
        seq: Option<u64>,
        time: Option<u64>,
        mut sound: impl FnMut() -> bool,
    ) -> Step {
        self.frames += 1;
        let Some(seq) = seq else {
            return self.unreadable();
        };
        match self.phase {
            Phase::Start => self.starting(seq, &mut sound),
            Phase::Resumed { time: held } => self.after_resume(seq, time, held, &mut sound),
            Phase::Following => self.following(seq, &mut sound),
        }
    }

    fn unreadable(&mut self) -> Step {
        self.unreadable += 1;
        if let Some(doubted) = &mut self.doubted {
            doubted.unreadable += 1;
        }
        Step::Unproven
    }

    fn starting(&mut self, seq: u64, sound: &mut impl FnMut() -> bool) -> Step {
        if !sound() {
            return self.unreadable();
        }
        match self.doubted {
            Some(first) if confirms(first.seq, seq) => {
                self.go_on(first, seq);
                Step::Starts {
                    from: first.seq.saturating_sub(1),
                }
            }
            _ => self.doubt(seq),
        }
    }

    fn after_resume(
        &mut self,
        seq: u64,
        time: Option<u64>,
        held: u64,
        sound: &mut impl FnMut() -> bool,
    ) -> Step {
        // Another sequence may have a frame of the anchor's number, which proves nothing.
        let at_anchor = self.lower == Some(self.routed) || seq == self.routed;
        let elsewhere = time.is_some_and(|time| match at_anchor {
            true => held < u64::MAX && time.abs_diff(held) > ANCHOR_MARGIN,
            false => seq < self.routed && time > held.saturating_add(RESTART_MARGIN),
        });
        if elsewhere && sound() {
            return match self.lower.replace(seq) {
                Some(first) if confirms(first, seq) => {
                    let unreadable = 0;
                    self.go_on(
                        Doubted {
                            seq: first,
                            unreadable,
                        },
                        seq,
                    );
                    Step::Restarted {
                        from: first.saturating_sub(1),
                    }
                }
                _ => Step::Again,
            };
        }
        if seq == self.routed {
            self.phase = Phase::Following;
        }
        self.following(seq, sound)
    }

    fn following(&mut self, seq: u64, sound: &mut impl FnMut() -> bool) -> Step {
        if seq <= self.routed {
            // Not counted as unreadable: it may as well be one that was sent twice.
            self.misnumbered |= self.phase == Phase::Following && !sound();
            return Step::Again;
        }
        if seq == self.routed + 1 {
            return self.follow(seq);
        }
        if !sound() {
            return self.unreadable();
        }
        match self.doubted {
            Some(doubted) if seq > doubted.seq => self.jump(doubted, seq),
            Some(doubted) if seq == doubted.seq => Step::Unproven,
            _ if seq <= self.routed + 1 + self.unreadable_before_doubted() => self.follow(seq),
            _ => self.doubt(seq),
        }
    }

    /// What came behind a doubted number took none before it.
    fn unreadable_before_doubted(&self) -> u64 {
        let behind = self.doubted.map_or(0, |doubted| doubted.unreadable);
        self.unreadable.saturating_sub(behind)
    }

    fn doubt(&mut self, seq: u64) -> Step {
        self.doubted = Some(Doubted { seq, unreadable: 0 });
        Step::Unproven
    }

    fn follow(&mut self, seq: u64) -> Step {
        self.phase = Phase::Following;
        self.unreadable = 0;
        self.misnumbered = false;
        self.doubted = None;
        self.lower = None;
        self.anchored = true;
        self.routed = seq;
        Step::Follows
    }

    /// Goes on behind `first`, which `seq` confirmed; up to `seq` if nothing can lie between them.
    fn go_on(&mut self, first: Doubted, seq: u64) {
        self.follow(first.seq);
        self.unreadable = first.unreadable;
        if seq <= first.seq + 1 + first.unreadable {
            self.follow(seq);
        } else {
            self.doubt(seq);
        }
    }

    fn jump(&mut self, first: Doubted, seq: u64) -> Step {
        let from = self.routed;
        let resumed = matches!(self.phase, Phase::Resumed { .. });
        let step = first.seq - from;
        // A step that a broken frame may have caused says nothing about the relay, nor does a leap.
        if !self.misnumbered && step <= START_STEP {
            self.steps = (self.steps.0 + 1, self.steps.1 + step);
        }
        // Behind an anchor, a sparse relay's steps are its own way of counting.
        let usual = self.is_usual(step) && !resumed;
        self.go_on(first, seq);
        if usual {
            return Step::Follows;
        }
        Step::Jump {
            from,
            to: first.seq.saturating_sub(1),
        }
    }
}

/// Whether the second of two numbers of which nothing else is known speaks for the first.
fn confirms(first: u64, seq: u64) -> bool {
    seq > first && seq - first <= START_STEP
}

#[cfg(test)]
mod tests;
