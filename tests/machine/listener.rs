//! A stand-in for systemd's end of the notify socket.

use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::installed::PATIENCE;

/// Listens.
pub struct Listener {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Listener {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(path(folder.path())).unwrap();
        Self { folder, socket }
    }

    /// What `NOTIFY_SOCKET` says.
    pub fn address(&self) -> PathBuf {
        path(self.folder.path())
    }

    /// The next message: one or more states.
    pub async fn hears(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let received = timeout(PATIENCE, self.socket.recv(&mut message)).await;
        let length = received.expect("the daemon says something").unwrap();
        let text = std::str::from_utf8(&message[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// All states up to one that begins so.
    pub async fn hears_until(&self, state: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while !heard.iter().any(|said: &String| said.starts_with(state)) {
            heard.extend(self.hears().await);
        }
        heard
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("notify")
}
