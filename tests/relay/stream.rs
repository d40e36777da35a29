//! An open connection: frames, and what breaks it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use penstock::relay::{DisconnectReason, Lost, Signal, Subscription};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::server::{accept_http, accept_with_request, listen, pair, send};
use crate::{connect, frame, lost, options, soon, subscription};

#[tokio::test]
async fn the_request_names_cursor_and_agent() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    for (cursor, query) in [(None, ""), (Some(0), "?cursor=0"), (Some(77), "?cursor=77")] {
        let connecting = subscription.connect(|_| cursor, |failed| panic!("{failed:?}"));
        let (connected, (_server, target, agent)) =
            soon(async { tokio::join!(connecting, accept_with_request(&listener)) }).await;
        assert_eq!(connected.cursor, cursor);
        assert_eq!(
            target,
            format!("/xrpc/com.atproto.sync.subscribeRepos{query}")
        );
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(agent, format!("penstock/{version} (+ops@example.com)"));
    }
}

#[tokio::test]
async fn frames_arrive_whole_and_in_order_and_the_dry_socket_is_noticed() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let mut server = pair(&mut subscription, &listener).await;
    assert_eq!(subscription.next_ready(), None);

    let frames: Vec<Vec<u8>> = (0..2000_usize)
        .map(|n| vec![n as u8; n * 7 % 9000])
        .collect();
    let sending = async {
        for frame in &frames {
            server.feed(Message::binary(frame.clone())).await.unwrap();
        }
        server.flush().await.unwrap();
    };
    let mut received = Vec::new();
    let mut ready = 0;
    let receiving = async {
        while received.len() < frames.len() {
            received.push(frame(&mut subscription).await);
            while let Some(signal) = subscription.next_ready() {
                let Signal::Frame(frame) = signal else {
                    panic!("{signal:?}")
                };
                received.push(frame.to_vec());
                ready += 1;
            }
        }
    };
    soon(async { tokio::join!(sending, receiving) }).await;
    assert!(received == frames);
    assert!(ready > 1000, "only {ready} frames without waiting");
    assert_eq!(subscription.next_ready(), None);

    // The waiting task is woken although `next_ready` has looked before.
    let (last, ()) = tokio::join!(frame(&mut subscription), send(&mut server, *b"last"));
    assert_eq!(last, b"last");
}

#[tokio::test]
async fn a_frame_behind_the_answer_is_not_lost() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let serving = async {
        let (mut tcp, head) = accept_http(&listener).await;
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
            .unwrap();
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        )
        .into_bytes();
        answer.extend_from_slice(b"\x82\x05first\x82\x06sec");
        tcp.write_all(&answer).await.unwrap();
        tcp
    };
    let (_, mut tcp) = soon(async { tokio::join!(connect(&mut subscription), serving) }).await;
    assert_eq!(frame(&mut subscription).await, b"first");
    tcp.write_all(b"ond").await.unwrap();
    assert_eq!(frame(&mut subscription).await, b"second");
}

#[tokio::test]
async fn a_close_frame_is_shown_and_the_next_connection_resumes() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let mut server = pair(&mut subscription, &listener).await;
    let close = CloseFrame {
        code: CloseCode::Policy,
        reason: "Consumer\ttoo slow".into(),
    };
    server.send(Message::Close(Some(close))).await.unwrap();
    assert_eq!(
        lost(&mut subscription).await,
        Lost {
            reason: DisconnectReason::Closed,
            detail: "close frame 1008: Consumer too slow".to_owned(),
            poison: false,
        }
    );
    // Our answer completes the handshake.
    assert!(matches!(
        soon(server.next()).await,
        Some(Ok(Message::Close(_)))
    ));
    assert_eq!(
        lost(&mut subscription).await.reason,
        DisconnectReason::NotConnected
    );

    let connecting = subscription.connect(|_| Some(9), |failed| panic!("{failed:?}"));
    let (connected, (_server, target, _)) =
        soon(async { tokio::join!(connecting, accept_with_request(&listener)) }).await;
    assert_eq!(connected.cursor, Some(9));
    assert!(target.ends_with("?cursor=9"), "{target}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_poison() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let mut server = pair(&mut subscription, &listener).await;
    // Half a frame, then nothing.
    server.get_mut().write_all(b"\x82\x05he").await.unwrap();
    drop(server);
    let lost = lost(&mut subscription).await;
    assert_eq!(lost.reason, DisconnectReason::Reset, "{lost}");
    assert!(!lost.poison);
}

