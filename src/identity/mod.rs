//! Who hosts a repository and which key signs it: did:plc and did:web, cached (protocol.md, section 7).

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::fetch::FetchError;

pub use crate::decode::SigningKey;

/// What a DID document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Origin of the PDS: `https://host[:port]`; none: the document names none.
    pub pds: Option<Arc<str>>,
    /// The key; none: the document has none that we can read.
    pub key: Option<SigningKey>,
}

/// Why a DID could not be resolved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// Nobody knows it, or it is not of a method that we know.
    #[error("{0} is not known: {1}")]
    NotFound(String, String),
    /// It was tombstoned: counts as a deleted account.
    #[error("{0} is tombstoned")]
    Tombstoned(String),
    /// The document is not one, or of another DID.
    #[error("the DID document of {0} is malformed: {1}")]
    Malformed(String, String),
    /// It could not be fetched now.
    #[error("{0} could not be resolved: {1}")]
    Fetch(String, FetchError),
}

/// Resolves and caches. Cheap to clone.
#[derive(Clone)]
pub struct Identities {
    _private: (),
}

impl Identities {
    /// The identity of a DID; one fetch in flight per DID.
    pub async fn resolve(
        &self,
        did: &str,
        _cancel: &CancellationToken,
    ) -> Result<Identity, IdentityError> {
        Err(IdentityError::NotFound(did.to_owned(), String::new()))
    }

    /// The same, asked anew: what is cached is not believed.
    pub async fn refresh(
        &self,
        did: &str,
        _cancel: &CancellationToken,
    ) -> Result<Identity, IdentityError> {
        Err(IdentityError::NotFound(did.to_owned(), String::new()))
    }

    /// Keys that the PLC directory's log shows for a DID, newest first; empty for did:web.
    pub async fn earlier_keys(
        &self,
        _did: &str,
        _cancel: &CancellationToken,
    ) -> Result<Vec<SigningKey>, IdentityError> {
        Ok(Vec::new())
    }

    /// Forgets what is cached of a DID: an `#identity` said that it changed.
    pub fn forget(&self, _did: &str) {}

    /// Fills the cache from the PLC directory's `/export`; gives how many DIDs are known then.
    pub async fn fill(&self, _cancel: &CancellationToken) -> Result<u64, FetchError> {
        Ok(0)
    }
}
