//! Back-off and fallbacks.

use std::time::Duration;

use futures_util::SinkExt;
use penstock::relay::{DisconnectReason, RelayError, Subscription};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::server::{accept, answer, listen, nobody, pair, send};
use crate::{connect, failures, frame, lost, options, soon};

#[tokio::test]
async fn the_work_can_be_spawned() {
    fn spawnable<T: Send>(_: T) {}
    let mut subscription = Subscription::new(options(&[&nobody().await])).unwrap();
    spawnable(subscription.connect(|_| None, |_| {}));
    spawnable(subscription.next());
    spawnable(subscription.close());
}

#[tokio::test]
async fn no_address_is_an_error() {
    assert!(matches!(
        Subscription::new(options(&[])),
        Err(RelayError::NoUrl)
    ));
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure() {
    let mut subscription = Subscription::new(options(&["ws://relay.invalid"])).unwrap();
    let failed = soon(failures(&mut subscription, 1)).await;
    assert_eq!(failed[0].reason, DisconnectReason::Dns, "{failed:?}");
    assert!(failed[0].detail.contains("relay.invalid"), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn attempts_back_off_to_the_limit_and_the_wait_is_kept() {
    let mut options = options(&[&nobody().await]);
    options.backoff_min = Duration::from_secs(1);
    options.backoff_max = Duration::from_secs(20);
    let mut subscription = Subscription::new(options).unwrap();
    let start = Instant::now();
    let failed = failures(&mut subscription, 9).await;
    let elapsed = start.elapsed();

    for (attempt, full) in failed.iter().zip([1, 2, 4, 8, 16, 20, 20, 20, 20]) {
        assert_eq!(attempt.reason, DisconnectReason::Unreachable);
        let full = Duration::from_secs(full);
        assert!(attempt.retry_in >= full / 2, "{attempt:?}");
        assert!(attempt.retry_in <= full, "{attempt:?}");
    }
    // The wait after the last one is still to come.
    let waits: Duration = failed.iter().take(8).map(|attempt| attempt.retry_in).sum();
    assert!(elapsed >= waits, "{elapsed:?} {waits:?}");
    assert!(
        elapsed < waits + Duration::from_secs(1),
        "{elapsed:?} {waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_connect_does_not_shorten_the_wait() {
    let mut options = options(&[&nobody().await]);
    options.backoff_min = Duration::from_secs(100);
    options.backoff_max = Duration::from_secs(100);
    let mut subscription = Subscription::new(options).unwrap();
    failures(&mut subscription, 1).await;
    let start = Instant::now();
    for _ in 0..10 {
        let _ = tokio::time::timeout(Duration::from_secs(1), connect(&mut subscription)).await;
    }
    assert_eq!(failures(&mut subscription, 1).await.len(), 1);
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(50) && waited < Duration::from_secs(101),
        "{waited:?}"
    );
}

#[tokio::test]
async fn the_third_failure_in_a_row_leads_to_the_fallback_which_is_kept() {
    let dead = nobody().await;
    let (listener, alive) = listen().await;
    let mut subscription = Subscription::new(options(&[&dead, &alive])).unwrap();
    let mut failed = Vec::new();
    let connecting = subscription.connect(|_| None, |attempt| failed.push(attempt.clone()));
    let (connected, mut server) = soon(async { tokio::join!(connecting, accept(&listener)) }).await;

    assert_eq!(connected.relay, alive.parse().unwrap());
    assert_eq!(failed.len(), 3);
    assert!(
        failed
            .iter()
            .all(|attempt| attempt.relay == dead.parse().unwrap())
    );
    assert_eq!(failed[1].next, failed[1].relay);
    assert_eq!(failed[2].next, alive.parse().unwrap());

    for round in 0..5 {
        send(&mut server, [round]).await;
        assert_eq!(frame(&mut subscription).await, [round]);
        subscription.progressed();
        drop(server);
        lost(&mut subscription).await;
        server = pair(&mut subscription, &listener).await;
    }
}

#[tokio::test]
async fn all_addresses_are_tried_round_and_round() {
    let (a, b) = (nobody().await, nobody().await);
    let mut subscription = Subscription::new(options(&[&a, &b])).unwrap();
    let failed = soon(failures(&mut subscription, 9)).await;
    let order: String = failed
        .iter()
        .map(|attempt| {
            if attempt.relay == a.parse().unwrap() {
                'a'
            } else {
                'b'
            }
        })
        .collect();
    assert_eq!(order, "aaabbbaaa");
}

#[tokio::test]
async fn a_host_that_does_not_serve_this_is_left_at_once() {
    let (wrong, wrong_url) = listen().await;
    let (listener, url) = listen().await;
    let mut subscription = Subscription::new(options(&[&wrong_url, &url])).unwrap();
    let head = ["HTTP/1.1 501 Not Implemented\r\ncontent-length: 0\r\n\r\n"];
    let mut failed = 0;
    let connecting = subscription.connect(|_| None, |_| failed += 1);
    let (connected, (), _server) =
        soon(async { tokio::join!(connecting, answer(&wrong, &head), accept(&listener)) }).await;
    assert_eq!(connected.relay, url.parse().unwrap());
    assert_eq!(failed, 1);
}

#[tokio::test]
async fn connections_without_progress_count_as_failures_but_poison_does_not() {
    let (first, first_url) = listen().await;
    let (second, second_url) = listen().await;
    let mut subscription = Subscription::new(options(&[&first_url, &second_url])).unwrap();
    for _ in 0..5 {
        let mut server = pair(&mut subscription, &first).await;
        server.send(Message::text("no")).await.unwrap();
        assert!(lost(&mut subscription).await.poison);
    }
    for _ in 0..3 {
        drop(pair(&mut subscription, &first).await);
        assert!(!lost(&mut subscription).await.poison);
    }
    assert_eq!(subscription.relay(), &second_url.parse().unwrap());
    pair(&mut subscription, &second).await;
}

#[tokio::test]
async fn the_caller_can_ask_for_the_fallback() {
    let (first, first_url) = listen().await;
    let (second, second_url) = listen().await;
    let mut subscription = Subscription::new(options(&[&first_url, &second_url])).unwrap();
    let _first = pair(&mut subscription, &first).await;
    subscription.disconnect(DisconnectReason::Fallback);
    assert!(!subscription.is_connected());
    assert_eq!(
        lost(&mut subscription).await.reason,
        DisconnectReason::NotConnected
    );
    let _second = pair(&mut subscription, &second).await;
    subscription.disconnect(DisconnectReason::Resume);
    let _second = pair(&mut subscription, &second).await;
}

#[tokio::test]
async fn back_off_grows_until_there_is_progress() {
    let (listener, url) = listen().await;
    let mut options = options(&[&url]);
    options.backoff_min = Duration::from_millis(10);
    let mut subscription = Subscription::new(options).unwrap();
    // Fails with the `n`th wait in a row to come, which the failed attempt after it shows.
    for _ in 0..5 {
        drop(pair(&mut subscription, &listener).await);
        lost(&mut subscription).await;
    }
    let head = ["HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"];
    let (failed, ()) =
        soon(async { tokio::join!(failures(&mut subscription, 1), answer(&listener, &head)) })
            .await;
    assert!(
        failed[0].retry_in >= Duration::from_millis(160),
        "{failed:?}"
    );

    let _server = pair(&mut subscription, &listener).await;
    subscription.progressed();
    subscription.disconnect(DisconnectReason::ErrorFrame);
    let (failed, ()) =
        soon(async { tokio::join!(failures(&mut subscription, 1), answer(&listener, &head)) })
            .await;
    assert!(
        failed[0].retry_in <= Duration::from_millis(20),
        "{failed:?}"
    );
}
