//! Seeks at relays that do what real ones do.

use penstock::backfill::seek::Found;
use penstock_loadtest::{
    Cursors, DropKind, Future, Outdated, RelayServer, Restart, Retained, StreamFaults, World,
    WorldSpec,
};

use crate::{PAST, assert_good, hours_ago, lively, number_at, seek_at, three_days};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kind_of_cursor_misleads() {
    let world = three_days(20);
    let relay = RelayServer::start(&world, lively()).unwrap();
    for outdated in [Outdated::Info, Outdated::SilentOldest, Outdated::SilentLive] {
        for future in [Future::Error, Future::SilentOldest, Future::SilentLive] {
            for inclusive in [false, true] {
                relay.change(|options| {
                    options.cursors = Cursors {
                        inclusive,
                        outdated,
                        future,
                        ..Cursors::default()
                    };
                    // From 64 hours ago on.
                    options.oldest_seq = 1_001_000;
                });
                let wanted = hours_ago(40);
                let seek = seek_at(&relay, wanted).await;
                assert_good(&relay, &world, wanted, seek);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_serves_no_cursor_is_read_from_its_oldest() {
    let world = three_days(21);
    for retained in [Retained::SilentOldest, Retained::SilentLive] {
        let relay = RelayServer::start(&world, lively()).unwrap();
        relay.change(|options| options.cursors.retained = retained);
        let wanted = hours_ago(40);
        let seek = seek_at(&relay, wanted).await;
        let Found::At { cursor, .. } = seek.found else {
            panic!("{seek:?} {:?}", relay.cursors());
        };
        assert!(
            cursor < number_at(&world, wanted),
            "{seek:?} {:?}",
            relay.cursors()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_relay_is_searched_too() {
    let world = three_days(22);
    for future in [Future::Error, Future::SilentOldest] {
        let relay = RelayServer::start(&world, lively()).unwrap();
        relay.change(|options| {
            options.pace = penstock_loadtest::Pace::Manual;
            options.cursors.future = future;
        });
        let wanted = hours_ago(40);
        let seek = seek_at(&relay, wanted).await;
        assert_good(&relay, &world, wanted, seek);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_frames_and_lost_connections_do_not_mislead() {
    let faults = StreamFaults {
        corrupt: 0.1,
        duplicates: 0.1,
        renumbered: 0.05,
        reordered: 0.1,
        infos: 0.1,
        ..StreamFaults::default()
    };
    let world = World::generate(&WorldSpec {
        faults,
        ..three_days(23).spec
    });
    let relay = RelayServer::start(&world, lively()).unwrap();
    relay.change(|options| {
        options.faults.drop_every = Some(12);
        options.faults.drop_kind = DropKind::Any;
        options.faults.text_every = Some(20);
    });
    let wanted = hours_ago(40);
    let seek = seek_at(&relay, wanted).await;
    let Found::At { cursor, .. } = seek.found else {
        panic!("{seek:?}");
    };
    // Other numbers than events: what is there of it is found by its share of the stream.
    let share = |seq: u64, end: u64| (seq - 1_000_000) as f64 / (end - 1_000_000) as f64;
    let truth = share(number_at(&world, wanted), 1_000_000 + PAST + 1_000);
    let found = share(cursor, world.summary.last_seq);
    assert!(
        found < truth + 0.002 && found > truth - 0.03,
        "{seek:?}: {found} for {truth}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_begin_anew_are_searched_anew() {
    let restart = Restart {
        after: 4_500,
        first_seq: 10,
    };
    let world = World::generate(&WorldSpec {
        restart: Some(restart),
        ..three_days(24).spec
    });
    let relay = RelayServer::start(&world, lively()).unwrap();
    let wanted = hours_ago(12);
    let seek = seek_at(&relay, wanted).await;
    let Found::At { cursor, .. } = seek.found else {
        panic!("{seek:?}");
    };
    let truth = number_at(&world, wanted) - 1_000_000 - 4_500 + 10;
    assert!(
        cursor < truth && cursor + 200 > truth,
        "{seek:?} for {truth}"
    );
    // What was before is not there.
    let seek = seek_at(&relay, hours_ago(60)).await;
    assert!(
        matches!(seek.found, Found::Oldest { seq: 10, .. }),
        "{seek:?}"
    );
}
