//! Whether a frame follows what was routed before, or something was skipped.
//!
//! A `seq` is read from a frame that nobody has checked yet, so a jump is believed only when the next frame confirms it: else
//! one broken frame could move the watermark past frames that were never seen. Where a stream is resumed, the relay is asked
//! for the last frame again (the anchor): a relay that still has it skips nothing behind it, however sparse its numbers are.
//!
//! ```text
//! Start ──two frames that follow each other──> Following            nothing was held
//! Resumed ──anchor, or the next number──> Following
//! Resumed, Following ──number too high──> Doubting ──higher one──> Following, behind a gap
//!                                              └────anything else──> as before, one number was unreadable
//! ```

/// Steps in the numbering above which a relay counts as sparse: as many, and more than 1% of its frames.
const SPARSE_STEPS: u64 = 16;

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
#[derive(Debug)]
pub struct Continuity {
    phase: Phase,
    routed: u64,
    /// Whether the frame of `routed` was seen, not passed.
    anchored: bool,
    /// A number that was too high and waits to be confirmed.
    doubted: Option<u64>,
    /// Frames since `routed` that took a number which can't be read.
    unreadable: u64,
    frames: u64,
    steps: u64,
}

/// How far apart the numbers of the first two frames may be.
const START_STEP: u64 = 10_000;
/// How far a time may be ahead of what is held before smaller numbers mean a restart (microseconds).
const RESTART_MARGIN: u64 = 60_000_000;

