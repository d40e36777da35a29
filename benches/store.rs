//! Blind ingest into the embedded store.
//!
//! ```text
//! cargo bench --bench store -- [RECORDS] [FOLDER] [revs]
//! ```
//!
//! Applies records of 350 bytes of 20,000 repositories in batches of 512, four at a time, with the index on, and prints
//! the rate of each quarter, the longest time an acknowledgement took, bytes on disk and resident memory. One record in
//! twenty deletes, one in ten updates. With `revs` each record also writes its repository's revision, as a commit does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock::decode::{Cid, Tid};
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::{RecordBody, RecordWrite, RevWrite, Store, WriteBatch};

const BATCH: u64 = 512;
const IN_FLIGHT: u64 = 4;
const REPOSITORIES: u64 = 20_000;
const COLLECTIONS: [&str; 4] = [
    "app.bsky.feed.like",
    "app.bsky.feed.post",
    "app.bsky.graph.follow",
    "app.bsky.feed.repost",
];

struct Source {
    dids: Vec<String>,
    block: Vec<u8>,
    revs: bool,
}

impl Source {
    fn new(revs: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let letters = b"234567abcdefghijklmnopqrstuvwxyz";
        let mut did = || {
            let id = (0..24).map(|_| char::from(letters[random.usize(..32)]));
            format!("did:plc:{}", id.collect::<String>())
        };
        let dids = (0..REPOSITORIES).map(|_| did()).collect();
        let text = b"{\"$type\":\"app.bsky.feed.post\",\"createdAt\":\"2026-11-23T00:00:00.000Z\",\"text\":\"";
        let mut block = text.to_vec();
        block.extend((0..350 - text.len()).map(|_| random.u8(b' '..=b'~')));
        Self { dids, block, revs }
    }

    fn fill(&self, batch: &mut WriteBatch, first: u64, block: &mut Vec<u8>) {
        let mut random = fastrand::Rng::with_seed(first);
        for number in first..first + BATCH {
            let did = &self.dids[random.usize(..self.dids.len())];
            let rev = Tid::new(1_790_000_000_000_000 + number * 10, 3);
            let (of, delete) = match random.u8(..20) {
                0 => (number.saturating_sub(random.u64(..10_000)), true),
                1 | 2 => (number.saturating_sub(random.u64(..10_000)), false),
                _ => (number, false),
            };
            let rkey = Tid::new(1_790_000_000_000_000 + of * 10, 1).to_string();
            block.clear();
            block.extend_from_slice(&self.block);
            block[100..108].copy_from_slice(&number.to_le_bytes());
            for byte in &mut block[200..260] {
                *byte = random.u8(b'a'..=b'z');
            }
            let mut hash = [0; 32];
            hash.iter_mut().for_each(|byte| *byte = random.u8(..));
            let cid = Cid::new(0x71, hash);
            batch.put_record(RecordWrite {
                did,
                collection: COLLECTIONS[usize::try_from(of % 4).unwrap()],
                rkey: &rkey,
                version: rev.micros(),
                rev,
                body: (!delete).then_some(RecordBody {
                    cid,
                    record: block,
                    json: None,
                }),
            });
            if self.revs {
                batch.put_rev(RevWrite {
                    did,
                    rev,
                    data: cid,
                    commit: cid,
                });
            }
        }
    }
}

async fn ingest(
    store: Arc<EmbeddedStore>,
    source: Arc<Source>,
    next: Arc<AtomicU64>,
    end: u64,
) -> Duration {
    let mut batch = WriteBatch::new();
    let mut block = Vec::new();
    let mut longest = Duration::ZERO;
    loop {
        let first = next.fetch_add(BATCH, Ordering::Relaxed);
        if first >= end {
            next.fetch_sub(BATCH, Ordering::Relaxed);
            return longest;
        }
        source.fill(&mut batch, first, &mut block);
        let start = Instant::now();
        batch = store.apply(batch).await.unwrap();
        longest = longest.max(start.elapsed());
    }
}

fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kilobytes = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
    kilobytes
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or_default()
        / 1024
}

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let records: u64 = args.next().map_or(2_000_000, |text| text.parse().unwrap());
    let temporary = tempfile::tempdir().unwrap();
    let folder = args.next().map_or(temporary.path().to_owned(), Into::into);
    let revs = args.next().is_some_and(|arg| arg == "revs");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Arc::new(EmbeddedStore::open(EmbeddedOptions::new(folder)).unwrap());
        let source = Arc::new(Source::new(revs));
        let next = Arc::new(AtomicU64::new(0));
        for quarter in 1..=4 {
            let end = records * quarter / 4;
            let before = next.load(Ordering::Relaxed);
            let start = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..IN_FLIGHT {
                tasks.spawn(ingest(store.clone(), source.clone(), next.clone(), end));
            }
            let longest = tasks.join_all().await.into_iter().max().unwrap_or_default();
            let done = next.load(Ordering::Relaxed) - before;
            let rate = done as f64 / start.elapsed().as_secs_f64();
            println!(
                "quarter {quarter}: {rate:>9.0} records/s, longest acknowledgement {} ms, memory {} MB",
                longest.as_millis(),
                memory("VmRSS"),
            );
        }
        let health = store.health().await.unwrap();
        println!("disk {} MB, peak memory {} MB", health.disk_bytes.unwrap_or_default() >> 20, memory("VmHWM"));
        let start = Instant::now();
        let page = store.newest(COLLECTIONS[1], 100, None).await.unwrap();
        println!("newest: {} entries in {:?}", page.items.len(), start.elapsed());
        store.close().await.unwrap();
    });
}
