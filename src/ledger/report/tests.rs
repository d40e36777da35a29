use super::*;
use crate::store::FactKind;

const MINUTE: u64 = 60_000_000;
/// A day behind the epoch, so that margins before it are times as well.
const BEGIN: u64 = 1_440 * MINUTE;

/// A fact of all slots; times in minutes.
fn fact(relay: &str, run: u64, seqs: (u64, u64), minutes: (u64, u64), kind: FactKind) -> Fact {
    Fact {
        relay: relay.to_owned(),
        generation: 0,
        run,
        from_seq: seqs.0,
        to_seq: seqs.1,
        from_time: BEGIN + minutes.0 * MINUTE,
        to_time: BEGIN + minutes.1 * MINUTE,
        slots: SlotSet::ALL,
        filter: String::new(),
        kind,
    }
}

fn wanted(relays: &[&str]) -> Wanted {
    Wanted {
        relays: relays.iter().map(|relay| (*relay).to_owned()).collect(),
        now: BEGIN + 1_000 * MINUTE,
        ..Wanted::between(SlotSet::ALL)
    }
}

/// Relay, first and last number, first and last minute, loss.
type Place<'a> = (&'a str, Option<u64>, Option<u64>, i64, i64, Option<Loss>);

fn places(gaps: &[Gap]) -> Vec<Place<'_>> {
    let minute = |time: u64| (time as i64 - BEGIN as i64) / MINUTE as i64;
    let place = |gap: &'_ Gap| {
        (
            gap.from_seq,
            gap.to_seq,
            minute(gap.from_time),
            minute(gap.to_time),
            gap.lost,
        )
    };
    gaps.iter()
        .map(|gap| {
            let (from, to, begin, end, lost) = place(gap);
            (gap.relay.as_str(), from, to, begin, end, lost)
        })
        .collect()
}

#[test]
fn what_a_relay_lost_is_asked_of_the_others_by_time() {
    let mut facts = vec![
        fact("a", 1, (0, 100), (0, 100), FactKind::Live),
        fact("a", 2, (200, 300), (200, 300), FactKind::Live),
    ];
    let both = wanted(&["a", "b"]);
    let own = [("a", Some(100), Some(200), 100, 200, None)];
    assert_eq!(places(&gaps(&facts, &both)), own);
    facts.push(fact("a", 3, (100, 200), (100, 200), FactKind::Expired));
    let elsewhere = [("b", None, None, 99, 201, None)];
    assert_eq!(places(&gaps(&facts, &both)), elsewhere);
    let alone = [("a", Some(100), Some(200), 100, 200, Some(Loss::Expired))];
    assert_eq!(places(&gaps(&facts, &wanted(&["a"]))), alone);

    // It has nothing of it either, or all of it.
    let lost = fact("b", 4, (0, 5_000), (99, 201), FactKind::Expired);
    let held = fact("b", 4, (5_000, 6_000), (99, 202), FactKind::Replay);
    assert_eq!(places(&gaps(&[&facts[..], &[lost]].concat(), &both)), alone);
    assert_eq!(places(&gaps(&[&facts[..], &[held]].concat(), &both)), []);

    // It has the end of it: the rest is lost, and nobody is asked again.
    let lost = fact("b", 4, (0, 5_000), (99, 150), FactKind::Expired);
    let held = fact("b", 5, (5_000, 6_000), (150, 202), FactKind::Replay);
    let rest = gaps(&[&facts[..], &[lost, held]].concat(), &both);
    assert!(
        rest.iter().all(|gap| gap.lost == Some(Loss::Expired)),
        "{rest:?}"
    );
    assert!(!rest.is_empty());
}

#[test]
fn what_a_relay_held_that_nobody_asks_any_more_is_asked_of_the_others() {
    let facts = [
        fact("old", 1, (0, 100), (0, 100), FactKind::Live),
        fact("old", 2, (200, 300), (200, 300), FactKind::Live),
    ];
    let elsewhere = [("new", None, None, 99, 201, None)];
    assert_eq!(places(&gaps(&facts, &wanted(&["new"]))), elsewhere);
}

