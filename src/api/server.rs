//! Listeners: TCP, and the Unix socket that only its owner may open.
//!
//! Each listener has its own bound on connections, so that strangers on TCP can't lock the operator out of the socket. A
//! client that is slow with its headers is dropped; one that is slow with all else, when its connection has reached its
//! age. Until then a full listener leaves new clients in the kernel's queue.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::auth::Peer;
use super::{TCP_REQUEST, TRUSTED_REQUEST};

/// How long a client may take to send the head of a request; also how long a connection may be idle.
const HEADER_READ: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;
/// How long answers may take to end once the process stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the test whether a socket is alive may take.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest path of a Unix socket in bytes.
pub const SOCKET_PATH_MAX: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// What a listener allows.
#[derive(Clone, Copy)]
struct Limits {
    /// At once.
    connections: usize,
    /// After this a connection takes no more requests.
    age: Duration,
    /// And after this the last answer is cut off.
    last_answer: Duration,
}

const TCP: Limits = Limits {
    connections: 256,
    age: Duration::from_secs(120),
    last_answer: TCP_REQUEST,
};

const SOCKET: Limits = Limits {
    connections: 64,
    age: Duration::from_secs(120),
    last_answer: TRUSTED_REQUEST,
};

/// Why there is no Unix socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The system's addresses have no room for it.
    #[error(
        "the path of the socket has {len} bytes, the system allows {max}: {path}; set http.socket to a shorter one"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// Another process answers on it.
    #[error(
        "another process answers on the socket {0}; stop it, or set http.socket to another path"
    )]
    InUse(PathBuf),
    /// Something else is there, and it is not ours to remove.
    #[error("{0} is there and is not a socket; remove it, or set http.socket to another path")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("the socket {path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Serves TCP until `shutdown`, then lets answers end within a few seconds.
pub async fn serve_tcp(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let peer = |address: &SocketAddr| Some(address.ip());
    serve(listener, router, TCP, peer, shutdown).await;
}

/// Serves a Unix socket of mode 0600 until `shutdown`, then removes it.
pub async fn serve_unix(
    path: &Path,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), SocketError> {
    let socket = UnixSocket::bind(path).await?;
    socket.serve(router, shutdown).await;
    Ok(())
}

/// A bound Unix socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket, by its device and inode: a successor's file at the same path stays.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl UnixSocket {
    /// Binds a socket that only the owner may open. The file of a dead process is replaced, that of a living one never.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let len = path.as_os_str().len();
        if len > SOCKET_PATH_MAX {
            let (path, max) = (path.to_owned(), SOCKET_PATH_MAX);
            return Err(SocketError::TooLong { path, len, max });
        }
        remove_stale(path).await?;
        bind_private(path).map_err(|source| SocketError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// Serves until `shutdown`, then removes the file.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let Self { listener, file } = self;
        serve(listener, router, SOCKET, |_| None, shutdown).await;
        drop(file);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the socket could not be removed");
        }
    }
}

async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed)?,
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    if is_live(path).await.map_err(failed)? {
        return Err(SocketError::InUse(path.to_owned()));
    }
    std::fs::remove_file(path).map_err(failed)
}

/// Whether a process answers on the socket. One that is too busy to take the connection is alive.
pub async fn is_live(path: &Path) -> io::Result<bool> {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    match tokio::time::timeout(CONNECT, UnixStream::connect(path)).await {
        Err(_) | Ok(Ok(_)) => Ok(true),
        Ok(Err(error)) => match error.kind() {
            WouldBlock => Ok(true),
            ConnectionRefused | NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

/// The mask keeps all others out from the first moment. It holds for the whole process, but only for this call, and files
/// that other threads make meanwhile become private, which does no harm.
fn bind_private(path: &Path) -> io::Result<UnixSocket> {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let found = std::fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: (found.dev(), found.ino()),
    };
    Ok(UnixSocket { listener, file })
}

async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    peer: fn(&L::Addr) -> Option<IpAddr>,
    shutdown: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await.ok()?;
            let (io, address) = listener.accept().await;
            Some((place, io, Peer(peer(&address))))
        };
        let next = tokio::select! {
            () = shutdown.cancelled() => None,
            accepted = accepted => accepted,
        };
        let Some((place, io, peer)) = next else { break };
        let (router, shutdown) = (router.clone(), shutdown.clone());
        connections.spawn(async move {
            serve_connection(io, router, limits, peer, shutdown).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection<I>(
    io: I,
    router: Router,
    limits: Limits,
    peer: Peer,
    shutdown: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let service =
        TowerToHyperService::new(router.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        }));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let stopping = tokio::select! {
        ended = connection.as_mut() => return note(ended),
        () = tokio::time::sleep(limits.age) => false,
        () = shutdown.cancelled() => true,
    };
    connection.as_mut().graceful_shutdown();
    if !stopping {
        tokio::select! {
            ended = tokio::time::timeout(limits.last_answer, connection.as_mut()) => {
                return ended.map_or((), note);
            }
            () = shutdown.cancelled() => {}
        }
    }
    if let Ok(ended) = tokio::time::timeout(DRAIN, connection).await {
        note(ended);
    }
}

fn note(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended early");
    }
}
