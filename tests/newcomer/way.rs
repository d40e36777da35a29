//! What newcomers do and see, over a store of any kind.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_loadtest::{Pace, Record, RelayOptions, RelayServer, World, WorldSpec};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::installed::backend::Backend;
use crate::installed::truth::Truth;
use crate::installed::{Installation, metric};

pub fn world(events: u64) -> World {
    World::generate(&WorldSpec {
        seed: 41,
        repos: 30,
        events,
        prefill: 100,
        ..WorldSpec::default()
    })
}

/// A relay that has shown so many frames.
pub fn relay(world: &World, published: usize) -> RelayServer {
    let options = RelayOptions {
        pace: Pace::Manual,
        published,
        ..RelayOptions::default()
    };
    RelayServer::start(world, options).expect("a relay")
}

/// The status and body of an answer.
pub async fn ask(url: &str) -> (u16, Value) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(url).await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a body");
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

/// A record that readers see.
fn shown(world: &World) -> &Record {
    let mut records = world.oracle.records.values();
    let active = |record: &&Record| world.oracle.repos[&record.did].active;
    records.find(active).expect("a record")
}

/// Started, seen to work, stopped, started again.
pub async fn records_are_seen_and_a_restart_goes_on(backend: Arc<dyn Backend>) {
    let world = world(2_000);
    let truth = Truth::of(&world);
    let relay = relay(&world, 1_000);
    let penstock = Installation::over(&backend, &relay.url());
    let mut daemon = penstock.start();
    let address = daemon.address().await;
    let ready = async || ask(&format!("{address}/readyz")).await.0 == 200;
    daemon.until("to be ready", ready).await;
    assert_eq!(ask(&format!("{address}/healthz")).await.0, 200);

    let scrape = async || {
        let (status, text) = ask(&format!("{address}/metrics")).await;
        assert_eq!(status, 200);
        text.as_str().expect("text").to_owned()
    };
    let frames = |text: &str| metric(text, "penstock_relay_frames_total{").unwrap_or_default();
    daemon
        .until("frames", async || frames(&scrape().await) >= 1_000.0)
        .await;
    let first = scrape().await;
    relay.publish_all();
    daemon
        .until("more frames", async || {
            frames(&scrape().await) > frames(&first)
        })
        .await;
    daemon.until_durable(truth.last_seq()).await;
    let line = daemon.until_says("following the relay").await;
    assert!(line["watermark"].as_u64() > Some(0), "{line}");
    assert!(line["frames_per_second"].as_u64() > Some(0), "{line}");

    let record = shown(&world);
    let Record {
        did,
        collection,
        rkey,
        ..
    } = record;
    let uri = format!("at://{did}/{collection}/{rkey}");
    let got: Value = serde_json::from_slice(&penstock.prints(&["get", &uri]).await).expect("JSON");
    assert_eq!(
        (&got["uri"], &got["cid"]),
        (&uri.as_str().into(), &record.cid.as_str().into())
    );
    let query = format!("repo={did}&collection={collection}");
    let xrpc = format!("{address}/xrpc/com.atproto.repo");
    let (status, one) = ask(&format!("{xrpc}.getRecord?{query}&rkey={rkey}")).await;
    assert_eq!((status, &one["cid"]), (200, &got["cid"]), "{one}");
    let (status, list) = ask(&format!(
        "{xrpc}.listRecords?{query}&limit=100&reverse=true"
    ))
    .await;
    assert_eq!(status, 200, "{list}");
    let listed = list["records"].as_array().expect("records");
    assert!(listed.iter().any(|row| row["uri"] == uri), "{list}");

    daemon.stop().await;
    let last = truth.last_seq();
    let mut daemon = penstock.start();
    daemon
        .until("a second connection", async || relay.cursors().len() == 2)
        .await;
    daemon.stop().await;
    assert_eq!(
        relay.cursors(),
        [Some(0), Some(last - 1)],
        "the last frame is asked for again"
    );
    truth.is_held_in_the_end(&penstock).await;
}

/// Who is in a hurry is heard.
pub async fn a_second_signal_ends_it_at_once(backend: Arc<dyn Backend>) {
    let world = world(3_000);
    let truth = Truth::of(&world);
    let relay = relay(&world, 3_000);
    let penstock = Installation::over(&backend, &relay.url());
    let mut daemon = penstock.start();
    daemon.until_durable(truth.last_seq()).await;
    // An answer that nobody reads holds an orderly end up for seconds.
    let _client = ask_and_never_read(&penstock.socket()).await;
    daemon.signal(Signal::TERM);
    daemon.until_says("draining").await;
    daemon.signal(Signal::INT);
    let began = Instant::now();
    let status = daemon.wait().await;
    assert_eq!(status.code(), Some(1), "{}", daemon.words());
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{}",
        daemon.words()
    );
    let mut daemon = penstock.start();
    daemon.until_durable(truth.last_seq()).await;
    daemon.stop().await;
    truth.is_held_in_the_end(&penstock).await;
}

async fn ask_and_never_read(socket: &Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).await.expect("a connection");
    let request = b"GET /admin/records?limit=1000 HTTP/1.1\r\nhost: penstock\r\n\r\n";
    client.write_all(request).await.expect("a request");
    client.readable().await.expect("an answer");
    client
}

/// A relay that is down at the start, and comes up.
pub async fn a_relay_that_is_down_is_waited_for_without_noise(backend: Arc<dyn Backend>) {
    let world = world(500);
    let truth = Truth::of(&world);
    // A port that nobody listens on, for now.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = free.local_addr().expect("its address");
    drop(free);
    let penstock = Installation::over(&backend, &format!("ws://{listen}"));
    let mut daemon = penstock.start();
    let address = daemon.address().await;
    let tried = async || {
        let (_, text) = ask(&format!("{address}/metrics")).await;
        metric(text.as_str().unwrap(), "penstock_relay_reconnects_total{").unwrap_or_default()
            >= 20.0
    };
    daemon.until("many attempts", tried).await;
    let (status, why) = ask(&format!("{address}/readyz")).await;
    assert!(status == 503 && why.to_string().contains("relay"), "{why}");
    let lines = daemon.lines("could not connect").len();
    assert!(
        (1..10).contains(&lines),
        "{lines} lines: {}",
        daemon.words()
    );

    let options = RelayOptions {
        listen,
        ..RelayOptions::default()
    };
    let _relay = RelayServer::start(&world, options).expect("a relay");
    daemon.until_durable(truth.last_seq()).await;
    daemon.stop().await;
    truth.is_held_in_the_end(&penstock).await;
}
