//! What the stream of a world says, frame by frame: what must be held once it is durable up to a number, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use penstock::clock::{Clock, SystemClock};
use penstock::decode::{DecodeOptions, Decoder, Event, Tid};
use penstock::ledger::{self, Wanted};
use penstock::slot::SlotSet;
use penstock::store::{Fact, RecordsQuery, Store};
use penstock_loadtest::World;

use super::Installation;

type Path3 = (String, String, String);

struct Op {
    seq: u64,
    rev: Tid,
    put: bool,
}

/// The stream, read.
pub struct Truth<'a> {
    world: &'a World,
    ops: BTreeMap<Path3, Vec<Op>>,
    corrupt: Vec<(u64, Vec<u8>)>,
}

impl<'a> Truth<'a> {
    pub fn of(world: &'a World) -> Self {
        let corrupt: BTreeSet<u64> = world.summary.corrupt_seqs.iter().copied().collect();
        let mut truth = Self {
            world,
            ops: BTreeMap::new(),
            corrupt: Vec::new(),
        };
        let mut decoder = Decoder::new(DecodeOptions::default());
        for (at, entry) in world.log.entries().iter().enumerate() {
            for frame in world.log.payloads(at).expect("the log lies in memory") {
                if corrupt.contains(&entry.seq) {
                    truth.corrupt.push((entry.seq, frame.to_vec()));
                } else {
                    truth.read(&mut decoder, entry.seq, &frame);
                }
            }
        }
        truth
    }

    fn read(&mut self, decoder: &mut Decoder, seq: u64, frame: &[u8]) {
        let event = decoder.decode(frame, SystemClock.now_micros());
        let event = event.unwrap_or_else(|error| panic!("frame {seq} is good, but: {error:?}"));
        let Event::Commit(commit) = event else { return };
        for op in commit.ops.iter() {
            let path = (commit.repo, op.collection, op.rkey);
            let path = (path.0.to_owned(), path.1.to_owned(), path.2.to_owned());
            let (rev, put) = (commit.rev, op.record.is_some());
            self.ops.entry(path).or_default().push(Op { seq, rev, put });
        }
    }

    /// The last number whose frame can be read; the watermark gets at least there.
    pub fn last_seq(&self) -> u64 {
        self.last_good(u64::MAX).expect("a good frame")
    }

    /// The last number up to this one whose frame can be read: what ends with a corrupt frame is proven by the next.
    pub fn last_good(&self, up_to: u64) -> Option<u64> {
        let corrupt = &self.world.summary.corrupt_seqs;
        let seqs = self.world.log.entries().iter().map(|entry| entry.seq);
        seqs.rev()
            .find(|seq| *seq <= up_to && !corrupt.contains(seq))
    }

    /// Looks into a store that no process has open: nothing at or below its own watermark may be missing. Gives the watermark.
    pub async fn holds_what_it_acknowledged(&self, installation: &Installation) -> u64 {
        let Some(store) = installation.store().await else {
            return 0;
        };
        let store = &*store;
        let facts = store.facts().await.expect("facts");
        let watermark = watermark(&facts);
        self.only_corrupt_frames_leave_gaps(&facts);
        let claimed = |_: &str, seq| seq <= watermark;
        self.nothing_is_missing(claimed, &records(store).await);
        self.quarantine_holds(watermark, &quarantine(store).await);
        store.close().await.expect("it closes");
        watermark
    }

    /// A frame that lies about its number leaves its own open, since nobody can say that it came. Nothing else does.
    fn only_corrupt_frames_leave_gaps(&self, facts: &[Fact]) {
        let corrupt = &self.world.summary.corrupt_seqs;
        for gap in ledger::gaps(facts, &Wanted::between(SlotSet::ALL)) {
            let (from, to) = (gap.from_seq.expect("a start"), gap.to_seq.expect("an end"));
            let open = from + 1..=to;
            let good: Vec<u64> = open.filter(|seq| !corrupt.contains(seq)).collect();
            assert!(good.is_empty(), "the gap {gap:?} has good frames: {good:?}");
        }
    }

