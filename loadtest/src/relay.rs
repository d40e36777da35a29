//! The relay: one thread that serves a prepared stream at `/xrpc/com.atproto.sync.subscribeRepos`, DID documents at
//! `/{did}` and the oracle's lines at `/oracle`. A POST to `/retain-from/{seq}` drops what is older.
//!
//! A connection is looked at before it is read: subscriptions are upgraded and fed by [`crate::connection`], all else, and
//! what is refused on purpose, goes to a small HTTP router.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::connection;
use crate::cursor::Cursors;
use crate::faults::{ConnectionFaults, Refusal};
use crate::log::FrameLog;
use crate::oracle::Oracle;
use crate::world::{Accounts, Prepared, World};

/// The path of the subscription.
pub(crate) const SUBSCRIBE: &str = "/xrpc/com.atproto.sync.subscribeRepos";

/// Where the oracle's lines come from.
#[derive(Clone)]
pub enum OracleLines {
    /// From memory.
    Memory(Arc<Oracle>),
    /// From the file of a prepared folder.
    File(PathBuf),
}

/// What a relay serves.
#[derive(Clone)]
pub struct Served {
    /// The stream.
    pub log: Arc<FrameLog>,
    /// The accounts of its PLC directory.
    pub accounts: Arc<Accounts>,
    /// What `/oracle` answers.
    pub oracle: OracleLines,
}

impl From<&World> for Served {
    fn from(world: &World) -> Self {
        Self {
            log: world.log.clone(),
            accounts: world.accounts.clone(),
            oracle: OracleLines::Memory(world.oracle.clone()),
        }
    }
}

impl From<&Prepared> for Served {
    fn from(prepared: &Prepared) -> Self {
        Self {
            log: prepared.log.clone(),
            accounts: prepared.accounts.clone(),
            oracle: OracleLines::File(prepared.oracle.clone()),
        }
    }
}

/// How fast numbers become visible.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Pace {
    /// All of them at once.
    #[default]
    Unlimited,
    /// So many numbers a second.
    Rate(f64),
    /// Only what [`RelayServer::publish`] says.
    Manual,
}

/// How a relay behaves.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Where to listen; port 0 is a free one.
    pub listen: SocketAddr,
    /// How fast numbers become visible.
    pub pace: Pace,
    /// How many are visible at the start, whatever the pace.
    pub published: usize,
    /// How cursors are served.
    pub cursors: Cursors,
    /// The oldest number that is retained.
    pub oldest_seq: u64,
    /// A subscriber that had reached the head and falls more than so many frames behind gets `ConsumerTooSlow`.
    pub too_slow: Option<usize>,
    /// What goes wrong with connections.
    pub faults: ConnectionFaults,
    /// Answers all other requests, as a [`Network`](crate::network::Network)'s lists of repositories do.
    pub lists: Option<axum::Router>,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            pace: Pace::default(),
            published: 0,
            cursors: Cursors::default(),
            oldest_seq: 0,
            too_slow: None,
            faults: ConnectionFaults::default(),
            lists: None,
        }
    }
}

pub(crate) struct Shared {
    pub served: Served,
    pub options: Mutex<RelayOptions>,
    /// How many entries are published.
    pub head: watch::Sender<usize>,
    /// Changes when all connections are to end.
    pub kick: watch::Sender<u64>,
    pub connections: AtomicU64,
    pub open: AtomicU64,
    /// Subscriptions that the client ended with a close frame.
    pub closes: AtomicU64,
    pub refused: AtomicU64,
    pub frames_sent: AtomicU64,
    pub cursors: Mutex<Vec<Option<u64>>>,
    url: String,
}

impl Shared {
    pub(crate) fn options(&self) -> MutexGuard<'_, RelayOptions> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, count: usize) {
        let log = &self.served.log;
        self.head.send_modify(|head| {
            let until = head.saturating_add(count).min(log.len());
            if log.beginning(until) != log.beginning(*head) {
                // The oldest of another numbering.
                self.options().oldest_seq = 0;
            }
            *head = until;
        });
    }

    fn refusal(&self) -> Option<Refusal> {
        let mut options = self.options();
        let refusals = &mut options.faults.refusals;
        (!refusals.is_empty()).then(|| refusals.remove(0))
    }
}