#[test]
fn a_relay_that_counts_anew_is_asked_for_what_its_old_numbers_lack() {
    let newer = Fact {
        generation: 1,
        ..fact("a", 4, (10, 50), (250, 300), FactKind::Live)
    };
    let mut facts = [
        fact("a", 1, (0, 100), (0, 100), FactKind::Live),
        fact("a", 2, (200, 300), (200, 260), FactKind::Live),
        fact("a", 3, (100, 200), (100, 200), FactKind::Expired),
        newer,
    ];
    let found = gaps(&facts, &wanted(&["a"]));
    assert_eq!(places(&found), [("a", None, None, 99, 201, None)]);
    assert_eq!(found[0].generation, 1);
    // Before its first number a relay has nothing.
    facts[3].from_seq = 0;
    let lost = [("a", Some(100), Some(200), 100, 200, Some(Loss::Expired))];
    assert_eq!(places(&gaps(&facts, &wanted(&["a"]))), lost);
}

#[test]
fn what_another_relay_did_not_serve_either_is_asked_of_it_by_number() {
    let mut facts = vec![
        fact("a", 1, (0, 100), (0, 100), FactKind::Live),
        fact("a", 2, (101, 300), (110, 300), FactKind::Live),
        fact("a", 3, (100, 101), (100, 110), FactKind::Expired),
        fact("b", 4, (5_080, 5_100), (90, 100), FactKind::Replay),
        fact("b", 4, (5_101, 5_120), (110, 120), FactKind::Replay),
    ];
    let both = wanted(&["a", "b"]);
    let by_number = [("b", Some(5_100), Some(5_101), 99, 111, None)];
    assert_eq!(places(&gaps(&facts, &both)), by_number);
    // It never used these numbers.
    facts.push(fact("b", 5, (5_100, 5_101), (100, 110), FactKind::Replay));
    assert_eq!(places(&gaps(&facts, &both)), []);
}

#[test]
fn a_relay_that_took_over_is_read_from_where_the_other_ended() {
    let facts = [
        fact("a", 1, (0, 100), (0, 100), FactKind::Live),
        fact("b", 2, (7_000, 7_100), (110, 200), FactKind::Live),
    ];
    let found = gaps(&facts, &wanted(&["a", "b"]));
    let [gap] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        (gap.relay.as_str(), gap.from_seq, gap.to_seq),
        ("b", None, Some(7_000))
    );
    assert!(
        gap.from_time < BEGIN + 100 * MINUTE,
        "with an overlap: {gap:?}"
    );
}

#[test]
fn what_is_so_old_that_deletes_are_forgotten_is_not_replayed() {
    const DAY: u64 = 1_440;
    let at = |minutes: u64| BEGIN + minutes * MINUTE;
    // Held since day 0 and since day 1, each in the run of that day.
    let live = |from, to, run| fact("a", run, (from, to), (from, to), FactKind::Live);
    let facts = [live(0, 100, at(0)), live(DAY, 9 * DAY, at(DAY))];
    let loss = |facts: &[Fact], now, since: Option<u64>| {
        let asked = Wanted {
            now: at(now),
            since: since.map(at),
            ..wanted(&["a", "b"])
        };
        let missing = gaps(facts, &asked);
        missing.iter().map(|gap| gap.lost).collect::<Vec<_>>()
    };
    assert_eq!(loss(&facts, 7 * DAY + 90, None), [None]);
    let stale = Some(Loss::Stale);
    assert_eq!(loss(&facts, 9 * DAY, None), [stale]);
    // What is later was read a day ago, and has told the store then what was deleted.
    let read = [
        facts[0].clone(),
        fact(
            "a",
            at(8 * DAY),
            (DAY, 9 * DAY),
            (DAY, 9 * DAY),
            FactKind::Replay,
        ),
    ];
    assert_eq!(loss(&read, 9 * DAY, None), [None]);
    // Nothing later is older than that.
    let young = [facts[0].clone(), live(3 * DAY, 9 * DAY, at(3 * DAY))];
    assert_eq!(loss(&young, 9 * DAY, None), [None]);
    // The window before what is held.
    let window = [live(DAY, 9 * DAY, at(DAY))];
    assert_eq!(loss(&window, 9 * DAY, Some(0)), [stale]);
    assert_eq!(loss(&window, 7 * DAY, Some(0)), [None]);
    let head = [live(9 * DAY - 5, 9 * DAY, at(9 * DAY - 5))];
    assert_eq!(loss(&head, 9 * DAY, Some(0)), [None]);
    // Other slots hold nothing later.
    let mut odd = facts.clone();
    odd[1].slots = SlotSet::owned_by(1, 2);
    assert_eq!(loss(&odd, 9 * DAY, None), [stale]);
}

