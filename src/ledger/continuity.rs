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
    steps: u64,
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
/// The same for the anchor itself: it is of another numbering if its time is so much newer. What is held is a median, which
/// lags on a quiet stream.
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
        // A relay that counts anew and has come past the anchor has a frame of that number, which proves nothing.
        let (low, margin) = match self.lower == Some(self.routed) || seq == self.routed {
            true => (true, ANCHOR_MARGIN),
            false => (seq < self.routed, RESTART_MARGIN),
        };
        let newer = time.is_some_and(|time| time > held.saturating_add(margin));
        if low && newer && sound() {
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
        // A step that a broken frame may have caused says nothing about the relay.
        self.steps += u64::from(!self.misnumbered);
        // Behind an anchor, a sparse relay's steps are its own way of counting.
        if self.sparse() && !resumed {
            return self.follow(seq);
        }
        self.go_on(first, seq);
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
mod tests {
    use super::*;

    fn follow(continuity: &mut Continuity, seqs: &[u64]) -> Vec<Step> {
        seqs.iter()
            .map(|seq| continuity.judge(Some(*seq), Some(1), || true))
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
        for sound in [false, true] {
            let mut continuity = Continuity::resumed(100, 1);
            follow(&mut continuity, &[100, 101]);
            let lie = continuity.judge(Some(1 << 50), None, || sound);
            assert_eq!(lie, Step::Unproven);
            let steps = follow(&mut continuity, &[103, 104]);
            // Of a frame that decodes it is not known that 102 was its number.
            let gap = Step::Jump { from: 101, to: 102 };
            let wanted = match sound {
                false => [Step::Follows, Step::Follows],
                true => [Step::Unproven, gap],
            };
            assert_eq!(steps, wanted);
            assert_eq!(continuity.routed(), 104);
        }
    }

    #[test]
    fn broken_frames_confirm_nothing() {
        let mut continuity = Continuity::resumed(100, 1);
        follow(&mut continuity, &[100]);
        for lie in [1 << 50, (1 << 50) + 1, 103, 104] {
            assert_eq!(
                continuity.judge(Some(lie), Some(1), || false),
                Step::Unproven
            );
        }
        assert_eq!(follow(&mut continuity, &[105]), [Step::Follows]);
        let mut fresh = Continuity::start();
        assert_eq!(fresh.judge(Some(9), None, || false), Step::Unproven);
        assert_eq!(fresh.judge(Some(12), None, || false), Step::Unproven);
        assert_eq!(fresh.tail(), None);
    }

    #[test]
    fn what_lies_behind_a_jump_must_follow_too() {
        let mut continuity = Continuity::resumed(100, 1);
        assert_eq!(
            follow(&mut continuity, &[200, 205, 205, 206]),
            [
                Step::Unproven,
                Step::Jump { from: 100, to: 199 },
                Step::Unproven,
                Step::Jump { from: 200, to: 204 },
            ]
        );
        let mut fresh = Continuity::start();
        follow(&mut fresh, &[7, 9]);
        assert_eq!(fresh.routed(), 7);
    }

    #[test]
    fn a_frame_sent_twice_fills_no_gap() {
        let mut continuity = Continuity::resumed(100, 1);
        assert_eq!(
            follow(&mut continuity, &[100, 102, 102, 103]),
            [
                Step::Again,
                Step::Unproven,
                Step::Unproven,
                Step::Jump { from: 100, to: 101 }
            ]
        );
    }

    #[test]
    fn frames_without_a_number_took_none_before_a_doubted_one() {
        let mut continuity = Continuity::resumed(100, 1);
        follow(&mut continuity, &[100, 102]);
        continuity.judge(None, None, || false);
        continuity.judge(None, None, || false);
        assert_eq!(follow(&mut continuity, &[102]), [Step::Unproven]);
        let gap = Step::Jump { from: 100, to: 101 };
        assert_eq!(follow(&mut continuity, &[105]), [gap]);
        assert_eq!(continuity.routed(), 105);
    }

    #[test]
    fn frames_without_a_number_took_one() {
        let mut continuity = Continuity::resumed(100, 1);
        continuity.judge(Some(100), None, || true);
        assert_eq!(continuity.judge(None, None, || true), Step::Unproven);
        assert_eq!(continuity.judge(None, None, || true), Step::Unproven);
        assert_eq!(continuity.judge(Some(103), None, || true), Step::Follows);
        assert_eq!(continuity.judge(Some(105), None, || true), Step::Unproven);
    }

    #[test]
    fn a_repeated_frame_proves_no_number_before_it() {
        let mut continuity = Continuity::start();
        follow(&mut continuity, &[1, 3]);
        for _ in 0..3 {
            continuity.judge(None, None, || false);
        }
        assert_eq!(follow(&mut continuity, &[3]), [Step::Unproven]);
        assert_eq!(continuity.routed(), 1);
    }

    #[test]
    fn smaller_numbers_with_newer_times_are_a_new_generation() {
        let mut continuity = Continuity::resumed(1000, 5_000_000);
        let mut judge = |seq, time| continuity.judge(Some(seq), Some(time), || true);
        assert_eq!(judge(7, 4_000_000), Step::Again);
        assert_eq!(
            judge(8, 90_000_000),
            Step::Again,
            "one frame may be mistaken"
        );
        assert_eq!(judge(9, 90_000_000), Step::Restarted { from: 7 });
        assert_eq!(judge(10, 90_000_000), Step::Follows);
    }

    #[test]
    fn what_comes_before_the_anchor_is_not_the_frame_behind_it() {
        assert!(!Continuity::start().at_tail());
        let mut continuity = Continuity::resumed(100, 1);
        assert!(!continuity.at_tail());
        follow(&mut continuity, &[98]);
        assert!(!continuity.at_tail(), "it replays from further back");
        follow(&mut continuity, &[100]);
        assert!(continuity.at_tail());
        continuity.reconnected(1);
        assert!(!continuity.at_tail());
        continuity.pass(101);
        assert!(
            continuity.at_tail(),
            "a passed frame is not asked for again"
        );
        let restarted = Continuity::resumed(101, 1).anchored(false);
        assert_eq!(
            (restarted.tail(), restarted.at_tail()),
            (Some((101, false)), true)
        );
    }

    #[test]
    fn an_anchor_of_another_time_is_a_new_generation() {
        const HOUR: u64 = 3_600_000_000;
        let resumed = || Continuity::resumed(1000, HOUR);
        let judge = |continuity: &mut Continuity, seq, time| {
            continuity.judge(Some(seq), Some(time), || true)
        };
        let mut continuity = resumed();
        assert_eq!(judge(&mut continuity, 1000, 4 * HOUR), Step::Again);
        let restarted = Step::Restarted { from: 999 };
        assert_eq!(judge(&mut continuity, 1001, 4 * HOUR), restarted);
        assert_eq!(judge(&mut continuity, 1002, 4 * HOUR), Step::Follows);
        // One time that lies is none, nor is a relay that was silent behind the anchor.
        for times in [[9 * HOUR, HOUR], [HOUR, 9 * HOUR]] {
            let mut continuity = resumed();
            assert_eq!(judge(&mut continuity, 1000, times[0]), Step::Again);
            assert_eq!(judge(&mut continuity, 1001, times[1]), Step::Follows);
        }
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

    /// What a relay sends next.
    #[derive(Debug, Clone, Copy)]
    enum Sent {
        Good,
        Unreadable,
        /// A broken frame with this number in it, relative to its own.
        Lie(i64),
        /// So many numbers are left out.
        Gap(u64),
        /// An earlier good frame again.
        Again(usize),
        /// The connection is lost, and resumed behind the tail.
        Reconnect,
    }

    fn sent() -> impl proptest::strategy::Strategy<Value = Sent> {
        use proptest::prelude::*;
        prop_oneof![
            20 => Just(Sent::Good),
            3 => Just(Sent::Unreadable),
            1 => (1_i64 << 40..1 << 52).prop_map(Sent::Lie),
            3 => (-40_i64..40).prop_map(Sent::Lie),
            1 => (1_u64..30).prop_map(Sent::Gap),
            2 => (1_usize..20).prop_map(Sent::Again),
            1 => Just(Sent::Reconnect),
        ]
    }

    /// A frame: its true number, the number in it, whether it decodes.
    type Frame = (u64, Option<u64>, bool);

    /// A consumer that remembers what it saw and checks every claim.
    struct Consumer {
        continuity: Continuity,
        seen: std::collections::BTreeSet<u64>,
        span: Option<u64>,
    }

    impl Consumer {
        fn take(&mut self, (number, seq, sound): Frame) {
            let before = self.continuity.routed();
            // A lie that is just the number that is due can't be told from the truth, also when it comes again.
            let seq = seq.filter(|seq| sound || *seq != before + 1);
            self.seen.insert(number);
            match self.continuity.judge(seq, Some(1), || sound) {
                Step::Starts { from } => self.span = Some(from),
                Step::Jump { from, to } => {
                    assert_eq!(from, before);
                    assert!(to > from);
                    self.span = Some(to);
                }
                Step::Restarted { .. } => panic!("nothing restarted"),
                Step::Follows | Step::Again | Step::Unproven => {}
            }
            let routed = self.continuity.routed();
            assert!(routed >= before);
            let Some(from) = self.span else { return };
            for claimed in (from + 1).max(before.min(routed))..=routed {
                assert!(
                    claimed == from || self.seen.contains(&claimed),
                    "{claimed} is claimed"
                );
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1_000))]

        #[test]
        fn nothing_is_claimed_that_was_not_seen(
            first in 1_u64..1_000,
            events in proptest::collection::vec(sent(), 1..400),
        ) {
            let mut consumer = Consumer {
                continuity: Continuity::start(),
                seen: Default::default(),
                span: None,
            };
            let mut log: Vec<Frame> = Vec::new();
            let mut number = first;
            let mut gaps = 0;
            for event in events {
                let frame = match event {
                    Sent::Good => (number, Some(number), true),
                    Sent::Unreadable => (number, None, false),
                    Sent::Lie(by) => {
                        let lie = number.saturating_add_signed(by).max(1);
                        (number, Some(lie), false)
                    }
                    Sent::Gap(by) => {
                        gaps += 1;
                        number += if gaps <= SPARSE_STEPS / 2 { by } else { 0 };
                        continue;
                    }
                    Sent::Again(back) => {
                        let at = log.len().checked_sub(back);
                        if let Some(again) = at.map(|at| log[at]).filter(|frame| frame.2) {
                            consumer.take(again);
                        }
                        continue;
                    }
                    Sent::Reconnect => {
                        consumer.continuity.reconnected(1);
                        let tail = consumer.continuity.tail().map_or(0, |(seq, _)| seq);
                        let again = log.partition_point(|frame| frame.0 < tail);
                        for (number, seq, sound) in log[again..].iter().copied() {
                            let due = seq == Some(consumer.continuity.routed() + 1);
                            consumer.take((number, seq.filter(|_| sound || !due), sound));
                        }
                        continue;
                    }
                };
                log.push(frame);
                consumer.take(frame);
                number += 1;
            }
        }
    }
}
