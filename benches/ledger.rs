//! Reads the ledger of a year of operation, before and after its rows are joined.
//!
//! ```text
//! cargo bench --bench ledger -- [RESTARTS] [GAPS]
//! ```
//!
//! Four workers, later two, eight and four again, follow two relays in turn and restart a thousand times; 200 outages are too
//! long to go on from and are replayed for all slots. Prints for the embedded store how many rows there are and how large
//! they are, and the medians of 31 rounds: reading them all, and finding what is held and missing of three days.

use std::time::{Duration, Instant};

use penstock::config::CollectionFilter;
use penstock::ledger::merge::{ended, merge, removable};
use penstock::ledger::{Report, Wanted, report};
use penstock::slot::SlotSet;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::{Fact, FactKind, Store};

const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;
const YEAR: u64 = 365 * DAY;
const BEGIN: u64 = 1_790_000_000 * SECOND;
/// Frames a second.
const RATE: u64 = 400;
const WORKERS: [u16; 4] = [4, 2, 8, 4];
const RELAYS: [&str; 2] = ["relay1.example", "relay2.example"];
const ROUNDS: usize = 31;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let restarts = numbers.next().unwrap_or(1_000);
    let gaps = numbers.next().unwrap_or(200);
    let facts = year(restarts, gaps);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure(facts));
}

async fn measure(facts: Vec<Fact>) {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(EmbeddedOptions::new(folder.path())).unwrap();
    store.put_facts(&facts).await.unwrap();
    let before = look(&store, "as written").await;
    let began = Instant::now();
    let mut planning = Duration::ZERO;
    loop {
        let facts = store.facts().await.unwrap();
        let planned = Instant::now();
        let merges = merge(&facts, ended(&facts, BEGIN + YEAR));
        planning = planning.max(planned.elapsed());
        if merges.is_empty() {
            break;
        }
        let wide = merges.iter().filter(|merge| merge.grows);
        let wide: Vec<Fact> = wide.map(|merge| merge.wide.clone()).collect();
        store.put_facts(&wide).await.unwrap();
        let going = removable(&merges, &store.facts().await.unwrap());
        store.remove_facts(&going).await.unwrap();
    }
    let took = began.elapsed();
    println!("merging all: {took:.1?}, its longest planning {planning:.2?}");
    let after = look(&store, "merged").await;
    assert_eq!(before, after, "a merge changed what is held");
    store.close().await.unwrap();
}

async fn look(store: &EmbeddedStore, what: &str) -> Report {
    let facts = store.facts().await.unwrap();
    let bytes: usize = facts
        .iter()
        .map(|fact| serde_json::to_vec(fact).unwrap().len() + fact.relay.len() + 21)
        .sum();
    let mut reads = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        store.facts().await.unwrap();
        reads.push(began.elapsed());
    }
    let wanted = Wanted {
        filter: CollectionFilter::ALL,
        slots: SlotSet::ALL,
        since: Some(BEGIN + YEAR - 3 * DAY),
        now: BEGIN + YEAR,
        overlap: 60 * SECOND,
        relays: RELAYS.map(str::to_owned).to_vec(),
    };
    let mut reports = Vec::new();
    let mut last = Report::default();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        last = report(&facts, &wanted);
        reports.push(began.elapsed());
    }
    println!(
        "{what}: {} rows, {bytes} bytes; read {:.2?}, report {:.2?} ({} held, {} missing)",
        facts.len(),
        median(reads),
        median(reports),
        last.held.len(),
        last.missing.len(),
    );
    last
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A year's rows. Every worker's run ends at each restart; the next one goes on where it ended, or after an outage behind a
/// gap, which is replayed. Every hundredth restart is one of the relay's, too: the other one is read from then on.
fn year(restarts: u64, gaps: u64) -> Vec<Fact> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut facts = Vec::new();
    let length = YEAR / (restarts + 1);
    let outages = restarts / gaps.max(1);
    let per_count = restarts / WORKERS.len() as u64 + 1;
    let per_relay = (restarts / 10).max(1);
    for run in 0..=restarts {
        let relay = RELAYS[usize::try_from(run / per_relay % 2).unwrap()];
        let count = WORKERS[usize::try_from(run / per_count).unwrap()];
        let begin = (BEGIN + run * length) & !0xff;
        let outage = gaps > 0 && outages > 0 && run % outages == 0 && run > 0;
        let missed = if outage { 2 * 3_600 * SECOND } else { 0 };
        // Where the relay changes, both have the same time for some minutes.
        let shared = if run % per_relay == 0 {
            300 * SECOND
        } else {
            0
        };
        let from = begin + missed - if outage { 0 } else { shared };
        for worker in 0..count {
            facts.push(fact(
                (relay, begin | u64::from(worker)),
                (from, begin + length),
                SlotSet::owned_by(worker, count),
                FactKind::Live,
            ));
        }
        if outage {
            // In two passes: one was killed.
            let middle = begin + random.u64(1..missed / SECOND) * SECOND;
            let passes = [(begin.saturating_sub(shared), middle), (middle, from)];
            for (pass, ends) in (10..).zip(passes) {
                let run = (relay, begin + pass * 256);
                facts.push(fact(run, ends, SlotSet::ALL, FactKind::Replay));
            }
        }
    }
    facts
}

fn fact((relay, run): (&str, u64), (from, to): (u64, u64), slots: SlotSet, kind: FactKind) -> Fact {
    let offset = if relay == RELAYS[0] { 7 } else { 5_000_000_000 };
    let seq = |time: u64| (time - BEGIN + DAY) / SECOND * RATE + offset;
    Fact {
        relay: relay.to_owned(),
        generation: 0,
        run,
        from_seq: seq(from),
        to_seq: seq(to),
        from_time: from,
        to_time: to,
        slots,
        filter: String::new(),
        kind,
    }
}