#[test]
fn whether_anything_was_held_before_is_known_across_relays_and_collections() {
    let at = |minutes: u64| BEGIN + minutes * MINUTE;
    let held_before = |facts: &[Fact], asked: &Wanted| {
        let gaps = gaps(facts, asked);
        gaps.iter().map(|gap| gap.after_held).collect::<Vec<_>>()
    };
    let newer = fact("b", 2, (7_000, 7_100), (500, 600), FactKind::Live);
    let window = Wanted {
        since: Some(at(300)),
        ..wanted(&["b"])
    };
    assert_eq!(held_before(std::slice::from_ref(&newer), &window), [false]);
    // Off for hours, and on again with another relay.
    let older = fact("a", 1, (0, 100), (0, 400), FactKind::Live);
    let both = [older.clone(), newer.clone()];
    let found = gaps(&both, &window);
    assert_eq!((found.len(), found[0].from_seq), (1, None));
    assert!(found[0].after_held);
    // It counts as well where the window begins later: nothing else ever asks for it.
    let lost = Gap {
        lost: Some(Loss::Expired),
        to_time: found[0].from_time + 1,
        ..found[0].clone()
    };
    let late = Wanted {
        since: Some(at(550)),
        ..window.clone()
    };
    assert!(lost.is_worth_a_repair(&late));
    // Only some of what is wanted now was.
    let grown = |filter: &str| Wanted {
        filter: CollectionFilter::parse(filter).unwrap(),
        ..window.clone()
    };
    let with = |fact: &Fact, filter: &str| Fact {
        filter: filter.to_owned(),
        ..fact.clone()
    };
    let facts = [with(&older, "a.b.c"), with(&newer, "a.b.c,a.b.d")];
    assert_eq!(held_before(&facts, &grown("a.b.c,a.b.d")), [true]);
    // By other slots.
    let mut odd = [older, newer];
    odd[0].slots = SlotSet::owned_by(1, 2);
    odd[1].slots = SlotSet::owned_by(0, 2);
    assert!(held_before(&odd, &window).contains(&false));
}

#[test]
fn what_is_not_to_be_replayed_is_asked_of_nobody() {
    const DAY: u64 = 1_440;
    let live = |from, to| {
        fact(
            "a",
            BEGIN + from * MINUTE,
            (from, to),
            (from, to),
            FactKind::Live,
        )
    };
    let facts = [
        live(0, 100),
        live(DAY, 9 * DAY),
        fact("a", 3, (100, DAY), (100, DAY), FactKind::Expired),
    ];
    let asked = Wanted {
        now: BEGIN + 9 * DAY * MINUTE,
        ..wanted(&["a", "b"])
    };
    let expired = Some(Loss::Expired);
    let own = [("a", Some(100), Some(DAY), 100, DAY as i64, expired)];
    assert_eq!(places(&gaps(&facts, &asked)), own);
}

#[test]
fn slots_behind_others_are_said() {
    let odd = SlotSet::owned_by(1, 2);
    let mut ahead = fact("a", 2, (100, 200), (100, 200), FactKind::Live);
    ahead.slots = odd;
    let facts = [fact("a", 1, (0, 100), (0, 100), FactKind::Live), ahead];
    let report = report(&facts, &wanted(&["a"]));
    assert_eq!(report.missing, []);
    let behind: Vec<_> = report.behind(MINUTE).collect();
    assert_eq!(behind.len(), 1);
    assert_eq!(behind[0].slots, SlotSet::owned_by(0, 2));
    assert_eq!(report.behind(101 * MINUTE).count(), 0);
}