    /// Looks into a store that no process has open: all that frames said must be held, but for those that are lost to the slot of
    /// their repo.
    pub async fn holds_all_but(
        &self,
        installation: &Installation,
        is_lost: impl Fn(&str, u64) -> bool,
    ) {
        let store = installation.store().await.expect("a store");
        self.nothing_is_missing(|did, seq| !is_lost(did, seq), &records(&*store).await);
        store.close().await.expect("it closes");
    }

    fn nothing_is_missing(
        &self,
        is_claimed: impl Fn(&str, u64) -> bool,
        held: &BTreeMap<Path3, Tid>,
    ) {
        for (path, ops) in &self.ops {
            let claimed = ops.iter().filter(|op| is_claimed(&path.0, op.seq));
            let Some(least) = claimed.map(|op| op.rev).max() else {
                continue;
            };
            // What was not claimed may be there already.
            let fits = |rev: Option<&Tid>| {
                ops.iter().any(|op| {
                    op.rev >= least
                        && match rev {
                            Some(rev) => op.put && op.rev == *rev,
                            None => !op.put,
                        }
                })
            };
            let found = held.get(path);
            assert!(
                fits(found),
                "{path:?}: held at {found:?}, but {least:?} is claimed to be held"
            );
        }
    }

    fn quarantine_holds(&self, watermark: u64, held: &BTreeSet<Vec<u8>>) {
        for (seq, frame) in &self.corrupt {
            assert!(
                *seq > watermark || held.contains(frame),
                "the corrupt frame {seq} is not in the quarantine, but the watermark is {watermark}"
            );
        }
        let sent: BTreeSet<&Vec<u8>> = self.corrupt.iter().map(|(_, frame)| frame).collect();
        assert!(
            held.iter().all(|frame| sent.contains(frame)),
            "a good frame in the quarantine"
        );
    }

    /// Compares a store that no process has open with the oracle: records, repositories, quarantine, ledger.
    pub async fn is_held_in_the_end(&self, installation: &Installation) {
        let dump = installation.prints(&["dump"]).await;
        let repos = installation.prints(&["repos"]).await;
        let diff = penstock_loadtest::check(&self.world.oracle, &*dump, Some(&*repos));
        let diff = diff.expect("lines of JSON");
        assert!(diff.is_empty(), "{diff}");
        assert!(diff.records > 0 && diff.repos > 0, "{diff}");
        let watermark = self.holds_what_it_acknowledged(installation).await;
        assert!(
            watermark >= self.last_seq(),
            "the ledger ends at {watermark}"
        );
    }
}

fn watermark(facts: &[Fact]) -> u64 {
    let relays: BTreeSet<&str> = facts.iter().map(|fact| fact.relay.as_str()).collect();
    assert!(relays.len() <= 1, "{facts:?}");
    // Of several workers some may have claimed nothing yet.
    let is_read = |slot| facts.iter().any(|fact| fact.slots.contains(slot));
    if !SlotSet::ALL.iter().all(is_read) {
        return 0;
    }
    let tail = relays
        .first()
        .and_then(|relay| ledger::resume(facts, relay, SlotSet::ALL, 0));
    tail.map_or(0, |tail| tail.seq)
}

async fn records(store: &dyn Store) -> BTreeMap<Path3, Tid> {
    let mut held = BTreeMap::new();
    let mut query = RecordsQuery {
        limit: 10_000,
        ..RecordsQuery::default()
    };
    loop {
        let page = store.records(&query).await.expect("records");
        held.extend(
            page.items
                .into_iter()
                .map(|row| ((row.did, row.collection, row.rkey), row.rev)),
        );
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return held;
        }
    }
}

async fn quarantine(store: &dyn Store) -> BTreeSet<Vec<u8>> {
    let mut held = BTreeSet::new();
    let mut cursor = None;
    loop {
        let page = store
            .quarantine(cursor.as_deref(), 1000)
            .await
            .expect("rows");
        for row in page.items {
            let (_, raw) = store
                .quarantined(&row.id)
                .await
                .expect("a row")
                .expect("its bytes");
            held.insert(raw);
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return held;
        }
    }
}
