//! How many frames a second a worker passes over that owns 1 slot of 256, from the socket on.
//!
//! `cargo bench --bench one_slot -- DIR`, where DIR was made by `penstock-loadtest prepare`. The relay runs in this process as
//! well and serves as fast as it is read; the store is in memory and gets 1 frame of 256.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock::clock::SystemClock;
use penstock::config::{Config, Sources};
use penstock::daemon;
use penstock::service::Service;
use penstock::store::Store;
use penstock::store::memory::MemoryStore;
use penstock_loadtest::{Prepared, RelayOptions, RelayServer};
use tokio_util::sync::CancellationToken;

fn main() {
    let dir = std::env::args()
        .skip(1)
        .find(|arg| !arg.starts_with("--"))
        .map(PathBuf::from);
    let Some(dir) = dir else {
        println!("skipped: name a folder of `penstock-loadtest prepare`");
        return;
    };
    let prepared = Prepared::open(&dir).unwrap();
    let relay = RelayServer::start(&prepared, RelayOptions::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let took = runtime.block_on(pass_over(&relay));
    let (frames, seconds) = (relay.head() as f64, took.as_secs_f64());
    println!(
        "{frames} frames in {seconds:.2} s: {:.0} frames/s",
        frames / seconds
    );
}

async fn pass_over(relay: &RelayServer) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let sources = Sources {
        set: vec![
            format!("relay.urls={}", relay.url()),
            format!("http.socket={}/socket", folder.path().display()),
            "http.listen=127.0.0.1:0".to_owned(),
            "relay.start=oldest".to_owned(),
        ],
        ..Sources::default()
    };
    let mut config = Config::load(&sources).unwrap().config;
    config.worker.id = 7;
    config.worker.count = 256;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let stop = CancellationToken::new();
    let began = Instant::now();
    let running = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move { daemon::run(&config, store, Arc::new(SystemClock), Service::none(), stop).await }
    });
    let mut look = tokio::time::interval(Duration::from_millis(100));
    loop {
        look.tick().await;
        let facts = store.facts().await.unwrap();
        if facts.iter().any(|fact| fact.to_seq >= relay.head()) {
            break;
        }
        assert!(!running.is_finished(), "the worker ended early");
    }
    let took = began.elapsed();
    stop.cancel();
    running.await.unwrap().unwrap();
    took
}
