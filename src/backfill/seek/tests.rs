//! Seeks in a model of a relay.

mod model;

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use model::{DAY, Instead, MINUTE, NOW, Relay, Stream};

fn seek_in(relay: &mut Relay, wanted: u64) -> Seek {
    let options = SeekOptions::default();
    let seek = seek(relay, wanted, &options).now_or_never();
    let seek = seek
        .expect("nothing to wait for")
        .expect("the model answers");
    assert_eq!(seek.probes as usize, relay.asked.len());
    assert!(seek.probes <= 12, "{seek:?} {:?}", relay.asked);
    seek
}

/// Nothing that came at the wanted time or later is before the place.
fn assert_not_late(relay: &Relay, wanted: u64, seek: Seek) {
    let truth = relay.stream.number_at(wanted);
    match seek.found {
        Found::At { cursor, .. } | Found::Head { cursor, .. } => {
            assert!(
                cursor < truth,
                "{seek:?}: {truth} is lost, asked {:?}",
                relay.asked
            );
        }
        // Either starts at cursor 0.
        Found::Oldest { .. } | Found::Silent => {}
    }
}

/// How many frames of a window of how many the place is too early.
fn too_early(relay: &Relay, wanted: u64, seek: Seek) -> (u64, u64) {
    let options = SeekOptions::default();
    let stream = &relay.stream;
    let earliest = wanted - options.margin - options.slack - stream.lag;
    let good = stream.hole_before(stream.number_at(earliest).min(relay.head_at_first));
    let window = relay.head_at_first - relay.oldest;
    match seek.found {
        Found::At { cursor, .. } | Found::Head { cursor, .. } => {
            (good.saturating_sub(cursor + 1), window)
        }
        Found::Oldest { .. } => (good.saturating_sub(relay.oldest), window),
        Found::Silent => (window, window),
    }
}

fn assert_close(relay: &Relay, wanted: u64, seek: Seek) {
    let (early, window) = too_early(relay, wanted, seek);
    assert!(
        early <= window / 100,
        "{early} of {window} too early: {seek:?}, asked {:?}",
        relay.asked
    );
}

#[test]
fn a_steady_stream_takes_a_handful() {
    for hours in [1, 10, 24, 48, 71] {
        let wanted = NOW - hours * 60 * MINUTE;
        let mut relay = Relay::of(Stream::even());
        let seek = seek_in(&mut relay, wanted);
        assert_not_late(&relay, wanted, seek);
        assert_close(&relay, wanted, seek);
        assert!(seek.probes <= 5, "{seek:?} {:?}", relay.asked);
    }
}

#[test]
fn the_window_may_be_larger_than_what_is_there() {
    let mut relay = Relay::of(Stream::even());
    let first = relay.oldest;
    let seek = seek_in(&mut relay, NOW - 30 * DAY);
    let time = relay.stream.came(first + 7);
    assert_eq!(seek.found, Found::Oldest { seq: first, time });
    assert_eq!(seek.probes, 1);
}

#[test]
fn the_wanted_time_may_be_after_all_that_is_there() {
    let mut relay = Relay::of(Stream::even());
    let seek = seek_in(&mut relay, NOW + DAY);
    assert!(matches!(seek.found, Found::Head { .. }), "{seek:?}");
    assert!(seek.probes <= 3);
}

#[test]
fn a_relay_without_frames_is_silent() {
    let mut relay = Relay::of(Stream::even());
    (relay.oldest, relay.quiet) = (relay.head, true);
    let seek = seek_in(&mut relay, NOW - DAY);
    assert_eq!(seek.found, Found::Silent);
}

#[test]
fn one_frame_is_found() {
    let mut relay = Relay::of(Stream::of(1, &[(1, 1, 0)]));
    (relay.head, relay.quiet) = (2, true);
    let seek = seek_in(&mut relay, NOW - 1);
    assert!(
        matches!(seek.found, Found::Oldest { seq: 1, .. }),
        "{seek:?}"
    );
    relay.asked.clear();
    let seek = seek_in(&mut relay, NOW + DAY);
    assert_eq!(
        seek.found,
        Found::At {
            cursor: 0,
            time: Some(NOW - 1)
        }
    );
}

