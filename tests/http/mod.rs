//! A router over the store in memory, requests to it, and writes that fill it.
#![allow(dead_code)]

pub mod collections;
pub mod jobs;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use collections::FakeCollections;
use penstock::api::{ApiState, Collections, DaemonStatus, Retry, RetryOutcome, Tokens, router};
use penstock::backfill::jobs::Jobs;
use penstock::config::Worker;
use penstock::decode::{Cid, Tid};
use penstock::ledger::Wanted;
use penstock::slot::SlotSet;
use penstock::store::memory::MemoryStore;
use penstock::store::{
    RecordBody, RecordWrite, RepoStatus, RevWrite, StatusWrite, Store, StoreError, WriteBatch,
};
use serde_json::Value;
use tower::ServiceExt;

pub const ALICE: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
pub const BOB: &str = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb";

/// What `/readyz` hears of the daemon.
#[derive(Default)]
pub struct Status(Mutex<Vec<String>>);

impl Status {
    pub fn fail(&self, reason: &str) {
        self.0.lock().unwrap().push(reason.to_owned());
    }
}

impl DaemonStatus for Status {
    fn not_ready(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Now, to a site (microseconds).
pub const NOW: u64 = 1_790_437_941_000_000;
pub const HOUR: u64 = 3_600_000_000;

/// A window of three days.
fn wanted() -> Wanted {
    Wanted {
        since: Some(NOW - 72 * HOUR),
        now: NOW,
        relays: vec!["relay.test".to_owned()],
        ..Wanted::between(SlotSet::ALL)
    }
}

pub struct Site {
    pub store: Arc<MemoryStore>,
    pub status: Arc<Status>,
    pub router: Router,
}

impl Site {
    /// As the Unix socket serves it.
    pub async fn new() -> Self {
        Self::with(Arc::new(MemoryStore::new()), None).await
    }

    pub async fn with(store: Arc<MemoryStore>, retry: Option<Arc<dyn Retry>>) -> Self {
        Self::build(store, |state| ApiState { retry, ..state })
    }

    /// As TCP serves it.
    pub async fn strangers(tokens: Tokens) -> Self {
        let store = Arc::new(MemoryStore::new());
        let retry: Arc<dyn Retry> = Arc::new(Retrier(store.clone()));
        Self::build(store, |state| ApiState {
            retry: Some(retry),
            tokens,
            trusted: false,
            ..state
        })
    }

    /// Jobs, to one who shows `tokens` or, without any, may do all.
    pub async fn working(jobs: Arc<dyn Jobs>, tokens: Option<Tokens>) -> Self {
        Self::of_worker_0(jobs, Arc::new(FakeCollections::default()), tokens).await
    }

    /// All that worker 0 serves.
    pub async fn of_worker_0(
        jobs: Arc<dyn Jobs>,
        collections: Arc<dyn Collections>,
        tokens: Option<Tokens>,
    ) -> Self {
        let store = Arc::new(MemoryStore::new());
        let trusted = tokens.is_none();
        let retry: Arc<dyn Retry> = Arc::new(Retrier(store.clone()));
        Self::build(store, |state| ApiState {
            jobs: Some(jobs),
            collections: Some(collections),
            retry: Some(retry),
            tokens: tokens.unwrap_or_default(),
            trusted,
            ..state
        })
    }

    /// What a worker other than 0 serves.
    pub async fn elsewhere(worker: Worker) -> Self {
        let store = Arc::new(MemoryStore::new());
        Self::build(store, |state| ApiState { worker, ..state })
    }

    /// With these metrics, to one who has no token.
    pub async fn metered(text: &'static str) -> Self {
        let metrics = Arc::new(move || text.to_owned());
        Self::build(Arc::default(), |state| ApiState {
            metrics,
            trusted: false,
            ..state
        })
    }

    /// Routes over another store; [`Site::store`] is not it.
    pub async fn over(store: Arc<dyn Store>) -> Self {
        let unused = Arc::new(MemoryStore::new());
        Self::build(unused, |state| ApiState { store, ..state })
    }

    fn build(store: Arc<MemoryStore>, change: impl FnOnce(ApiState) -> ApiState) -> Self {
        let status = Arc::new(Status::default());
        let state = ApiState {
            store: store.clone(),
            status: status.clone(),
            metrics: Arc::new(|| "penstock_up 1\n".to_owned()),
            wanted: Arc::new(wanted),
            retry: None,
            jobs: None,
            collections: None,
            worker: Worker { id: 0, count: 1 },
            tokens: Tokens::default(),
            trusted: true,
        };
        let router = router(change(state));
        Self {
            store,
            status,
            router,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or_default();
        Answer {
            status,
            headers,
            text,
            json,
        }
    }

    /// Follows the cursor to its end: all rows, and how many pages there were.
    pub async fn pages(&self, path: &str, name: &str) -> (Vec<Value>, usize) {
        let (mut rows, mut pages, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{mark}cursor={cursor}")).await;
            assert_eq!(page.status, 200, "{}", page.text);
            rows.extend(page.json[name].as_array().unwrap().iter().cloned());
            pages += 1;
            match page.json.get("cursor") {
                Some(next) => cursor = next.as_str().unwrap().to_owned(),
                None => return (rows, pages),
            }
        }
    }
}

/// Takes in frames whose first byte is `g`.
pub struct Retrier(pub Arc<MemoryStore>);

#[async_trait::async_trait]
impl Retry for Retrier {
    async fn take_in(&self, id: &str) -> Result<RetryOutcome, StoreError> {
        let Some((entry, raw)) = self.0.quarantined(id).await? else {
            return Ok(RetryOutcome::NotFound);
        };
        if entry.evicted {
            return Ok(RetryOutcome::Evicted);
        }
        if raw.first() == Some(&b'g') {
            return Ok(RetryOutcome::Applied);
        }
        let (reason, detail) = (entry.reason, entry.detail);
        Ok(RetryOutcome::Refused { reason, detail })
    }

    async fn release(&self, ids: Vec<String>) -> Result<(), StoreError> {
        for id in ids {
            self.0.release_quarantined(&id).await?;
        }
        Ok(())
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn is_error(&self, status: u16, name: &str, says: &str) {
        let message = self.json["message"].as_str().unwrap_or_default();
        assert!(
            self.status == status && self.json["error"] == name && message.contains(says),
            "wanted {status} {name} with {says:?}, got {} {}",
            self.status,
            self.text
        );
        assert_eq!(self.header("content-type"), "application/json");
    }

    #[track_caller]
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }
}

pub fn tid(micros: u64) -> Tid {
    Tid::new(micros, 0)
}

pub fn rev(micros: u64) -> String {
    tid(micros).to_string()
}

pub fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

pub fn cid(value: &Value) -> String {
    Cid::of_dag_cbor(&cbor(value)).to_string()
}

/// A commit that writes one record.
pub async fn put(
    store: &dyn Store,
    did: &str,
    collection: &str,
    rkey: &str,
    at: u64,
    value: &Value,
) {
    let record = cbor(value);
    let commit = Cid::of_dag_cbor(&cbor(&Value::from("commit")));
    let mut batch = WriteBatch::new();
    batch.put_record(RecordWrite {
        did,
        collection,
        rkey,
        version: at,
        rev: tid(at),
        body: Some(RecordBody {
            cid: Cid::of_dag_cbor(&record),
            record: &record,
            json: None,
        }),
    });
    batch.put_rev(RevWrite {
        did,
        rev: tid(at),
        data: commit,
        commit,
    });
    store.apply(batch).await.unwrap();
}

pub async fn status(store: &dyn Store, did: &str, version: u64, active: bool, text: Option<&str>) {
    let mut batch = WriteBatch::new();
    batch.put_status(StatusWrite {
        did: did.to_owned(),
        version,
        status: RepoStatus {
            active,
            status: text.map(str::to_owned),
        },
        repair_if_stale: None,
        repair_if_reactivated: None,
    });
    store.apply(batch).await.unwrap();
}
