//! Faults of the protocol: whatever the node answers, and whether it answers at all, no write is lost and no caller is told.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use penstock::decode::{Cid, Tid};
use penstock::slot::slot_of;
use penstock::store::memory::MemoryStore;
use penstock::store::scylla::ScyllaOptions;
use penstock::store::{
    HandleWrite, Quarantined, Record, RecordBody, RecordWrite, RecordsQuery, Repair, RepairKind,
    Repo, RepoStatus, RevWrite, StatusWrite, Store, WriteBatch,
};
use scylla::errors::{DbError, WriteType};
use scylla::statement::Consistency;
use tokio::task::JoinHandle;

use crate::contract::{DID, POST};
use crate::histories;
use crate::keyspaces::{Keyspace, open};
use crate::proxy::{Between, Fault, WORDS};
use crate::subject::{Kind, Subject};

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(5);
/// Another repository.
const OTHER: &str = "did:web:other.example";

/// A store behind faults, in a keyspace of its own.
pub struct Shaken {
    pub store: Arc<dyn Store>,
    /// Past the faults, for questions of which there are thousands.
    reader: Arc<dyn Store>,
    pub between: Between,
    pub keyspace: Keyspace,
    options: ScyllaOptions,
    /// What happens, each with its probability.
    mix: Vec<(f64, Fault)>,
}

impl Shaken {
    /// Nothing happens yet.
    pub async fn in_peace(keyspace: Keyspace) -> Self {
        Self::opened_by(keyspace, |options| options).await
    }

    /// The same with other options.
    pub async fn opened_by(
        keyspace: Keyspace,
        change: impl FnOnce(ScyllaOptions) -> ScyllaOptions,
    ) -> Self {
        // Making the tables takes longer than an answer may here.
        let reader = keyspace.open().await;
        let between = Between::start(keyspace.cluster()).await;
        let options = change(between.lead(keyspace.options()));
        Self {
            store: open(options.clone()).await,
            reader,
            between,
            keyspace,
            options,
            mix: Vec::new(),
        }
    }

    /// What the store says hinders it, once it says so.
    pub async fn trouble(&self) -> String {
        let said = async {
            let mut ticks = tokio::time::interval(LOOK);
            loop {
                ticks.tick().await;
                if let Some(trouble) = self.trouble_now().await {
                    return trouble;
                }
            }
        };
        in_time("a store without trouble", said).await
    }

    /// The same once it says this word; `None` where what writes has ended before.
    pub async fn trouble_of<T>(&self, writing: &JoinHandle<T>, word: &str) -> Option<String> {
        let mut ticks = tokio::time::interval(LOOK);
        while !writing.is_finished() {
            ticks.tick().await;
            let trouble = self.trouble_now().await;
            if trouble.as_ref().is_some_and(|text| text.contains(word)) {
                return trouble;
            }
        }
        None
    }

    async fn trouble_now(&self) -> Option<String> {
        // Without trouble it counts rows, which may take as long as the fault.
        let health = tokio::time::timeout(Duration::from_millis(50), self.store.health());
        health.await.ok()?.ok()?.trouble
    }

    pub async fn is_well(&self) -> bool {
        self.store.health().await.unwrap().trouble.is_none()
    }
}

/// Waits for what must end.
pub async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("{what} did not end"))
}

/// Every error that a node can answer with and that may pass, what else may happen to an answer, and how each is counted.
fn faults() -> Vec<(Fault, &'static str)> {
    let consistency = Consistency::LocalQuorum;
    let (received, required, alive, numfailures) = (1, 2, 1, 1);
    let write_type = WriteType::UnloggedBatch;
    let errors = [
        (DbError::Overloaded, "overloaded"),
        (
            DbError::WriteTimeout {
                consistency,
                received,
                required,
                write_type: write_type.clone(),
            },
            "timeout",
        ),
        (
            DbError::ReadTimeout {
                consistency,
                received,
                required,
                data_present: false,
            },
            "timeout",
        ),
        (
            DbError::Unavailable {
                consistency,
                required,
                alive,
            },
            "unavailable",
        ),
        (
            DbError::WriteFailure {
                consistency,
                received,
                required,
                numfailures,
                write_type,
            },
            "failure",
        ),
        (
            DbError::ReadFailure {
                consistency,
                received,
                required,
                numfailures,
                data_present: false,
            },
            "failure",
        ),
        (DbError::IsBootstrapping, "unavailable"),
        (DbError::Unauthorized, "denied"),
        (DbError::AuthenticationError, "denied"),
        (DbError::ServerError, "server"),
        (DbError::ProtocolError, "server"),
        (DbError::TruncateError, "server"),
        (DbError::ConfigError, "schema"),
        (DbError::Other(0x7654), "server"),
    ];
    let errors = errors.map(|(error, kind)| (Fault::Error(error), kind));
    let others = [
        (Fault::Forgotten, "schema"),
        (Fault::NoAnswer, "timeout"),
        (Fault::Late(Duration::from_millis(600)), "timeout"),
        (Fault::Cut, "connection"),
    ];
    errors.into_iter().chain(others).collect()
}

