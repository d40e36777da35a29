//! Answers that are no upgrade.

use std::time::Duration;

use penstock::relay::{DisconnectReason, FailedAttempt, Subscription};
use tokio::time::Instant;

use crate::server::{accept, accept_http, answer, listen};
use crate::{failures, options, soon, subscription};

/// The failure that an answer in `parts` causes.
async fn refused(parts: &[&str]) -> FailedAttempt {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let (failed, ()) =
        soon(async { tokio::join!(failures(&mut subscription, 1), answer(&listener, parts)) })
            .await;
    failed.into_iter().next().unwrap()
}

#[tokio::test]
async fn each_http_refusal_is_told_apart() {
    for (status, reason) in [
        ("200 OK", DisconnectReason::Refused),
        ("400 Bad Request", DisconnectReason::Refused),
        ("404 Not Found", DisconnectReason::Refused),
        ("405 Method Not Allowed", DisconnectReason::Refused),
        ("426 Upgrade Required", DisconnectReason::Refused),
        ("429 Too Many Requests", DisconnectReason::RateLimited),
        ("500 Internal Server Error", DisconnectReason::ServerError),
        ("502 Bad Gateway", DisconnectReason::ServerError),
        ("503 Service Unavailable", DisconnectReason::ServerError),
        ("501 Not Implemented", DisconnectReason::NotImplemented),
        ("302 Found", DisconnectReason::Redirect),
    ] {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let failed = refused(&[&head]).await;
        assert_eq!(failed.reason, reason, "{status}");
        assert_eq!(
            failed.detail,
            match reason {
                DisconnectReason::Redirect => "HTTP 302 Found".to_owned(),
                _ => format!("HTTP {status}"),
            }
        );
        assert_eq!(
            failed.status.map(|s| s.to_string()).as_deref(),
            status.get(..3)
        );
        let long = reason == DisconnectReason::NotImplemented;
        assert_eq!(
            failed.retry_in >= Duration::from_secs(600),
            long,
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_refused_subscription_is_tried_again() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let mut refused = Vec::new();
    let serving = async {
        let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        answer(&listener, &[head]).await;
        answer(&listener, &[head]).await;
        accept(&listener).await
    };
    let connecting = subscription.connect(|_| Some(5), |failed| refused.push(failed.clone()));
    let (connected, _server) = soon(async { tokio::join!(connecting, serving) }).await;
    assert_eq!(connected.cursor, Some(5));
    assert_eq!(refused.len(), 2);
    assert!(subscription.is_connected());
}

#[tokio::test]
async fn an_html_body_is_shown_short_and_printable() {
    let body = format!(
        "<html>\r\n<body>\u{7}Too \u{1b}[1mmany{}</body>",
        " words".repeat(500)
    );
    let head = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // The body comes apart from its head, and in pieces.
    let (first, second) = body.split_at(20);
    let failed = refused(&[&head, first, second]).await;
    let start = "HTTP 429 Too Many Requests: <html> <body>?Too ?[1mmany words words";
    assert!(failed.detail.starts_with(start), "{}", failed.detail);
    assert!(failed.detail.ends_with('…'), "{}", failed.detail);
    assert!(failed.detail.chars().count() < 240, "{}", failed.detail);
}

#[tokio::test]
async fn a_body_that_never_ends_does_not_hold_up_the_refusal() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let serving = async {
        let (mut tcp, _) = accept_http(&listener).await;
        let head = b"HTTP/1.1 500 Oops\r\n\r\nhalf a";
        tokio::io::AsyncWriteExt::write_all(&mut tcp, head)
            .await
            .unwrap();
        tcp
    };
    let (failed, _open) =
        soon(async { tokio::join!(failures(&mut subscription, 1), serving) }).await;
    assert_eq!(failed[0].status, Some(500));
    assert!(
        failed[0].detail.ends_with(": half a"),
        "{}",
        failed[0].detail
    );
}

#[tokio::test]
async fn retry_after_is_waited_out() {
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let mut failed_at = None;
    let mut waited = None;
    let serving = async {
        let head = "HTTP/1.1 429 Slow Down\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n";
        answer(&listener, &[head]).await;
        accept(&listener).await
    };
    let failed_at = &mut failed_at;
    let shared = std::cell::Cell::new(None);
    let connecting = subscription.connect(
        |_| {
            // The clock stands still from the refusal to the next attempt, so that it jumps.
            if let Some(at) = shared.get() {
                waited = Some(Instant::now() - at);
                tokio::time::resume();
            }
            None
        },
        |attempt| {
            *failed_at = Some(attempt.clone());
            tokio::time::pause();
            shared.set(Some(Instant::now()));
        },
    );
    // No limit in time here: it would be what the clock jumps to.
    tokio::join!(connecting, serving);
    let failed = failed_at.take().unwrap();
    assert_eq!(failed.reason, DisconnectReason::RateLimited);
    assert_eq!(failed.retry_in, Duration::from_secs(120));
    let waited = waited.unwrap();
    assert!(
        waited >= Duration::from_secs(120) && waited < Duration::from_secs(121),
        "{waited:?}"
    );
}

#[tokio::test]
async fn retry_after_as_a_date_and_beyond_reason_is_limited() {
    let head = "HTTP/1.1 429 Slow Down\r\nretry-after: Fri, 01 Jan 2100 00:00:00 GMT\r\n\r\n";
    assert_eq!(refused(&[head]).await.retry_in, Duration::from_secs(600));
    let head = "HTTP/1.1 503 Slow Down\r\nretry-after: 86400\r\n\r\n";
    assert_eq!(refused(&[head]).await.retry_in, Duration::from_secs(600));
    let head = "HTTP/1.1 429 Slow Down\r\nretry-after: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";
    assert!(refused(&[head]).await.retry_in < Duration::from_secs(1));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_says_where_it_points() {
    let head = "HTTP/1.1 301 Moved\r\nlocation: wss://new.example/\r\ncontent-length: 0\r\n\r\n";
    let failed = refused(&[head]).await;
    assert_eq!(failed.reason, DisconnectReason::Redirect);
    for word in ["not followed", "relay.urls", "wss://new.example/"] {
        assert!(failed.detail.contains(word), "{}", failed.detail);
    }
}

#[tokio::test]
async fn what_is_no_http_is_a_protocol_error() {
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100_000));
    let wrong_key = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
                     connection: upgrade\r\nsec-websocket-accept: bm8=\r\n\r\n";
    for parts in [
        &["SSH-2.0-OpenSSH_9.6\r\n\r\n"][..],
        &[""],
        &["HTTP/1.1 101"],
        &[wrong_key],
    ] {
        let failed = refused(parts).await;
        assert_eq!(failed.reason, DisconnectReason::Protocol, "{failed:?}");
        assert_eq!(failed.status, None);
    }
    let (listener, url) = listen().await;
    let mut subscription = subscription(&url);
    let serving = async {
        let (mut tcp, _) = accept_http(&listener).await;
        // The client hangs up in the middle.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, endless.as_bytes()).await;
        tcp
    };
    let (failed, _tcp) =
        soon(async { tokio::join!(failures(&mut subscription, 1), serving) }).await;
    assert!(failed[0].detail.contains("16 KiB"), "{failed:?}");
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_with_the_connect_timeout() {
    let (listener, url) = listen().await;
    let mut options = options(&[&url]);
    options.connect_timeout = Duration::from_millis(200);
    let mut subscription = Subscription::new(options).unwrap();
    let start = Instant::now();
    let (failed, _open) =
        soon(async { tokio::join!(failures(&mut subscription, 1), listener.accept()) }).await;
    assert_eq!(failed[0].reason, DisconnectReason::Timeout);
    assert!(failed[0].detail.contains("upgrade"), "{failed:?}");
    assert!(start.elapsed() >= Duration::from_millis(200));
}
