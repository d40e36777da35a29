use futures_util::FutureExt;

use super::*;
use crate::relay::Sample;
use crate::slot::SlotSet;

const SECOND: u64 = 1_000_000;
/// Behind the epoch, so that times before it are times as well.
const BEGIN: u64 = 86_400 * SECOND;
/// Frames of one probe.
const FRAMES: usize = 15;

/// A relay that answers probes; a frame a second.
struct Relay {
    numbers: Vec<u64>,
    /// What it serves at a cursor: the numbers behind this.
    serves: fn(&Relay, Option<u64>) -> u64,
    notice: Option<Notice>,
    /// How much later its times are than those of the ledger.
    later: u64,
    /// Seconds between two frames.
    apart: u64,
}

impl Relay {
    fn of(numbers: impl IntoIterator<Item = u64>) -> Self {
        Self {
            numbers: numbers.into_iter().collect(),
            serves: |relay, cursor| cursor.unwrap_or(relay.newest()),
            notice: None,
            later: 0,
            apart: 1,
        }
    }

    fn time(&self, seq: u64) -> u64 {
        BEGIN + seq * self.apart * SECOND + self.later
    }

    fn newest(&self) -> u64 {
        self.numbers.last().copied().unwrap_or_default()
    }

    fn look(&mut self, gap: &Gap, attempt: u32) -> Verdict {
        let looked = look(self, gap, attempt, Some((20, time(20)))).now_or_never();
        looked.expect("nothing to wait for").expect("an answer")
    }
}

impl Probes for Relay {
    async fn probe(&mut self, cursor: Option<u64>) -> Result<Probe, ProbeError> {
        let behind = (self.serves)(self, cursor);
        let numbers = self.numbers.iter().filter(|seq| **seq > behind);
        let sample = |seq: &u64| Sample {
            seq: *seq,
            time: Some(self.time(*seq)),
        };
        let samples: Vec<Sample> = numbers.take(FRAMES).map(sample).collect();
        let mut probe = Probe::new(cursor, &samples, u64::MAX);
        probe.notice.clone_from(&self.notice);
        Ok(probe)
    }
}

fn time(seq: u64) -> u64 {
    BEGIN + seq * SECOND
}

fn gap(from: Option<u64>, to: Option<u64>) -> Gap {
    Gap {
        relay: "r".into(),
        generation: 3,
        from_seq: from,
        to_seq: to,
        from_time: time(from.unwrap_or(100)),
        to_time: time(to.unwrap_or(1_000)),
        lost: None,
        after_held: true,
        slots: SlotSet::ALL,
    }
}

/// (100, 200] is missed.
fn hundred() -> Gap {
    gap(Some(100), Some(200))
}

fn from(seq: u64, anchored: bool) -> Verdict {
    Verdict::Read(Resume {
        generation: 3,
        seq,
        time: time(100),
        anchored,
    })
}

#[test]
fn what_is_there_is_read_from_the_frame_that_is_held() {
    let mut relay = Relay::of(1..=300);
    assert_eq!(relay.look(&hundred(), 0), from(100, true));
    // Served from the cursor on, not behind it.
    relay.serves = |_, cursor| cursor.unwrap_or(300).saturating_sub(1);
    assert_eq!(relay.look(&hundred(), 0), from(100, true));
    // The frame that is held is gone, what is behind it is not.
    let mut relay = Relay::of(101..=300);
    assert_eq!(relay.look(&hundred(), 0), from(100, false));
}

#[test]
fn what_was_read_in_vain_is_asked_for_in_other_ways_and_then_given_up() {
    let mut relay = Relay::of(1..=3_000);
    let far = Gap {
        from_time: time(2_000),
        ..gap(Some(2_000), Some(2_100))
    };
    let asked = |verdict| match verdict {
        Verdict::Read(start) => Some(start.seq),
        Verdict::Skipped => None,
        other => panic!("{other:?}"),
    };
    let all: Vec<_> = (0..4)
        .map(|attempt| asked(relay.look(&far, attempt)))
        .collect();
    assert_eq!(all, [Some(2_000), Some(1_000), Some(2_050), None]);
    // Nobody knows where it ends: it is not written down as lost for ever.
    let open = gap(Some(100), None);
    assert_eq!(relay.look(&open, 2), given_up(&open));
    assert!(matches!(given_up(&open), Verdict::Later(_)));
}

