//! A store a hundred times too slow, then one that hangs, before a relay as fast as it can be: memory stays within what is
//! configured plus [`CONSTANT`], nothing spins, and nothing is lost. Alone in its process, so that it is measured alone.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Choice, ChoiceKind, Fact, Health, IndexEntry, JobFailure, JobRow, Page, QuarantineEntry,
    Record, RecordsQuery, Removal, Repair, Repo, SnapshotDone, Store, StoreError, WriteBatch,
};
use penstock_loadtest::{Oracle, Prepared, RelayOptions, RelayServer, Signatures, WorldSpec};
use tokio::sync::watch;

#[path = "firehose/stores.rs"]
mod stores;
#[path = "firehose/worker.rs"]
mod worker;

/// Where the child prepares the stream.
const PREPARE: &str = "PENSTOCK_TEST_PREPARE";
const MIB: u64 = 1 << 20;
/// Configured bounds.
const QUEUED_FRAMES: u64 = 4_000;
const QUEUED_BYTES: u64 = 16 * MIB;
const IN_FLIGHT_BYTES: u64 = 8 * MIB;
/// What may come on top: open chunks and batches of the lanes, their spare buffers, those of the sockets and of this test.
const CONSTANT: u64 = 64 * MIB;
/// Time that a write takes at 1% of the 50,000 a second that the store is built for.
const SLOW_WRITE: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    Slow,
    Hanging,
    Full,
}

/// The newest write to a record: (version, delete, rev), and the CID.
type Newest = ((u64, bool, u64), Option<String>);

/// Keeps the CID of each record and nothing else.
struct Cids {
    facts: MemoryStore,
    records: Mutex<HashMap<String, Newest>>,
    speed: watch::Sender<Speed>,
    turn: tokio::sync::Mutex<()>,
}

#[async_trait]
impl Store for Cids {
    async fn apply(&self, mut batch: WriteBatch) -> Result<WriteBatch, StoreError> {
        let _turn = self.turn.lock().await;
        let mut speed = self.speed.subscribe();
        let time = SLOW_WRITE * u32::try_from(batch.len()).unwrap();
        tokio::select! {
            () = tokio::time::sleep(time), if *speed.borrow() == Speed::Slow => {}
            _ = speed.wait_for(|speed| *speed == Speed::Full) => {}
        }
        let _ = speed.wait_for(|speed| *speed != Speed::Hanging).await;
        {
            let mut records = self.records.lock().unwrap();
            for write in batch.records() {
                let path = format!("{}/{}/{}", write.did, write.collection, write.rkey);
                let order = (write.version, write.body.is_none(), write.rev.micros());
                let cid = write.body.map(|body| body.cid.to_string());
                let held = records.entry(path).or_default();
                if order >= held.0 {
                    *held = (order, cid);
                }
            }
        }
        batch.clear();
        Ok(batch)
    }