#[test]
fn a_quiet_head_does_not_matter() {
    for future in Instead::ALL {
        let mut relay = Relay::of(Stream::even());
        (relay.quiet, relay.future) = (true, future);
        let wanted = NOW - DAY;
        let seek = seek_in(&mut relay, wanted);
        assert_not_late(&relay, wanted, seek);
        assert_close(&relay, wanted, seek);
    }
}

#[test]
fn an_outage_has_no_cursor_of_its_time() {
    let parts = [
        (40_000_000, 2_880, 0),
        (40_000_000, 2_880, 12 * 60 * MINUTE),
    ];
    for hours in [33, 36, 40, 44] {
        let mut relay = Relay::of(Stream::of(500, &parts));
        let wanted = NOW - hours * 60 * MINUTE;
        let seek = seek_in(&mut relay, wanted);
        assert_not_late(&relay, wanted, seek);
        let truth = relay.stream.number_at(wanted);
        let Found::At { cursor, .. } = seek.found else {
            panic!("{seek:?}");
        };
        assert!(truth - cursor < 80_000_000 / 100, "{seek:?}, not {truth}");
    }
}

#[test]
fn frames_without_times_say_nothing_and_the_oldest_remains() {
    let mut relay = Relay::of(Stream::even());
    relay.stream.untimed = 1_000;
    let seek = seek_in(&mut relay, NOW - DAY);
    let cursor = relay.oldest - 1;
    assert_eq!(seek.found, Found::At { cursor, time: None });
}

#[test]
fn a_burst_of_old_events_does_not_mislead() {
    // The first guesses are too late, since most of the frames are of the last day.
    let relay = || {
        Relay::of(Stream::of(
            500,
            &[(10_000_000, 17_280, 0), (80_000_000, 1_080, 0)],
        ))
    };
    let wanted = NOW - 2 * DAY;
    let truth = relay().stream.number_at(wanted);
    let mut undisturbed = relay();
    seek_in(&mut undisturbed, wanted);
    let guesses: Vec<u64> = undisturbed.asked.into_iter().flatten().collect();
    let late = guesses.into_iter().filter(|guess| *guess > truth);
    let mut misled = 0;
    for guess in late {
        let mut relay = relay();
        relay.stream.bursts.push(guess - 100..guess + 1_000);
        // An hour ago is not early enough where the guess is far off.
        relay.stream.backlog = relay.stream.came(guess) - wanted + 10 * MINUTE;
        let seek = seek_in(&mut relay, wanted);
        assert_not_late(&relay, wanted, seek);
        assert_close(&relay, wanted, seek);
        misled += 1;
    }
    assert!(misled > 1);
}

#[test]
fn a_relay_that_starts_elsewhere_now_and_then_costs_probes() {
    // Those that start later may have dropped what was asked for, which costs another probe.
    for (instead, most) in [
        (Instead::Oldest, 13),
        (Instead::Live, 25),
        (Instead::Nothing, 13),
    ] {
        let mut far = 0;
        for seed in 0..200 {
            let mut relay = Relay::of(Stream::of(
                500,
                &[(30_000_000, 6_000, 0), (60_000_000, 1_500, 0)],
            ));
            // Another head has other probes start elsewhere.
            relay.head -= seed;
            relay.misplaced = (15, instead);
            let wanted = NOW - (5 + seed % 60) * 60 * MINUTE;
            let seek = seek_in(&mut relay, wanted);
            assert_not_late(&relay, wanted, seek);
            let (early, window) = too_early(&relay, wanted, seek);
            far += u32::from(early > window / 100);
        }
        println!("{instead:?}: {far} of 200 too early by more than a hundredth");
        assert!(far <= most, "{instead:?}: {far}");
    }
}

#[test]
fn what_was_the_oldest_may_be_dropped_meanwhile() {
    for outdated in Instead::ALL {
        for after in 2..8 {
            let mut relay = Relay::of(Stream::even());
            relay.outdated = outdated;
            // Less than half is left, all of it later than what is wanted.
            relay.drops = Some((after, relay.oldest + 50_000_000));
            let wanted = NOW - 2 * DAY;
            let seek = seek_in(&mut relay, wanted);
            assert_not_late(&relay, wanted, seek);
        }
    }
}