/// The sum of a counter's samples with this label; all of them where it is empty.
fn counted(metrics: &PrometheusHandle, name: &str, label: &str) -> u64 {
    let text = metrics.render();
    let samples = text
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    let values = samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
    values.sum()
}

fn record(batch: &mut WriteBatch, did: &str, rkey: &str, rev: Tid, record: Option<&[u8]>) {
    batch.put_record(RecordWrite {
        did,
        collection: POST,
        rkey,
        version: rev.micros(),
        rev,
        body: record.map(|record| RecordBody {
            cid: Cid::of_dag_cbor(record),
            record,
            json: None,
        }),
    });
}

fn repair(did: &str, id: String) -> Repair {
    Repair {
        did: did.to_owned(),
        id,
        kind: RepairKind::Status,
        reason: "stale".to_owned(),
        version: 7,
    }
}

/// One write of each kind: what the number before has is replaced, deleted, or kept.
fn batch(number: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let rev = Tid::new(1000 + number, 0);
    let text = format!("of {number}");
    record(&mut batch, DID, "replaced", rev, Some(text.as_bytes()));
    record(
        &mut batch,
        DID,
        &number.to_string(),
        rev,
        Some(text.as_bytes()),
    );
    record(&mut batch, DID, &(number / 2).to_string(), rev, None);
    record(&mut batch, OTHER, "alone", rev, Some(text.as_bytes()));
    let root = Cid::of_dag_cbor(text.as_bytes());
    batch.put_rev(RevWrite {
        did: DID,
        rev,
        data: root,
        commit: root,
    });
    batch.put_handle(HandleWrite {
        did: DID.to_owned(),
        version: number,
        handle: format!("of-{number}.example"),
    });
    // Of two at once the second one is stale, so that it puts a repair.
    for (version, active) in [(number, true), (number - 1, false)] {
        batch.put_status(StatusWrite {
            did: DID.to_owned(),
            version,
            status: RepoStatus {
                active,
                status: None,
            },
            repair_if_stale: Some(repair(DID, format!("{version}~{active}"))),
            repair_if_reactivated: None,
        });
    }
    batch.put_repair(repair(OTHER, format!("{number}")));
    batch.put_quarantined(Quarantined {
        id: format!("20261123-{:02x}-{number:016x}", slot_of(OTHER)),
        received: number,
        reason: "cbor".to_owned(),
        detail: "cut".to_owned(),
        source: "relay.example".to_owned(),
        seq: Some(number),
        did: Some(OTHER.to_owned()),
        raw: text.into_bytes(),
        evicted: None,
    });
    batch
}

/// All that a store holds, sorted.
type Dump = (Vec<Record>, Vec<Repo>, Vec<Repair>, Vec<String>);

async fn dump(store: &dyn Store) -> Dump {
    let query = RecordsQuery {
        limit: 1000,
        values: true,
        ..RecordsQuery::default()
    };
    let mut records = store.records(&query).await.unwrap().items;
    records.sort_by_key(|r| (r.did.clone(), r.collection.clone(), r.rkey.clone()));
    let mut repos = store.repos(None, 1000).await.unwrap().items;
    repos.sort_by_key(|repo| repo.did.clone());
    let mut repairs = store.repairs(None, 1000).await.unwrap().items;
    repairs.sort_by_key(|repair| (repair.did.clone(), repair.id.clone()));
    let mut frames = Vec::new();
    for row in store.quarantine(None, 1000).await.unwrap().items {
        let found = store.quarantined(&row.id).await.unwrap();
        frames.push(format!("{found:?}"));
    }
    frames.sort_unstable();
    (records, repos, repairs, frames)
}

