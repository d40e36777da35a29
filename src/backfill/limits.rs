//! The limits of what is fetched: a daemon that reads its configuration again changes them while it works.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Backfill;

/// Tells the limits that hold now.
#[derive(Debug, Clone)]
pub struct Limits(watch::Receiver<Arc<Backfill>>);

impl Limits {
    /// These, and who may change them.
    pub fn changing(keys: Backfill) -> (watch::Sender<Arc<Backfill>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(keys));
        (sender, Self(receiver))
    }

    /// What never changes.
    pub fn fixed(keys: Backfill) -> Self {
        Self::changing(keys).1
    }

    /// The limits that hold now.
    pub fn now(&self) -> Arc<Backfill> {
        self.0.borrow().clone()
    }

    /// The limits that hold now, if they changed since this was asked last.
    pub fn changed(&mut self) -> Option<Arc<Backfill>> {
        let changed = self.0.has_changed().unwrap_or(false);
        changed.then(|| self.0.borrow_and_update().clone())
    }
}
