//! A lane: one thread that decodes the frames of its DIDs and hands their writes to the store in batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never, select};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::faults::{Mark, Verdict};
use super::metrics::{LaneMetrics, Rows, StoreMetrics};
use super::progress::Ticket;
use super::router::{Chunk, LaneInput, Source};
use super::writes::{Counts, Writer};
use super::{Epochs, Faults, PipelineOptions, Stream};
use crate::clock::Clock;
use crate::decode::{self, Decoder, Event};
use crate::store::{Store, StoreError, WriteBatch};
use crate::telemetry::repeated;

/// Suspects of each stream that a lane holds at most; beyond it the oldest is quarantined.
const MAX_SUSPECTS: usize = 512;
/// Bytes of suspects of each stream that a lane holds at most.
const MAX_SUSPECT_BYTES: usize = 8 << 20;
/// Emptied batches that a lane keeps for reuse.
const SPARE_BATCHES: usize = 16;

/// What all lanes share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub faults: [Arc<Faults>; 2],
    pub failed: Arc<watch::Sender<Option<Arc<StoreError>>>>,
    pub in_flight: Arc<Semaphore>,
    pub in_flight_bytes: u32,
    pub epochs: Arc<Epochs>,
    pub done: Arc<AtomicU64>,
    pub runtime: Handle,
    pub metrics: Arc<StoreMetrics>,
}

impl Shared {
    fn faults(&self, stream: Stream) -> &Arc<Faults> {
        super::of_stream(&self.faults, stream)
    }
}

/// The ways into a lane.
#[derive(Debug)]
pub(crate) struct Entry {
    live: LaneInput,
    replay: LaneInput,
    max_frames: usize,
}

impl Entry {
    pub fn input(&self, stream: Stream) -> LaneInput {
        match stream {
            Stream::Live => self.live.clone(),
            Stream::Replay => self.replay.clone(),
        }
    }

    pub fn depth(&self) -> LaneDepth {
        let budgets = |input: &LaneInput| (input.frames.clone(), input.bytes.clone());
        LaneDepth {
            budgets: [budgets(&self.live), budgets(&self.replay)],
            max_frames: self.max_frames,
            max_bytes: self.live.max_bytes as usize,
        }
    }
}

/// Tells how much waits before a lane; does not keep it open.
pub(crate) struct LaneDepth {
    budgets: [(Arc<Semaphore>, Arc<Semaphore>); 2],
    max_frames: usize,
    max_bytes: usize,
}

impl LaneDepth {
    /// Frames and bytes that wait.
    pub fn queued(&self) -> (usize, usize) {
        self.budgets
            .iter()
            .fold((0, 0), |(frames, bytes), (frame_budget, byte_budget)| {
                (
                    frames + self.max_frames - frame_budget.available_permits(),
                    bytes + self.max_bytes - byte_budget.available_permits(),
                )
            })
    }
}

/// Starts a lane.
pub(crate) fn spawn(
    number: usize,
    options: &PipelineOptions,
    shared: Shared,
) -> std::io::Result<(Entry, JoinHandle<()>)> {
    let lanes = options.lanes.max(1);
    // A chunk must fit into its budget.
    let max_frames = (options.max_frames / (2 * lanes)).max(64);
    let max_bytes = u32::try_from(options.max_bytes / (2 * lanes))
        .unwrap_or(u32::MAX)
        .max(1);
    let input = || {
        let (sender, receiver) = bounded(max_frames);
        let frames = Arc::new(Semaphore::new(max_frames));
        let bytes = Arc::new(Semaphore::new(max_bytes as usize));
        (
            LaneInput {
                chunks: sender,
                frames,
                bytes,
                max_bytes,
            },
            receiver,
        )
    };
    let (live, live_chunks) = input();
    let (replay, replay_chunks) = input();
    let (spares, spare) = bounded(SPARE_BATCHES);
    let lane = Lane {
        shared,
        options: options.clone(),
        metrics: LaneMetrics::new(),
        decoder: Decoder::new(options.decode),
        json: Vec::new(),
        batch: WriteBatch::new(),
        tickets: Vec::new(),
        due: None,
        live_suspects: Suspects::default(),
        replay_suspects: Suspects::default(),
        spares,
        spare,
    };
    let thread = std::thread::Builder::new()
        .name(format!("lane-{number}"))
        .spawn(move || {
            let guard = AbortOnPanic;
            lane.run(live_chunks, replay_chunks);
            drop(guard);
        })?;
    Ok((
        Entry {
            live,
            replay,
            max_frames,
        },
        thread,
    ))
}

/// Whatever panics on the way to the store must not leave the rest running: the process restarts at the watermark.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

struct Lane {
    shared: Shared,
    options: PipelineOptions,
    metrics: LaneMetrics,
    decoder: Decoder,
    json: Vec<u8>,
    batch: WriteBatch,
    /// Chunks of which the batch holds a part.
    tickets: Vec<Arc<Ticket>>,
    /// When the batch must go, at the latest.
    due: Option<Instant>,
    live_suspects: Suspects,
    replay_suspects: Suspects,
    spares: Sender<WriteBatch>,
    spare: Receiver<WriteBatch>,
}

