//! Keeps the ledger small: joins rows of runs that have ended.

use crate::ledger::merge::{Merge, ROWS, ended, merge, removable};
use crate::store::{Fact, Store, StoreError};

/// Joins rows of these facts, as they were just read at the time of `now` (microseconds), some at a time: at most
/// [`ROWS`] are removed. Gives how many were; 0 means that nothing is left to join, or that the store was away meanwhile.
///
/// Takes the store's [`Store::sync_lag`], unless there is nothing to do: a row goes only once the one that says the same can't
/// be lost any more.
pub(super) async fn merge_ended(
    store: &dyn Store,
    facts: &[Fact],
    now: u64,
) -> Result<usize, StoreError> {
    let mut rows = 0;
    let mut merges = merge(facts, ended(facts, now));
    let fits = |merge: &Merge| {
        rows += merge.narrow.len();
        rows <= ROWS
    };
    merges.truncate(merges.iter().map(fits).take_while(|fits| *fits).count());
    if merges.is_empty() {
        return Ok(0);
    }
    let outages = store.outages();
    let wide = merges.iter().filter(|merge| merge.grows);
    let wide: Vec<Fact> = wide.map(|merge| merge.wide.clone()).collect();
    store.put_facts(&wide).await?;
    tokio::time::sleep(store.sync_lag()).await;
    if store.outages() != outages {
        return Ok(0);
    }
    // Only what the ledger really says now counts.
    let going = removable(&merges, &store.facts().await?);
    store.remove_facts(&going).await?;
    Ok(going.len())
}

#[cfg(test)]
mod tests;
