//! Subscriptions that start or go on elsewhere than asked.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use penstock_loadtest::{
    ConnectionFaults, Cursors, Future, Outdated, Pace, RelayOptions, RelayServer, Restart,
    Retained, StreamFaults, World, WorldSpec,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{Got, connect, next, next_seq, options, request, world};

#[tokio::test]
async fn cursors_that_cannot_be_served() {
    let world = world(3, 300, StreamFaults::default());
    let future = |future| Cursors {
        future,
        ..Cursors::default()
    };
    let outdated = |outdated| Cursors {
        outdated,
        ..Cursors::default()
    };

    let relay = RelayServer::start(&world, options(Cursors::default())).unwrap();
    let mut client = connect(&relay, Some(301)).await;
    assert_eq!(next(&mut client).await, Got::Named("FutureCursor".into()));
    assert_eq!(next(&mut client).await, Got::End);
    relay.retain_from(200);
    let mut client = connect(&relay, Some(50)).await;
    assert_eq!(next(&mut client).await, Got::Named("OutdatedCursor".into()));
    assert_eq!(next_seq(&mut client).await, 200);
    // Neither is too old: nothing is missing after them.
    for cursor in [0, 199] {
        assert_eq!(
            next_seq(&mut connect(&relay, Some(cursor)).await).await,
            200
        );
    }

    relay.change(|options| options.cursors = outdated(Outdated::SilentOldest));
    assert_eq!(next_seq(&mut connect(&relay, Some(50)).await).await, 200);
    relay.change(|options| options.cursors = future(Future::SilentOldest));
    assert_eq!(next_seq(&mut connect(&relay, Some(999)).await).await, 200);
    drop(relay);

    for (cursors, cursor) in [
        (outdated(Outdated::SilentLive), 50),
        (future(Future::SilentLive), 999),
    ] {
        let start = RelayOptions {
            pace: Pace::Manual,
            published: 250,
            oldest_seq: 200,
            ..options(cursors)
        };
        let relay = RelayServer::start(&world, start).unwrap();
        let mut client = connect(&relay, Some(cursor)).await;
        client.send(Message::Ping("x".into())).await.unwrap();
        assert!(matches!(client.next().await, Some(Ok(Message::Pong(_)))));
        relay.publish(1);
        assert_eq!(next_seq(&mut client).await, 251);
    }
}

#[tokio::test]
async fn cursors_that_could_be_served_and_are_not() {
    let world = world(11, 300, StreamFaults::default());
    let retained = |retained| Cursors {
        retained,
        ..Cursors::default()
    };
    let relay = RelayServer::start(&world, options(retained(Retained::SilentOldest))).unwrap();
    relay.retain_from(20);
    assert_eq!(next_seq(&mut connect(&relay, Some(100)).await).await, 20);
    relay.change(|options| {
        options.pace = Pace::Manual;
        options.cursors = retained(Retained::SilentLive);
    });
    // The oldest is served all the same.
    assert_eq!(next_seq(&mut connect(&relay, Some(0)).await).await, 20);
    let mut client = connect(&relay, Some(100)).await;
    let nothing = tokio::time::timeout(Duration::from_millis(50), client.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_playback_jumps_to_the_live_head_once() {
    let world = world(12, 300, StreamFaults::default());
    let start = RelayOptions {
        pace: Pace::Manual,
        published: 250,
        faults: ConnectionFaults {
            jump_to_live: Some(120),
            ..ConnectionFaults::default()
        },
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, start).unwrap();
    // Those that begin after it do not come to it.
    assert_eq!(next_seq(&mut connect(&relay, Some(120)).await).await, 121);
    let mut client = connect(&relay, Some(100)).await;
    for seq in 101..120 {
        assert_eq!(next_seq(&mut client).await, seq);
    }
    client.send(Message::Ping("x".into())).await.unwrap();
    assert!(matches!(client.next().await, Some(Ok(Message::Pong(_)))));
    relay.publish(1);
    assert_eq!(next_seq(&mut client).await, 251);
    let mut again = connect(&relay, Some(100)).await;
    for seq in 101..=251 {
        assert_eq!(next_seq(&mut again).await, seq);
    }
}

#[tokio::test]
async fn numbers_begin_anew() {
    let world = World::generate(&WorldSpec {
        repos: 10,
        events: 300,
        prefill: 50,
        first_seq: 1_000,
        restart: Some(Restart {
            after: 200,
            first_seq: 5,
        }),
        ..WorldSpec::default()
    });
    let manual = RelayOptions {
        pace: Pace::Manual,
        published: 200,
        oldest_seq: 1_100,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, manual).unwrap();
    assert_eq!(relay.head(), 1_199);
    let mut old = connect(&relay, Some(0)).await;
    for seq in 1_100..=1_199 {
        assert_eq!(next_seq(&mut old).await, seq);
    }
    relay.publish(10);
    assert_eq!(next(&mut old).await, Got::Broken);
    assert_eq!(relay.head(), 14);
    assert_eq!(next_seq(&mut connect(&relay, Some(0)).await).await, 5);
    assert_eq!(next_seq(&mut connect(&relay, Some(9)).await).await, 10);
    let mut ahead = connect(&relay, Some(1_199)).await;
    assert_eq!(next(&mut ahead).await, Got::Named("FutureCursor".into()));
}

#[tokio::test]
async fn retention_is_dropped_over_http() {
    let world = world(13, 100, StreamFaults::default());
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    assert_eq!(request(&relay, "POST", "/retain-from/60").await.0, 204);
    assert_eq!(next_seq(&mut connect(&relay, Some(0)).await).await, 60);
}
