use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::slot::SlotSet;
use crate::store::FactKind;
use crate::store::memory::MemoryStore;

const LAG: Duration = Duration::from_secs(15);
const NOW: u64 = 100 * 24 * 3_600_000_000;

fn fact(run: u64, from: u64, to: u64) -> Fact {
    Fact {
        relay: "relay.test".to_owned(),
        generation: 0,
        run,
        from_seq: from,
        to_seq: to,
        from_time: from + 1,
        to_time: to + 1,
        slots: SlotSet::ALL,
        filter: String::new(),
        kind: FactKind::Live,
    }
}

async fn with(count: u64) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new().with_sync_lag(LAG));
    let facts: Vec<Fact> = (0..count).map(|run| fact(run, run, run + 1)).collect();
    store.put_facts(&facts).await.unwrap();
    store
}

#[tokio::test(start_paused = true)]
async fn a_row_goes_only_once_the_wide_one_is_durable() {
    let store = with(4).await;
    let facts = store.facts().await.unwrap();
    let merging = tokio::spawn({
        let (store, facts) = (store.clone(), facts.clone());
        async move { merge_ended(&*store, &facts, NOW).await }
    });
    tokio::time::sleep(LAG - Duration::from_millis(1)).await;
    let wide = [&[fact(0, 0, 3)], &facts[1..]].concat();
    assert_eq!(store.facts().await.unwrap(), wide);
    assert_eq!(merging.await.unwrap(), Ok(2));
    let merged = [fact(0, 0, 3), fact(3, 3, 4)];
    assert_eq!(store.facts().await.unwrap(), merged);
    // With nothing to do it takes no time.
    let began = Instant::now();
    assert_eq!(merge_ended(&*store, &merged, NOW).await, Ok(0));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn many_rows_take_several_calls() {
    let store = with(ROWS as u64 * 2 + 500).await;
    let mut gone = Vec::new();
    loop {
        let facts = store.facts().await.unwrap();
        match merge_ended(&*store, &facts, NOW).await.unwrap() {
            0 => break,
            rows => gone.push(rows),
        }
    }
    assert!(gone.iter().all(|rows| *rows <= ROWS), "{gone:?}");
    assert_eq!(store.facts().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_power_cut_may_have_taken_removes_nothing() {
    let store = with(4).await;
    let facts = store.facts().await.unwrap();
    let merging = tokio::spawn({
        let (store, facts) = (store.clone(), facts.clone());
        async move { merge_ended(&*store, &facts, NOW).await }
    });
    tokio::time::sleep(LAG / 2).await;
    store.was_away();
    assert_eq!(merging.await.unwrap(), Ok(0));
    let facts = store.facts().await.unwrap();
    assert_eq!(facts.len(), 4);
    assert_eq!(merge_ended(&*store, &facts, NOW).await, Ok(2));
}
