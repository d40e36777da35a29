//! Moves by full dumps: from the embedded store to CQL, on from there beside a running daemon, and back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_loadtest::{Pace, RelayOptions, RelayServer};
use serde_json::Value;

use crate::installations::empty;
use crate::installed::Installation;
use crate::installed::backend::{Backend, Embedded};
use crate::installed::truth::Truth;
use crate::kills;

const EVENTS: u64 = 1_200;

/// Dumps all to a file beside the installation's data.
async fn dump(installation: &Installation, name: &str) -> PathBuf {
    let dump = installation.prints(&["dump", "--full"]).await;
    let file = installation.data().with_extension(name);
    std::fs::write(&file, dump).expect("a file");
    file
}

/// The records of a dump, whatever their order.
fn records(dump: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(dump).expect("a dump");
    let rows = text.lines().map(|line| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    let records = rows.filter(|row| row["type"] == "record");
    records
        .map(|mut row| {
            row.as_object_mut().expect("an object").remove("check");
            row.to_string()
        })
        .collect()
}

async fn import(installation: &Installation, file: &Path) {
    let ended = installation
        .run(&["import", file.to_str().expect("UTF-8")])
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_to_cql_and_back() {
    let Some(cql) = empty().await else {
        return;
    };
    let embedded: Arc<dyn Backend> = Arc::new(Embedded);
    let world = kills::world(11, EVENTS);
    let truth = Truth::of(&world);
    let options = RelayOptions {
        pace: Pace::Manual,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).expect("a relay");
    let old = Installation::over(&embedded, &relay.url());
    let moved = Installation::over(&cql, &relay.url());
    let back = Installation::over(&embedded, &relay.url());

    // Half of the stream is held when it moves; the daemon over CQL goes on where that ends.
    relay.publish(world.summary.frames as usize / 2);
    let mut daemon = old.start();
    daemon.until_durable(relay.head()).await;
    daemon.stop().await;
    let first = dump(&old, "first").await;
    import(&moved, &first).await;
    // Once more: nothing changes.
    import(&moved, &first).await;
    assert_eq!(records(&dump(&moved, "same").await), records(&first));
    assert!(truth.holds_what_it_acknowledged(&moved).await >= relay.head() / 2);

    let mut daemon = moved.start();
    daemon.until_says("serving HTTP").await;
    relay.publish_all();
    // Beside the daemon: what it claims is in it.
    let beside = dump(&moved, "beside").await;
    import(&back, &beside).await;
    truth.holds_what_it_acknowledged(&back).await;
    daemon.until_durable(truth.last_seq()).await;
    daemon.stop().await;
    truth.is_held_in_the_end(&moved).await;

    let last = dump(&moved, "last").await;
    let again = Installation::over(&embedded, &relay.url());
    import(&again, &last).await;
    assert_eq!(records(&dump(&again, "again").await), records(&last));
    // What lies behind a gap is not claimed by an import, and read again.
    let mut daemon = again.start();
    daemon.until_durable(truth.last_seq()).await;
    daemon.stop().await;
    truth.is_held_in_the_end(&again).await;
}
