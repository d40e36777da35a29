//! Why a repository could not be had, and how that is written down.

use serde::{Deserialize, Serialize};

use crate::fetch::FetchError;
use crate::identity::IdentityError;
use crate::store::StoreError;

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

    /// Whether nothing was asked, for the host is left alone.
    pub fn is_of_host(&self) -> bool {
        self.reason == "backed_off"
    }

    pub fn at(self, host: &str) -> Self {
        Self {
            host: Some(host.to_owned()),
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
            FetchError::TooSlow { .. } => ("too_slow", true),
            FetchError::TooLarge { .. } => ("too_large", false),
            FetchError::Truncated(_) => ("truncated", true),
            FetchError::Status { status, .. } if *status >= 500 => ("server_error", true),
            FetchError::Status { .. } => ("refused", false),
            FetchError::Cancelled => ("cancelled", false),
        };
        let elsewhere = !matches!(error, FetchError::TooLarge { .. } | FetchError::Cancelled);
        Self {
            elsewhere,
            ..Self::new(reason, error, again)
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new("store", error, true)
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
