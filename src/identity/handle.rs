//! Handles: the DID that one names, believed only where the DID's document names the handle as well.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{DID_MAX, Identities, IdentityError, cut, document};
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

/// Why a handle names no DID.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandleError {
    /// Its host says nothing.
    #[error(
        "https://{0}/.well-known/atproto-did names no DID: {1}; a handle that only a TXT record confirms is not resolved \
         here: give its DID"
    )]
    Silent(String, FetchError),
    /// Its host says something else.
    #[error("https://{0}/.well-known/atproto-did names no DID; give the DID itself")]
    NoDid(String),
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

impl Identities {
    /// The DID that a handle names: what its host says at `/.well-known/atproto-did`, confirmed by the DID's document of now.
    /// The DNS is not asked for TXT records.
    pub async fn did_of(&self, handle: &str) -> Result<String, HandleError> {
        let handle = handle.to_ascii_lowercase();
        let resolving = tokio::time::timeout(PATIENCE, self.resolve_handle(&handle));
        let resolved = resolving.await;
        resolved.unwrap_or_else(|_| Err(HandleError::TooSlow(handle.clone())))
    }

    async fn resolve_handle(&self, handle: &str) -> Result<String, HandleError> {
        // Who waits no longer drops this future.
        let never = CancellationToken::new();
        let url = format!("https://{handle}/.well-known/atproto-did");
        let said = self.0.fetcher.get(&url, LIMITS, &never).await;
        let said = said.map_err(|error| HandleError::Silent(handle.to_owned(), error))?;
        let did = str::from_utf8(&said).ok().map(str::trim);
        let did = did.filter(|did| did.len() <= DID_MAX && syntax::is_did(did));
        let did = did.ok_or_else(|| HandleError::NoDid(handle.to_owned()))?;
        let fetched = self.0.document(did).await?;
        let named = document::handle(did, &fetched)
            .map_err(|why| IdentityError::Malformed(cut(did), why))?;
        match named {
            Some(named) if named.eq_ignore_ascii_case(handle) => Ok(did.to_owned()),
            _ => Err(HandleError::OneSided {
                handle: handle.to_owned(),
                did: did.to_owned(),
            }),
        }
    }
}
