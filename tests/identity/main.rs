//! Resolving DIDs, against a small directory at a loopback address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod directory;
mod dns;
mod handle;
mod log;
mod txt;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use penstock::clock::ManualClock;
use penstock::fetch::{FetchError, FetchOptions, Fetcher};
use penstock::identity::{Identities, IdentityError, IdentityOptions, SigningKey};
use tokio_util::sync::CancellationToken;

use directory::{Directory, document};

const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
const HOUR: u64 = 3600;
const START: u64 = 1_800_000_000;

/// Identities that ask `directory`, with a clock that the test turns.
pub fn identities(directory: &Directory) -> (Identities, Arc<ManualClock>) {
    let options = FetchOptions {
        allow_private: true,
        rate: 10_000.0,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        ..FetchOptions::default()
    };
    let clock = Arc::new(ManualClock::default());
    set(&clock, 0);
    let options_here = IdentityOptions {
        plc_url: directory.url(),
        ..IdentityOptions::default()
    };
    let fetcher = Fetcher::new(&options).unwrap();
    let clock_here = Arc::clone(&clock);
    (Identities::new(fetcher, &options_here, clock_here), clock)
}

/// Turns the clock to `seconds` after the start.
pub fn set(clock: &ManualClock, seconds: u64) {
    clock.set((START + seconds) * 1_000_000);
}

/// Whose host `did` has by now.
async fn host(identities: &Identities, did: &str) -> Result<String, IdentityError> {
    let identity = identities.resolve(did, &CancellationToken::new()).await?;
    Ok(identity.pds.map(|pds| pds.to_string()).unwrap_or_default())
}

#[tokio::test]
async fn a_did_plc_is_asked_once_and_remembered() {
    let directory = Directory::start().await;
    directory.put(DID, 200, document(DID, "https://pds.example"));
    let (identities, clock) = identities(&directory);
    let cancel = CancellationToken::new();
    for _ in 0..3 {
        let found = identities.resolve(DID, &cancel).await.unwrap();
        assert_eq!(found.pds.as_deref(), Some("https://pds.example"));
        assert!(matches!(found.key, Some(SigningKey::K256(_))));
        set(&clock, 23 * HOUR);
    }
    assert_eq!(directory.asked(DID), 1);
    identities.refresh(DID, &cancel).await.unwrap();
    assert_eq!(directory.asked(DID), 2);
    identities.forget(DID);
    identities.resolve(DID, &cancel).await.unwrap();
    assert_eq!(directory.asked(DID), 3);
}

#[tokio::test]
async fn a_did_web_asks_its_own_host() {
    let directory = Directory::start().await;
    let did = format!("did:web:{}", directory.authority().replace(':', "%3A"));
    directory.put(
        ".well-known/did.json",
        200,
        document(&did, "https://pds.example"),
    );
    let (identities, _) = identities(&directory);
    let found = host(&identities, &did).await.unwrap();
    assert_eq!(found, "https://pds.example");
}

