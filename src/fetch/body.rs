//! An answer as it arrives, within its bounds.

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::manners::{AddressPlace, HostPlace};
use super::{FetchError, FetchLimits};

/// An answer whose body arrives piece by piece.
pub struct Body {
    response: reqwest::Response,
    received: u64,
    limits: FetchLimits,
    sent: Instant,
    cancel: CancellationToken,
    here: HostPlace,
    _there: AddressPlace,
}

impl Body {
    pub(super) fn new(
        response: reqwest::Response,
        limits: FetchLimits,
        sent: Instant,
        cancel: &CancellationToken,
        places: (HostPlace, AddressPlace),
    ) -> Self {
        Self {
            response,
            received: 0,
            limits,
            sent,
            cancel: cancel.clone(),
            here: places.0,
            _there: places.1,
        }
    }

    /// The next piece; `None` at the proper end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        if self.response.content_length().unwrap_or(0) > self.limits.bytes {
            return Err(self.too_large());
        }
        let now = Instant::now();
        let (end, idle) = (self.sent + self.limits.time, now + self.limits.idle);
        let reading = timeout_at(end.min(idle), self.response.chunk());
        let Some(read) = self.cancel.run_until_cancelled(reading).await else {
            return Err(FetchError::Cancelled);
        };
        let piece = match read {
            Ok(Ok(piece)) => piece,
            Ok(Err(_)) => {
                self.here.failed();
                return Err(FetchError::Truncated(self.host().to_owned()));
            }
            Err(_) => {
                self.here.failed();
                let limit = match end <= idle {
                    true => self.limits.time,
                    false => self.limits.idle,
                };
                return Err(FetchError::TooSlow {
                    host: self.host().to_owned(),
                    limit,
                });
            }
        };
        let Some(piece) = piece else {
            self.here.succeeded();
            return Ok(None);
        };
        self.received += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if self.received > self.limits.bytes {
            return Err(self.too_large());
        }
        Ok(Some(piece))
    }

    /// All that is to come.
    pub(super) async fn whole(mut self) -> Result<Bytes, FetchError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Who answers.
    pub(super) fn host(&self) -> &str {
        &self.here.host.name
    }

    /// The host did what was asked, and more.
    fn too_large(&self) -> FetchError {
        self.here.succeeded();
        FetchError::TooLarge {
            host: self.host().to_owned(),
            limit: self.limits.bytes,
        }
    }
}
