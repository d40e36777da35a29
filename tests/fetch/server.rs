//! A server that answers as a test wants and counts who is with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Requests at a server.
#[derive(Default)]
pub struct Counts {
    pub now: AtomicUsize,
    pub most: AtomicUsize,
    pub all: AtomicUsize,
}

impl Counts {
    pub fn all(&self) -> usize {
        self.all.load(Ordering::SeqCst)
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// A listener at a loopback address that no other test of this process has.
pub async fn listen() -> (TcpListener, SocketAddr) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let last = NEXT.fetch_add(1, Ordering::SeqCst);
    let third = u8::try_from(std::process::id() % 250).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 77, third, last), 0)).await;
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Serves what `answer` makes of the path and of how many requests came before.
pub async fn serve<F, R>(answer: F) -> (SocketAddr, Arc<Counts>)
where
    F: Fn(String, usize) -> R + Clone + Send + Sync + 'static,
    R: IntoResponse + 'static,
{
    slow(Duration::ZERO, answer).await
}

/// The same, after a while.
pub async fn slow<F, R>(pause: Duration, answer: F) -> (SocketAddr, Arc<Counts>)
where
    F: Fn(String, usize) -> R + Clone + Send + Sync + 'static,
    R: IntoResponse + 'static,
{
    let (listener, address) = listen().await;
    let counts = Arc::new(Counts::default());
    let counting = Arc::clone(&counts);
    let router = Router::new().fallback(move |request: Request| {
        let (answer, counts) = (answer.clone(), Arc::clone(&counting));
        async move {
            let before = counts.all.fetch_add(1, Ordering::SeqCst);
            let now = counts.now.fetch_add(1, Ordering::SeqCst) + 1;
            counts.most.fetch_max(now, Ordering::SeqCst);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            counts.now.fetch_sub(1, Ordering::SeqCst);
            let answer: Response = answer(request.uri().to_string(), before).into_response();
            answer
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, counts)
}

/// Sends these bytes to everyone who asks, and closes, or keeps the connection and falls silent.
pub async fn raw(bytes: &'static [u8], close: bool) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(bytes).await;
            if !close {
                kept.push(socket);
            }
        }
    });
    address
}