#[test]
fn time_is_missed_once() {
    let gap = |from: u64, to: u64| Gap {
        relay: "a".to_owned(),
        generation: 0,
        from_seq: None,
        to_seq: None,
        from_time: from,
        to_time: to,
        lost: None,
        after_held: true,
        slots: SlotSet::ALL,
    };
    let gaps = [gap(50, 70), gap(10, 40), gap(30, 60), gap(0, 5)];
    assert_eq!(missing_micros(gaps.iter()), 60);
}

/// What is said of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    NotWanted,
    Held,
    Missing,
    Lost,
}

/// Numbers of the random ledgers.
const NUMBERS: u64 = 60;

/// Facts of one relay, a number a minute, for all slots or for half of them.
fn some_facts(random: &mut fastrand::Rng) -> Vec<Fact> {
    let kinds = [
        FactKind::Live,
        FactKind::Live,
        FactKind::Replay,
        FactKind::Repos,
        FactKind::Passed,
        FactKind::Expired,
        FactKind::Skipped,
    ];
    let some = |run: u64, random: &mut fastrand::Rng| {
        let from = random.u64(0..NUMBERS - 1);
        let to = random.u64(from + 1..=NUMBERS.min(from + 12));
        let kind = kinds[random.usize(..kinds.len())];
        let mut fact = fact("a", run, (from, to), (from, to), kind);
        if random.bool() {
            fact.slots = SlotSet::owned_by(random.u16(..2), 2);
        }
        fact
    };
    (0..random.u64(0..14))
        .map(|run| some(run, random))
        .collect()
}

/// What must be said of a number of a slot, by looking at each fact.
fn expected(facts: &[Fact], slot: u8, seq: u64, since: Option<u64>) -> Said {
    let of_slot = || facts.iter().filter(|fact| fact.slots.contains(slot));
    let any = |is: fn(FactKind) -> bool| {
        let mut around = of_slot().filter(|fact| fact.from_seq < seq && seq <= fact.to_seq);
        around.any(|fact| is(fact.kind))
    };
    let held = || of_slot().filter(|fact| fact.kind.is_held());
    let first = held().map(|fact| fact.from_seq).min();
    let last = held().map(|fact| fact.to_seq).max();
    let passed = any(|kind| kind == FactKind::Passed);
    let lost = any(FactKind::is_lost);
    let in_window = since.is_some_and(|since| BEGIN + seq * MINUTE > since);
    let missing = if lost { Said::Lost } else { Said::Missing };
    match (first, last) {
        _ if any(FactKind::is_held) => Said::Held,
        (Some(first), Some(last)) if first < seq && seq <= last => match passed {
            true => Said::NotWanted,
            false => missing,
        },
        (Some(first), _) if seq <= first && in_window => missing,
        (None, _) if in_window => missing,
        _ => Said::NotWanted,
    }
}

/// What a report says of a number of a slot; twice is an error.
fn said(report: &Report, slot: u8, seq: u64) -> Said {
    let held = report
        .held
        .iter()
        .filter(|span| span.slots.contains(slot) && span.from_seq < seq && seq <= span.to_seq);
    let missing = report.missing.iter().filter(|gap| {
        let behind = match gap.from_seq {
            Some(from) => from < seq,
            None => gap.from_time < BEGIN + seq * MINUTE,
        };
        gap.slots.contains(slot) && behind && seq <= gap.to_seq.unwrap_or(u64::MAX)
    });
    let said = held
        .map(|_| Said::Held)
        .chain(missing.map(|gap| match gap.lost {
            Some(_) => Said::Lost,
            None => Said::Missing,
        }));
    match said.collect::<Vec<_>>()[..] {
        [] => Said::NotWanted,
        [said] => said,
        _ => panic!("{seq} in slot {slot} twice: {report:#?}"),
    }
}

