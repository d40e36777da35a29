//! Writes a second of the store and of the bare loop, in turns, so that what changes on the machine meets both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use penstock::store::scylla::{LeaseTerms, ScyllaOptions, ScyllaStore};
use penstock::store::{Store, WriteBatch};

use crate::bare::{Bare, Row, rows};
use crate::cluster::Cluster;
use crate::keyspaces::Keyspace;
use crate::sizes;
use crate::spans::{cpu_seconds, median, percentiles};
use crate::writes::Source;

/// Commits of a batch, as a lane hands over.
const COMMITS: u64 = 512;
/// Batches at once.
const TASKS: usize = 8;
/// Batches that a task writes in a round.
const BATCHES: usize = 6;
/// Rounds that only warm the server up.
const WARM: u64 = 6;
/// Requests of a round of latencies, one at a time.
const ALONE: u64 = 1_000;

/// Who writes in a round.
#[derive(Clone, Copy)]
enum Who {
    Store,
    Bare,
}

/// What a round took.
struct Round {
    writes: usize,
    seconds: f64,
    cpu: f64,
    times: Vec<Duration>,
}

impl Round {
    fn rate(&self) -> f64 {
        self.writes as f64 / self.seconds
    }

    fn cpu_each(&self) -> f64 {
        self.cpu * 1e6 / self.writes as f64
    }
}

/// Compares them without and with the index, then times single requests.
pub async fn run(cluster: &'static Cluster, in_flight: usize, rounds: u64) {
    let keyspace = Keyspace::on(cluster);
    let folder = tempfile::tempdir().unwrap();
    let lease = LeaseTerms {
        worker_id: 0,
        count: 1,
        ttl: Duration::from_secs(30),
        data_dir: folder.path().to_owned(),
    };
    let options = ScyllaOptions {
        in_flight,
        lease: Some(lease),
        ..keyspace.options()
    };
    let mut source = Source::new();
    let mut indexed = 0;
    for index in [false, true] {
        let options = ScyllaOptions {
            index,
            ..options.clone()
        };
        let before = source.commits();
        let store = Arc::new(ScyllaStore::open(options.clone()).await.unwrap());
        let bare = Arc::new(Bare::connect(&options).await);
        let mut pair = Pair {
            store,
            bare,
            source: &mut source,
            index,
            in_flight,
        };
        pair.warm().await;
        pair.compare(rounds).await;
        if !index {
            pair.time_single(1).await;
            pair.time_single(in_flight).await;
        }
        pair.store.close().await.unwrap();
        indexed = source.commits() - before;
    }
    let tables = ["records", "records_by_collection", "repos"];
    sizes::merge(cluster, &keyspace, &tables).await;
    println!("  of {} commits, the index of {indexed}", source.commits());
}

struct Pair<'a> {
    store: Arc<ScyllaStore>,
    bare: Arc<Bare>,
    source: &'a mut Source,
    index: bool,
    in_flight: usize,
}

impl Pair<'_> {
    async fn warm(&mut self) {
        for _ in 0..WARM {
            self.round(Who::Store).await;
            self.round(Who::Bare).await;
        }
    }

    async fn compare(&mut self, rounds: u64) {
        let index = if self.index { "on" } else { "off" };
        println!(
            "index {index}, at most {} requests in flight",
            self.in_flight
        );
        let (mut ratios, mut stores, mut bares) = (Vec::new(), Vec::new(), Vec::new());
        let mut times = Vec::new();
        for number in 0..rounds {
            // Who is second in one round is first in the next.
            let (store, bare) = if number % 2 == 0 {
                let store = self.round(Who::Store).await;
                (store, self.round(Who::Bare).await)
            } else {
                let bare = self.round(Who::Bare).await;
                (self.round(Who::Store).await, bare)
            };
            println!(
                "  round {number}: store {:>6.0} writes/s, bare loop {:>6.0} writes/s; CPU of this process {:.0} and {:.0} µs a write",
                store.rate(),
                bare.rate(),
                store.cpu_each(),
                bare.cpu_each(),
            );
            ratios.push(store.rate() / bare.rate());
            stores.push(store.rate());
            bares.push(bare.rate());
            times.extend(bare.times);
        }
        let (least, most) = (
            ratios.iter().copied().fold(f64::MAX, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        );
        println!(
            "  medians: store {:.0} writes/s, bare loop {:.0} writes/s; ratio {:.3} ({least:.3} to {most:.3})",
            median(stores),
            median(bares),
            median(ratios),
        );
        println!("  a request of the bare loop: {}", percentiles(times));
    }

    /// The batches of a round, by task.
    fn batches(&mut self) -> Vec<Vec<WriteBatch>> {
        let mut task = || (0..BATCHES).map(|_| self.source.batch(COMMITS)).collect();
        (0..TASKS).map(|_| task()).collect()
    }

    async fn round(&mut self, who: Who) -> Round {
        let batches = self.batches();
        let parts: Vec<Vec<Row>> = batches
            .iter()
            .map(|task| {
                task.iter()
                    .flat_map(|batch| rows(batch, self.index))
                    .collect()
            })
            .collect();
        let writes = parts.iter().map(Vec::len).sum();
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let times = match who {
            Who::Store => apply_all(&self.store, batches).await,
            Who::Bare => self.bare.send_all(parts, self.in_flight / TASKS).await,
        };
        Round {
            writes,
            seconds: began.elapsed().as_secs_f64(),
            cpu: cpu_seconds() - cpu,
            times,
        }
    }

    /// How long a caller waits for one record, and how long one request of the bare loop takes, so many at once.
    async fn time_single(&mut self, at_once: usize) {
        let requests = ALONE * if at_once > 1 { 20 } else { 1 };
        let (mut stores, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let records = self.records(requests);
            stores.extend(apply_each(&self.store, records, at_once).await);
            let records = self.records(requests);
            let parts = records
                .iter()
                .map(|batch| rows(batch, false))
                .collect::<Vec<_>>();
            let part: Vec<Row> = parts.into_iter().flatten().collect();
            bares.extend(self.bare.send_all(vec![part], at_once).await);
        }
        println!("  single records, {at_once} at once:");
        println!("    store     {}", percentiles(stores));
        println!("    bare loop {}", percentiles(bares));
    }

    /// Batches of one record each.
    fn records(&mut self, count: u64) -> Vec<WriteBatch> {
        let one = |_| {
            let commit = self.source.batch(1);
            let mut batch = WriteBatch::new();
            commit.records().for_each(|write| batch.put_record(write));
            batch
        };
        (0..count).map(one).collect()
    }
}

/// Each task one batch after the other; how long each took.
async fn apply_all(store: &Arc<ScyllaStore>, batches: Vec<Vec<WriteBatch>>) -> Vec<Duration> {
    let mut tasks = tokio::task::JoinSet::new();
    for batches in batches {
        let store = store.clone();
        tasks.spawn(async move { apply_each(&store, batches, 1).await });
    }
    tasks.join_all().await.concat()
}

/// So many at once; how long each took.
async fn apply_each(
    store: &ScyllaStore,
    batches: Vec<WriteBatch>,
    at_once: usize,
) -> Vec<Duration> {
    let applying = stream::iter(batches).map(async |batch| {
        let began = Instant::now();
        store.apply(batch).await.unwrap();
        began.elapsed()
    });
    applying.buffer_unordered(at_once).collect().await
}
