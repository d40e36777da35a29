//! One attempt to connect: name, TCP, TLS, upgrade, all within one deadline.

use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::metered::Metered;
use super::printable::printable;
use super::refusal::{Refusal, not_http};
use super::upgrade::upgrade;
use super::{DisconnectReason, RelayOptions, RelayUrl, tls};

/// What we write is pings, pongs and a close frame: more than this waits for nobody.
const WRITE_BUFFER: usize = 4 * 1024;
const MAX_WRITE_BUFFER: usize = 64 * 1024;

/// The socket of an open connection.
pub(super) type Socket = WebSocketStream<Metered<MaybeTlsStream<TcpStream>>>;

/// Connects to `relay` and subscribes at `cursor`.
pub(super) async fn dial(
    options: &RelayOptions,
    relay: &RelayUrl,
    cursor: Option<u64>,
) -> Result<Socket, Refusal> {
    let deadline = Instant::now() + options.connect_timeout;
    let request = request(options, relay, cursor)?;
    let addresses = timeout_at(deadline, resolve(relay))
        .await
        .map_err(|_| too_late("the name was not resolved"))??;
    let tcp = connect_any(&addresses, deadline).await?;
    tcp.set_nodelay(true)
        .map_err(|error| Refusal::new(DisconnectReason::Reset, printable(&error.to_string())))?;
    let stream = if relay.is_tls() {
        timeout_at(deadline, encrypt(options, relay, tcp))
            .await
            .map_err(|_| too_late("the TLS handshake did not end"))??
    } else {
        MaybeTlsStream::Plain(tcp)
    };
    let mut stream = Metered::new(stream);
    let rest = upgrade(&mut stream, request, deadline).await?;
    let config = websocket_config(options.max_frame);
    Ok(WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await)
}

/// The refusal when the connect timeout is over.
pub(super) fn too_late(what: &str) -> Refusal {
    Refusal::new(
        DisconnectReason::Timeout,
        format!("{what} within the connect timeout"),
    )
}

fn websocket_config(max_frame: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .max_frame_size(Some(max_frame))
        .max_message_size(Some(max_frame))
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
}

fn request(
    options: &RelayOptions,
    relay: &RelayUrl,
    cursor: Option<u64>,
) -> Result<Request, Refusal> {
    let mut request = relay
        .subscribe_url(cursor)
        .into_client_request()
        .map_err(|error| not_http(&error))?;
    let agent = HeaderValue::from_str(&options.user_agent).map_err(|_| {
        Refusal::new(
            DisconnectReason::Protocol,
            "the user agent holds characters that no header can hold".to_owned(),
        )
    })?;
    request.headers_mut().insert(header::USER_AGENT, agent);
    Ok(request)
}

async fn resolve(relay: &RelayUrl) -> Result<Vec<SocketAddr>, Refusal> {
    let unresolved = |why: &str| {
        Refusal::new(
            DisconnectReason::Dns,
            format!("{} has no address: {}", relay.name(), printable(why)),
        )
    };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((relay.name(), relay.port()))
        .await
        .map_err(|error| unresolved(&error.to_string()))?
        .collect();
    if addresses.is_empty() {
        return Err(unresolved("the answer is empty"));
    }
    Ok(addresses)
}

/// Tries one address after the other, each with an equal share of the time that is left, so that a
/// dead first one does not use it all up.
async fn connect_any(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Refusal> {
    let mut refusal = too_late("no TCP connection was made");
    for (tried, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let shares = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(now) / shares;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => {
                refusal = Refusal::new(
                    DisconnectReason::Unreachable,
                    format!("{address}: {}", printable(&error.to_string())),
                );
            }
            Err(_) => refusal = too_late(&format!("{address} made no TCP connection")),
        }
    }
    Err(refusal)
}

async fn encrypt(
    options: &RelayOptions,
    relay: &RelayUrl,
    tcp: TcpStream,
) -> Result<MaybeTlsStream<TcpStream>, Refusal> {
    let broken = |detail: String| Refusal::new(DisconnectReason::Tls, detail);
    let name = ServerName::try_from(relay.name().to_owned()).map_err(|_| {
        broken(format!(
            "{} is no name a certificate can have",
            relay.name()
        ))
    })?;
    TlsConnector::from(options.tls.clone())
        .connect(name, tcp)
        .await
        .map(MaybeTlsStream::Rustls)
        .map_err(|error| broken(tls::explain(relay, &error)))
}
