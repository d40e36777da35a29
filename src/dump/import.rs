//! Takes a full dump into a store.
//!
//! One thread reads and checks lines; a bounded number of writes is on its way to the store meanwhile. Facts wait until all
//! of it is durable.

use std::io::BufRead;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::Counts;
use super::read::read;
use super::spill::Spill;
use super::work::{Job, Work, record_sum};
use crate::ledger::claims::{Cut, before_held, before_young_gaps};
use crate::store::{Choice, Fact, RecordsQuery, SnapshotDone, Store, StoreError};

/// Writes on their way to the store.
const IN_FLIGHT: usize = 16;
/// Bytes of them, in KiB.
const IN_FLIGHT_KIB: u32 = 64 << 10;
/// Jobs that wait to be sent.
const QUEUE: usize = 2;
/// Facts written at once.
const FACTS: usize = 1_000;
/// Records of a page where a store is looked through.
const PAGE: usize = 10_000;

/// How a dump is taken in.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// The time, microseconds.
    pub now: u64,
    /// Whether the bytes of records must be those of their CIDs (`verify.cids` is not `none`).
    pub verify_cids: bool,
}

/// What was imported.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Lines of the dump.
    pub counts: Counts,
    /// How many facts were written.
    pub facts: usize,
    /// What the dump claims and the store does not.
    pub cuts: Vec<Cut>,
}

/// Why a dump was not taken in, or not as a whole. No fact of it was written then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line is not what a dump has there.
    #[error(
        "line {line}: {what}. What comes before it may be imported and does no harm; nothing is claimed to be held. \
         Repeat the import with a whole dump"
    )]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The dump is too old for a store that holds something.
    #[error(
        "the dump of {time} is older than 7 days, and the store is not empty: markers of what was deleted since may be gone, \
         so deleted records could come back. Import it into an empty store, or take a younger dump"
    )]
    Old {
        /// The dump's.
        time: String,
    },
    /// The dump is from the future.
    #[error(
        "the dump says that it was made at {time}, but here it is {now}: set the clock that is wrong"
    )]
    Ahead {
        /// The dump's.
        time: String,
        /// Ours.
        now: String,
    },
    /// The store held records before that are not in the dump, and no fact says where they come from.
    #[error(
        "the store holds other records than the dump, and has no facts that say what it saw of the stream: whether they still \
         exist is unknown, so nothing is claimed to be held. Import into an empty store"
    )]
    Leftovers,
    /// The store failed.
    #[error("{error}{}", lines_of(*.lines))]
    Store {
        /// The first and last line that it was given, where it was writing.
        lines: Option<(u64, u64)>,
        /// Why.
        error: StoreError,
    },
    /// The reading thread ended.
    #[error("the import failed: {0}")]
    Failed(String),
}

fn lines_of(lines: Option<(u64, u64)>) -> String {
    lines.map_or(String::new(), |(first, last)| {
        format!(
            " (lines {first} to {last}; nothing is claimed to be held; the import can be repeated)"
        )
    })
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::Store { lines: None, error }
    }
}

