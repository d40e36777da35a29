//! What health says of rows that wait: counted by looking at all of them, so not oftener than is cheap.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::reader::Reader;
use crate::store::StoreError;

/// A count is used for so many times as long as it took,
const REST: u32 = 50;
/// but at least for so long.
const LEAST: Duration = Duration::from_secs(1);

/// Repairs by reason, and bytes of the quarantine.
type Counted = (BTreeMap<String, u64>, u64);

/// The last count.
#[derive(Default)]
pub(super) struct Counts(Mutex<Option<(Instant, Counted)>>);

impl Counts {
    /// The last count, or a new one where that is old.
    pub async fn of(&self, reader: &Reader) -> Result<Counted, StoreError> {
        let mut last = self.0.lock().await;
        if let Some((until, counted)) = last.as_ref()
            && Instant::now() < *until
        {
            return Ok(counted.clone());
        }
        let began = Instant::now();
        let counted = reader.health_counts().await?;
        let rest = (began.elapsed() * REST).max(LEAST);
        *last = Some((Instant::now() + rest, counted.clone()));
        Ok(counted)
    }
}
