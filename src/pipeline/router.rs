//! From the socket to the lanes: one router per stream, on the reader's task.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::progress::Ticket;
use super::{Epochs, Point, Progress, Stream};
use crate::config::CollectionFilter;
use crate::decode::{Kind, Peek};
use crate::slot::{self, SlotSet};
use crate::telemetry::metrics::{self as names, SecondsCounter};

/// Frames after which a chunk is handed over.
const CHUNK_FRAMES: usize = 64;
/// Bytes after which a chunk is handed over.
const CHUNK_BYTES: usize = 256 * 1024;

/// Where a chunk's frames come from, which names the causes of quarantine rows and repairs, and what of them is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Host of the relay.
    pub relay: String,
    /// Its `seq` space.
    pub generation: u32,
    /// Which collections are stored.
    pub collections: Arc<CollectionFilter>,
}

/// Frames of one lane, copied out of the socket's buffers (which a kept frame would pin whole).
#[derive(Debug)]
pub(crate) struct Chunk {
    pub stream: Stream,
    pub epoch: u64,
    pub source: Arc<Source>,
    pub ticket: Arc<Ticket>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Gives the budgets back when the chunk is dropped.
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Chunk {
    /// The frames, in the order of the stream.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.bytes.get(*start..*end).unwrap_or_default())
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

/// The way into one lane for one stream.
#[derive(Debug, Clone)]
pub(crate) struct LaneInput {
    pub chunks: Sender<Chunk>,
    pub frames: Arc<Semaphore>,
    pub bytes: Arc<Semaphore>,
    pub max_bytes: u32,
}

/// The lanes are gone: the process is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the lanes have stopped")]
pub struct Stopped;

/// Routes the frames of one stream to the lanes by DID.
pub struct Router {
    stream: Stream,
    slots: SlotSet,
    lanes: Vec<LaneInput>,
    open: Vec<Option<Chunk>>,
    /// How large the last chunk became: the next one is allocated at once, and no larger than its budget tells.
    last_bytes: usize,
    epochs: Arc<Epochs>,
    changed_identities: Option<mpsc::Sender<String>>,
    /// Up to where the stream was routed, told to the progress with each chunk.
    routed: Point,
    /// Whether the progress has yet to learn it.
    untold: bool,
    /// Time in which a budget was used up.
    full: SecondsCounter,
}

impl Router {
    pub(crate) fn new(
        stream: Stream,
        slots: SlotSet,
        lanes: Vec<LaneInput>,
        epochs: Arc<Epochs>,
        changed_identities: Option<mpsc::Sender<String>>,
    ) -> Self {
        let open = lanes.iter().map(|_| None).collect();
        Self {
            stream,
            slots,
            lanes,
            open,
            last_bytes: 0,
            epochs,
            changed_identities,
            routed: Point::default(),
            untold: false,
            full: SecondsCounter::new(names::PIPELINE_FULL.with([])),
        }
    }

    /// Another router of the same stream, for no slots yet.
    pub fn another(&self) -> Self {
        let (lanes, epochs) = (self.lanes.clone(), self.epochs.clone());
        let changed = self.changed_identities.clone();
        Self::new(self.stream, SlotSet::default(), lanes, epochs, changed)
    }

    /// Whether this worker takes in frames of that slot.
    pub fn owns(&self, slot: u8) -> bool {
        self.slots.contains(slot)
    }

    /// Takes in what belongs to these slots from now on. What is open has to be flushed before.
    pub fn set_slots(&mut self, slots: SlotSet) {
        self.slots = slots;
    }

    /// Up to where the stream was routed.
    pub fn routed(&self) -> Point {
        self.routed
    }

    /// Notes how far the stream was routed; the progress learns it with the next chunk or flush.
    pub fn advance(&mut self, to: Point) {
        self.routed = to;
        self.untold = true;
    }

    /// Takes a frame in, if its slot is ours; waits while its lane's budgets are used up. Call [`Router::advance`] after it.
    /// Returns whether the frame was taken. A frame without a readable DID belongs to slot 0.
    pub async fn route(
        &mut self,
        frame: &[u8],
        peek: &Peek<'_>,
        source: &Arc<Source>,
        progress: &Arc<Progress>,
    ) -> Result<bool, Stopped> {
        if peek.kind == Kind::Identity
            && let (Some(changed), Some(did)) = (&self.changed_identities, peek.did)
        {
            let _ = changed.try_send(did.to_owned());
        }
        let place = peek.did.map_or(0, slot::place);
        if !self.slots.contains(slot::slot_of_place(place)) {
            return Ok(false);
        }
        let lane = slot::lane_of_place(place, self.lanes.len());
        let Some(open) = self.open.get_mut(lane) else {
            return Ok(false);
        };
        let chunk = open.get_or_insert_with(|| {
            progress.routed(self.routed);
            self.untold = false;
            Chunk {
                stream: self.stream,
                epoch: self.epochs.current(self.stream),
                source: source.clone(),
                ticket: progress.open_chunk(self.routed),
                bytes: Vec::with_capacity(self.last_bytes.max(frame.len())),
                ends: Vec::with_capacity(CHUNK_FRAMES),
                permits: None,
            }
        });
        chunk.bytes.extend_from_slice(frame);
        chunk.ends.push(chunk.bytes.len());
        if chunk.ends.len() >= CHUNK_FRAMES || chunk.bytes.len() >= CHUNK_BYTES {
            self.hand_over(lane).await?;
        }
        Ok(true)
    }

    /// Hands all open chunks over and tells the progress how far the stream was routed.
    pub async fn flush(&mut self, progress: &Progress) -> Result<(), Stopped> {
        for lane in 0..self.lanes.len() {
            self.hand_over(lane).await?;
        }
        progress.routed(self.routed);
        self.untold = false;
        Ok(())
    }

    /// Whether a flush would do anything: frames wait in open chunks, or only frames of others' slots came since the last one.
    pub fn has_untold(&self) -> bool {
        self.untold || self.has_open()
    }

    /// Whether frames wait in open chunks.
    pub fn has_open(&self) -> bool {
        self.open.iter().any(Option::is_some)
    }

    /// Forgets what was handed over and not decoded yet: the stream is read again from its watermark.
    pub fn reset(&mut self) {
        self.epochs
            .of(self.stream)
            .fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        self.open.iter_mut().for_each(|open| *open = None);
    }

    async fn hand_over(&mut self, lane: usize) -> Result<(), Stopped> {
        let (Some(input), Some(open)) = (self.lanes.get(lane), self.open.get_mut(lane)) else {
            return Ok(());
        };
        // The chunk stays in its place while we wait, so that a cancelled hand-over loses nothing.
        let Some(waiting) = open.as_ref() else {
            return Ok(());
        };
        let frames = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        let bytes = u32::try_from(waiting.bytes.len())
            .unwrap_or(u32::MAX)
            .min(input.max_bytes);
        let frames = acquire(&input.frames, frames, &self.full).await?;
        let bytes = acquire(&input.bytes, bytes, &self.full).await?;
        let Some(mut chunk) = open.take() else {
            return Ok(());
        };
        self.last_bytes = chunk.bytes.len();
        if chunk.bytes.capacity() > 2 * chunk.bytes.len() {
            chunk.bytes.shrink_to_fit();
        }
        chunk.permits = Some((frames, bytes));
        match input.chunks.try_send(chunk) {
            Ok(()) => Ok(()),
            // The channel has room for as many chunks as there are frames in the budget.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Stopped),
        }
    }
}

/// Takes from a budget; counts the time that it was used up.
async fn acquire(
    budget: &Arc<Semaphore>,
    amount: u32,
    full: &SecondsCounter,
) -> Result<OwnedSemaphorePermit, Stopped> {
    if let Ok(permit) = budget.clone().try_acquire_many_owned(amount) {
        return Ok(permit);
    }
    let _waiting = Waiting {
        full,
        since: Instant::now(),
    };
    let permit = budget.clone().acquire_many_owned(amount).await;
    permit.map_err(|_| Stopped)
}

/// Counts its own life, also one that is cut short.
struct Waiting<'a> {
    full: &'a SecondsCounter,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.full.add(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_changed_identity_is_told_whoever_takes_it_in() {
        let (send, mut told) = mpsc::channel(1);
        let epochs = Arc::new(Epochs::default());
        let none = SlotSet::default();
        let mut router = Router::new(Stream::Live, none, Vec::new(), epochs, Some(send));
        let source = Arc::new(Source::default());
        let progress = Arc::new(Progress::after(0));
        for (kind, did) in [
            (Kind::Commit, Some("did:plc:a")),
            (Kind::Identity, None),
            (Kind::Identity, Some("did:plc:b")),
            // There is no room for more.
            (Kind::Identity, Some("did:plc:c")),
        ] {
            let peek = Peek {
                kind,
                did,
                seq: Some(1),
                time: None,
            };
            let taken = router.route(b"", &peek, &source, &progress).await.unwrap();
            assert!(!taken);
        }
        assert_eq!(told.try_recv().as_deref(), Ok("did:plc:b"));
        assert!(told.try_recv().is_err());
    }
}
