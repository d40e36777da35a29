//! Frames to durable writes: slots, lanes, batches, watermark.
//!
//! A [`Router`] per stream copies each wanted frame into the open chunk of its lane; a DID always takes the same lane. A lane is a
//! thread: it decodes, turns events into versioned writes, and hands batches to the store. A chunk's ticket ends when all that it
//! caused is durable, which moves the stream's [`Progress`].
//!
//! Everything is bounded: each lane has a budget of frames and of bytes per stream, taken before a chunk is handed over and given
//! back once it is decoded, and a budget of bytes in flight to the store. A full budget makes the router wait, so that nobody
//! reads the socket. Live goes before replay in every lane.

pub mod faults;
mod lane;
mod metrics;
pub mod progress;
pub mod retry;
mod router;
mod writes;

pub use faults::{FaultLimits, Faults};
pub use progress::{Origin, Point, Progress, Ticket};
pub use router::{Router, Source};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};

use crate::clock::Clock;
use crate::decode::DecodeOptions;
use crate::slot::SlotSet;
use crate::store::{Store, StoreError};

/// Sizes of the pipeline.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Decode threads.
    pub lanes: usize,
    /// Frames that wait, over all lanes and both streams.
    pub max_frames: usize,
    /// Bytes of frames that wait, over all lanes and both streams.
    pub max_bytes: usize,
    /// Bytes of batches on their way to the store, over all lanes.
    pub in_flight_bytes: usize,
    /// Writes after which a batch goes to the store.
    pub batch_ops: usize,
    /// Bytes after which a batch goes to the store.
    pub batch_bytes: usize,
    /// Age after which a batch goes to the store.
    pub batch_age: Duration,
    /// How frames are checked.
    pub decode: DecodeOptions,
    /// Whether the JSON of a record is stored beside it.
    pub json: bool,
    /// Who wants to hear of DIDs whose identity changed, in whatever slot. Never waited for: what it has no room for is not told.
    pub changed_identities: Option<mpsc::Sender<String>>,
}

/// The two streams of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The relay's head.
    Live,
    /// A window of its past.
    Replay,
}

impl Stream {
    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Replay => "replay",
        }
    }
}

/// One of what there is for each stream.
fn of_stream<T>([live, replay]: &[T; 2], stream: Stream) -> &T {
    match stream {
        Stream::Live => live,
        Stream::Replay => replay,
    }
}

/// The lanes, and what they share.
pub struct Pipeline {
    lanes: Vec<lane::Entry>,
    threads: Vec<JoinHandle<()>>,
    in_flight: Arc<Semaphore>,
    in_flight_bytes: u32,
    epochs: Arc<Epochs>,
    done: Arc<AtomicU64>,
    changed_identities: Option<mpsc::Sender<String>>,
    faults: [Arc<Faults>; 2],
    failure: watch::Receiver<Option<Arc<StoreError>>>,
}

/// What was handed over before the current epoch of its stream is dropped undecoded: the stream reads it again.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    live: AtomicU64,
    replay: AtomicU64,
}

impl Epochs {
    fn of(&self, stream: Stream) -> &AtomicU64 {
        match stream {
            Stream::Live => &self.live,
            Stream::Replay => &self.replay,
        }
    }

    pub(crate) fn current(&self, stream: Stream) -> u64 {
        self.of(stream).load(Ordering::Acquire)
    }
}

/// Tells how much waits before the lanes and behind them.
pub struct Depth {
    lanes: Vec<lane::LaneDepth>,
    in_flight: Arc<Semaphore>,
    in_flight_bytes: u32,
}

impl Depth {
    /// Frames and bytes that wait.
    pub fn queued(&self) -> (usize, usize) {
        self.lanes.iter().fold((0, 0), |(frames, bytes), lane| {
            let (more_frames, more_bytes) = lane.queued();
            (frames + more_frames, bytes + more_bytes)
        })
    }

    /// Frames that wait, lane by lane.
    pub fn of_lanes(&self) -> impl Iterator<Item = usize> + '_ {
        self.lanes.iter().map(|lane| lane.queued().0)
    }

    /// Bytes of the batches that were handed to the store and are not durable yet.
    pub fn in_flight(&self) -> usize {
        let free = self.in_flight.available_permits();
        (self.in_flight_bytes as usize).saturating_sub(free)
    }
}

