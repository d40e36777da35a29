//! Retries quarantined frames for the HTTP surface and for commands without a daemon.

use std::sync::Arc;

use async_trait::async_trait;

use super::decode_options;
use crate::api::{Retry, RetryOutcome};
use crate::clock::Clock;
use crate::config::Config;
use crate::decode::DecodeOptions;
use crate::pipeline::retry::{self, Outcome, RetryOptions};
use crate::store::indexed::Indexed;
use crate::store::{Store, StoreError};

/// Takes quarantined frames in after all.
pub struct Retrier {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    decode: DecodeOptions,
    json: bool,
    indexed: Indexed,
}

impl Retrier {
    /// Takes frames in as the configuration says.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        config: &Config,
        indexed: Indexed,
    ) -> Self {
        Self {
            store,
            clock,
            decode: decode_options(config),
            json: config.store.json,
            indexed,
        }
    }
}

#[async_trait]
impl Retry for Retrier {
    async fn take_in(&self, id: &str) -> Result<RetryOutcome, StoreError> {
        let now = self.clock.now_micros();
        let options = RetryOptions {
            decode: self.decode,
            collections: self.indexed.now(),
            json: self.json,
        };
        let outcome = retry::take_in(self.store.as_ref(), &options, id, now).await?;
        Ok(match outcome {
            Outcome::Applied => RetryOutcome::Applied,
            Outcome::Refused { reason, detail } => RetryOutcome::Refused {
                reason: reason.to_owned(),
                detail,
            },
            Outcome::Repair => RetryOutcome::Repair,
            Outcome::Evicted => RetryOutcome::Evicted,
            Outcome::NotFound => RetryOutcome::NotFound,
        })
    }

    async fn release(&self, ids: Vec<String>) -> Result<(), StoreError> {
        let store = self.store.clone();
        // A task of its own: whoever asked may not wait that long.
        let released = tokio::spawn(async move { retry::release(store.as_ref(), &ids).await });
        match released.await {
            Ok(released) => released,
            Err(ended) => Err(StoreError::Failed(ended.to_string())),
        }
    }
}
