//! What of the ledger has to be had from repositories, and what a job writes down once it is.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::live::Live;
use super::model::{Force, JobsError, Stage};
use super::record::Job;
use super::scope;
use super::tools::Tools;
use crate::config::CollectionFilter;
use crate::ledger::{self, Gap, Wanted};
use crate::slot::SlotSet;
use crate::store::indexed::narrowed;
use crate::store::{Fact, FactKind, Repair, RepairKind, StoreError, WriteBatch};

/// What is wanted of the ledger now.
pub type LedgerNow = Arc<dyn Fn() -> Wanted + Send + Sync>;

/// How often the ledger is read while a replay is waited for.
const LOOK: Duration = Duration::from_secs(1);
/// Gaps of one job; those that are left make another one.
const MAX_GAPS: usize = 64;

async fn missing(ledger: &LedgerNow, tools: &Tools) -> Result<(Vec<Gap>, Wanted), StoreError> {
    let facts = tools.store.facts().await?;
    let wanted = ledger();
    Ok((ledger::gaps(&facts, &wanted), wanted))
}

/// What has to be repaired now, as the ledger says it: nothing held at all asks for everything, a gap for what changed.
pub(super) async fn decide(ledger: &LedgerNow, tools: &Tools) -> Result<Option<Force>, JobsError> {
    let held = tools
        .store
        .facts()
        .await?
        .iter()
        .any(|fact| fact.kind.is_held());
    let repos = tools.store.repos(None, 1).await?;
    if !held || repos.items.is_empty() {
        return Ok(Some(Force::FullSync));
    }
    let (gaps, wanted) = missing(ledger, tools).await?;
    let worth = gaps
        .iter()
        .any(|gap| gap.lost.is_none() || gap.is_worth_a_repair(&wanted));
    Ok(worth.then_some(Force::CatchUp))
}

/// Whether repositories have to be fetched for the ledger.
pub(super) async fn lost(ledger: &LedgerNow, tools: &Tools) -> Result<Vec<Gap>, StoreError> {
    let (gaps, wanted) = missing(ledger, tools).await?;
    let worth = gaps
        .into_iter()
        // Where a slot holds nothing yet there is no number at which a gap can be closed.
        .filter(|gap| gap.to_seq.is_some() && gap.is_worth_a_repair(&wanted));
    Ok(worth.take(MAX_GAPS).collect())
}

