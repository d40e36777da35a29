//! Why a repository could not be had, and how that is written down.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::fetch::FetchError;
use crate::identity::IdentityError;
use crate::store::{JobFailure, Store, StoreError};

/// Longest message that is kept (bytes).
const MESSAGE: usize = 500;
/// Longest host that is kept: a name of the DNS with a port.
const HOST: usize = 260;

/// Why a repository could not be had.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// A label of few values.
    pub reason: &'static str,
    /// What exactly.
    pub message: String,
    /// Who was asked.
    pub host: Option<String>,
    /// Whether another try may help.
    pub again: bool,
    /// Of none at all: a host is not asked before this time.
    pub paused_until: Option<Instant>,
    /// Whether its host does not give it, so that a relay's copy may do.
    pub elsewhere: bool,
}

impl Failure {
    pub fn new(reason: &'static str, message: impl ToString, again: bool) -> Self {
        Self {
            reason,
            message: message.to_string(),
            host: None,
            again,
            paused_until: None,
            elsewhere: false,
        }
    }

    /// Of which a relay was asked too, in vain.
    pub fn and_at_relay(self, other: &Self) -> Self {
        let relay = other.host.as_deref().unwrap_or("the relay");
        Self {
            message: format!("{}; {relay}: {}", self.message, other.message),
            ..self
        }
    }

    /// A host has failed for long, and is not waited for any more.
    pub fn left_alone(host: &str) -> Self {
        Self {
            again: false,
            ..FetchError::BackedOff(host.to_owned()).into()
        }
    }

    /// Whether it may be that this host, which was asked, does not work at all.
    pub fn is_of_host(&self, host: &str) -> bool {
        match self.reason {
            "unreachable" | "server_error" | "too_slow" | "truncated" | "backed_off"
            | "throttled" => true,
            "paused" => self.host.as_deref() == Some(host),
            _ => false,
        }
    }

    /// Whether nothing was asked, for this host is left alone.
    pub fn is_left_alone(&self, host: &str) -> bool {
        self.reason == "backed_off" && self.host.as_deref() == Some(host)
    }

    /// Of who was asked, where that is not known better.
    pub fn at(self, host: &str) -> Self {
        Self {
            host: self.host.or_else(|| Some(host.to_owned())),
            ..self
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let (reason, again) = match &error {
            FetchError::Forbidden(..) => ("forbidden_address", false),
            FetchError::Unreachable { .. } => ("unreachable", true),
            FetchError::BackedOff(_) => ("backed_off", true),
            FetchError::Throttled(_) => ("throttled", false),
            FetchError::Paused(..) => ("paused", true),
            FetchError::TooSlow { .. } => ("too_slow", true),
            FetchError::TooLarge { .. } => ("too_large", false),
            FetchError::Truncated(_) => ("truncated", true),
            FetchError::Status { status, .. } if *status >= 500 => ("server_error", true),
            FetchError::Status { .. } => ("refused", false),
            FetchError::Cancelled => ("cancelled", false),
        };
        let paused_until = match error {
            FetchError::Paused(_, until) => Some(until),
            _ => None,
        };
        let elsewhere = !matches!(error, FetchError::TooLarge { .. } | FetchError::Cancelled);
        let host = match &error {
            FetchError::BackedOff(host)
            | FetchError::Throttled(host)
            | FetchError::Paused(host, _) => Some(host.clone()),
            _ => None,
        };
        Self {
            host,
            paused_until,
            elsewhere,
            ..Self::new(reason, error, again)
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            // The same is refused the next time.
            StoreError::Refused(_) => Self::new("not_storable", error, false),
            error => Self::new("store", error, true),
        }
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Fetch(did, error) => {
                let failure = Self::from(error);
                Self {
                    reason: match failure.reason {
                        "refused" | "server_error" | "unreachable" => "identity_unreachable",
                        reason => reason,
                    },
                    message: format!("{did} could not be resolved: {}", failure.message),
                    elsewhere: false,
                    ..failure
                }
            }
            IdentityError::NotFound(..) => Self::new("identity_not_found", error, false),
            IdentityError::Tombstoned(_) => Self::new("tombstoned", error, false),
            IdentityError::Malformed(..) => Self::new("identity_malformed", error, false),
        }
    }
}

/// What a failure's row holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FailureBody {
    pub reason: String,
    pub message: String,
    pub host: Option<String>,
    pub attempts: u32,
    /// Microseconds.
    pub at: u64,
    /// When it is tried again by itself (microseconds).
    pub next: Option<u64>,
}

impl FailureBody {
    /// Of bounded length, whatever a host said.
    pub fn new(failure: Failure, attempts: u32, at: u64, next: Option<u64>) -> Self {
        Self {
            reason: failure.reason.to_owned(),
            message: cut(&failure.message, MESSAGE).to_owned(),
            host: failure.host.map(|host| cut(&host, HOST).to_owned()),
            attempts,
            at,
            next,
        }
    }
}

/// The start of a text, of at most so many bytes.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Writes failures down. What no store can hold is said in the log alone: one repository never ends the others' work.
pub(super) async fn put(store: &dyn Store, rows: &[JobFailure]) -> Result<(), StoreError> {
    match store.put_failures(rows).await {
        Err(StoreError::Refused(error)) => {
            tracing::error!(error, "a failure can't be written down");
            Ok(())
        }
        put => put,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn what_a_host_says_fits_into_a_row() {
        let failure = Failure::new("refused", "\u{1}🦋".repeat(100_000), false);
        let body = FailureBody::new(failure.at(&"h".repeat(100_000)), 1, 0, None);
        assert!(serde_json::to_vec(&body).unwrap().len() < 8 << 10);
    }

    #[tokio::test]
    async fn a_failure_that_no_store_holds_ends_nothing() {
        let row = JobFailure {
            job: 1,
            did: "x".repeat(100_000),
            collection: String::new(),
            body: Vec::new(),
        };
        put(&MemoryStore::default(), &[row]).await.unwrap();
        let refused = StoreError::Refused(String::new());
        assert!(!Failure::from(refused).again);
    }
}
