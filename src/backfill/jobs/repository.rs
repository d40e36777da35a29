//! A repository from its host into the store: read and verified as a whole first, then written.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::account;
use super::discover::Found;
use super::failure::Failure;
use super::locked;
use super::record::Counts;
use super::single;
use super::tools::{DidGuard, Tools};
use super::unit::{Plan, Target, counted, xrpc};
use crate::backfill::snapshot::window::{Decision, Window};
use crate::backfill::snapshot::{
    CarLimits, CarReader, Leaf, Mode, Snapshot, SnapshotError, SnapshotLimits,
};
use crate::config::CollectionFilter;
use crate::decode::{self, Cid, Tid};
use crate::fetch::{FetchError, FetchLimits, Patience};
use crate::identity::{IdentityError, SigningKey};
use crate::store::{
    Complete, RecordBody, RecordWrite, Repair, RepairKind, RevWrite, Scope, StoreError, WriteBatch,
    snapshot_version,
};
use crate::telemetry::metrics as names;

/// A batch goes to the store at so many bytes,
const BATCH_BYTES: usize = 1 << 20;
/// or writes.
const BATCH_WRITES: usize = 2000;
/// Batches that wait for the store, of one repository.
const BATCHES: usize = 2;
/// Others have their turn after so many bytes of a CAR, however fast it comes.
const TURN_BYTES: usize = 1 << 20;
/// Records that are fetched by themselves, of one repository: a window that lacks more is read from the whole CAR.
const MAX_ALONE: u64 = 1000;
/// Repositories that are read on threads of their own at once. That is work for the cores: more threads take only memory. Beyond
/// their number, for some wait for the store.
static THREADS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    Semaphore::new(2 * cores + 2)
});

/// A repository that was written; the claims are still to be made.
pub(super) struct Written {
    pub complete: Complete,
    pub scopes: Vec<Scope>,
    pub counts: Counts,
    /// The questions that were there before the request.
    pub repairs: Vec<Repair>,
    /// Whether the account was shown as active before.
    pub was_active: bool,
    /// When the host was asked (microseconds).
    pub asked: u64,
    /// Whether the PDS itself gave it, not a relay.
    pub of_pds: bool,
    /// Nobody else writes this repository until the claims are made.
    _guard: DidGuard,
}