#[test]
fn each_number_is_held_or_missing_or_not_wanted() {
    let first = fastrand::u64(..1 << 32);
    for seed in first..first + 3_000 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let facts = some_facts(random);
        let since = random
            .bool()
            .then(|| BEGIN + random.u64(0..NUMBERS) * MINUTE);
        let asked = Wanted {
            since,
            ..wanted(&["a"])
        };
        let report = report(&facts, &asked);
        for slot in 0..2 {
            for seq in 1..=NUMBERS {
                let (said, expected) =
                    (said(&report, slot, seq), expected(&facts, slot, seq, since));
                assert_eq!(
                    said, expected,
                    "seed {seed}: {seq} in slot {slot}: {facts:#?}"
                );
            }
        }
    }
}

/// Two relays that serve the same events under their own numbers and times, which differ by up to the overlap.
struct Relays {
    /// By relay and event, microseconds.
    times: [Vec<u64>; 2],
}

const EVENTS: usize = 150;

impl Relays {
    fn new(random: &mut fastrand::Rng) -> Self {
        let apart = random.u64(..=OVERLAP);
        let (one, other) = match random.bool() {
            true => (apart, 0),
            false => (0, apart),
        };
        let mut at = BEGIN;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..=EVENTS {
            at += random.u64(..MINUTE);
            times[0].push(at + one);
            times[1].push(at + other);
        }
        Self { times }
    }

    /// Number of an event at a relay.
    fn seq(relay: usize, event: usize) -> u64 {
        (event as u64 + 1) * (1 + relay as u64)
    }

    /// That a relay's events behind one up to another are held.
    fn fact(&self, relay: usize, run: u64, (from, to): (usize, usize)) -> Fact {
        Fact {
            from_time: self.times[relay][from],
            to_time: self.times[relay][to],
            ..fact(
                ["a", "b"][relay],
                run,
                (Self::seq(relay, from), Self::seq(relay, to)),
                (0, 0),
                FactKind::Replay,
            )
        }
    }

    /// Reads all of a gap.
    fn read(&self, gap: &Gap, run: u64) -> Fact {
        let relay = usize::from(gap.relay == "b");
        let times = &self.times[relay];
        let number = |seq: u64| (0..=EVENTS).rfind(|event| Self::seq(relay, *event) <= seq);
        let from = match gap.from_seq {
            Some(seq) => number(seq),
            None => times.iter().rposition(|time| *time < gap.from_time),
        };
        let to = match gap.to_seq {
            Some(seq) => number(seq),
            None => times.iter().position(|time| *time > gap.to_time),
        };
        let mut read = self.fact(relay, run, (from.unwrap_or(0), to.unwrap_or(EVENTS)));
        if from.is_none() {
            // It has nothing older.
            (read.from_seq, read.from_time) = (0, gap.from_time.min(read.from_time));
        }
        read
    }
}

#[test]
fn once_nothing_is_missing_each_event_was_read_at_one_of_the_relays() {
    let first = fastrand::u64(..1 << 32);
    for seed in first..first + 2_000 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let relays = Relays::new(random);
        let mut facts: Vec<Fact> = (0..random.u64(2..7))
            .map(|run| {
                let from = random.usize(..EVENTS);
                let to = random.usize(from + 1..=EVENTS.min(from + 60));
                relays.fact(random.usize(..2), run, (from, to))
            })
            .collect();
        let begin = facts.iter().map(|fact| fact.from_time).min().unwrap();
        let end = facts.iter().map(|fact| fact.to_time).max().unwrap();
        let asked = wanted(&["a", "b"]);
        let mut rounds = 0;
        while let [gap, ..] = &gaps(&facts, &asked)[..] {
            rounds += 1;
            assert!(rounds < 30, "seed {seed}: {gap:?} of {facts:#?}");
            facts.push(relays.read(gap, 100 + rounds));
        }
        for event in 1..=EVENTS {
            let times = [relays.times[0][event], relays.times[1][event]];
            let within = |time: &u64| begin + OVERLAP < *time && *time + OVERLAP < end;
            let is_read = facts.iter().any(|fact| {
                let seq = Relays::seq(usize::from(fact.relay == "b"), event);
                fact.from_seq < seq && seq <= fact.to_seq
            });
            assert!(
                is_read || !times.iter().all(within),
                "seed {seed}: event {event} is lost: {facts:#?}"
            );
        }
    }
}