/// Waits until the relays have given what they can, then makes the rest the job's work. `false`: it was told to stop.
pub(super) async fn wait_for_replay(
    ledger: &LedgerNow,
    job: &mut Job,
    live: &Live,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<bool, StoreError> {
    loop {
        let (gaps, _) = missing(ledger, tools).await?;
        if gaps.iter().all(|gap| gap.lost.is_some()) {
            break;
        }
        job.body.stage = Some(Stage::Replaying);
        live.show(job, job.body.counts.clone());
        let wait = tokio::time::sleep(LOOK);
        if stop.run_until_cancelled(wait).await.is_none() {
            return Ok(false);
        }
    }
    job.body.stage = None;
    let gaps = lost(ledger, tools).await?;
    take(job, &gaps, tools);
    Ok(true)
}

/// Makes some gaps the work of a job.
fn take(job: &mut Job, gaps: &[Gap], tools: &Tools) {
    let body = &mut job.body;
    if gaps.is_empty() {
        body.sources.clear();
        return;
    }
    // Of time that was never held nothing was held that could have been deleted.
    body.between = gaps.iter().any(|gap| gap.after_held);
    body.from = gaps
        .iter()
        .map(|gap| gap.from_time)
        .min()
        .filter(|from| *from > 0);
    let slots = gaps
        .iter()
        .fold(SlotSet::default(), |all, gap| all.union(gap.slots));
    body.slots = Some(slots).filter(|slots| *slots != SlotSet::ALL);
    let indexed = tools.indexed.now();
    body.sources = scope::sources(&body.request, &indexed, &tools.options.relays);
    let filter = indexed.to_string();
    let now = tools.clock.now_micros();
    body.gaps = gaps.iter().map(|gap| fact(gap, &filter, now)).collect();
}

/// What closes a gap. Where only the time of its begin is known the last number stands for all: what else was missed below it
/// was not looked at.
fn fact(gap: &Gap, filter: &str, now: u64) -> Fact {
    let to_seq = gap.to_seq.unwrap_or_default();
    Fact {
        relay: gap.relay.clone(),
        generation: gap.generation,
        // Rows of different slots that begin alike are different rows.
        run: now & !0xff | u64::from(gap.slots.iter().next().unwrap_or_default()),
        from_seq: gap.from_seq.unwrap_or(to_seq.saturating_sub(1)),
        to_seq,
        from_time: gap.from_time,
        to_time: gap.to_time,
        slots: gap.slots,
        filter: filter.to_owned(),
        kind: FactKind::Repos,
    }
}

/// Whether every repository was read for all that the gaps were missed of: not where a collection was removed meanwhile, also if
/// it is indexed again.
async fn is_whole(tools: &Tools, job: &Job) -> Result<bool, StoreError> {
    let indexed = tools.indexed.now();
    let covers = |fact: &Fact| {
        let filter = CollectionFilter::parse(&fact.filter);
        filter.is_ok_and(|filter| indexed.covers(&filter))
    };
    let narrowed = narrowed(&*tools.store).await?;
    Ok(narrowed < job.body.started && job.body.gaps.iter().all(covers))
}

/// The question of what changed in a repository in the gaps of a job.
pub(super) fn repair(job: u64, did: &str) -> Repair {
    Repair {
        id: format!("job~{job}~content"),
        did: did.to_owned(),
        kind: RepairKind::Content,
        reason: "gap".to_owned(),
        // Whatever the host has once it answers is newer than the gap.
        version: 0,
    }
}

/// Writes down that the gaps are closed; before that, a repair for each repository that failed.
pub(super) async fn close(tools: &Tools, job: &Job) -> Result<(), StoreError> {
    if !is_whole(tools, job).await? {
        tracing::warn!(
            job = job.id,
            "a collection was removed meanwhile: the gaps of the ledger stay open"
        );
        return Ok(());
    }
    let version = job
        .body
        .gaps
        .iter()
        .map(|fact| fact.to_time)
        .max()
        .unwrap_or_default();
    let mut cursor = None;
    loop {
        let page = tools
            .store
            .failures(job.id, cursor.as_deref(), 1000)
            .await?;
        let mut batch = WriteBatch::new();
        for failure in page.items {
            batch.put_repair(repair(job.id, &failure.did));
        }
        if !batch.is_empty() {
            tools.store.apply(batch).await?;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    tokio::time::sleep(tools.store.sync_lag()).await;
    tracing::info!(
        job = job.id,
        gaps = job.body.gaps.len(),
        until = version,
        "gaps of the ledger are closed by repositories"
    );
    tools.store.put_facts(&job.body.gaps).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000_000;
    const NOW: u64 = 100 * DAY;

    /// Of all slots; days ago.
    fn held(seqs: (u64, u64), days: (u64, u64), kind: FactKind) -> Fact {
        Fact {
            relay: "r".to_owned(),
            generation: 0,
            run: NOW - days.0 * DAY,
            from_seq: seqs.0,
            to_seq: seqs.1,
            from_time: NOW - days.0 * DAY,
            to_time: NOW - days.1 * DAY,
            slots: SlotSet::ALL,
            filter: String::new(),
            kind,
        }
    }

    fn missing(facts: &[Fact], days: u64) -> Vec<Gap> {
        let wanted = Wanted {
            since: Some(NOW - days * DAY),
            now: NOW,
            relays: vec!["r".to_owned()],
            ..Wanted::between(SlotSet::ALL)
        };
        ledger::gaps(facts, &wanted)
    }

    #[test]
    fn a_window_that_was_closed_is_missing_again_where_it_grows() {
        let mut facts = vec![
            held((500, 900), (3, 0), FactKind::Replay),
            held((0, 500), (7, 3), FactKind::Expired),
        ];
        let gaps = missing(&facts, 7);
        let [gap] = &gaps[..] else { panic!("{gaps:?}") };
        assert!(gap.lost.is_some() && !gap.after_held, "{gap:?}");
        facts.push(fact(gap, "", NOW));
        assert_eq!(missing(&facts, 7), []);
        let gaps = missing(&facts, 30);
        let [gap] = &gaps[..] else { panic!("{gaps:?}") };
        let days = |time: u64| (NOW - time) / DAY;
        assert_eq!((days(gap.from_time), days(gap.to_time)), (30, 7));
        assert!(gap.lost.is_some() && !gap.after_held, "{gap:?}");
        facts.push(fact(gap, "", NOW));
        assert_eq!(missing(&facts, 30), []);
    }

    #[test]
    fn a_gap_that_begins_at_a_time_closes_no_earlier_one() {
        let mut facts = vec![
            held((100, 200), (20, 19), FactKind::Live),
            held((300, 400), (15, 14), FactKind::Live),
            held((500, 900), (3, 0), FactKind::Live),
        ];
        let earlier = missing(&facts, 7);
        assert_eq!(earlier.len(), 2);
        let by_time = Gap {
            from_seq: None,
            ..earlier[1].clone()
        };
        facts.push(fact(&by_time, "", NOW));
        let places = |gaps: &[Gap]| -> Vec<_> {
            gaps.iter().map(|gap| (gap.from_seq, gap.to_seq)).collect()
        };
        assert!(places(&missing(&facts, 7)).contains(&(Some(200), Some(300))));
    }

    #[test]
    fn what_a_relay_lost_that_took_over_from_another_is_closed() {
        let mut facts = vec![
            held((100, 200), (20, 9), FactKind::Live),
            held((7_000, 7_900), (5, 0), FactKind::Live),
            held((0, 7_000), (9, 5), FactKind::Expired),
        ];
        facts[0].relay = "old".to_owned();
        let gaps = missing(&facts, 7);
        let [gap] = &gaps[..] else { panic!("{gaps:?}") };
        assert!(gap.lost.is_some() && gap.from_seq.is_none() && gap.after_held);
        facts.push(fact(gap, "", NOW));
        assert_eq!(missing(&facts, 7), []);
    }
}