/// Why there is none.
pub(super) enum ReadError {
    /// The host's answer, which may speak of the account.
    Fetch(FetchError),
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<SnapshotError> for ReadError {
    fn from(error: SnapshotError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        // A host that sends something else the next time is not unheard of.
        let truncated = matches!(error, SnapshotError::Truncated);
        Self {
            elsewhere: truncated,
            ..Self::new(error.reason(), &error, error.is_ours() || truncated)
        }
    }
}

/// Reads, checks and writes a repository. `None`: nothing is newer than the window's start.
pub(super) async fn read(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    target: &Target,
    asked: u64,
    patience: &Patience,
) -> Result<Option<Written>, ReadError> {
    let repairs = tools.store.repairs_of(&found.did).await?;
    // As it was before the repository was read: what a worker dropped until it took a collection in may be missed here.
    let followed = tools.followed.now(tools).await?;
    wanted_by_all(&tools.indexed.now(), followed.as_deref())?;
    let start = plan.from.filter(|_| plan.windowed);
    let mut obtained = obtain(tools, found, target, start, start.is_some(), patience).await?;
    if obtained.as_ref().is_some_and(Obtained::lacks_too_much) {
        drop(obtained);
        obtained = obtain(tools, found, target, start, false, patience).await?;
    }
    let Some(Obtained {
        snapshot, window, ..
    }) = obtained
    else {
        return Ok(None);
    };
    let rev = told_rev(tools, found, target, &snapshot, patience).await?;
    let guard = tools.locks.lock(&found.did).await;
    let filter = tools.indexed.now();
    let held = locked::held(tools, &found.did, target, rev).await?;
    if target.relay.is_some() && held.rev.is_some_and(|held| held > rev) {
        return Err(older(rev).into());
    }
    let complete = Complete {
        rev,
        version: snapshot_version(&held, rev),
        filter: wanted_by_all(&filter, followed.as_deref())?.to_string(),
    };
    let commit = RevWrite {
        did: &found.did,
        rev,
        data: snapshot.data(),
        commit: snapshot.commit(),
    };
    let mut head = WriteBatch::new();
    head.put_rev(commit);
    let (mut written, alone) = write(tools, found, snapshot, window, &complete, &filter).await?;
    let singles = async {
        for leaf in alone {
            single::read(
                tools,
                found,
                target,
                &leaf,
                &complete,
                &mut written,
                patience,
            )
            .await?;
        }
        Ok::<(), ReadError>(())
    };
    let limit = tools.limits.now().repo_timeout;
    match tokio::time::timeout(limit, singles).await {
        Ok(read) => read?,
        Err(_) => {
            let message = format!("its single records took longer than {limit:?}");
            return Err(Failure::new("too_slow", message, true).into());
        }
    }
    tools.store.apply(head).await?;
    tools.store.put_pds(&found.did, &target.pds).await?;
    let scopes = locked::scopes(tools, &found.did, &written, &filter).await?;
    Ok(Some(Written {
        complete,
        scopes,
        counts: counted(written),
        repairs,
        was_active: held.active(),
        asked,
        of_pds: target.relay.is_none(),
        _guard: guard,
    }))
}

/// What a snapshot is complete for that is written for `filter`, where this was `followed` before it was read.
fn wanted_by_all(
    filter: &CollectionFilter,
    followed: Option<&CollectionFilter>,
) -> Result<CollectionFilter, Failure> {
    let wanted = followed.and_then(|followed| followed.shared(filter));
    wanted.ok_or_else(|| {
        let message = "other collections are indexed now, and not all workers take them in yet";
        Failure::new("overtaken", message, true)
    })
}

/// A repository that was fetched and checked; nothing of it is written.
struct Obtained {
    snapshot: Snapshot,
    /// What of it is wanted, where that is not all.
    window: Option<Window>,
    /// Records of the window that it lacks.
    alone: u64,
}

impl Obtained {
    fn lacks_too_much(&self) -> bool {
        self.alone > MAX_ALONE
    }
}

/// Fetches and checks a repository, all of it or what is `newer` than the start of its window. `None`: nothing is.
async fn obtain(
    tools: &Tools,
    found: &Found,
    target: &Target,
    start: Option<u64>,
    newer: bool,
    patience: &Patience,
) -> Result<Option<Obtained>, ReadError> {
    let since = start.filter(|_| newer);
    let Some(snapshot) = download(tools, found, target, since, patience).await? else {
        return Ok(None);
    };
    check_signature(tools, found, target, &snapshot, patience).await?;
    let mode = match newer {
        true => Mode::Windowed,
        false => Mode::Full,
    };
    let filter = tools.indexed.now();
    Ok(Some(
        verify(snapshot, mode, start, filter, patience.cancel()).await?,
    ))
}

/// Fetches the CAR and keeps its blocks; `None`: it holds nothing newer than the window's start.
async fn download(
    tools: &Tools,
    found: &Found,
    target: &Target,
    since: Option<u64>,
    patience: &Patience,
) -> Result<Option<Snapshot>, ReadError> {
    let mut url = xrpc(target.origin(), "getRepo", &found.did);
    if let Some(since) = since {
        url.push_str(&format!("&since={}", Tid::new(since, 0)));
    }
    let keys = tools.limits.now();
    let limits = FetchLimits {
        bytes: keys.max_repo_bytes,
        time: keys.repo_timeout,
        idle: keys.repo_idle,
    };
    let mut body = tools
        .fetcher
        .stream(&url, limits, patience)
        .await
        .map_err(ReadError::Fetch)?;
    let car = CarLimits {
        bytes: keys.max_repo_bytes,
        ..CarLimits::default()
    };
    let mut reader = CarReader::new(&tools.budget, tools.options.temp_dir.clone(), car);
    let mut turn = 0;
    while let Some(bytes) = body.next().await.map_err(ReadError::Fetch)? {
        reader.push(&bytes)?;
        turn += bytes.len();
        if turn >= TURN_BYTES {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    drop(body);
    let (did, now) = (found.did.clone(), tools.clock.now_micros());
    let opening =
        on_a_thread(move || Snapshot::open(reader.finish()?, &did, now, SnapshotLimits::default()));
    match opening.await.await.map_err(ended)? {
        Ok(snapshot) => Ok(Some(snapshot)),
        // How old a relay's copy is that has nothing newer can't be seen.
        Err(SnapshotError::RootAbsent(_)) if since.is_some() && target.relay.is_none() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The signature by the key of the DID document, else by that of the document asked anew, else by earlier keys: an account that
/// was imported keeps its last signature until its next commit.
async fn check_signature(
    tools: &Tools,
    found: &Found,
    target: &Target,
    snapshot: &Snapshot,
    patience: &Patience,
) -> Result<(), ReadError> {
    if !tools.options.signatures {
        return Ok(());
    }
    let mut keys: Vec<SigningKey> = target.key.into_iter().collect();
    let Err(error) = snapshot.verify_signature(&keys) else {
        return Ok(());
    };
    let now = tools
        .identities
        .refresh(&found.did, patience)
        .await
        .map_err(Failure::from)?;
    keys = now.key.into_iter().collect();
    if snapshot.verify_signature(&keys).is_ok() {
        return Ok(());
    }
    let earlier = tools.identities.earlier_keys(&found.did, patience).await;
    if let Err(error @ IdentityError::Fetch(_, FetchError::Paused(..))) = earlier {
        return Err(Failure::from(error).into());
    }
    let earlier = earlier.unwrap_or_default();
    match snapshot.verify_signature(&earlier) {
        Ok(_) => Ok(()),
        Err(_) => Err(error.into()),
    }
}

/// Reads the whole of it once, on a thread of its own, before anything is written. Gives the window, where there is one.
async fn verify(
    mut snapshot: Snapshot,
    mode: Mode,
    start: Option<u64>,
    filter: Arc<CollectionFilter>,
    cancel: &CancellationToken,
) -> Result<Obtained, ReadError> {
    let cancel = cancel.clone();
    let checking = on_a_thread(move || {
        let verified = snapshot.verify(mode, || !cancel.is_cancelled())?;
        let window = start.map(|start| Window::of(&snapshot, start, &verified));
        let window = window.transpose()?;
        let alone = match window {
            Some(window) if verified.total.absent > MAX_ALONE => {
                window.lacking(&snapshot, &filter)?
            }
            _ => verified.total.absent,
        };
        Ok(Obtained {
            snapshot,
            window,
            alone,
        })
    });
    let checked: Result<_, SnapshotError> = checking.await.await.map_err(ended)?;
    Ok(checked?)
}

/// A thread that did not come to its end.
fn ended(error: JoinError) -> ReadError {
    Failure::new("internal", error, false).into()
}

/// Begins work on a thread of its own, once there is a place for one.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    // Nobody closes it.
    let place: Option<SemaphorePermit<'static>> = THREADS.acquire().await.ok();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    })
}

/// The revision of the snapshot: that of its commit, unless a newer one was announced for the very same commit, as when an account
/// was imported.
async fn told_rev(
    tools: &Tools,
    found: &Found,
    target: &Target,
    snapshot: &Snapshot,
    patience: &Patience,
) -> Result<Tid, ReadError> {
    let own = snapshot.rev();
    let announced = target
        .held
        .as_ref()
        .and_then(|held| Some((held.rev?, held.commit?)));
    let contents = found
        .repairs
        .iter()
        .filter(|repair| repair.kind == RepairKind::Content);
    let wanted = contents
        .map(|repair| repair.version)
        .max()
        .unwrap_or_default();
    let newest = announced
        .map(|(rev, _)| rev)
        .max(found.rev)
        .unwrap_or_default();
    if newest <= own && wanted <= own.micros() {
        return Ok(own);
    }
    if let Some((rev, commit)) = announced
        && commit == snapshot.commit()
    {
        return Ok(rev.max(own));
    }
    if target.relay.is_some() {
        return Err(older(own).into());
    }
    let latest = account::latest(tools, &found.did, &target.pds, patience).await;
    let latest = latest.map_err(ReadError::Fetch)?;
    let same = latest.cid == Some(snapshot.commit());
    let believable = latest.rev.micros() <= tools.clock.now_micros() + decode::REV_AHEAD_MICROS;
    Ok(if same && believable {
        latest.rev.max(own)
    } else {
        own
    })
}

/// A relay's copy that is behind what is held, listed or announced.
fn older(rev: Tid) -> Failure {
    let message = format!("the relay's copy, of {rev}, is older than what is known of it");
    Failure::new("old_copy", message, false)
}

/// A record that is in the window although its block is absent.
pub(super) struct Alone {
    pub collection: String,
    pub rkey: String,
    pub cid: Cid,
}

/// Records that were written, by collection.
pub(super) type Records = BTreeMap<String, u64>;

/// Writes every record that is wanted at the snapshot's version; gives how many, and those that have to be fetched by themselves.
async fn write(
    tools: &Tools,
    found: &Found,
    snapshot: Snapshot,
    window: Option<Window>,
    complete: &Complete,
    filter: &Arc<CollectionFilter>,
) -> Result<(Records, Vec<Alone>), ReadError> {
    let (send, mut batches) = mpsc::channel(BATCHES);
    let job = Writing {
        did: found.did.clone(),
        json: tools.options.json,
        window,
        rev: complete.rev,
        version: complete.version,
        batch: WriteBatch::new(),
        text: Vec::new(),
        records: Records::new(),
        alone: Vec::new(),
    };
    let filter = filter.clone();
    let writing = on_a_thread(move || job.run(&snapshot, &filter, &send)).await;
    while let Some(batch) = batches.recv().await {
        tools.store.apply(batch).await?;
    }
    Ok(writing.await.map_err(ended)??)
}

/// Records to batches, on a thread of its own.
struct Writing {
    did: String,
    json: bool,
    window: Option<Window>,
    rev: Tid,
    version: u64,
    batch: WriteBatch,
    text: Vec<u8>,
    records: Records,
    alone: Vec<Alone>,
}

impl Writing {
    fn run(
        mut self,
        snapshot: &Snapshot,
        filter: &CollectionFilter,
        send: &mpsc::Sender<WriteBatch>,
    ) -> Result<(Records, Vec<Alone>), SnapshotError> {
        let mode = if self.window.is_some() {
            Mode::Windowed
        } else {
            Mode::Full
        };
        snapshot.records(mode, filter, |leaf| {
            self.take(&leaf);
            let full = self.batch.len() >= BATCH_WRITES || self.batch.size() >= BATCH_BYTES;
            match full && send.blocking_send(std::mem::take(&mut self.batch)).is_err() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if !self.batch.is_empty() {
            send.blocking_send(self.batch)
                .map_err(|_| SnapshotError::Cancelled)?;
        }
        Ok((self.records, self.alone))
    }

    fn take(&mut self, leaf: &Leaf<'_>) {
        // Whether it is held is looked up later, for those few.
        let decision = match self.window {
            Some(window) => window.decide(leaf, || false),
            None => Decision::Write,
        };
        match (decision, leaf.record) {
            (Decision::Write, Some(record)) => self.put(leaf, record),
            (Decision::Fetch, _) => self.alone.push(Alone {
                collection: leaf.collection.to_owned(),
                rkey: leaf.rkey.to_owned(),
                cid: leaf.cid,
            }),
            _ => {}
        }
    }

    fn put(&mut self, leaf: &Leaf<'_>, record: &[u8]) {
        self.text.clear();
        let fault = match self.json {
            true => decode::record_to_json(record, &mut self.text),
            false => decode::check_record(record),
        };
        if let Some(fault) = fault {
            names::RECORD_FAULTS.with([fault.as_str()]).increment(1);
        }
        self.batch.put_record(RecordWrite {
            did: &self.did,
            collection: leaf.collection,
            rkey: leaf.rkey,
            version: self.version,
            rev: self.rev,
            body: Some(RecordBody {
                cid: leaf.cid,
                record,
                json: Some(self.text.as_slice()).filter(|json| !json.is_empty()),
            }),
        });
        match self.records.get_mut(leaf.collection) {
            Some(count) => *count += 1,
            None => {
                self.records.insert(leaf.collection.to_owned(), 1);
            }
        }
    }
}