#[test]
fn numbers_that_were_never_used_are_no_loss() {
    let mut relay = Relay::of((1..=100).chain(201..=300));
    assert_eq!(relay.look(&hundred(), 0), Verdict::Hole);
    // So much time is no hole: frames were lost.
    let mut relay = Relay::of((1..=100).chain(5_000..=5_300));
    let lost = gap(Some(100), Some(4_999));
    assert_eq!(relay.look(&lost, 0), from(100, true));
    assert_eq!(relay.look(&lost, 3), Verdict::Skipped);
    // Where frames are rare it may as well be.
    relay.apart = 60;
    let rare = Gap {
        from_time: relay.time(100),
        ..lost
    };
    assert_eq!(relay.look(&rare, 0), Verdict::Hole);
    // One of them exists: then it is no hole, whatever comes behind the frame before.
    let mut relay = Relay::of((1..=100).chain(160..=300));
    relay.serves = |_, cursor| match cursor {
        Some(99) => 99,
        other => other.unwrap_or(300),
    };
    assert_eq!(relay.look(&hundred(), 0), from(100, true));
    // Without the frame before, nothing proves that it was not dropped.
    let mut relay = Relay::of(201..=300);
    assert!(matches!(relay.look(&hundred(), 0), Verdict::Expired { .. }));
}

#[test]
fn what_the_relay_no_longer_has_ends_where_it_begins() {
    let expired = |to_seq, to_time| Verdict::Expired { to_seq, to_time };
    // A probe's time is the median of its frames.
    let median = time(151 + FRAMES as u64 / 2);
    let mut relay = Relay::of(151..=300);
    assert_eq!(relay.look(&hundred(), 0), expired(150, median));
    let mut relay = Relay::of(251..=300);
    assert_eq!(relay.look(&hundred(), 0), expired(200, time(200)));
    // By time, where no number is known.
    let window = gap(None, Some(200));
    assert_eq!(relay.look(&window, 0), expired(200, time(200)));
    let mut relay = Relay::of(151..=300);
    assert_eq!(relay.look(&window, 0), expired(150, median));
    // All that it retains.
    let all = Gap {
        from_time: 0,
        ..window.clone()
    };
    assert_eq!(relay.look(&all, 0), expired(150, median));
    // It never had anything older: all of it can be read.
    let mut relay = Relay::of(1..=300);
    let start = |gap: &Gap| Resume {
        generation: 3,
        seq: 0,
        time: gap.from_time,
        anchored: false,
    };
    let early = Gap {
        from_time: time(0) - SECOND,
        ..window
    };
    assert_eq!(relay.look(&early, 0), Verdict::Read(start(&early)));
}

#[test]
fn a_relay_that_starts_elsewhere_is_read_however_it_serves_it() {
    // Always at its oldest.
    let mut relay = Relay::of(1..=300);
    relay.serves = |_, _| 0;
    assert_eq!(relay.look(&hundred(), 0), from(100, false));
    // Far behind what is asked for, but for the oldest.
    relay.serves = |_, cursor| match cursor {
        Some(0) => 0,
        _ => 250,
    };
    let ways: Vec<_> = (0..4)
        .map(|attempt| relay.look(&hundred(), attempt))
        .collect();
    let expected = [
        from(100, false),
        from(0, false),
        from(0, false),
        Verdict::Skipped,
    ];
    assert_eq!(ways, expected);
}

#[test]
fn where_nothing_comes_nothing_is_said() {
    let mut relay = Relay::of([]);
    for notice in [
        None,
        Some(Notice::FutureCursor),
        Some(Notice::OutdatedCursor),
        Some(Notice::Error("Broken".into())),
    ] {
        relay.notice = notice;
        for gap in [hundred(), gap(None, Some(200)), gap(None, None)] {
            let verdict = relay.look(&gap, 5);
            assert!(matches!(verdict, Verdict::Later(_)), "{verdict:?}");
        }
    }
}

#[test]
fn numbers_of_another_time_are_not_read() {
    let mut relay = Relay::of(1..=300);
    relay.later = 7 * 3_600 * SECOND;
    assert_eq!(relay.look(&hundred(), 0), Verdict::CountsAnew);
    // The ledger was wrong about one place.
    relay.later = 0;
    let odd = Gap {
        from_time: time(100) + 7 * 3_600 * SECOND,
        ..hundred()
    };
    let start = Resume {
        generation: 3,
        seq: 100,
        time: odd.from_time,
        anchored: true,
    };
    assert_eq!(relay.look(&odd, 0), Verdict::Read(start));
    relay.later = 60 * SECOND;
    assert_eq!(relay.look(&hundred(), 0), from(100, true));
    // In lower numbers.
    let mut relay = Relay::of(1..=50);
    relay.serves = |_, _| 0;
    relay.later = 3_600 * SECOND;
    assert!(matches!(relay.look(&hundred(), 0), Verdict::Later(_)));
}

#[test]
fn a_time_within_what_is_there_is_sought() {
    let mut relay = Relay::of(1..=100_000);
    let late = Gap {
        from_time: time(50_000),
        to_time: time(60_000),
        ..gap(None, Some(60_000))
    };
    let Verdict::Read(start) = relay.look(&late, 0) else {
        panic!("it is there");
    };
    assert!((49_000..50_000).contains(&start.seq), "{start:?}");
    assert!(!start.anchored);
    // At least its last frame is read, which says that the rest is empty.
    let short = Gap {
        to_seq: Some(40_000),
        ..late
    };
    let Verdict::Read(start) = relay.look(&short, 0) else {
        panic!("it is there");
    };
    assert_eq!(start.seq, 39_999);
}