/// Tells whether the lanes and the store get anything done.
pub struct Work {
    depth: Depth,
    done: Arc<AtomicU64>,
}

impl Work {
    /// How many chunks were taken in and batches stored so far, while anything waits for the lanes or for the store.
    pub fn at(&self) -> Option<u64> {
        // Before it is looked at what waits: what is done in between does not hide.
        let done = self.done.load(Ordering::Relaxed);
        let (frames, _) = self.depth.queued();
        (frames > 0 || self.depth.in_flight() > 0).then_some(done)
    }
}

impl Pipeline {
    /// Starts the lanes; failing frames of a stream are judged by themselves, with the same limits for both. Must be called
    /// inside a tokio runtime, which carries the writes.
    pub fn start(
        options: &PipelineOptions,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        limits: &FaultLimits,
    ) -> std::io::Result<Self> {
        let faults = [(); 2].map(|()| Arc::new(Faults::new(limits.clone())));
        let (failed, failure) = watch::channel(None);
        let in_flight_bytes = u32::try_from(options.in_flight_bytes)
            .unwrap_or(u32::MAX)
            .max(1);
        let in_flight = Arc::new(Semaphore::new(in_flight_bytes as usize));
        let epochs = Arc::new(Epochs::default());
        let done = Arc::new(AtomicU64::new(0));
        let shared = lane::Shared {
            store,
            clock,
            faults: faults.clone(),
            failed: Arc::new(failed),
            in_flight: in_flight.clone(),
            in_flight_bytes,
            epochs: epochs.clone(),
            done: done.clone(),
            runtime: tokio::runtime::Handle::current(),
            metrics: Arc::new(metrics::StoreMetrics::new()),
        };
        let mut lanes = Vec::new();
        let mut threads = Vec::new();
        for number in 0..options.lanes.max(1) {
            let (entry, thread) = lane::spawn(number, options, shared.clone())?;
            lanes.push(entry);
            threads.push(thread);
        }
        Ok(Self {
            lanes,
            threads,
            in_flight,
            in_flight_bytes,
            epochs,
            done,
            changed_identities: options.changed_identities.clone(),
            faults,
            failure,
        })
    }

    /// A router for a stream: takes in what belongs to `slots`, and tells `progress` of it.
    pub fn router(&self, stream: Stream, slots: SlotSet) -> Router {
        let inputs = self.lanes.iter().map(|lane| lane.input(stream)).collect();
        let changed = self.changed_identities.clone();
        Router::new(stream, slots, inputs, self.epochs.clone(), changed)
    }

    /// What the lanes found wrong lately in a stream.
    pub fn faults(&self, stream: Stream) -> &Arc<Faults> {
        of_stream(&self.faults, stream)
    }

    /// Resolves with the error that the store failed with, if it ever does.
    pub fn failure(&self) -> watch::Receiver<Option<Arc<StoreError>>> {
        self.failure.clone()
    }

    /// Tells how much waits before the lanes and behind them.
    pub fn depth(&self) -> Depth {
        Depth {
            lanes: self.lanes.iter().map(lane::Entry::depth).collect(),
            in_flight: self.in_flight.clone(),
            in_flight_bytes: self.in_flight_bytes,
        }
    }

    /// Tells whether the lanes and the store get anything done.
    pub fn work(&self) -> Work {
        Work {
            depth: self.depth(),
            done: self.done.clone(),
        }
    }

    /// Lets the lanes finish what they have and waits until all of it is durable. All routers must be gone.
    pub async fn drain(self) {
        let Self {
            lanes,
            threads,
            in_flight,
            in_flight_bytes,
            ..
        } = self;
        drop(lanes);
        // A thread of its own: one of the runtime's would keep that from ending where the store hangs.
        let (tell, joined) = tokio::sync::oneshot::channel();
        let join = move || {
            for thread in threads {
                // A lane that panicked has aborted the process.
                let _ = thread.join();
            }
            let _ = tell.send(());
        };
        if std::thread::Builder::new()
            .name("drain".to_owned())
            .spawn(join)
            .is_ok()
        {
            let _ = joined.await;
        }
        let _ = in_flight.acquire_many(in_flight_bytes).await;
    }
}
