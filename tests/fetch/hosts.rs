//! Who may be asked.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::header::LOCATION;
use futures_util::future::join_all;
use penstock::fetch::{FetchError, FetchOptions, Fetcher};

use super::server::{listen, serve};
use super::{Names, get, options};

fn forbidden(found: &Result<String, FetchError>) -> bool {
    matches!(found, Err(FetchError::Forbidden(..)))
}

#[tokio::test]
async fn private_places_are_refused_without_a_connection() {
    let (address, counts) = serve(|_, _| "secret").await;
    let ip = address.ip().to_string();
    let names = Names::new(&[("pds.example", &[&[ip.as_str()]])]);
    let fetcher = Fetcher::with_resolver(&FetchOptions::default(), names).unwrap();
    for url in [
        format!("http://{address}/"),
        format!("https://{address}/"),
        format!("https://{ip}/"),
        "https://pds.example/".to_owned(),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "nonsense".to_owned(),
    ] {
        let found = get(&fetcher, &url).await;
        assert!(forbidden(&found), "{url}: {found:?}");
    }
    assert_eq!(counts.all(), 0);
}

#[tokio::test]
async fn what_the_operator_named_is_allowed() {
    let (address, _) = serve(|_, _| "public enough").await;
    let url = format!("http://{address}/");
    let options = FetchOptions {
        allowed_origins: vec![url.clone()],
        ..FetchOptions::default()
    };
    let fetcher = Fetcher::new(&options).unwrap();
    assert_eq!(get(&fetcher, &url).await.unwrap(), "public enough");
}

#[tokio::test]
async fn redirects_are_checked_like_the_first_url() {
    let (inner, counts) = serve(|_, _| "secret").await;
    let (address, _) = serve(move |path, _| {
        let to = match path.as_str() {
            "/private" => format!("http://{inner}/"),
            "/metadata" => "https://169.254.169.254/".to_owned(),
            _ => "ftp://example.com".to_owned(),
        };
        (StatusCode::FOUND, [(LOCATION, to)])
    })
    .await;
    let options = FetchOptions {
        allowed_origins: vec![format!("http://{address}")],
        ..FetchOptions::default()
    };
    let fetcher = Fetcher::new(&options).unwrap();
    for path in ["private", "metadata", "other"] {
        let found = get(&fetcher, &format!("http://{address}/{path}")).await;
        assert!(forbidden(&found), "{path}: {found:?}");
    }
    assert_eq!(counts.all(), 0);
}

#[tokio::test]
async fn five_redirects_are_followed() {
    let (address, _) = serve(|path, _| {
        let left: u32 = path.trim_start_matches('/').parse().unwrap();
        match left.checked_sub(1) {
            Some(next) => (StatusCode::FOUND, [(LOCATION, format!("/{next}"))], ""),
            None => (StatusCode::OK, [(LOCATION, String::new())], "here"),
        }
    })
    .await;
    let fetcher = Fetcher::new(&options()).unwrap();
    let five = get(&fetcher, &format!("http://{address}/5")).await;
    assert_eq!(five.unwrap(), "here");
    let six = get(&fetcher, &format!("http://{address}/6")).await;
    assert!(forbidden(&six), "{six:?}");
}

/// The name's first answer is harmless, the next one is private: only what was checked may be connected to.
#[tokio::test]
async fn a_name_that_changes_its_address_gains_nothing() {
    let (inner, counts) = serve(|_, _| "secret").await;
    let (here, _) = serve(|_, _| "harmless").await;
    let (inner_ip, here_ip) = (inner.ip().to_string(), here.ip().to_string());
    let url = format!("http://rebinding.example:{}/", inner.port());
    let names: &[(&str, &[&[&str]])] = &[(
        "rebinding.example",
        &[&[here_ip.as_str()], &[inner_ip.as_str()]],
    )];
    let fetcher = Fetcher::with_resolver(&options(), Names::new(names)).unwrap();
    let found = get(&fetcher, &url).await;
    assert!(
        matches!(found, Err(FetchError::Unreachable { .. })),
        "{found:?}"
    );
    assert_eq!(counts.all(), 0, "the second answer was connected to");

    let strict = FetchOptions {
        connect_timeout: std::time::Duration::from_millis(50),
        ..FetchOptions::default()
    };
    let names: &[(&str, &[&[&str]])] = &[(
        "rebinding.example",
        &[&["203.0.113.1"], &[inner_ip.as_str()]],
    )];
    let fetcher = Fetcher::with_resolver(&strict, Names::new(names)).unwrap();
    let found = get(&fetcher, "https://rebinding.example/").await;
    assert!(forbidden(&found), "{found:?}");
}

#[tokio::test]
async fn the_next_address_is_tried_where_one_is_dead() {
    let (address, _) = serve(|_, _| "alive").await;
    let (listener, dead) = listen().await;
    drop(listener);
    let (dead, alive) = (dead.ip().to_string(), address.ip().to_string());
    let names: &[(&str, &[&[&str]])] = &[("two.example", &[&[dead.as_str(), alive.as_str()]])];
    let fetcher = Fetcher::with_resolver(&options(), Names::new(names)).unwrap();
    let url = format!("http://two.example:{}/", address.port());
    assert_eq!(get(&fetcher, &url).await.unwrap(), "alive");
    assert_eq!(get(&fetcher, &url).await.unwrap(), "alive");
}

#[tokio::test]
async fn a_name_without_addresses_is_unreachable_and_looked_up_once() {
    let names = Names::new(&[]);
    let fetcher = Fetcher::with_resolver(&options(), Arc::clone(&names) as _).unwrap();
    let asking = (0..5).map(|_| get(&fetcher, "https://nowhere.example/"));
    for found in join_all(asking).await {
        assert!(
            matches!(found, Err(FetchError::Unreachable { .. })),
            "{found:?}"
        );
    }
    assert_eq!(names.asked(), 1);
}