/// The suspects of one stream, oldest first: what waits there holds back nothing of the other stream.
#[derive(Default)]
struct Suspects {
    frames: VecDeque<Suspect>,
    bytes: usize,
}

impl Suspects {
    fn push(&mut self, suspect: Suspect) {
        self.bytes += suspect.frame.len();
        self.frames.push_back(suspect);
    }

    fn pop(&mut self) -> Option<Suspect> {
        let oldest = self.frames.pop_front()?;
        self.bytes -= oldest.frame.len();
        Some(oldest)
    }

    fn is_crowded(&self) -> bool {
        self.frames.len() > MAX_SUSPECTS || self.bytes > MAX_SUSPECT_BYTES
    }
}

/// A frame that failed, until it is known whose fault that is.
struct Suspect {
    frame: Vec<u8>,
    reason: &'static str,
    detail: String,
    source: Arc<Source>,
    ticket: Arc<Ticket>,
    mark: Mark,
    epoch: u64,
}

enum Next {
    Chunk(Chunk),
    TimeOut,
    Closed,
}

impl Lane {
    fn run(mut self, mut live: Receiver<Chunk>, mut replay: Receiver<Chunk>) {
        let mut open = 2;
        while open > 0 {
            match self.next(&mut live, &mut replay) {
                Next::Chunk(chunk) => {
                    self.take(chunk);
                    self.shared.done.fetch_add(1, Ordering::Relaxed);
                }
                Next::TimeOut => {}
                Next::Closed => open -= 1,
            }
            self.settle_suspects(false);
            if self.full() || self.due.is_some_and(|due| Instant::now() >= due) {
                self.submit();
            }
        }
        self.settle_suspects(true);
        self.submit();
    }

    /// The next chunk, live first.
    fn next(&self, live: &mut Receiver<Chunk>, replay: &mut Receiver<Chunk>) -> Next {
        match live.try_recv() {
            Ok(chunk) => return Next::Chunk(chunk),
            Err(TryRecvError::Disconnected) => {
                *live = never();
                return Next::Closed;
            }
            Err(TryRecvError::Empty) => {}
        }
        let received = select! {
            recv(live) -> chunk => chunk.map_err(|_| live),
            recv(replay) -> chunk => chunk.map_err(|_| replay),
            default(self.patience()) => return Next::TimeOut,
        };
        match received {
            Ok(chunk) => Next::Chunk(chunk),
            Err(closed) => {
                *closed = never();
                Next::Closed
            }
        }
    }

    /// How long the lane may wait for a chunk.
    fn patience(&self) -> Duration {
        let suspects = [&self.live_suspects, &self.replay_suspects];
        let idle = if suspects.iter().all(|of| of.frames.is_empty()) {
            Duration::from_secs(60)
        } else {
            Duration::from_millis(100)
        };
        let due = self
            .due
            .map(|due| due.saturating_duration_since(Instant::now()));
        due.map_or(idle, |due| due.min(idle))
    }

    fn take(&mut self, chunk: Chunk) {
        if chunk.epoch != self.shared.epochs.current(chunk.stream) {
            self.metrics.skipped("reread", chunk.len());
            return;
        }
        let began = Instant::now();
        let now = self.shared.clock.now_micros();
        let mut failed = Vec::new();
        for frame in chunk.frames() {
            if let Some(did) = self.frame(frame, &chunk, now) {
                failed.push(did);
            }
        }
        self.metrics.decoded(chunk.len(), began.elapsed());
        self.shared.faults(chunk.stream).judge(chunk.len(), failed);
        self.tickets.push(chunk.ticket.clone());
        self.due
            .get_or_insert_with(|| began + self.options.batch_age);
    }

    /// Decodes one frame into the batch; gives the hash of its DID if it failed.
    fn frame(&mut self, frame: &[u8], chunk: &Chunk, now: u64) -> Option<u64> {
        let writer = Writer {
            source: &chunk.source,
            json: self.options.json,
            now,
        };
        match self.decoder.decode(frame, now) {
            Ok(event) => {
                let mut counts = Counts::default();
                writer.event(&event, &mut self.json, &mut self.batch, &mut counts);
                self.metrics.event(event_type(&event), &counts);
                if matches!(event, Event::Unknown { .. }) {
                    self.metrics.skipped("unknown_type", 1);
                }
                None
            }
            Err(error) => {
                let suspect = Suspect {
                    frame: frame.to_vec(),
                    reason: error.reason.as_str(),
                    detail: error.detail.into_owned(),
                    source: chunk.source.clone(),
                    ticket: chunk.ticket.clone(),
                    mark: self.shared.faults(chunk.stream).mark(),
                    epoch: chunk.epoch,
                };
                suspect.ticket.split();
                self.suspects(chunk.stream).push(suspect);
                let did = decode::peek(frame).did.unwrap_or_default();
                Some(xxhash_rust::xxh3::xxh3_64(did.as_bytes()))
            }
        }
    }

