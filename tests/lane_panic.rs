//! A lane that panics takes the whole process with it: never a daemon that works in part.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;

use penstock::clock::{Clock, SystemClock};
use penstock_loadtest::{RelayOptions, RelayServer, World};

#[path = "firehose/stores.rs"]
mod stores;
#[path = "firehose/worker.rs"]
mod worker;

/// Set in the child.
const CHILD: &str = "PENSTOCK_TEST_PANICKING_LANE";

/// Panics where a lane asks for the time.
struct Treacherous;

impl Clock for Treacherous {
    fn now_micros(&self) -> u64 {
        let thread = std::thread::current();
        assert!(
            !thread.name().is_some_and(|name| name.starts_with("lane-")),
            "a lane panics on purpose"
        );
        SystemClock.now_micros()
    }
}

#[test]
fn a_panic_in_a_lane_aborts_the_process() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "a_daemon_whose_lane_panics",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a lane panics on purpose"), "{said}");
    // SIGABRT
    assert_eq!(output.status.signal(), Some(6), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the test above"]
async fn a_daemon_whose_lane_panics() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let world = World::of(70, 10, 200);
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let stopped = worker::Stopped::empty().await.unwrap();
    let stopped = stopped.with_clock(Arc::new(Treacherous));
    let mut worker = stopped.start(&relay, &[]).await;
    worker.until_seq(relay.head()).await;
}
