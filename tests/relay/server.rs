//! The other end: listeners on the loopback, WebSocket servers, and raw HTTP answers.

use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use penstock::relay::Subscription;

pub type Server = WebSocketStream<TcpStream>;

/// A listener, and its address as a relay's.
pub async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", listener.local_addr().unwrap());
    (listener, address)
}

/// The address of a port that nobody listens on.
pub async fn nobody() -> String {
    listen().await.1
}

/// Accepts a WebSocket.
pub async fn accept(listener: &TcpListener) -> Server {
    accept_with_request(listener).await.0
}

/// Accepts a WebSocket; returns the request line's target and the user agent too.
pub async fn accept_with_request(listener: &TcpListener) -> (Server, String, String) {
    let (mut target, mut agent) = (String::new(), String::new());
    let (tcp, _) = listener.accept().await.unwrap();
    #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
    let see = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        target = request.uri().to_string();
        let header = request.headers().get("user-agent").unwrap();
        agent = header.to_str().unwrap().to_owned();
        Ok(response)
    };
    let server = tokio_tungstenite::accept_hdr_async(tcp, see).await.unwrap();
    (server, target, agent)
}

/// A connected pair; no attempt may fail.
pub async fn pair(subscription: &mut Subscription, listener: &TcpListener) -> Server {
    crate::soon(async {
        let (_, server) = tokio::join!(crate::connect(subscription), accept(listener));
        server
    })
    .await
}

/// Sends one binary message.
pub async fn send(server: &mut Server, frame: impl Into<Vec<u8>>) {
    let message = Message::Binary(frame.into().into());
    server.send(message).await.unwrap();
}

/// Accepts TCP and reads the head of the request.
pub async fn accept_http(listener: &TcpListener) -> (TcpStream, String) {
    let (mut tcp, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    (tcp, String::from_utf8(head).unwrap())
}

/// Answers the next request with `parts`, one write each, and closes.
pub async fn answer(listener: &TcpListener, parts: &[&str]) {
    let (mut tcp, _) = accept_http(listener).await;
    tcp.set_nodelay(true).unwrap();
    for part in parts {
        tcp.write_all(part.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    tcp.shutdown().await.unwrap();
}