    fn suspects(&mut self, stream: Stream) -> &mut Suspects {
        match stream {
            Stream::Live => &mut self.live_suspects,
            Stream::Replay => &mut self.replay_suspects,
        }
    }

    /// Quarantines the suspects of which it is known that the fault is their own; `all` at the end.
    fn settle_suspects(&mut self, all: bool) {
        self.settle_suspects_of(Stream::Live, all);
        self.settle_suspects_of(Stream::Replay, all);
    }

    fn settle_suspects_of(&mut self, stream: Stream, all: bool) {
        while let Some(oldest) = self.suspects(stream).frames.front() {
            let (mark, epoch) = (oldest.mark, oldest.epoch);
            let now = all || self.suspects(stream).is_crowded();
            let stale = epoch != self.shared.epochs.current(stream);
            let verdict = match self.shared.faults(stream).verdict(mark) {
                Verdict::Wait if now => Verdict::Quarantine,
                verdict => verdict,
            };
            if verdict == Verdict::Wait && !stale {
                return;
            }
            let Some(suspect) = self.suspects(stream).pop() else {
                return;
            };
            // A suspect to be read again keeps its chunk outstanding, and with it the watermark.
            if verdict == Verdict::Quarantine && !stale {
                self.quarantine(suspect);
            }
        }
    }

    fn quarantine(&mut self, suspect: Suspect) {
        let writer = Writer {
            source: &suspect.source,
            json: false,
            now: self.shared.clock.now_micros(),
        };
        let peek = decode::peek(&suspect.frame);
        self.metrics.quarantined(suspect.reason);
        if let Some(held_back) = repeated("quarantine", suspect.reason) {
            tracing::warn!(reason = suspect.reason, detail = %suspect.detail, did = peek.did, seq = peek.seq, held_back,
                "a frame went to the quarantine");
        }
        writer.quarantine(
            &suspect.frame,
            &peek,
            suspect.reason,
            suspect.detail,
            &mut self.batch,
        );
        self.tickets.push(suspect.ticket);
        self.due
            .get_or_insert_with(|| Instant::now() + self.options.batch_age);
    }

    fn full(&self) -> bool {
        self.batch.len() >= self.options.batch_ops || self.batch.size() >= self.options.batch_bytes
    }

    /// Hands the batch to the store; waits while too much is in flight. Its chunks' tickets end when it is durable.
    fn submit(&mut self) {
        self.due = None;
        if self.tickets.is_empty() {
            return;
        }
        let tickets = std::mem::take(&mut self.tickets);
        let size = u32::try_from(self.batch.size()).unwrap_or(u32::MAX);
        let size = size.clamp(1, self.shared.in_flight_bytes);
        let permit = self.shared.in_flight.clone().acquire_many_owned(size);
        let Ok(permit) = self.shared.runtime.block_on(permit) else {
            return;
        };
        let next = self.spare.try_recv().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        let delivery = Delivery {
            store: self.shared.store.clone(),
            metrics: self.shared.metrics.clone(),
            failed: self.shared.failed.clone(),
            done: self.shared.done.clone(),
            spares: self.spares.clone(),
            tickets,
            permit,
        };
        self.metrics.publish();
        self.shared
            .runtime
            .spawn(delivery.run(batch, Instant::now()));
    }
}

/// A batch on its way to the store.
struct Delivery {
    store: Arc<dyn Store>,
    metrics: Arc<StoreMetrics>,
    failed: Arc<watch::Sender<Option<Arc<StoreError>>>>,
    done: Arc<AtomicU64>,
    spares: Sender<WriteBatch>,
    tickets: Vec<Arc<Ticket>>,
    permit: OwnedSemaphorePermit,
}

impl Delivery {
    async fn run(self, batch: WriteBatch, began: Instant) {
        // A store that panics would leave its chunks outstanding for ever.
        let _guard = AbortOnPanic;
        let rows = Rows::of(&batch);
        match self.store.apply(batch).await {
            Ok(empty) => {
                self.metrics.stored(rows, began.elapsed());
                self.tickets.iter().for_each(|ticket| ticket.done());
                self.done.fetch_add(1, Ordering::Relaxed);
                let _ = self.spares.try_send(empty);
            }
            Err(error) => {
                StoreMetrics::failed(&error);
                self.failed.send_if_modified(|failed| {
                    let first = failed.is_none();
                    failed.get_or_insert_with(|| Arc::new(error));
                    first
                });
            }
        }
        drop(self.permit);
    }
}

/// The label of an event in metrics.
fn event_type(event: &Event<'_>) -> &'static str {
    match event {
        Event::Commit(_) => "commit",
        Event::Sync(_) => "sync",
        Event::Identity(_) => "identity",
        Event::Account(_) => "account",
        Event::Info(_) => "info",
        Event::Unknown { .. } => "unknown",
        Event::Error { .. } => "error",
    }
}