#[tokio::test]
async fn every_fault_is_waited_out() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let shaken = Shaken::in_peace(keyspace).await;
    let oracle = MemoryStore::new();
    for ((fault, kind), number) in faults().into_iter().zip(1..) {
        let label = format!("kind=\"{kind}\"");
        let errors = || counted(&metrics, "penstock_store_errors_total", &label);
        let retries = || counted(&metrics, "penstock_store_retries_total", "");
        let (errors_before, retries_before) = (errors(), retries());
        shaken.between.always(fault.clone());
        let store = shaken.store.clone();
        let writing = tokio::spawn(async move { store.apply(batch(number)).await });
        let trouble = shaken.trouble().await;
        assert!(trouble.starts_with("writes to "), "{fault:?}: {trouble}");
        if let Fault::Error(_) = fault {
            assert!(trouble.contains(WORDS), "{fault:?}: {trouble}");
        }
        assert!(!writing.is_finished(), "{fault:?}");
        // A forgotten batch is prepared again until its time is over.
        while errors() == errors_before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        shaken.between.mend();
        let applied = in_time(&format!("{fault:?}"), writing).await.unwrap();
        assert!(applied.unwrap().is_empty());
        assert!(shaken.is_well().await, "{fault:?}");
        assert!(retries() > retries_before, "{fault:?}");
        oracle.apply(batch(number)).await.unwrap();
    }
    assert_eq!(dump(&*shaken.store).await, dump(&oracle).await);
}

#[tokio::test]
async fn what_a_node_never_takes_is_set_aside_and_the_rest_is_held() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let shaken = Shaken::in_peace(keyspace).await;
    let large = b"\x00\x00\x00\x05large";
    let words = "Mutation of 20MiB is too large for the maximum size of 16MiB";
    for (error, rev) in [(DbError::Invalid, 1), (DbError::ServerError, 2)] {
        let rev = Tid::new(rev, 0);
        // Records of one repository go in one batch, which is refused as a whole.
        let mut batch = WriteBatch::new();
        for rkey in ["a", "large", "b"] {
            record(&mut batch, DID, rkey, rev, Some(b"any value"));
        }
        record(&mut batch, OTHER, "large", rev, Some(b"any value"));
        record(&mut batch, OTHER, "c", rev, Some(b"c"));
        // The key of the record and of its hint; what is set aside has it in longer texts.
        shaken.between.refuse(large, error, words);
        let applied = in_time("the batch", shaken.store.apply(batch)).await;
        applied.unwrap();
        assert!(shaken.is_well().await);
        shaken.between.mend();
        let (records, _, _, _) = dump(&*shaken.store).await;
        let held: Vec<_> = records.iter().map(|r| (r.rkey.as_str(), r.rev)).collect();
        assert_eq!(held, [("a", rev), ("b", rev), ("c", rev)]);
    }
    let rows = shaken.store.quarantine(None, 10).await.unwrap().items;
    assert_eq!(rows.len(), 4, "two records, at two revs");
    for row in rows {
        assert_eq!(row.reason, "store_refused");
        let uri = format!("at://{}/{POST}/large", row.did.as_deref().unwrap());
        assert!(
            row.detail.contains(&uri) && row.detail.contains(words),
            "{}",
            row.detail
        );
        let (_, raw) = shaken.store.quarantined(&row.id).await.unwrap().unwrap();
        assert_eq!(raw, b"any value");
    }
    let (_, _, repairs, _) = dump(&*shaken.store).await;
    let asked: Vec<_> = repairs
        .iter()
        .map(|r| (r.did.as_str(), r.kind, r.version))
        .collect();
    let content = RepairKind::Content;
    let mut asked = asked;
    asked.sort_by_key(|(did, _, version)| (*did, *version));
    let wanted = [
        (DID, content, 1),
        (DID, content, 2),
        (OTHER, content, 1),
        (OTHER, content, 2),
    ];
    assert_eq!(asked, wanted);
}

