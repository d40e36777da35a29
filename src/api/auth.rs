//! Tokens of the admin routes.
//!
//! What is compared are digests of fixed length, in constant time, so that neither the content nor the length of a token
//! shows in the time that an answer takes.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::ApiState;
use super::error::ApiError;

type Fingerprint = [u8; 32];

/// The tokens that are configured, as digests.
#[derive(Clone, Default)]
pub struct Tokens {
    admin: Option<Fingerprint>,
    read: Option<Fingerprint>,
}

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
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
        }
    }

    fn check(&self, headers: &HeaderMap, wanted: Access) -> Result<(), ApiError> {
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
            _ => Err(unauthorized("the token is not known")),
        }
    }

    fn check_configured(&self, wanted: Access) -> Result<(), ApiError> {
        let ways = match wanted {
            _ if self.admin.is_some() => return Ok(()),
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

/// Lets requests through that may only read.
pub(crate) async fn read(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    pass(&state, Access::Read, request, next).await
}

/// Lets requests through that may change something.
pub(crate) async fn admin(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    pass(&state, Access::Admin, request, next).await
}

async fn pass(
    state: &ApiState,
    wanted: Access,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !state.trusted {
        state.tokens.check(request.headers(), wanted)?;
    }
    Ok(next.run(request).await)
}