/// A stream of all troubles at once, from a seed.
fn troubled(seed: u64) -> Stream {
    let mut rng = fastrand::Rng::with_seed(seed);
    let parts: Vec<_> = (0..rng.u64(1..40))
        .map(|_| {
            let outage = if rng.u8(..8) == 0 {
                rng.u64(..6 * 60 * MINUTE)
            } else {
                0
            };
            (rng.u64(1..6_000_000), rng.u64(100..20_000), outage)
        })
        .collect();
    let mut stream = Stream::of(rng.u64(1..1 << 40), &parts);
    stream.sparse = if rng.bool() { 1 } else { rng.u64(1..50) };
    stream.lag = rng.u64(..MINUTE);
    (stream.untimed, stream.ancient, stream.ahead) =
        (rng.u64(..200), rng.u64(..100), rng.u64(..100));
    for _ in 0..rng.u64(..4) {
        let at = rng.u64(stream.first()..stream.end());
        stream.holes.push(at..at + rng.u64(1..2_000_000));
    }
    stream
}

/// A time that is in the stream, or a little outside.
fn some_time(stream: &Stream, rng: &mut fastrand::Rng) -> u64 {
    rng.u64(stream.came(stream.first()) - 10 * MINUTE..NOW + 10 * MINUTE)
}

fn relay_of(seed: u64) -> (Relay, fastrand::Rng) {
    let mut rng = fastrand::Rng::with_seed(!seed);
    let stream = troubled(seed);
    let mut relay = Relay::of(stream);
    relay.head = rng.u64(relay.stream.first()..=relay.stream.end());
    relay.inclusive = rng.bool();
    relay.quiet = rng.bool();
    relay.outdated = Instead::ALL[rng.usize(..4)];
    relay.future = Instead::ALL[rng.usize(..4)];
    (relay, rng)
}

/// How it does on 10,000 streams where something is always new: `cargo test --lib seeks_are_cheap -- --nocapture` prints it.
#[test]
fn seeks_are_cheap() {
    let (mut probes, mut early) = (Vec::new(), Vec::new());
    for seed in 0..10_000 {
        let (mut relay, mut rng) = relay_of(seed);
        relay
            .stream
            .holes
            .retain(|hole| !hole.contains(&relay.head));
        relay.quiet = false;
        let wanted = some_time(&relay.stream, &mut rng);
        let seek = seek_in(&mut relay, wanted);
        let (frames, window) = too_early(&relay, wanted, seek);
        probes.push(seek.probes);
        early.push((frames as f64 / window.max(1) as f64, seed));
    }
    probes.sort_unstable();
    early.sort_by(|one, other| one.0.total_cmp(&other.0));
    for percent in [50, 90, 99] {
        let at = percent * probes.len() / 100;
        println!(
            "{percent}%: {} probes, {:.4} of the window too early",
            probes[at], early[at].0
        );
    }
    let (worst, seed) = early[early.len() - 1];
    assert!(worst < 0.05, "seed {seed}: {worst} of the window too early");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn never_late(seed: u64) {
        let (mut relay, mut rng) = relay_of(seed);
        let wanted = some_time(&relay.stream, &mut rng);
        let seek = seek_in(&mut relay, wanted);
        assert_not_late(&relay, wanted, seek);
    }

    #[test]
    fn never_late_where_the_relay_starts_elsewhere(seed: u64) {
        let (mut relay, mut rng) = relay_of(seed);
        relay.misplaced = (rng.u64(..=100), Instead::ALL[rng.usize(1..4)]);
        if rng.bool() {
            relay.drops = Some((rng.u64(2..12), rng.u64(relay.oldest..=relay.head)));
        }
        let wanted = some_time(&relay.stream, &mut rng);
        let seek = seek_in(&mut relay, wanted);
        assert_not_late(&relay, wanted, seek);
    }
}