/// What is refused for all, whoever wrote it, is not the records' fault: writes wait.
#[tokio::test]
async fn servers_that_refuse_every_record_are_waited_for() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let shaken = Shaken::in_peace(keyspace).await;
    let dids: Vec<String> = (0..300).map(|n| format!("did:web:{n}.example")).collect();
    let mut batch = WriteBatch::new();
    for did in &dids {
        record(&mut batch, did, "common", Tid::new(1, 0), Some(b"value"));
    }
    let words = "a guardrail that nobody knows";
    shaken
        .between
        .refuse(b"\x00\x00\x00\x06common", DbError::Invalid, words);
    let store = shaken.store.clone();
    let writing = tokio::spawn(async move { store.apply(batch).await });
    let trouble = shaken.trouble().await;
    assert!(trouble.contains(words), "{trouble}");
    assert!(!writing.is_finished());
    shaken.between.mend();
    in_time("the batch", writing).await.unwrap().unwrap();
    assert!(shaken.is_well().await);
    let (records, _, _, frames) = dump(&*shaken.store).await;
    assert_eq!((records.len(), frames.len()), (200, 100));
}

/// A real server says so in words of its own, and as it reads on, the connection stays.
#[tokio::test]
async fn a_record_that_is_really_too_large_is_set_aside() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let store = keyspace.open().await;
    let rev = Tid::new(1, 0);
    // Cassandra takes requests of 16 MiB.
    let mut aside = 0;
    for (size, fits) in [(15 << 20, true), (17 << 20, false), (40 << 20, false)] {
        let value = vec![7; size];
        let rkey = size.to_string();
        let mut batch = WriteBatch::new();
        record(&mut batch, DID, "small", rev, Some(b"small"));
        record(&mut batch, DID, &rkey, rev, Some(&value));
        let applied = in_time(&rkey, store.apply(batch)).await;
        applied.unwrap();
        let held = store.record(DID, POST, &rkey).await.unwrap();
        assert_eq!(
            held.is_some_and(|held| held.record == value),
            fits,
            "{size}"
        );
        aside += usize::from(!fits);
        let rows = store.quarantine(None, 10).await.unwrap().items;
        assert_eq!(rows.len(), aside, "{size}: {rows:?}");
        if !fits {
            let row = rows.iter().find(|row| row.detail.contains(&rkey)).unwrap();
            let (_, raw) = store.quarantined(&row.id).await.unwrap().unwrap();
            assert!(raw == value, "{size}");
        }
    }
    assert!(store.record(DID, POST, "small").await.unwrap().is_some());
    assert_eq!(store.repairs(None, 10).await.unwrap().items.len(), aside);
}

/// Errors of each kind, answers that are late or lost, and connections that end, each now and then.
fn mixed() -> Vec<(f64, Fault)> {
    let errors = faults()
        .into_iter()
        .map(|(fault, _)| fault)
        .filter(|fault| matches!(fault, Fault::Error(_) | Fault::Forgotten));
    let late = |millis: u64| Fault::Late(Duration::from_millis(millis));
    let others = [
        (0.002, Fault::NoAnswer),
        (0.02, late(5)),
        (0.02, late(50)),
        (0.002, late(400)),
        (0.001, Fault::Cut),
    ];
    errors.map(|error| (0.002, error)).chain(others).collect()
}

impl Subject for Shaken {
    const NAME: &str = "CQL through faults";
    const KIND: Kind = Kind::Database;

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn reader(&self) -> Arc<dyn Store> {
        self.reader.clone()
    }

    async fn compact(&mut self) {}

    async fn reopen(&mut self) {
        self.store.close().await.unwrap();
        // Opening is tried once, and what fails is told.
        self.between.mend();
        self.store = open(self.options.clone()).await;
        self.between.happen(&self.mix);
    }

    async fn sweep(&mut self) -> Option<usize> {
        None
    }
}

#[test]
fn histories_converge_through_faults() {
    if Keyspace::fresh_blocking().is_none() {
        return;
    }
    histories::any_order_of_any_history_gives_the_same_store(2, async || {
        let keyspace = Keyspace::fresh().await.expect("the cluster of before");
        let mut shaken = Shaken::in_peace(keyspace).await;
        shaken.mix = mixed();
        shaken.between.happen(&shaken.mix);
        shaken
    });
}