#[tokio::test]
async fn a_text_message_is_poison() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let mut server = pair(&mut subscription, &listener).await;
    send(&mut server, *b"good").await;
    let text = format!("{{\"error\":\n\u{1b}{}", "x".repeat(1000));
    server.send(Message::text(text)).await.unwrap();
    assert_eq!(frame(&mut subscription).await, b"good");
    let lost = lost(&mut subscription).await;
    assert_eq!(lost.reason, DisconnectReason::Text);
    assert!(lost.poison);
    assert!(lost.detail.contains("{\"error\": ?xxx"), "{lost}");
    assert!(lost.detail.chars().count() <= 201, "{lost}");
}

#[tokio::test]
async fn a_message_above_the_limit_is_poison_and_one_at_the_limit_is_not() {
    let (listener, url) = listen().await;
    let mut options = options(&[&url]);
    options.max_frame = 1000;
    let mut subscription = Subscription::new(options).unwrap();

    let mut server = pair(&mut subscription, &listener).await;
    send(&mut server, [1; 1000]).await;
    send(&mut server, [2; 1001]).await;
    assert_eq!(frame(&mut subscription).await, [1; 1000]);
    let whole = lost(&mut subscription).await;

    // The same in two fragments, none of which is too large.
    let mut server = pair(&mut subscription, &listener).await;
    let mut fragments = b"\x02\x7e\x02\x58".to_vec();
    fragments.extend_from_slice(&[3; 600]);
    fragments.extend_from_slice(b"\x80\x7e\x02\x58");
    fragments.extend_from_slice(&[3; 600]);
    server.get_mut().write_all(&fragments).await.unwrap();
    let in_parts = lost(&mut subscription).await;

    for (lost, size) in [(whole, "1001"), (in_parts, "1200")] {
        assert_eq!(lost.reason, DisconnectReason::TooLarge, "{lost}");
        assert!(lost.poison);
        assert!(
            lost.detail.contains(size) && lost.detail.contains("1000"),
            "{lost}"
        );
    }
}

#[tokio::test]
async fn a_protocol_violation_is_poison() {
    for bytes in [
        &b"\xf2\x01x"[..],   // reserved bits
        b"\x83\x01x",        // unknown data frame
        b"\x82\x81aaaax",    // masked by the server
        b"\x80\x01x",        // continues nothing
        b"\x89\x7e\x00\x7e", // ping of more than 125 bytes
        b"\x81\x01\xff",     // text that is no UTF-8
    ] {
        let (listener, url) = listen().await;
        let mut subscription = subscription(&url);
        let mut server = pair(&mut subscription, &listener).await;
        let mut bytes = bytes.to_vec();
        bytes.extend_from_slice(&[b'y'; 126]);
        server.get_mut().write_all(&bytes).await.unwrap();
        let lost = lost(&mut subscription).await;
        assert_eq!(lost.reason, DisconnectReason::Protocol, "{bytes:?}: {lost}");
        assert!(lost.poison, "{bytes:?}");
    }
}

#[tokio::test]
async fn closing_says_goodbye() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let mut server = pair(&mut subscription, &listener).await;
    send(&mut server, *b"on its way").await;
    let serving = async {
        let first = server.next().await;
        while server.next().await.is_some() {}
        first
    };
    let ((), first) = soon(async { tokio::join!(subscription.close(), serving) }).await;
    assert!(matches!(first, Some(Ok(Message::Close(_)))), "{first:?}");
    assert!(!subscription.is_connected());
    soon(subscription.close()).await;
}

#[tokio::test]
async fn closing_does_not_wait_for_a_relay_that_does_not_answer() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let _silent = pair(&mut subscription, &listener).await;
    tokio::time::pause();
    let start = Instant::now();
    subscription.close().await;
    assert!(start.elapsed() <= Duration::from_secs(3));
}
