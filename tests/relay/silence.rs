//! Pings, the read deadline, and back-pressure, which is no silence.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use penstock::relay::{DisconnectReason, Signal, Subscription};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::server::{Server, listen, pair, send};
use crate::{frame, lost, options, soon, subscription};

/// A connected pair with this ping interval and read timeout, in milliseconds.
async fn timed(ping_interval: u64, read_timeout: u64) -> (Subscription, Server) {
    let (listener, url) = listen().await;
    let mut options = options(&[&url]);
    options.ping_interval = Duration::from_millis(ping_interval);
    options.read_timeout = Duration::from_millis(read_timeout);
    let mut subscription = Subscription::new(options).unwrap();
    let server = pair(&mut subscription, &listener).await;
    (subscription, server)
}

#[tokio::test]
async fn pings_are_answered() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let mut server = pair(&mut subscription, &listener).await;
    let serving = async {
        server.send(Message::Ping("are you".into())).await.unwrap();
        let pong = server.next().await.unwrap().unwrap();
        send(&mut server, *b"end").await;
        pong
    };
    let (end, pong) = soon(async { tokio::join!(frame(&mut subscription), serving) }).await;
    assert_eq!(pong, Message::Pong("are you".into()));
    assert_eq!(end, b"end");
}

#[tokio::test]
async fn a_quiet_relay_that_answers_pings_is_alive() {
    let (mut subscription, mut server) = timed(100, 1000).await;
    let start = Instant::now();
    let serving = async {
        let mut pings = 0;
        while start.elapsed() < Duration::from_millis(2500) {
            let message = server.next().await.unwrap().unwrap();
            assert!(message.is_ping(), "{message:?}");
            pings += 1;
        }
        send(&mut server, *b"end").await;
        pings
    };
    let (end, pings) = soon(async { tokio::join!(frame(&mut subscription), serving) }).await;
    assert_eq!(end, b"end");
    assert!((3..=25).contains(&pings), "{pings} pings");
}

#[tokio::test]
async fn pings_go_out_on_a_socket_that_is_never_dry() {
    let (mut subscription, mut server) = timed(20, 60_000).await;
    let tiny = b"\x82\x01x".repeat(1000);
    server.get_mut().write_all(&tiny).await.unwrap();
    for taken in 1..1000 {
        assert_eq!(frame(&mut subscription).await, b"x");
        if taken % 250 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    // One frame is still to be taken.
    assert!(soon(server.next()).await.unwrap().unwrap().is_ping());
    assert_eq!(subscription.next_ready(), Some(Signal::Frame("x".into())));
}

#[tokio::test]
async fn a_silent_socket_is_dead_after_the_read_timeout() {
    // The server takes our pings and says nothing.
    let (mut subscription, _server) = timed(60, 300).await;
    let start = Instant::now();
    let lost = lost(&mut subscription).await;
    assert_eq!(lost.reason, DisconnectReason::Timeout, "{lost}");
    assert!(!lost.poison);
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    assert!(!subscription.is_connected());
}

#[tokio::test]
async fn a_silent_socket_is_found_although_the_wait_is_cancelled_again_and_again() {
    let (mut subscription, _server) = timed(60, 300).await;
    let reason = soon(async {
        loop {
            tokio::select! {
                signal = subscription.next() => match signal {
                    Signal::Lost(lost) => return lost.reason,
                    Signal::Frame(_) => panic!("a frame"),
                },
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    })
    .await;
    assert_eq!(reason, DisconnectReason::Timeout);
}

#[tokio::test]
async fn back_pressure_is_no_silence() {
    let (mut subscription, mut server) = timed(200, 200).await;
    send(&mut server, *b"before").await;
    assert_eq!(frame(&mut subscription).await, b"before");
    // Nobody asks for frames, and so nobody pings, for far longer than the read timeout; and each
    // time somebody looks, the socket is dry.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(subscription.next_ready(), None);
    }
    send(&mut server, *b"after").await;
    assert_eq!(frame(&mut subscription).await, b"after");
    // It is still watched.
    assert_eq!(
        lost(&mut subscription).await.reason,
        DisconnectReason::Timeout
    );
}

#[tokio::test]
async fn a_large_message_over_a_slow_line_is_no_silence() {
    let (mut subscription, mut server) = timed(200, 1000).await;
    let sending = async {
        let tcp = server.get_mut();
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        tcp.write_all(b"\x82\x19").await.unwrap();
        for _ in 0..25 {
            pace.tick().await;
            tcp.write_all(b"z").await.unwrap();
        }
    };
    let (frame, ()) = soon(async { tokio::join!(frame(&mut subscription), sending) }).await;
    assert_eq!(frame, [b'z'; 25]);
}

#[tokio::test]
async fn frames_that_wait_in_the_buffer_are_no_silence() {
    let (mut subscription, mut server) = timed(40, 120).await;
    // All of them arrive at once, and are taken more slowly than the read timeout allows.
    server
        .get_mut()
        .write_all(&b"\x82\x01x".repeat(3000))
        .await
        .unwrap();
    for taken in 1..=3000 {
        assert_eq!(frame(&mut subscription).await, b"x");
        if taken % 256 == 0 {
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
    assert_eq!(subscription.next_ready(), None);
    send(&mut server, *b"end").await;
    assert_eq!(frame(&mut subscription).await, b"end");
}
