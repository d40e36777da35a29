use std::collections::BTreeMap;

use tokio::task::JoinHandle;
use tokio::time::{Instant, advance};

use super::*;
use crate::pipeline::{Origin, Ticket};
use crate::slot::SlotSet;
use crate::store::FactKind;
use crate::store::memory::MemoryStore;

const LAG: Duration = Duration::from_secs(15);
const RUN: u64 = 7;

fn at(seq: u64) -> Point {
    Point {
        seq,
        time: seq * 1000,
    }
}

/// A stream whose writes are acknowledged when the test says so, over a store that syncs late.
struct Stream {
    store: Arc<MemoryStore>,
    recorder: Arc<Recorder>,
    progress: Arc<Progress>,
    watched: watch::Sender<Arc<Progress>>,
    shutdown: CancellationToken,
    saving: JoinHandle<Result<(), StoreError>>,
    open: BTreeMap<u64, Arc<Ticket>>,
    acknowledged: BTreeMap<u64, Instant>,
    next: u64,
}

impl Stream {
    fn start(lag: Duration) -> Self {
        let store = Arc::new(MemoryStore::new().with_sync_lag(lag));
        let recorder = Arc::new(Recorder::new(store.clone()));
        let progress = Arc::new(Progress::default());
        let (watched, watching) = watch::channel(progress.clone());
        let shutdown = CancellationToken::new();
        let saving = tokio::spawn(recorder.clone().run(watching, shutdown.clone()));
        let stream = Self {
            store,
            recorder,
            progress,
            watched,
            shutdown,
            saving,
            open: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            next: 1,
        };
        stream.begin(RUN, 0);
        stream
    }

    fn begin(&self, run: u64, seq: u64) {
        let origin = Origin {
            relay: "relay.test".to_owned(),
            generation: 0,
            run,
            slots: SlotSet::ALL,
            filter: String::new(),
            kind: FactKind::Live,
        };
        self.progress.begin(Arc::new(origin), at(seq));
    }

    /// A frame comes.
    fn frame(&mut self) -> u64 {
        let seq = self.next;
        let ticket = self.progress.open_chunk(at(seq - 1));
        self.open.insert(seq, ticket);
        self.progress.routed(at(seq));
        self.next += 1;
        seq
    }

    fn acknowledge(&mut self, seq: u64) {
        self.acknowledged.insert(seq, Instant::now());
        self.open.remove(&seq).unwrap().done();
    }

    /// What is claimed, after a check that all of it is old enough to be on the disks.
    async fn claimed(&self) -> u64 {
        let facts = self.store.facts().await.unwrap();
        for fact in &facts {
            for seq in fact.from_seq + 1..=fact.to_seq {
                let acknowledged = self.acknowledged.get(&seq);
                let lag = self.store.sync_lag();
                assert!(
                    acknowledged.is_some_and(|then| then.elapsed() >= lag),
                    "{seq} may still be lost: {fact:?}"
                );
            }
        }
        facts.iter().map(|fact| fact.to_seq).max().unwrap_or(0)
    }
}

/// Time goes on, in small steps, for others to do their work in.
async fn pass(time: Duration) {
    let step = Duration::from_millis(100);
    let until = Instant::now() + time;
    while Instant::now() < until {
        advance(step).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_fact_covers_what_may_still_be_lost() {
    let mut stream = Stream::start(LAG);
    for round in 0..600_u64 {
        let seq = stream.frame();
        // Some are acknowledged late and out of order.
        if round % 7 != 3 {
            stream.acknowledge(seq);
        } else if let Some(oldest) = stream
            .open
            .keys()
            .next()
            .copied()
            .filter(|_| round % 2 == 0)
        {
            stream.acknowledge(oldest);
        }
        if round % 50 == 49 {
            let open: Vec<u64> = stream.open.keys().copied().collect();
            open.into_iter().for_each(|seq| stream.acknowledge(seq));
        }
        pass(Duration::from_millis(100)).await;
        stream.claimed().await;
    }
    let before = stream.claimed().await;
    assert!(before > 300, "claims follow: {before}");
    assert!(before < 600);
    pass(LAG + 2 * PERIOD).await;
    assert_eq!(stream.claimed().await, 600, "all is claimed in the end");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_has_claimed_what_was_old_enough() {
    let mut stream = Stream::start(LAG);
    let first = stream.frame();
    stream.acknowledge(first);
    pass(LAG - PERIOD).await;
    let second = stream.frame();
    stream.acknowledge(second);
    pass(3 * PERIOD).await;
    stream.shutdown.cancel();
    stream.saving.await.unwrap().unwrap();
    let began = Instant::now();
    stream.recorder.save(&stream.progress).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits for the rest");
    let facts = stream.store.facts().await.unwrap();
    assert_eq!((facts.len(), facts[0].to_seq), (1, first));
    assert_eq!(stream.recorder.claimed().await, Some(at(first)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stopped_is_claimed_to_its_end() {
    let mut stream = Stream::start(LAG);
    let seq = stream.frame();
    stream.acknowledge(seq);
    let began = Instant::now();
    stream.recorder.settle(&stream.progress).await.unwrap();
    assert_eq!(stream.claimed().await, seq);
    assert!(began.elapsed() < LAG + 2 * PERIOD, "{:?}", began.elapsed());
    let began = Instant::now();
    stream.recorder.settle(&stream.progress).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn what_was_noted_of_a_progress_is_not_saved_for_the_next() {
    let mut stream = Stream::start(LAG);
    let lost = stream.frame();
    stream.acknowledge(lost);
    pass(5 * PERIOD).await;
    // The stream goes back and reads the same frames again, which are acknowledged anew.
    stream.progress = Arc::default();
    stream.watched.send_replace(stream.progress.clone());
    stream.begin(RUN + 1, 0);
    stream.next = 1;
    let again = stream.frame();
    pass(LAG).await;
    assert_eq!(stream.store.facts().await.unwrap(), []);
    stream.acknowledge(again);
    pass(LAG + 2 * PERIOD).await;
    assert_eq!(stream.claimed().await, again);
    assert_eq!(stream.store.facts().await.unwrap()[0].run, RUN + 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_synced_is_claimed_at_once() {
    let mut stream = Stream::start(Duration::ZERO);
    let seq = stream.frame();
    stream.acknowledge(seq);
    stream.recorder.save(&stream.progress).await.unwrap();
    assert_eq!(stream.claimed().await, seq);
    assert_eq!(stream.recorder.claimed().await, Some(at(seq)));
}

#[tokio::test(start_paused = true)]
async fn what_an_outage_may_have_taken_is_not_claimed() {
    let mut stream = Stream::start(LAG);
    let first = stream.frame();
    stream.acknowledge(first);
    pass(LAG + 2 * PERIOD).await;
    assert_eq!(stream.claimed().await, first);
    let lost = stream.frame();
    stream.acknowledge(lost);
    pass(2 * PERIOD).await;
    stream.store.was_away();
    pass(2 * LAG).await;
    assert_eq!(stream.claimed().await, first);
    stream.recorder.settle(&stream.progress).await.unwrap();
    assert_eq!(stream.claimed().await, first);
    // The stream goes back behind what is claimed.
    assert!(stream.recorder.is_doubtful(&stream.progress));
    stream.progress = stream.recorder.progress();
    stream.watched.send_replace(stream.progress.clone());
    stream.begin(RUN + 1, first);
    stream.next = lost;
    let again = stream.frame();
    stream.acknowledge(again);
    pass(LAG + 2 * PERIOD).await;
    assert_eq!(stream.claimed().await, again);
}