    async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        self.facts.put_facts(facts).await
    }

    async fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        self.facts.remove_facts(facts).await
    }

    async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        self.facts.facts().await
    }

    async fn put_job(&self, job: &JobRow, epoch: Option<u64>) -> Result<bool, StoreError> {
        self.facts.put_job(job, epoch).await
    }

    async fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError> {
        self.facts.job(id).await
    }

    async fn jobs(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobRow>, StoreError> {
        self.facts.jobs(cursor, limit).await
    }

    async fn put_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        self.facts.put_failures(failures).await
    }

    async fn clear_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        self.facts.clear_failures(failures).await
    }

    async fn failure(
        &self,
        job: u64,
        did: &str,
        nsid: &str,
    ) -> Result<Option<JobFailure>, StoreError> {
        self.facts.failure(job, did, nsid).await
    }

    async fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError> {
        self.facts.failures(job, cursor, limit).await
    }

    async fn put_choice(&self, choice: &Choice) -> Result<(), StoreError> {
        self.facts.put_choice(choice).await
    }

    async fn remove_choice(&self, kind: ChoiceKind, name: &str) -> Result<(), StoreError> {
        self.facts.remove_choice(kind, name).await
    }

    async fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError> {
        self.facts.choices(kind, prefix, cursor, limit).await
    }

    async fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError> {
        self.facts.repairs_of(did).await
    }

    async fn put_pds(&self, did: &str, pds: &str) -> Result<(), StoreError> {
        self.facts.put_pds(did, pds).await
    }

    async fn health(&self) -> Result<Health, StoreError> {
        self.facts.health().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn remove(&self, _: Removal) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn complete_snapshot(&self, _: SnapshotDone) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn record(&self, _: &str, _: &str, _: &str) -> Result<Option<Record>, StoreError> {
        unimplemented!()
    }

    async fn records(&self, _: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        unimplemented!()
    }

    async fn newest(
        &self,
        _: &str,
        _: usize,
        _: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        unimplemented!()
    }

    async fn repo(&self, _: &str) -> Result<Option<Repo>, StoreError> {
        unimplemented!()
    }

    async fn repos(&self, _: Option<&str>, _: usize) -> Result<Page<Repo>, StoreError> {
        unimplemented!()
    }

    async fn repairs(&self, after: Option<&str>, limit: usize) -> Result<Page<Repair>, StoreError> {
        self.facts.repairs(after, limit).await
    }

    async fn clear_repairs(&self, _: &[Repair]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn quarantine(
        &self,
        _: Option<&str>,
        _: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        unimplemented!()
    }

    async fn quarantined(&self, _: &str) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        unimplemented!()
    }

    async fn release_quarantined(&self, _: &str) -> Result<(), StoreError> {
        unimplemented!()
    }
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// CPU time that this process has used.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
#[ignore = "the child of the test below"]
fn prepares_the_stream() {
    let Some(dir) = std::env::var_os(PREPARE) else {
        return;
    };
    let scale: u64 = std::env::var("PENSTOCK_TEST_SCALE").map_or(1, |text| text.parse().unwrap());
    let spec = WorldSpec {
        seed: 80,
        repos: 500,
        events: 80_000 * scale,
        prefill: 500,
        signatures: Signatures::Random,
        ..WorldSpec::default()
    };
    penstock_loadtest::prepare(&spec, Path::new(&dir), |_| Ok(())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_store_costs_time_and_not_memory() {
    let dir = tempfile::tempdir().unwrap();
    // In a child: what making it takes must not count as memory that was there before.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "prepares_the_stream"])
        .env(PREPARE, dir.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let prepared = Prepared::open(dir.path()).unwrap();
    let bytes = prepared.manifest.summary.bytes;
    assert!(
        bytes > 2 * (QUEUED_BYTES + IN_FLIGHT_BYTES + CONSTANT),
        "{bytes} would fit"
    );
    let relay = RelayServer::start(&prepared, RelayOptions::default()).unwrap();
    let store = Arc::new(Cids {
        facts: MemoryStore::new(),
        records: Mutex::default(),
        speed: watch::Sender::new(Speed::Slow),
        turn: tokio::sync::Mutex::default(),
    });
    let before = resident();

    let (frames, bytes) = (
        format!("pipeline.max_frames={QUEUED_FRAMES}"),
        format!("pipeline.max_bytes={QUEUED_BYTES}"),
    );
    let in_flight = format!("pipeline.in_flight_bytes={IN_FLIGHT_BYTES}");
    let set = [frames.as_str(), &bytes, &in_flight];
    let mut worker = worker::Stopped::over(store.clone())
        .start(&relay, &set)
        .await;
    let mut most = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let bounded = async |worker: &worker::Worker, most: &mut u64| {
        let queued = worker.metric("penstock_pipeline_queued_frames ").await;
        assert!(queued <= QUEUED_FRAMES as f64, "{queued} frames wait");
        let bytes = worker.metric("penstock_pipeline_queued_bytes ").await;
        assert!(bytes <= QUEUED_BYTES as f64, "{bytes} bytes wait");
        *most = (*most).max(resident() - before);
        let bound = QUEUED_BYTES + IN_FLIGHT_BYTES + CONSTANT;
        assert!(*most < bound, "{} MiB more", *most / MIB);
        queued
    };
    // Slow for 5 seconds.
    for _ in 0..50 {
        bounded(&worker, &mut most).await;
        tick.tick().await;
    }
    // Hanging: the relay is not read any more, and nothing spins.
    store.speed.send_replace(Speed::Hanging);
    let (mut sent, mut same) = (0, 0);
    let mut used = cpu();
    while same < 20 {
        let queued = bounded(&worker, &mut most).await;
        tick.tick().await;
        if relay.frames_sent() == sent && queued > 0.0 {
            same += 1;
        } else {
            (sent, same, used) = (relay.frames_sent(), 0, cpu());
        }
    }
    let used = cpu() - used;
    assert!(
        used < Duration::from_millis(500),
        "{used:?} of 2 s for nothing"
    );
    assert!(sent < relay.head(), "all of it fitted");
    assert!(worker.metric("penstock_pipeline_full_seconds_total ").await >= 1.0);

    store.speed.send_replace(Speed::Full);
    worker.until_seq(relay.head()).await;
    most = most.max(resident() - before);
    worker.stop().await;
    println!(
        "at most {} MiB more than before, {used:?} CPU in 2 s of hanging",
        most / MIB
    );
    let oracle = std::io::BufReader::new(std::fs::File::open(&prepared.oracle).unwrap());
    let wanted = Oracle::read(oracle).unwrap().records;
    let held = store.records.lock().unwrap();
    let held: HashMap<&str, &str> = held
        .iter()
        .filter_map(|(path, (_, cid))| Some((path.as_str(), cid.as_deref()?)))
        .collect();
    assert_eq!(held.len(), wanted.len());
    for ((did, collection, rkey), record) in &wanted {
        let path = format!("{did}/{collection}/{rkey}");
        assert_eq!(
            held.get(path.as_str()),
            Some(&record.cid.as_str()),
            "{path}"
        );
    }
}