impl Continuity {
    /// A stream of which nothing is held.
    pub fn start() -> Self {
        Self {
            phase: Phase::Start,
            routed: 0,
            anchored: true,
            doubted: None,
            unreadable: 0,
            frames: 0,
            steps: 0,
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

    /// The same stream over a new connection, after a frame of `time` (microseconds).
    pub fn reconnected(&mut self, time: u64) {
        if self.phase != Phase::Start {
            self.phase = Phase::Resumed { time };
        }
        self.doubted = None;
        self.unreadable = 0;
    }

    /// Whether the relay's numbering has so many holes that steps in it mean nothing.
    pub fn sparse(&self) -> bool {
        self.steps > SPARSE_STEPS && self.steps * 100 > self.frames
    }

    /// Up to where the stream was routed.
    pub fn routed(&self) -> u64 {
        self.routed
    }

    /// Whether it is not known yet how the stream goes on.
    pub fn resuming(&self) -> bool {
        self.phase != Phase::Following
    }

    /// Where the stream goes on, and whether that frame was seen; `None` before it started.
    pub fn tail(&self) -> Option<(u64, bool)> {
        (self.phase != Phase::Start).then_some((self.routed, self.anchored))
    }

    /// Goes on behind a frame that was passed unread.
    pub fn pass(&mut self, seq: u64) {
        if seq > self.routed {
            self.routed = seq;
            self.anchored = false;
        }
    }

    /// Judges a frame by its number and its time (microseconds), where they can be read.
    pub fn judge(&mut self, seq: Option<u64>, time: Option<u64>) -> Step {
        self.frames += 1;
        let Some(seq) = seq else {
            self.unreadable += 1;
            return Step::Unproven;
        };
        match self.phase {
            Phase::Start => self.starting(seq),
            Phase::Resumed { time: held } => self.after_resume(seq, time, held),
            Phase::Following => self.following(seq),
        }
    }

    fn starting(&mut self, seq: u64) -> Step {
        match self.doubted.replace(seq) {
            Some(first) if seq > first && seq - first <= START_STEP => {
                self.doubted = None;
                self.follow(seq);
                Step::Starts {
                    from: first.saturating_sub(1),
                }
            }
            _ => Step::Unproven,
        }
    }

    fn after_resume(&mut self, seq: u64, time: Option<u64>, held: u64) -> Step {
        if seq < self.routed && time.is_some_and(|time| time > held + RESTART_MARGIN) {
            self.doubted = None;
            self.follow(seq);
            return Step::Restarted {
                from: seq.saturating_sub(1),
            };
        }
        if seq == self.routed {
            self.phase = Phase::Following;
        }
        self.following(seq)
    }

    fn following(&mut self, seq: u64) -> Step {
        if seq <= self.routed {
            return Step::Again;
        }
        let doubted = self.doubted.take();
        if let Some(doubted) = doubted {
            if seq > doubted {
                return self.jump(doubted, seq);
            }
            self.unreadable += 1;
        }
        if seq <= self.routed + 1 + self.unreadable {
            return self.follow(seq);
        }
        self.doubted = Some(seq);
        Step::Unproven
    }

    fn follow(&mut self, seq: u64) -> Step {
        self.phase = Phase::Following;
        self.unreadable = 0;
        self.anchored = true;
        self.routed = seq;
        Step::Follows
    }

    fn jump(&mut self, first: u64, seq: u64) -> Step {
        let from = self.routed;
        let resumed = matches!(self.phase, Phase::Resumed { .. });
        self.steps += 1;
        let step = self.follow(seq);
        // Behind an anchor, a sparse relay's steps are its own way of counting.
        if self.sparse() && !resumed {
            return step;
        }
        Step::Jump {
            from,
            to: first.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(continuity: &mut Continuity, seqs: &[u64]) -> Vec<Step> {
        seqs.iter()
            .map(|seq| continuity.judge(Some(*seq), Some(1)))
            .collect()
    }

    #[test]
    fn an_empty_stream_starts_anywhere() {
        let mut continuity = Continuity::start();
        assert_eq!(
            follow(&mut continuity, &[1 << 52, 100, 101, 102, 102]),
            [
                Step::Unproven,
                Step::Unproven,
                Step::Starts { from: 99 },
                Step::Follows,
                Step::Again
            ]
        );
    }

    #[test]
    fn the_anchor_proves_that_nothing_was_skipped() {
        let mut continuity = Continuity::resumed(100, 1);
        assert_eq!(
            follow(&mut continuity, &[100, 101]),
            [Step::Again, Step::Follows]
        );
        let mut dense = Continuity::resumed(100, 1);
        assert_eq!(follow(&mut dense, &[101]), [Step::Follows]);
    }

    #[test]
    fn a_jump_needs_a_second_frame() {
        let mut continuity = Continuity::resumed(100, 1);
        assert_eq!(
            follow(&mut continuity, &[200, 201, 202]),
            [
                Step::Unproven,
                Step::Jump { from: 100, to: 199 },
                Step::Follows
            ]
        );
    }

    #[test]
    fn a_lying_number_moves_nothing() {
        let mut continuity = Continuity::resumed(100, 1);
        assert_eq!(
            follow(&mut continuity, &[100, 101, 1 << 50, 103, 104]),
            [
                Step::Again,
                Step::Follows,
                Step::Unproven,
                Step::Follows,
                Step::Follows
            ]
        );
        assert_eq!(continuity.routed(), 104);
    }

    #[test]
    fn frames_without_a_number_took_one() {
        let mut continuity = Continuity::resumed(100, 1);
        continuity.judge(Some(100), None);
        assert_eq!(continuity.judge(None, None), Step::Unproven);
        assert_eq!(continuity.judge(None, None), Step::Unproven);
        assert_eq!(continuity.judge(Some(103), None), Step::Follows);
        assert_eq!(continuity.judge(Some(105), None), Step::Unproven);
    }

    #[test]
    fn smaller_numbers_with_newer_times_are_a_new_generation() {
        let mut continuity = Continuity::resumed(1000, 5_000_000);
        assert_eq!(continuity.judge(Some(7), Some(4_000_000)), Step::Again);
        assert_eq!(
            continuity.judge(Some(8), Some(90_000_000)),
            Step::Restarted { from: 7 }
        );
        assert_eq!(continuity.judge(Some(9), Some(90_000_000)), Step::Follows);
    }

    #[test]
    fn a_sparse_relay_is_known_as_one() {
        let mut continuity = Continuity::start();
        let steps = follow(
            &mut continuity,
            &(1..200).map(|n| n * 10).collect::<Vec<_>>(),
        );
        let jumps = steps
            .iter()
            .filter(|step| matches!(step, Step::Jump { .. }))
            .count();
        assert_eq!(jumps as u64, SPARSE_STEPS);
        assert!(continuity.sparse());
    }
}