#[tokio::test]
async fn all_who_ask_at_once_share_one_question() {
    let directory = Directory::start().await;
    directory.put(DID, 200, document(DID, "https://pds.example"));
    directory.close();
    let (identities, _) = identities(&directory);
    let cancel = CancellationToken::new();
    let leader = {
        let (identities, cancel) = (identities.clone(), cancel.clone());
        tokio::spawn(async move { identities.resolve(DID, &cancel).await })
    };
    directory.until_asked(DID, 1).await;
    let others: Vec<_> = (0..50)
        .map(|_| {
            let identities = identities.clone();
            tokio::spawn(async move { host(&identities, DID).await })
        })
        .collect();
    tokio::task::yield_now().await;
    cancel.cancel();
    let left = leader.await.unwrap();
    assert!(
        matches!(left, Err(IdentityError::Fetch(_, FetchError::Cancelled))),
        "{left:?}"
    );
    directory.open();
    for found in join_all(others).await {
        assert_eq!(found.unwrap().unwrap(), "https://pds.example");
    }
    assert_eq!(directory.asked(DID), 1);
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_is_asked_again() {
    let directory = Directory::start().await;
    directory.put(DID, 200, document(DID, "https://pds.example"));
    directory.close();
    let (identities, _) = identities(&directory);
    let cancel = CancellationToken::new();
    let asking = identities.resolve(DID, &cancel);
    let cancelling = async {
        directory.until_asked(DID, 1).await;
        cancel.cancel();
    };
    let (left, ()) = tokio::join!(asking, cancelling);
    assert!(left.is_err());
    directory.open();
    assert!(host(&identities, DID).await.is_ok());
    assert_eq!(directory.asked(DID), 2);
}

#[tokio::test]
async fn an_old_answer_is_given_while_it_is_asked_anew() {
    let directory = Directory::start().await;
    directory.put(DID, 200, document(DID, "https://old.example"));
    let (identities, clock) = identities(&directory);
    host(&identities, DID).await.unwrap();
    directory.put(DID, 200, document(DID, "https://new.example"));
    directory.close();
    set(&clock, 25 * HOUR);
    for _ in 0..10 {
        let found = host(&identities, DID).await.unwrap();
        assert_eq!(found, "https://old.example");
    }
    directory.open();
    while host(&identities, DID).await.unwrap() == "https://old.example" {
        tokio::task::yield_now().await;
    }
    assert_eq!(directory.asked(DID), 2);
    // A directory that is down does not take away what is known, for a while.
    directory.put(DID, 500, String::new());
    set(&clock, 50 * HOUR);
    host(&identities, DID).await.unwrap();
    directory.until_asked(DID, 3).await;
    set(&clock, 100 * HOUR);
    assert_eq!(host(&identities, DID).await.unwrap(), "https://new.example");
    set(&clock, 1000 * HOUR);
    let found = host(&identities, DID).await;
    assert!(matches!(found, Err(IdentityError::Fetch(..))), "{found:?}");
}

#[tokio::test]
async fn what_is_not_there_is_not_asked_again_too_soon() {
    let directory = Directory::start().await;
    let (identities, clock) = identities(&directory);
    let other = document("did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "https://pds.example");
    let large = document(DID, &format!("https://{}", "x".repeat(300 << 10)));
    let mut time = 0;
    for (status, body, kind, age) in [
        (404, String::new(), "NotFound", HOUR),
        (410, String::new(), "Tombstoned", HOUR),
        (200, other, "Malformed", HOUR),
        (200, "<html>".to_owned(), "Malformed", HOUR),
        (200, large, "Malformed", HOUR),
        (400, String::new(), "Fetch", 60),
    ] {
        directory.put(DID, status, body);
        identities.forget(DID);
        let before = directory.asked(DID);
        for (passed, asked) in [(0, 1), (age - 1, 1), (age, 2)] {
            set(&clock, time + passed);
            let found = host(&identities, DID).await.unwrap_err();
            assert!(format!("{found:?}").starts_with(kind), "{found:?}");
            assert_eq!(directory.asked(DID) - before, asked, "{kind} {passed}");
        }
        time += 10 * HOUR;
    }
}

#[tokio::test]
async fn what_is_forgotten_on_its_way_is_not_kept() {
    let directory = Directory::start().await;
    directory.put(DID, 200, document(DID, "https://old.example"));
    directory.close();
    let (identities, _) = identities(&directory);
    let early = {
        let identities = identities.clone();
        tokio::spawn(async move { host(&identities, DID).await })
    };
    directory.until_asked(DID, 1).await;
    identities.forget(DID);
    directory.open();
    assert!(early.await.unwrap().is_ok());
    directory.put(DID, 200, document(DID, "https://new.example"));
    let found = host(&identities, DID).await.unwrap();
    assert_eq!(found, "https://new.example");
}

#[tokio::test]
async fn other_methods_are_not_known() {
    let directory = Directory::start().await;
    let (identities, _) = identities(&directory);
    for did in [
        "",
        "nonsense",
        "did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc",
        "did:plc:short",
        "did:plc:../../export?count=1&ab",
        "did:web:a.example:path",
        "did:web:user@a.example",
    ] {
        let found = host(&identities, did).await;
        assert!(
            matches!(found, Err(IdentityError::NotFound(..))),
            "{did}: {found:?}"
        );
    }
    assert_eq!(directory.asked_in_all(), 0);
}
