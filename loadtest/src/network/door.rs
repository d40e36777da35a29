//! Listeners, and what each request passes through before and after it is answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::answer;
use super::fault::Fault;
use super::state::{Host, locked};

/// Accepts connections, but of a host that is dead or hangs.
struct Door {
    listener: TcpListener,
    host: Arc<Host>,
}

impl axum::serve::Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let Ok((stream, peer)) = self.listener.accept().await else {
                // Out of file descriptors, or a connection that was gone already.
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            };
            let fault = *locked(&self.host.fault);
            match fault {
                Some(Fault::Dead) => drop(self.host.visit()),
                Some(Fault::Hanging) => {
                    let visit = self.host.visit();
                    tokio::spawn(ignore(stream, visit));
                }
                _ => return (stream, peer),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Reads until the client is gone, and says nothing.
async fn ignore(mut stream: TcpStream, _visit: Visit) {
    let mut bytes = [0; 1024];
    while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
}

/// A request that is at its host; it leaves when this is dropped.
struct Visit(Arc<Host>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.gate.leave();
    }
}

impl Host {
    fn visit(self: &Arc<Self>) -> Visit {
        self.gate.enter();
        Visit(self.clone())
    }
}

/// Serves a host on its listener with `respond`, for as long as the runtime is there.
pub(super) fn open<Answer>(
    listener: std::net::TcpListener,
    host: Arc<Host>,
    respond: impl Fn(Uri) -> Answer + Clone + Send + Sync + 'static,
) -> io::Result<()>
where
    Answer: Future<Output = Response> + Send + 'static,
{
    let door = Door {
        listener: TcpListener::from_std(listener)?,
        host: host.clone(),
    };
    tokio::spawn(axum::serve(door, router(host, respond)).into_future());
    Ok(())
}

/// All requests to `respond`, counted and limited.
pub(super) fn router<Answer>(
    host: Arc<Host>,
    respond: impl Fn(Uri) -> Answer + Clone + Send + Sync + 'static,
) -> axum::Router
where
    Answer: Future<Output = Response> + Send + 'static,
{
    axum::Router::new().fallback(move |request: Request| {
        let (host, respond) = (host.clone(), respond.clone());
        async move { pass(host, request.uri().clone(), respond).await }
    })
}

async fn pass<Answer: Future<Output = Response>>(
    host: Arc<Host>,
    uri: Uri,
    respond: impl Fn(Uri) -> Answer,
) -> Response {
    let verdict = host.gate.enter();
    let visit = Visit(host);
    let mut response = match verdict.refused {
        true => too_many(),
        false => respond(uri).await,
    };
    for (name, value) in verdict.headers {
        if let Ok(value) = value.parse() {
            let headers = response.headers_mut();
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response.map(|body| {
        let body = body.into_data_stream().map(move |piece| {
            let _here = &visit;
            piece
        });
        axum::body::Body::from_stream(body)
    })
}

fn too_many() -> Response {
    let text = "Rate Limit Exceeded";
    answer::error(StatusCode::TOO_MANY_REQUESTS, "RateLimitExceeded", text).into_response()
}
