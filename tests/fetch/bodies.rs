//! Bounds of an answer, and what errors say.

use std::time::Duration;

use axum::http::StatusCode;
use penstock::fetch::{FetchError, FetchLimits, Fetcher};
use tokio_util::sync::CancellationToken;

use super::server::{listen, raw, serve};
use super::{LIMITS, get, options};

#[tokio::test]
async fn an_answer_arrives_whole() {
    let (address, _) = serve(|path, _| path).await;
    let fetcher = Fetcher::new(&options()).unwrap();
    let url = format!("http://{address}/xrpc/x?did=did%3Aplc%3Aa");
    let body = get(&fetcher, &url).await.unwrap();
    assert_eq!(body, "/xrpc/x?did=did%3Aplc%3Aa");
}

#[tokio::test]
async fn an_answer_that_ends_early_is_truncated() {
    let fetcher = Fetcher::new(&options()).unwrap();
    for bytes in [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".as_slice(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let address = raw(bytes, true).await;
        let found = get(&fetcher, &format!("http://{address}/")).await;
        assert!(matches!(found, Err(FetchError::Truncated(_))), "{found:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_left() {
    let fetcher = Fetcher::new(&options()).unwrap();
    let limits = FetchLimits { bytes: 4, ..LIMITS };
    for bytes in [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let address = raw(bytes, false).await;
        let url = format!("http://{address}/");
        let found = fetcher.get(&url, limits, &CancellationToken::new()).await;
        assert!(
            matches!(found, Err(FetchError::TooLarge { limit: 4, .. })),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn silence_ends_at_the_limit() {
    let fetcher = Fetcher::new(&options()).unwrap();
    let short = Duration::from_millis(50);
    let (idle, time) = (
        FetchLimits {
            idle: short,
            ..LIMITS
        },
        FetchLimits {
            time: short,
            ..LIMITS
        },
    );
    for (limits, bytes) in [
        (
            idle,
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".as_slice(),
        ),
        (
            time,
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".as_slice(),
        ),
        (time, b""),
        (idle, b""),
    ] {
        let address = raw(bytes, false).await;
        let url = format!("http://{address}/");
        let found = fetcher.get(&url, limits, &CancellationToken::new()).await;
        assert!(
            matches!(&found, Err(FetchError::TooSlow { limit, .. }) if *limit == short),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn a_cancelled_fetch_ends_at_once() {
    let fetcher = Fetcher::new(&options()).unwrap();
    let cancel = CancellationToken::new();
    let address = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", false).await;
    let url = format!("http://{address}/");
    let mut body = fetcher.stream(&url, LIMITS, &cancel).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "hello");
    let (rest, ()) = tokio::join!(body.next(), async { cancel.cancel() });
    assert!(matches!(rest, Err(FetchError::Cancelled)));
    let after = fetcher.get(&url, LIMITS, &cancel).await;
    assert!(matches!(after, Err(FetchError::Cancelled)));
}

#[tokio::test]
async fn errors_say_what_xrpc_says() {
    let (address, _) = serve(|path, _| match path.as_str() {
        "/xrpc" => (
            StatusCode::BAD_REQUEST,
            r#"{"error":"RepoNotFound","message":"no such\nrepo","more":1}"#.to_owned(),
        ),
        "/html" => (StatusCode::BAD_GATEWAY, "<html>".repeat(10)),
        _ => (StatusCode::NOT_FOUND, "x".repeat(1 << 20)),
    })
    .await;
    let fetcher = Fetcher::new(&options()).unwrap();
    for (path, status, name, message) in [
        ("xrpc", 400, "RepoNotFound", "no such repo"),
        ("html", 502, "", "Bad Gateway"),
        ("huge", 404, "", "Not Found"),
    ] {
        let found = get(&fetcher, &format!("http://{address}/{path}")).await;
        let Err(FetchError::Status {
            host,
            status: s,
            name: n,
            message: m,
        }) = found
        else {
            panic!("{path}: {found:?}")
        };
        let expected = (address.to_string(), status, name, message);
        assert_eq!((host, s, n.as_str(), m.as_str()), expected);
    }
}

#[tokio::test]
async fn nobody_there_is_said() {
    let (listener, address) = listen().await;
    drop(listener);
    let fetcher = Fetcher::new(&options()).unwrap();
    let found = get(&fetcher, &format!("http://{address}/")).await;
    let Err(FetchError::Unreachable { host, message }) = found else {
        panic!("{found:?}")
    };
    assert_eq!(host, address.to_string());
    assert!(message.contains("refused"), "{message}");
}
