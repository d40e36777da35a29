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
    let judge =
        |continuity: &mut Continuity, seq, time| continuity.judge(Some(seq), Some(time), || true);
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
    // A jump to live is told all the same, also right behind a step.
    let mut after = |numbers: &[u64]| follow(&mut continuity, numbers);
    let steps = after(&[2_040, 2_050, 2_060, 9_000, 9_001, 9_002, 9_010, 9_011]);
    let jump = Step::Jump {
        from: 2_060,
        to: 8_999,
    };
    assert!(steps.contains(&jump), "{steps:?}");
    assert!(
        !steps
            .iter()
            .any(|step| matches!(step, Step::Jump { to: 2_049, .. }))
    );
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
