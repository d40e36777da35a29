//! Tokens of the admin routes.
//!
//! What is compared are digests of fixed length, in constant time, so that neither the content nor the length of a token
//! shows in the time that an answer takes.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::ApiState;
use super::attempts::Attempts;
use super::error::ApiError;

type Fingerprint = [u8; 32];

/// The tokens that are configured, as digests.
#[derive(Clone, Default)]
pub struct Tokens {
    admin: Option<Fingerprint>,
    read: Option<Fingerprint>,
    attempts: Arc<Attempts>,
}

/// Where a request came from; the Unix socket and the process itself have no address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// No token.
    Open,
    Read,
    Admin,
}

impl Tokens {
    /// The token for all admin routes, and the one for those that only read. An empty token is none.
    pub fn new(admin: Option<&str>, read: Option<&str>) -> Self {
        let of = |token: Option<&str>| token.filter(|token| !token.is_empty()).map(fingerprint);
        Self {
            admin: of(admin),
            read: of(read),
            attempts: Arc::default(),
        }
    }

    fn check(
        &self,
        headers: &HeaderMap,
        wanted: Access,
        peer: Option<IpAddr>,
    ) -> Result<(), ApiError> {
        self.check_configured(wanted)?;
        let given = presented(headers).ok_or_else(|| {
            unauthorized("this route needs 'Authorization: Bearer TOKEN' or 'X-API-Key: TOKEN'")
        })?;
        let is = |known: &Option<Fingerprint>| {
            known
                .as_ref()
                .is_some_and(|known| bool::from(known.ct_eq(&given)))
        };
        let (admin, read) = (is(&self.admin), is(&self.read));
        match wanted {
            _ if admin => Ok(()),
            Access::Read if read => Ok(()),
            Access::Admin if read => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "Forbidden",
                "this route needs the admin token; the read token only reads",
            )),
            _ => Err(self.refuse_bad(peer)),
        }
    }

    fn refuse_bad(&self, peer: Option<IpAddr>) -> ApiError {
        match self.attempts.note(peer) {
            None => unauthorized("the token is not known"),
            Some(wait) => ApiError::too_many(
                "too many tokens that are not known came from this address",
                wait.as_secs().saturating_add(1),
            ),
        }
    }

    fn check_configured(&self, wanted: Access) -> Result<(), ApiError> {
        let ways = match wanted {
            _ if self.admin.is_some() => return Ok(()),
            Access::Open => return Ok(()),
            Access::Read if self.read.is_some() => return Ok(()),
            Access::Read => "ADMIN_TOKEN, ADMIN_TOKEN_FILE or http.admin_token (or READ_TOKEN)",
            Access::Admin => "ADMIN_TOKEN, ADMIN_TOKEN_FILE or http.admin_token",
        };
        Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "AdminDisabled",
            format!(
                "no token for this route is configured; set {ways} and restart, or use the Unix socket"
            ),
        ))
    }
}

fn fingerprint(token: impl AsRef<[u8]>) -> Fingerprint {
    Sha256::digest(token).into()
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
}

/// Whether a request shows any token.
pub(crate) fn is_presented(headers: &HeaderMap) -> bool {
    presented(headers).is_some()
}

/// The token of the request; the `Authorization` header goes first.
fn presented(headers: &HeaderMap) -> Option<Fingerprint> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let value = value.as_bytes();
        let (scheme, token) = value.split_at_checked("Bearer ".len())?;
        scheme
            .eq_ignore_ascii_case(b"Bearer ")
            .then(|| token.trim_ascii())
    });
    let key = headers.get("x-api-key").map(|value| value.as_bytes());
    bearer.or(key).map(fingerprint)
}

/// Refuses a request whose token does not open what is wanted.
pub(crate) fn check(state: &ApiState, wanted: Access, request: &Request) -> Result<(), ApiError> {
    if state.trusted || wanted == Access::Open {
        return Ok(());
    }
    let peer = request.extensions().get::<Peer>();
    let peer = peer.and_then(|Peer(address)| *address);
    state.tokens.check(request.headers(), wanted, peer)
}
