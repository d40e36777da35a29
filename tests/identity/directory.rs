//! A directory that says what a test put there, counts, and holds its answers back while it is closed.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// From the specification of atproto's cryptography.
pub const K256: &str = "zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc";
/// The other curve.
pub const P256: &str = "zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo";

/// The document of a DID with this host.
pub fn document(did: &str, host: &str) -> String {
    let document = json!({
        "id": did,
        "verificationMethod": [{"id": format!("{did}#atproto"), "type": "Multikey", "publicKeyMultibase": K256}],
        "service": [{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": host}],
    });
    document.to_string()
}

#[derive(Default)]
struct Said {
    answers: HashMap<String, (u16, String)>,
    asked: HashMap<String, usize>,
}

#[derive(Clone)]
struct Shared {
    said: Arc<Mutex<Said>>,
    open: watch::Sender<bool>,
}

/// The directory.
pub struct Directory {
    address: SocketAddr,
    shared: Shared,
}

impl Directory {
    /// An empty one, open.
    pub async fn start() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let last = NEXT.fetch_add(1, Ordering::SeqCst);
        let listener = TcpListener::bind((Ipv4Addr::new(127, 78, 1, last), 0)).await;
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            said: Arc::default(),
            open: watch::Sender::new(true),
        };
        let router = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address and port.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// What it says at a path, query and all.
    pub fn put(&self, path: &str, status: u16, body: String) {
        let mut said = self.shared.said.lock().unwrap();
        said.answers.insert(format!("/{path}"), (status, body));
    }

    /// How often it was asked for a path.
    pub fn asked(&self, path: &str) -> usize {
        let said = self.shared.said.lock().unwrap();
        said.asked.get(&format!("/{path}")).copied().unwrap_or(0)
    }

    /// How often it was asked for anything.
    pub fn asked_in_all(&self) -> usize {
        self.shared.said.lock().unwrap().asked.values().sum()
    }

    /// Waits until it was asked that often.
    pub async fn until_asked(&self, path: &str, times: usize) {
        let waiting = async {
            while self.asked(path) < times {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        waited.expect("nobody asked within 30 s");
    }

    /// Holds every answer back.
    pub fn close(&self) {
        self.shared.open.send_replace(false);
    }

    /// Lets the answers go.
    pub fn open(&self) {
        self.shared.open.send_replace(true);
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> (StatusCode, String) {
    let path = request.uri().to_string();
    let answer = {
        let mut said = shared.said.lock().unwrap();
        *said.asked.entry(path.clone()).or_default() += 1;
        said.answers.get(&path).cloned()
    };
    shared
        .open
        .subscribe()
        .wait_for(|open| *open)
        .await
        .unwrap();
    let (status, body) = answer.unwrap_or((404, String::new()));
    (StatusCode::from_u16(status).unwrap(), body)
}
