//! One fetch: from a URL over redirects, refusals and several addresses to an answer.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::LOCATION;
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::guard::{Place, Target};
use super::manners::{AddressPlace, HostPlace};
use super::resolve::connecting_to;
use super::{Body, FetchError, FetchLimits, Fetcher, Patience, headers};
use crate::relay::printable::printable;

/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Addresses of one host that are tried.
const ADDRESSES: usize = 3;
/// Most bytes of an error's body that are read, and the time for that.
const ERROR_BYTES: u64 = 64 << 10;
const ERROR_TIME: Duration = Duration::from_secs(10);

/// What XRPC puts into the body of an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct XrpcError {
    error: String,
    message: String,
}

/// A request that was sent, and its answer as far as the headers.
type Sent = (HostPlace, AddressPlace, Instant, reqwest::Response);

/// What came of a request.
enum Reply {
    /// A success, or an error of the host.
    Answer(Box<Body>, StatusCode),
    Redirect(Url),
}

impl Fetcher {
    /// The body of a success.
    pub(super) async fn follow(
        &self,
        url: &str,
        limits: FetchLimits,
        patience: &Patience,
    ) -> Result<Body, FetchError> {
        let mut url =
            Url::parse(url).map_err(|error| FetchError::forbidden(url, error.to_string()))?;
        let mut foreign = false;
        for _ in 0..=REDIRECTS {
            let target = self.0.guard.check(&url, foreign)?;
            // What a configured host says is as good as configuration; what others say is not.
            foreign |= !target.configured;
            match self.ask(&url, &target, limits, patience).await? {
                Reply::Answer(body, status) if status.is_success() => return Ok(*body),
                Reply::Answer(body, status) => return Err(status_error(*body, status).await),
                Reply::Redirect(to) => url = to,
            }
        }
        Err(FetchError::forbidden(url.as_str(), "too many redirects"))
    }

    /// Asks one host, as often as it wants to be asked later.
    async fn ask(
        &self,
        url: &Url,
        target: &Target,
        limits: FetchLimits,
        patience: &Patience,
    ) -> Result<Reply, FetchError> {
        loop {
            let here = self.0.manners.enter_host(&target.host, patience).await?;
            let Some(sent) = self.send(url, target, limits, here).await? else {
                continue;
            };
            let (mut here, there, sent, response) = sent;
            here.told(&there, response.headers());
            let status = response.status();
            if refuses(&response) {
                here.refused(response.headers());
                continue;
            }
            here.answered();
            patience.answered();
            if is_failure(status) {
                here.failed();
            }
            if let Some(to) = redirect(url, &response).transpose() {
                here.succeeded();
                return to.map(Reply::Redirect);
            }
            let limits = match status.is_success() {
                true => limits,
                false => FetchLimits {
                    bytes: ERROR_BYTES,
                    time: limits.time.min(ERROR_TIME),
                    idle: limits.idle,
                },
            };
            let body = Body::new(response, limits, sent, patience.cancel(), (here, there));
            return Ok(Reply::Answer(Box::new(body), status));
        }
    }

    /// Sends to the first of the host's addresses that can be connected to. `None`: meanwhile the host wants no requests.
    async fn send(
        &self,
        url: &Url,
        target: &Target,
        limits: FetchLimits,
        mut here: HostPlace,
    ) -> Result<Option<Sent>, FetchError> {
        let mut tried = 1;
        loop {
            let addresses = self.addresses(target, &mut here).await?;
            let Some(address) = addresses.first().copied() else {
                return Err(FetchError::forbidden(&target.host, "no address"));
            };
            let there = self.0.manners.enter_address(address).await;
            if !here.may_send() {
                return Ok(None);
            }
            let sent = Instant::now();
            let request = self.0.client.get(url.clone()).send();
            // Who says nothing at all must not keep a place for as long as a large answer may.
            let limit = limits.time.min(limits.idle);
            let failed = match timeout(limit, connecting_to(address, request)).await {
                Ok(Ok(response)) => return Ok(Some((here, there, sent, response))),
                Ok(Err(error)) => {
                    if error.is_connect() && tried < addresses.len().min(ADDRESSES) {
                        tried += 1;
                        here.host.known.demote(address).await;
                        continue;
                    }
                    FetchError::unreachable(&target.host, &error)
                }
                Err(_) => FetchError::TooSlow {
                    host: target.host.clone(),
                    limit,
                },
            };
            here.failed();
            return Err(failed);
        }
    }

    /// The addresses that a target may be connected to, the best one first.
    async fn addresses(
        &self,
        target: &Target,
        here: &mut HostPlace,
    ) -> Result<Vec<IpAddr>, FetchError> {
        let name = match &target.place {
            Place::Address(address) => return Ok(vec![*address]),
            Place::Name(name) => name,
        };
        let known = &here.host.known;
        let asking = known.addresses(name, &*self.0.resolver, self.0.connect_timeout);
        match asking.await {
            // That it is forbidden is our word, and no trouble of the host's.
            Ok(addresses) => target.allowed(addresses).inspect_err(|_| here.succeeded()),
            Err(error) => {
                here.failed();
                Err(FetchError::Unreachable {
                    host: target.host.clone(),
                    message: printable(&format!("no address found: {error}")),
                })
            }
        }
    }
}

/// Whether the host only asks to be asked later.
fn refuses(response: &reqwest::Response) -> bool {
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::SERVICE_UNAVAILABLE => headers::retry_after(response.headers()).is_some(),
        _ => false,
    }
}

/// Whether something is wrong with the host as a whole, not with what was asked.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}

/// Where an answer sends us; nowhere is no redirect.
fn redirect(from: &Url, response: &reqwest::Response) -> Result<Option<Url>, FetchError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION);
    let Some(location) = location.and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    let to = from
        .join(location)
        .map_err(|error| FetchError::forbidden(location, error.to_string()))?;
    if from.scheme() == "https" && to.scheme() != "https" {
        return Err(FetchError::forbidden(to.as_str(), "a redirect out of TLS"));
    }
    Ok(Some(to))
}

/// Reads what an error says, in XRPC's form or in none.
async fn status_error(body: Body, status: StatusCode) -> FetchError {
    let host = body.host().to_owned();
    let said = match body.whole().await {
        Ok(bytes) => serde_json::from_slice::<XrpcError>(&bytes).ok(),
        Err(FetchError::Cancelled) => return FetchError::Cancelled,
        // The status says enough.
        Err(_) => None,
    };
    let said = said.unwrap_or_else(|| XrpcError {
        error: String::new(),
        message: status.canonical_reason().unwrap_or_default().to_owned(),
    });
    FetchError::Status {
        host,
        status: status.as_u16(),
        name: printable(&said.error),
        message: printable(&said.message),
    }
}