/// A running relay; it stops when it is dropped.
pub struct RelayServer {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RelayServer {
    /// Starts a relay on a thread of its own; it accepts connections when this returns.
    pub fn start(served: impl Into<Served>, options: RelayOptions) -> io::Result<Self> {
        let served = served.into();
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let published = match options.pace {
            Pace::Unlimited => served.log.len(),
            _ => options.published.min(served.log.len()),
        };
        let shared = Arc::new(Shared {
            served,
            options: Mutex::new(options),
            head: watch::Sender::new(published),
            kick: watch::Sender::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            closes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            frames_sent: AtomicU64::new(0),
            cursors: Mutex::default(),
            url: format!("http://{addr}"),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let state = shared.clone();
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        result = run(listener, state) => {
                            if let Err(error) = result {
                                tracing::error!(%error, "the simulated relay stopped");
                            }
                        }
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            addr,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// `ws://HOST:PORT`
    pub fn url(&self) -> String {
        format!("ws://{}", self.addr)
    }

    /// `http://HOST:PORT`: its PLC directory, and `/oracle`.
    pub fn http_url(&self) -> String {
        self.shared.url.clone()
    }

    /// Makes `count` more numbers visible.
    pub fn publish(&self, count: usize) {
        self.shared.publish(count);
    }

    /// Makes all numbers visible.
    pub fn publish_all(&self) {
        self.shared.publish(usize::MAX);
    }

    /// The newest visible number; 0 if there is none.
    pub fn head(&self) -> u64 {
        let head = *self.shared.head.borrow();
        head.checked_sub(1)
            .map_or(0, |last| self.shared.served.log.entries()[last].seq)
    }

    /// How many numbers are visible.
    pub fn published(&self) -> usize {
        *self.shared.head.borrow()
    }

    /// Changes how the relay behaves from the next batch or connection on. (`listen` and `published` count only at the start.)
    pub fn change(&self, change: impl FnOnce(&mut RelayOptions)) {
        change(&mut self.shared.options());
    }

    /// Forgets all numbers before `seq`.
    pub fn retain_from(&self, seq: u64) {
        self.change(|options| options.oldest_seq = seq);
    }

    /// Ends all connections by a reset.
    pub fn disconnect_all(&self) {
        self.shared.kick.send_modify(|generation| *generation += 1);
    }

    /// How many subscriptions were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many subscriptions are open now.
    pub fn open_connections(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many subscriptions the client ended with a close frame.
    pub fn closes(&self) -> u64 {
        self.shared.closes.load(Ordering::SeqCst)
    }

    /// How many connects were refused.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// How many WebSocket messages were sent over all connections.
    pub fn frames_sent(&self) -> u64 {
        self.shared.frames_sent.load(Ordering::SeqCst)
    }

    /// The cursors that were asked for, in order; `None` is the live head.
    pub fn cursors(&self) -> Vec<Option<u64>> {
        let cursors = self.shared.cursors.lock();
        cursors.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (http, handed) = mpsc::channel(64);
    let addr = listener.local_addr()?;
    let router = axum::Router::new()
        .route(SUBSCRIBE, axum::routing::any(not_upgraded))
        .route("/oracle", axum::routing::get(oracle))
        .route("/retain-from/{seq}", axum::routing::post(retain_from))
        .route("/{did}", axum::routing::get(document))
        .with_state(shared.clone());
    let lists = shared.options().lists.clone();
    let router = match lists {
        Some(lists) => router.fallback_service(lists),
        None => router,
    };
    tokio::spawn(axum::serve(HandedOver { handed, addr }, router).into_future());
    tokio::spawn(keep_pace(shared.clone()));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(sort(stream, peer, shared.clone(), http.clone()));
            }
            // Out of file descriptors, or a connection that was gone already.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn keep_pace(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let mut last = Instant::now();
    let mut due = 0.0;
    loop {
        ticks.tick().await;
        let passed = last.elapsed().as_secs_f64();
        last = Instant::now();
        let pace = shared.options().pace;
        match pace {
            Pace::Manual => due = 0.0,
            Pace::Unlimited => {
                if *shared.head.borrow() < shared.served.log.len() {
                    shared.publish(usize::MAX);
                }
            }
            Pace::Rate(rate) => {
                due += passed * rate;
                if due >= 1.0 {
                    shared.publish(due as usize);
                    due = due.fract();
                }
            }
        }
    }
}

/// Looks at the head of a request and decides who answers it.
async fn sort(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    http: mpsc::Sender<(TcpStream, SocketAddr)>,
) {
    let mut head = vec![0; 16 * 1024];
    let deadline = Instant::now() + Duration::from_secs(10);
    let text = loop {
        let Ok(len) = stream.peek(&mut head).await else {
            return;
        };
        let text = &head[..len];
        let complete = text.windows(4).any(|window| window == b"\r\n\r\n");
        if complete || len == head.len() {
            break String::from_utf8_lossy(text).to_ascii_lowercase();
        }
        if len == 0 || Instant::now() > deadline {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let target = text.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let cursor = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("cursor="));
    let cursor = cursor.map(str::parse::<u64>).transpose();
    let upgrade = path == SUBSCRIBE.to_ascii_lowercase() && text.contains("upgrade: websocket");
    let refused = !shared.options().faults.refusals.is_empty();
    match cursor {
        Ok(cursor) if upgrade && !refused => {
            connection::subscribe(stream, cursor, &shared).await;
        }
        _ => {
            let _ = http.send((stream, peer)).await;
        }
    }
}

/// Connections that are not subscriptions, for axum.
struct HandedOver {
    handed: mpsc::Receiver<(TcpStream, SocketAddr)>,
    addr: SocketAddr,
}

impl axum::serve::Listener for HandedOver {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        match self.handed.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

fn xrpc_error(status: StatusCode, error: &str, message: &str) -> Response {
    let body = serde_json::json!({ "error": error, "message": message });
    (status, axum::Json(body)).into_response()
}

/// A subscription that is refused, or is none.
async fn not_upgraded(State(shared): State<Arc<Shared>>) -> Response {
    let Some(refusal) = shared.refusal() else {
        let text = "this is a WebSocket endpoint; cursor is a number";
        return xrpc_error(StatusCode::UPGRADE_REQUIRED, "InvalidRequest", text);
    };
    shared.refused.fetch_add(1, Ordering::SeqCst);
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = match refusal.html {
        true => {
            let page = "<html><body><h1>It is not you, it is us</h1></body></html>";
            (status, axum::response::Html(page)).into_response()
        }
        false => xrpc_error(status, "Refused", "on purpose"),
    };
    if let Some(seconds) = refusal.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response.headers_mut().insert(
        header::CONNECTION,
        header::HeaderValue::from_static("close"),
    );
    response
}

async fn document(State(shared): State<Arc<Shared>>, Path(did): Path<String>) -> Response {
    match shared.served.accounts.document(&did, &shared.url) {
        Some(document) => axum::Json(document).into_response(),
        None => {
            let body = serde_json::json!({ "message": format!("DID not registered: {did}") });
            (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
        }
    }
}

/// What [`RelayServer::retain_from`] does.
async fn retain_from(State(shared): State<Arc<Shared>>, Path(seq): Path<u64>) -> StatusCode {
    shared.options().oldest_seq = seq;
    StatusCode::NO_CONTENT
}

async fn oracle(State(shared): State<Arc<Shared>>) -> Response {
    let lines = match &shared.served.oracle {
        OracleLines::Memory(oracle) => Ok(oracle.to_lines()),
        OracleLines::File(path) => tokio::fs::read(path).await,
    };
    match lines {
        Ok(lines) => ([(header::CONTENT_TYPE, "application/jsonl")], lines).into_response(),
        Err(error) => xrpc_error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "OracleUnreadable",
            &error.to_string(),
        ),
    }
}
