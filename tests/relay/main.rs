//! The relay's subscription against small servers in the same process: real sockets, real WebSocket,
//! real TLS.
//!
//! Times are short where a test waits for them to pass and long where they must not: a loaded machine
//! makes the tests slower, not red.

mod attempts;
mod refusals;
mod server;
mod silence;
mod stream;
mod wss;

use std::future::Future;
use std::time::Duration;

use penstock::relay::{
    Connected, FailedAttempt, Lost, RelayOptions, Signal, Subscription, tls_config, user_agent,
};

/// Options for `urls`, with times that no test reaches unless it sets them.
pub fn options(urls: &[&str]) -> RelayOptions {
    RelayOptions {
        urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
        connect_timeout: Duration::from_secs(20),
        read_timeout: Duration::from_secs(60),
        ping_interval: Duration::from_secs(30),
        max_frame: 16 << 20,
        backoff_min: Duration::from_millis(2),
        backoff_max: Duration::from_secs(30),
        tls: tls_config(None).unwrap(),
        user_agent: user_agent(Some("ops@example.com")),
    }
}

/// A subscription with [`options`].
pub fn subscription(url: &str) -> Subscription {
    Subscription::new(options(&[url])).unwrap()
}

/// What a test awaits has half a minute to happen.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it did not happen within 30 s")
}

/// Connects at the live head; no attempt may fail.
pub async fn connect(subscription: &mut Subscription) -> Connected {
    subscription
        .connect(|_| None, |attempt| panic!("refused: {attempt:?}"))
        .await
}

/// Runs `connect` until `count` attempts have failed, and returns these.
pub async fn failures(subscription: &mut Subscription, count: usize) -> Vec<FailedAttempt> {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let connecting = subscription.connect(|_| None, |attempt| tell.send(attempt.clone()).unwrap());
    let mut failures = Vec::new();
    let collecting = async {
        while failures.len() < count {
            failures.push(told.recv().await.unwrap());
        }
    };
    tokio::select! {
        biased;
        () = collecting => {}
        connected = connecting => panic!("connected: {connected:?}"),
    }
    failures
}

/// The next signal, which must be a frame.
pub async fn frame(subscription: &mut Subscription) -> Vec<u8> {
    match soon(subscription.next()).await {
        Signal::Frame(frame) => frame.to_vec(),
        Signal::Lost(lost) => panic!("lost: {lost}"),
    }
}

/// The next signal, which must be the loss of the connection.
pub async fn lost(subscription: &mut Subscription) -> Lost {
    match soon(subscription.next()).await {
        Signal::Lost(lost) => lost,
        Signal::Frame(frame) => panic!("a frame of {} bytes", frame.len()),
    }
}
