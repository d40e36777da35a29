//! Fetching, against small servers at loopback addresses of their own: who may be asked, how often, and what of the answer
//! is believed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bodies;
mod hosts;
mod limits;
mod server;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use penstock::fetch::{FetchError, FetchLimits, FetchOptions, Fetcher, Resolver};
use tokio_util::sync::CancellationToken;

/// Bounds that no test reaches unless it sets them.
pub const LIMITS: FetchLimits = FetchLimits {
    bytes: 1 << 20,
    time: Duration::from_secs(60),
    idle: Duration::from_secs(60),
};

/// Options for servers on loopback, with pauses of milliseconds.
pub fn options() -> FetchOptions {
    FetchOptions {
        allow_private: true,
        rate: 10_000.0,
        burst: 10_000.0,
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        bare_pause: Duration::from_millis(10),
        ..FetchOptions::default()
    }
}

/// The body of a URL, as text.
pub async fn get(fetcher: &Fetcher, url: &str) -> Result<String, FetchError> {
    let body = fetcher.get(url, LIMITS, &CancellationToken::new()).await?;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// Names whose addresses the test sets: each look-up takes the next answer, the last one stays.
#[derive(Default)]
pub struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Names {
    /// A resolver that knows these names and the answers for each.
    pub fn new(names: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        let names = names
            .iter()
            .map(|(name, answers)| ((*name).to_owned(), answers.iter().map(parse).collect()));
        Arc::new(Self {
            answers: Mutex::new(names.collect()),
            asked: AtomicUsize::new(0),
        })
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Resolver for Names {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let mut names = self.answers.lock().unwrap();
        let answers = names.get_mut(host).ok_or(io::ErrorKind::NotFound)?;
        if answers.len() > 1 {
            return Ok(answers.remove(0));
        }
        Ok(answers.first().cloned().unwrap_or_default())
    }
}
