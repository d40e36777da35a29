//! Handles: the DID that one names, believed only where the DID's document names the handle as well.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{DID_MAX, Identities, IdentityError, TxtError, cut, document};
use crate::decode::syntax;
use crate::fetch::{FetchError, FetchLimits};

/// Bounds of what a handle's host says: a DID.
const LIMITS: FetchLimits = FetchLimits {
    bytes: 4 << 10,
    time: Duration::from_secs(10),
    idle: Duration::from_secs(10),
};
/// How long all of it may take, waiting for one's turn at the hosts included: somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Last labels that no handle has: of names that are nobody's, or of somebody's own network.
const RESERVED: [&str; 8] = [
    "alt",
    "arpa",
    "example",
    "internal",
    "invalid",
    "local",
    "localhost",
    "onion",
];

/// Why a handle names no DID.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandleError {
    /// Its last label is reserved.
    #[error("{0}: no handle ends in .{1}; give the DID itself")]
    Reserved(String, &'static str),
    /// Its TXT records name different ones.
    #[error("_atproto.{0} has {1}: not believed; give the DID itself")]
    Several(String, TxtError),
    /// Neither the DNS nor its host names one.
    #[error(
        "{handle} names no DID: _atproto.{handle}: {dns}; https://{handle}/.well-known/atproto-did: {https}; give the DID \
         itself"
    )]
    Unnamed {
        /// The handle.
        handle: String,
        /// What the DNS said.
        dns: TxtError,
        /// What its host said.
        https: Box<HostError>,
    },
    /// The DID can't be asked.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The DID is of another handle.
    #[error("{handle} names {did}, whose document does not name {handle}: not believed")]
    OneSided {
        /// The handle.
        handle: String,
        /// What it names.
        did: String,
    },
    /// It took too long.
    #[error("{0} could not be resolved within {PATIENCE:?}: try again, or give its DID")]
    TooSlow(String),
}

/// Why a handle's host names no DID.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostError {
    /// It says nothing.
    #[error("no answer ({0})")]
    NoAnswer(#[from] FetchError),
    /// It says something else.
    #[error("no DID")]
    NoDid,
}

impl Identities {
    /// The DID that a handle names: what its TXT records say, or else its host at `/.well-known/atproto-did`, confirmed by the DID's
    /// document of now.
    pub async fn did_of(&self, handle: &str) -> Result<String, HandleError> {
        let handle = handle.to_ascii_lowercase();
        let resolving = tokio::time::timeout(PATIENCE, self.resolve_handle(&handle));
        let resolved = resolving.await;
        resolved.unwrap_or_else(|_| Err(HandleError::TooSlow(handle.clone())))
    }

    async fn resolve_handle(&self, handle: &str) -> Result<String, HandleError> {
        let last = handle.rsplit('.').next();
        if let Some(reserved) = RESERVED.into_iter().find(|label| last == Some(label)) {
            return Err(HandleError::Reserved(handle.to_owned(), reserved));
        }
        let did = match self.0.dns.did(handle).await {
            Ok(did) => did,
            Err(several @ TxtError::Several(..)) => {
                return Err(HandleError::Several(handle.to_owned(), several));
            }
            Err(dns) => {
                let said = self.ask_host(handle).await;
                said.map_err(|https| HandleError::Unnamed {
                    handle: handle.to_owned(),
                    dns,
                    https: Box::new(https),
                })?
            }
        };
        self.confirm(handle, did).await
    }

    /// What the handle's host says.
    async fn ask_host(&self, handle: &str) -> Result<String, HostError> {
        // Who waits no longer drops this future.
        let never = CancellationToken::new();
        let url = format!("https://{handle}/.well-known/atproto-did");
        let said = self.0.fetcher.get(&url, LIMITS, &never).await?;
        let did = str::from_utf8(&said).ok().map(str::trim);
        let did = did.filter(|did| did.len() <= DID_MAX && syntax::is_did(did));
        did.map(str::to_owned).ok_or(HostError::NoDid)
    }

    /// Believes a handle that the DID's document names as well.
    async fn confirm(&self, handle: &str, did: String) -> Result<String, HandleError> {
        // Who waits no longer drops this future.
        let never = CancellationToken::new();
        let fetched = self.0.document(&did, never.into()).await?;
        let named = document::handle(&did, &fetched)
            .map_err(|why| IdentityError::Malformed(cut(&did), why))?;
        match named {
            Some(named) if named.eq_ignore_ascii_case(handle) => Ok(did),
            _ => Err(HandleError::OneSided {
                handle: handle.to_owned(),
                did,
            }),
        }
    }
}