/// Imports a dump and tells `progress` the number of the last line that is durable, near enough.
///
/// Resolves when all is durable and the facts are written. Nothing newer is replaced, so it may be repeated.
///
/// # Errors
///
/// What was imported before an error stays: writes commute. No fact is written.
pub async fn import(
    store: &Arc<dyn Store>,
    input: impl BufRead + Send + 'static,
    options: ImportOptions,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Imported, ImportError> {
    let was_empty = is_empty(store).await?;
    let (sender, jobs) = mpsc::channel(QUEUE);
    let reader = tokio::task::spawn_blocking(move || read(input, &options, was_empty, sender));
    // A failure of the store is told at once: the reader may wait for input that never comes.
    apply_all(store, jobs, progress).await?;
    let taken = reader
        .await
        .map_err(|error| ImportError::Failed(error.to_string()))??;
    tokio::time::sleep(store.sync_lag()).await;
    put_completes(store, taken.completes).await?;

    let held = store.facts().await?;
    let unexplained = !was_empty && held.is_empty() && !taken.facts.is_empty();
    if unexplained && sum_of(store).await? != (taken.counts.records, taken.sum) {
        return Err(ImportError::Leftovers);
    }
    // What a relay could not serve is found out again.
    let known = taken.facts.iter().filter(|fact| !fact.kind.is_lost());
    let known: Vec<Fact> = known.cloned().collect();
    let (facts, mut cuts) = before_young_gaps(&known, options.now);
    let (mut facts, held_cuts) = before_held(&facts, &held);
    cuts.extend(held_cuts);
    put_facts(store, &mut facts).await?;
    Ok(Imported {
        counts: taken.counts,
        facts: facts.len(),
        cuts,
    })
}

/// Tells which repositories are complete, once their records are durable.
async fn put_completes(store: &Arc<dyn Store>, completes: Spill) -> Result<(), ImportError> {
    let unread = |error: std::io::Error| ImportError::Failed(format!("temporary file: {error}"));
    let mut flying = JoinSet::new();
    for line in completes.read().map_err(unread)? {
        let (did, complete) = line.map_err(unread)?;
        let done = SnapshotDone {
            did,
            scopes: Vec::new(),
            complete,
            settled: true,
        };
        if flying.len() >= IN_FLIGHT {
            completed(flying.join_next().await)?;
        }
        let store = store.clone();
        flying.spawn(async move { store.complete_snapshot(done).await });
    }
    while let Some(done) = flying.join_next().await {
        completed(Some(done))?;
    }
    Ok(())
}

fn completed(
    done: Option<Result<Result<(), StoreError>, tokio::task::JoinError>>,
) -> Result<(), ImportError> {
    match done {
        Some(done) => Ok(done.map_err(|error| ImportError::Failed(error.to_string()))??),
        None => Ok(()),
    }
}

/// Earlier parts of a stream first, so that no part of them makes a gap.
async fn put_facts(store: &Arc<dyn Store>, facts: &mut [Fact]) -> Result<(), StoreError> {
    facts.sort_by(|a, b| {
        let key = |fact: &Fact| (fact.generation, fact.from_seq);
        a.relay.cmp(&b.relay).then_with(|| key(a).cmp(&key(b)))
    });
    for facts in facts.chunks(FACTS) {
        store.put_facts(facts).await?;
    }
    Ok(())
}

/// Applies jobs until there are no more, many at once.
async fn apply_all(
    store: &Arc<dyn Store>,
    mut jobs: mpsc::Receiver<Job>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ImportError> {
    let budget = Arc::new(Semaphore::new(IN_FLIGHT_KIB as usize));
    let mut flying = JoinSet::new();
    while let Some(job) = jobs.recv().await {
        let kib = u32::try_from(job.size() >> 10).unwrap_or(u32::MAX);
        let share = budget
            .clone()
            .acquire_many_owned((kib + 1).min(IN_FLIGHT_KIB))
            .await;
        let share = share.map_err(|error| ImportError::Failed(error.to_string()))?;
        if flying.len() >= IN_FLIGHT {
            landed(flying.join_next().await, progress)?;
        }
        let store = store.clone();
        flying.spawn(async move {
            let done = apply(&*store, job).await;
            drop(share);
            done
        });
    }
    while let Some(done) = flying.join_next().await {
        landed(Some(done), progress)?;
    }
    Ok(())
}

fn landed(
    done: Option<Result<Result<u64, ImportError>, tokio::task::JoinError>>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ImportError> {
    if let Some(done) = done {
        progress(done.map_err(|error| ImportError::Failed(error.to_string()))??);
    }
    Ok(())
}

/// Does one job; gives its last line.
async fn apply(store: &dyn Store, job: Job) -> Result<u64, ImportError> {
    let Job { work, first, last } = job;
    let done = match work {
        Work::Batch(batch) => store.apply(batch).await.map(drop),
        Work::Remove(removal) => store.remove(removal).await,
        Work::Choice(choice) => put_choice(store, &choice).await,
    };
    done.map(|()| last).map_err(|error| ImportError::Store {
        lines: Some((first, last)),
        error,
    })
}

/// Choices have no version: one that the store has was made later, or is the same.
async fn put_choice(store: &dyn Store, choice: &Choice) -> Result<(), StoreError> {
    let (kind, name) = (choice.kind, choice.name.as_str());
    let held = store.choices(kind, name, None, 1).await?.items;
    if held.first().is_some_and(|held| held.name == name) {
        return Ok(());
    }
    store.put_choice(choice).await
}

/// Whether a store holds neither facts nor repositories nor records.
async fn is_empty(store: &Arc<dyn Store>) -> Result<bool, StoreError> {
    if !store.facts().await?.is_empty() {
        return Ok(false);
    }
    let mut cursor = None;
    loop {
        let page = store.repos(cursor.as_deref(), 1).await?;
        cursor = page.cursor;
        match (page.items.is_empty(), &cursor) {
            (false, _) => return Ok(false),
            (true, Some(_)) => {}
            (true, None) => break,
        }
    }
    let mut query = RecordsQuery {
        limit: 1,
        ..RecordsQuery::default()
    };
    loop {
        let page = store.records(&query).await?;
        query.cursor = page.cursor;
        match (page.items.is_empty(), &query.cursor) {
            (false, _) => return Ok(false),
            (true, Some(_)) => {}
            (true, None) => return Ok(true),
        }
    }
}

/// How many records a store holds, and the sum of them.
async fn sum_of(store: &Arc<dyn Store>) -> Result<(u64, u64), StoreError> {
    let mut query = RecordsQuery {
        limit: PAGE,
        ..RecordsQuery::default()
    };
    let (mut count, mut sum) = (0, 0_u64);
    loop {
        let page = store.records(&query).await?;
        for record in &page.items {
            let path = (&*record.did, &*record.collection, &*record.rkey);
            count += 1;
            sum = sum.wrapping_add(record_sum(path, record.version, record.cid));
        }
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return Ok((count, sum));
        }
    }
}
