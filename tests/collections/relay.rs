//! A relay that sends what a test says, beside the lists of a simulated network.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::routing::get;
use ciborium::Value;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use penstock::clock::{Clock, SystemClock};
use penstock::decode::time::format_datetime;
use penstock::decode::{Cid, Tid};
use penstock_loadtest::network::Network;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::frame_builder::{block, car, link, map, message, op};

/// The number of the first frame.
pub const FIRST: u64 = 100;

/// A running relay; it ends with the test's runtime.
pub struct Relay {
    pub url: String,
    stream: Arc<Stream>,
}

struct Stream {
    frames: Mutex<Vec<Vec<u8>>>,
    count: watch::Sender<usize>,
}

impl Relay {
    pub async fn start(network: &Network) -> Self {
        let stream = Arc::new(Stream {
            frames: Mutex::default(),
            count: watch::channel(0).0,
        });
        let router = Router::new()
            .route("/xrpc/com.atproto.sync.subscribeRepos", get(subscribe))
            .with_state(stream.clone())
            .fallback_service(network.relay_routes());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, stream }
    }

    /// Sends a create of a small record, as of `rev`; gives the frame's number.
    pub fn create(&self, did: &str, path: &str, rev: Tid) -> u64 {
        let record = block(&map([
            ("text", path.into()),
            ("$type", "some.test.type".into()),
        ]));
        let tree = block(&map([("e", Value::Array(Vec::new())), ("l", Value::Null)]));
        let commit = block(&map([
            ("did", did.into()),
            ("rev", rev.to_string().into()),
            ("sig", Value::Bytes(vec![7; 64])),
            ("data", link(tree.0)),
            ("prev", Value::Null),
            ("version", 3.into()),
        ]));
        let (record_cid, commit_cid) = (record.0, commit.0);
        let blocks = car(commit_cid, &[record, tree, commit]);
        self.send(|seq, time| {
            let payload = map([
                ("ops", vec![op("create", path, Some(record_cid))].into()),
                ("rev", rev.to_string().into()),
                ("seq", seq.into()),
                ("repo", did.into()),
                ("time", time.into()),
                ("blobs", Value::Array(Vec::new())),
                ("since", Value::Null),
                ("commit", link(commit_cid)),
                ("rebase", false.into()),
                ("tooBig", false.into()),
                ("blocks", Value::Bytes(blocks)),
                ("prevData", link(Cid::of_dag_cbor(b"before"))),
            ]);
            message("#commit", &payload)
        })
    }

    /// Sends a frame that changes nothing that is looked at.
    pub fn tick(&self) -> u64 {
        self.send(|seq, time| {
            let payload = map([
                ("seq", seq.into()),
                ("did", "did:web:ticks.example.com".into()),
                ("time", time.into()),
            ]);
            message("#identity", &payload)
        })
    }

    fn send(&self, make: impl FnOnce(u64, &str) -> Vec<u8>) -> u64 {
        let mut frames = self.stream.frames.lock().unwrap();
        let seq = FIRST + frames.len() as u64;
        frames.push(make(seq, &format_datetime(now())));
        self.stream.count.send_replace(frames.len());
        seq
    }
}

pub fn now() -> u64 {
    SystemClock.now_micros()
}

async fn subscribe(State(stream): State<Arc<Stream>>, mut request: Request) -> Response<Body> {
    let key = request.headers()["sec-websocket-key"].as_bytes();
    let accept = derive_accept_key(key);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let cursor = query.strip_prefix("cursor=");
    let next = match cursor.map(|cursor| cursor.parse::<u64>().unwrap()) {
        Some(cursor) => (cursor + 1).saturating_sub(FIRST) as usize,
        None => *stream.count.borrow(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        serve(socket, &stream, next).await;
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .body(Body::empty())
        .unwrap()
}

async fn serve(
    mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    stream: &Stream,
    mut next: usize,
) {
    let mut count = stream.count.subscribe();
    loop {
        let frame = stream.frames.lock().unwrap().get(next).cloned();
        let sent = match frame {
            Some(frame) => {
                next += 1;
                socket.send(Message::Binary(frame.into())).await.is_ok()
            }
            None => tokio::select! {
                changed = count.changed() => changed.is_ok(),
                said = socket.next() => matches!(said, Some(Ok(_))),
            },
        };
        if !sent {
            return;
        }
    }
}
