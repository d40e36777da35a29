//! How often hosts are asked.

use std::time::Duration;

use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use penstock::fetch::{Condition, FetchError, FetchOptions, Fetcher};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::server::{listen, serve, slow};
use super::{LIMITS, Names, get, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_at_once_than_allowed() {
    let (address, counts) = slow(Duration::from_millis(5), |_, _| "done").await;
    let options = FetchOptions {
        per_host: 3,
        ..options()
    };
    let fetcher = Fetcher::new(&options).unwrap();
    let url = format!("http://{address}/");
    let all = join_all((0..60).map(|_| get(&fetcher, &url))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!((counts.all(), counts.most()), (60, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_of_one_address_share_its_limit() {
    let (address, counts) = slow(Duration::from_millis(5), |_, _| "done").await;
    let ip = address.ip().to_string();
    let answer: &[&[&str]] = &[&[ip.as_str()]];
    let names = Names::new(&[("a.example", answer), ("b.example", answer)]);
    let options = FetchOptions {
        per_address: 4,
        ..options()
    };
    let fetcher = Fetcher::with_resolver(&options, names).unwrap();
    let urls = ["a", "b"].map(|name| format!("http://{name}.example:{}/", address.port()));
    let all = join_all(urls.iter().cycle().take(60).map(|url| get(&fetcher, url))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!((counts.all(), counts.most()), (60, 4));
}

#[tokio::test]
async fn a_place_is_held_until_the_body_is_dropped() {
    let (address, counts) = serve(|_, _| "done").await;
    let options = FetchOptions {
        per_host: 1,
        ..options()
    };
    let fetcher = Fetcher::new(&options).unwrap();
    let url = format!("http://{address}/");
    let cancel = CancellationToken::new();
    let body = fetcher.stream(&url, LIMITS, &cancel).await.unwrap();
    let mut second = Box::pin(get(&fetcher, &url));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut second).await;
    assert!(early.is_err() && counts.all() == 1);
    drop(body);
    assert_eq!(second.await.unwrap(), "done");
}

#[tokio::test]
async fn the_pace_is_kept() {
    let (address, counts) = serve(|_, _| "done").await;
    let options = FetchOptions {
        rate: 50.0,
        burst: 5.0,
        ..options()
    };
    let fetcher = Fetcher::new(&options).unwrap();
    let url = format!("http://{address}/");
    let start = Instant::now();
    join_all((0..20).map(|_| get(&fetcher, &url))).await;
    assert!(start.elapsed() >= Duration::from_millis(295));
    assert_eq!(counts.all(), 20);
}

/// Each way of refusing costs the time that it names and nothing else: no error, and no part of the request's own limit.
#[tokio::test]
async fn refusals_are_waited_out() {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    let reset = (now.as_secs() + 2).to_string();
    let many = StatusCode::TOO_MANY_REQUESTS;
    let cases: [(StatusCode, &'static str, String, u64); 5] = [
        (many, "x-nothing", String::new(), 10),
        (many, "retry-after", "1".to_owned(), 1000),
        (many, "ratelimit-reset", reset, 500),
        (many, "ratelimit-reset", "1".to_owned(), 1000),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "retry-after",
            "1".to_owned(),
            1000,
        ),
    ];
    let waits = cases.map(|(status, name, value, least)| async move {
        let (address, counts) = serve(move |_, before| {
            let header = [(HeaderName::from_static(name), value.clone())];
            match before {
                0 => (status, header, ""),
                _ => (StatusCode::OK, header, "done"),
            }
        })
        .await;
        let fetcher = Fetcher::new(&options()).unwrap();
        let limits = penstock::fetch::FetchLimits {
            time: Duration::from_millis(900),
            ..LIMITS
        };
        let start = Instant::now();
        let url = format!("http://{address}/");
        let found = fetcher.get(&url, limits, &CancellationToken::new()).await;
        assert_eq!(found.unwrap(), "done", "{name}");
        assert!(start.elapsed() >= Duration::from_millis(least), "{name}");
        assert_eq!(counts.all(), 2);
    });
    join_all(waits).await;
}

#[tokio::test]
async fn a_spent_budget_is_waited_for() {
    let (address, _) = serve(|_, before| {
        let remaining = if before == 0 { "0" } else { "100" };
        let headers = [("ratelimit-remaining", remaining), ("ratelimit-reset", "1")];
        (headers, "done")
    })
    .await;
    let fetcher = Fetcher::new(&options()).unwrap();
    let url = format!("http://{address}/");
    get(&fetcher, &url).await.unwrap();
    let start = Instant::now();
    get(&fetcher, &url).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn a_host_that_only_refuses_is_given_up() {
    let (address, _) = serve(|_, _| StatusCode::TOO_MANY_REQUESTS).await;
    let options = FetchOptions {
        throttled_for: Duration::from_millis(100),
        ..options()
    };
    let fetcher = Fetcher::new(&options).unwrap();
    let found = get(&fetcher, &format!("http://{address}/")).await;
    assert!(matches!(found, Err(FetchError::Throttled(_))), "{found:?}");
}

#[tokio::test]
async fn waiting_ends_when_cancelled() {
    let (address, counts) = serve(|_, _| {
        let header = [("retry-after", "3000")];
        (StatusCode::TOO_MANY_REQUESTS, header)
    })
    .await;
    let fetcher = Fetcher::new(&options()).unwrap();
    let url = format!("http://{address}/");
    let cancel = CancellationToken::new();
    let asking = fetcher.get(&url, LIMITS, &cancel);
    let refused = async {
        while counts.all() == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (found, ()) = tokio::join!(asking, refused);
    assert!(matches!(found, Err(FetchError::Cancelled)), "{found:?}");
}

#[tokio::test]
async fn a_dead_host_is_left_alone_and_delays_nobody() {
    let (address, _) = serve(|_, _| "alive").await;
    let (listener, dead) = listen().await;
    drop(listener);
    let options = FetchOptions {
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(600),
        ..options()
    };
    let fetcher = Fetcher::new(&options).unwrap();
    let url = format!("http://{dead}/");
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let (fetcher, url) = (fetcher.clone(), url.clone());
            tokio::spawn(async move { get(&fetcher, &url).await })
        })
        .collect();
    let start = Instant::now();
    let alive = get(&fetcher, &format!("http://{address}/")).await;
    assert_eq!(alive.unwrap(), "alive");
    assert!(start.elapsed() < Duration::from_secs(1));
    let mut left_alone = 0;
    for found in join_all(waiting).await {
        match found.unwrap() {
            Err(FetchError::Unreachable { .. }) => {}
            Err(FetchError::BackedOff(_)) => left_alone += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(left_alone >= 170, "{left_alone}");
}

#[tokio::test]
async fn a_host_that_comes_back_is_asked_again() {
    let (address, counts) = serve(|_, before| match before {
        0..5 => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::OK,
    })
    .await;
    let fetcher = Fetcher::new(&options()).unwrap();
    let url = format!("http://{address}/");
    let mut left_alone = 0;
    loop {
        match get(&fetcher, &url).await {
            Ok(_) => break,
            Err(FetchError::Status { status: 500, .. }) => {}
            Err(FetchError::BackedOff(_)) => left_alone += 1,
            Err(other) => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(counts.all(), 6);
    assert!(left_alone > 0);
}

#[tokio::test]
async fn whatever_a_host_answers_shows_that_it_is_back() {
    let answers: [fn(String) -> Response; 4] = [
        |much| much.into_response(),
        |much| (StatusCode::NOT_FOUND, much).into_response(),
        |_| (StatusCode::FOUND, [(LOCATION, "http://[")]).into_response(),
        |_| (StatusCode::FOUND, [(LOCATION, "ftp://elsewhere/")]).into_response(),
    ];
    for answer in answers {
        let (address, _) = serve(move |_, before| match before {
            0..3 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            _ => answer("x".repeat(2 << 20)),
        })
        .await;
        let fetcher = Fetcher::new(&options()).unwrap();
        let (host, url) = (address.to_string(), format!("http://{address}/"));
        assert_eq!(fetcher.condition(&host), Condition::Ready);
        for _ in 0..3 {
            get(&fetcher, &url).await.unwrap_err();
        }
        while let Condition::LeftAlone(until) = fetcher.condition(&host) {
            sleep_until(until).await;
        }
        assert_eq!(fetcher.condition(&host), Condition::Due);
        get(&fetcher, &url).await.unwrap_err();
        assert_eq!(fetcher.condition(&host), Condition::Ready);
    }
}
