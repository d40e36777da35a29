//! A repository as one huge partition: written as a full snapshot is, merged, read, deleted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock::decode::Tid;
use penstock::store::scylla::{ScyllaOptions, ScyllaStore};
use penstock::store::{
    Complete, RecordBody, RecordWrite, RecordsQuery, Scope, SnapshotDone, Store, WriteBatch,
};

use crate::cluster::Cluster;
use crate::keyspaces::Keyspace;
use crate::sizes;
use crate::spans::percentiles;
use crate::writes::{did, record};

/// Records of a batch: about a megabyte.
const BATCH: u64 = 2_000;
/// Batches at once.
const AT_ONCE: usize = 4;
/// Years that the record keys tell of, in microseconds.
const AGE: u64 = 3 * 365 * 24 * 3600 * 1_000_000;
/// The newest record.
const END: u64 = 1_790_000_000_000_000;
/// Records of each hundred, in the order of the tree.
const SHARES: [(&str, u64); 4] = [
    ("app.bsky.feed.like", 70),
    ("app.bsky.feed.post", 12),
    ("app.bsky.feed.repost", 12),
    ("app.bsky.graph.follow", 6),
];
/// How often a question is asked.
const TIMES: u64 = 50;
struct Large {
    cluster: &'static Cluster,
    keyspace: Keyspace,
    store: Arc<ScyllaStore>,
    did: String,
    records: u64,
}

/// Writes, measures, deletes.
pub async fn run(cluster: &'static Cluster, records: u64) {
    let keyspace = Keyspace::on(cluster);
    let options = ScyllaOptions {
        in_flight: 64,
        sync_lag: Duration::ZERO,
        ..keyspace.options()
    };
    let large = Large {
        cluster,
        store: Arc::new(ScyllaStore::open(options).await.unwrap()),
        keyspace,
        did: did(&mut fastrand::Rng::with_seed(7)),
        records,
    };
    large.write().await;
    large.complete(END).await;
    large.merge().await;
    large.read().await;
    // As a later snapshot in which none of them is: all are deleted.
    large.complete(END + 1_000_000).await;
    large
        .read_page("after the range delete, a page", large.likes(100))
        .await;
    large.merge().await;
    large
        .read_page("after a merge, a page", large.likes(100))
        .await;
    large.tell_log().await;
    large.store.close().await.unwrap();
}

/// Collection and key of a record.
fn place(number: u64, records: u64) -> (&'static str, String) {
    let mut share = number * 100 / records;
    let mut name = "";
    for (collection, part) in SHARES {
        name = collection;
        if share < part {
            break;
        }
        share -= part;
    }
    let micros = END - AGE + number * (AGE / records);
    (name, Tid::new(micros, 1).to_string())
}

impl Large {
    async fn write(&self) {
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for first in (0..self.records).step_by(usize::try_from(BATCH).unwrap()) {
            let batch = self.batch(first, (first + BATCH).min(self.records));
            while tasks.len() >= AT_ONCE {
                tasks.join_next().await.unwrap().unwrap();
            }
            let store = self.store.clone();
            tasks.spawn(async move { store.apply(batch).await.map(drop).unwrap() });
        }
        tasks.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        let (records, rate) = (self.records, self.records as f64 / seconds);
        println!(
            "written: {records} records of one repository in {seconds:.1} s, {rate:.0} records/s, index on"
        );
    }

    fn batch(&self, first: u64, end: u64) -> WriteBatch {
        let mut random = fastrand::Rng::with_seed(first);
        let (mut batch, mut block) = (WriteBatch::new(), Vec::new());
        for number in first..end {
            let (collection, rkey) = place(number, self.records);
            let cid = record(&mut random, &mut block);
            let body = RecordBody {
                cid,
                record: &block,
                json: None,
            };
            batch.put_record(RecordWrite {
                did: &self.did,
                collection,
                rkey: &rkey,
                version: END,
                rev: Tid::new(END, 1),
                body: Some(body),
            });
        }
        batch
    }

    async fn complete(&self, version: u64) {
        let began = Instant::now();
        let done = SnapshotDone {
            did: self.did.clone(),
            scopes: vec![Scope::Repo],
            complete: Complete {
                rev: Tid::new(version, 1),
                version,
                filter: String::new(),
            },
            settled: false,
        };
        self.store.complete_snapshot(done).await.unwrap();
        println!(
            "range delete below {version} and the entry of the snapshot: {:.1?}",
            began.elapsed()
        );
    }

    async fn merge(&self) {
        sizes::merge(
            self.cluster,
            &self.keyspace,
            &["records", "records_by_collection"],
        )
        .await;
    }

    fn likes(&self, limit: usize) -> RecordsQuery {
        RecordsQuery {
            did: Some(self.did.clone()),
            collection: Some("app.bsky.feed.like".to_owned()),
            limit,
            values: true,
            ..RecordsQuery::default()
        }
    }

    async fn read(&self) {
        let likes = self.records * 70 / 100;
        let near_end = place(likes - 200, self.records).1;
        self.read_page("the first page (100 likes)", self.likes(100))
            .await;
        let query = RecordsQuery {
            after_rkey: Some(near_end),
            ..self.likes(100)
        };
        self.read_page("a page near the end of the likes", query)
            .await;
        let query = RecordsQuery {
            descending: true,
            ..self.likes(100)
        };
        self.read_page("the newest page of the likes", query).await;
        self.read_each().await;
        self.read_all().await;
    }

    async fn read_page(&self, what: &str, query: RecordsQuery) {
        let (mut times, mut found) = (Vec::new(), 0);
        for _ in 0..TIMES {
            let began = Instant::now();
            found = self.store.records(&query).await.unwrap().items.len();
            times.push(began.elapsed());
        }
        println!("{what}: {found} records, {}", percentiles(times));
    }

    async fn read_each(&self) {
        let mut random = fastrand::Rng::with_seed(3);
        let mut times = Vec::new();
        for _ in 0..TIMES * 10 {
            let (collection, rkey) = place(random.u64(..self.records), self.records);
            let began = Instant::now();
            let found = self.store.record(&self.did, collection, &rkey).await;
            times.push(began.elapsed());
            assert!(found.unwrap().is_some(), "{collection}/{rkey} is not held");
        }
        println!("one record: {}", percentiles(times));
    }

    async fn read_all(&self) {
        let (mut found, mut times) = (0, Vec::new());
        let mut query = RecordsQuery {
            collection: None,
            ..self.likes(1_000)
        };
        let began = Instant::now();
        loop {
            let asked = Instant::now();
            let page = self.store.records(&query).await.unwrap();
            times.push(asked.elapsed());
            found += page.items.len() as u64;
            query.cursor = page.cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, self.records, "records are missing");
        println!(
            "all of it in pages of 1000: {:.1?}; a page: {}",
            began.elapsed(),
            percentiles(times)
        );
    }

    /// What the server has to say of large partitions.
    async fn tell_log(&self) {
        let log = self.cluster.log(1);
        let warns = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
        let warnings: Vec<&str> = log.lines().filter(warns).collect();
        let large = warnings.iter().filter(|line| line.contains("artition"));
        println!(
            "the server's log: {} warnings, of partitions:",
            warnings.len()
        );
        large.for_each(|line| println!("  {line}"));
    }
}
