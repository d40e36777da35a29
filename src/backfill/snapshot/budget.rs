//! The memory that all fetches of repositories share, and what they may write to temporary files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a fetch may take although it belongs to the part that is kept for small repositories.
const SMALL: u64 = 512 << 10;

/// Bytes of memory that all snapshots together may hold. Cheap to clone.
///
/// A quarter is kept for fetches that hold little: while a few great repositories have taken all they can, small ones still
/// pass by.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: AtomicU64,
    used: AtomicU64,
    max_on_disk: AtomicU64,
    on_disk: AtomicU64,
}

impl Budget {
    /// A budget of this many bytes of memory, and as many on disk as there are.
    pub fn new(max: u64) -> Self {
        Self::with_disk(max, u64::MAX)
    }

    /// A budget of so many bytes of memory and of temporary files: hosts that send without end must not fill the disk.
    pub fn with_disk(max: u64, max_on_disk: u64) -> Self {
        Self(Arc::new(Shared {
            max: AtomicU64::new(max),
            used: AtomicU64::new(0),
            max_on_disk: AtomicU64::new(max_on_disk),
            on_disk: AtomicU64::new(0),
        }))
    }

    /// Other bounds from now on. What is taken beyond them is given back when its fetches are done.
    pub fn resize(&self, max: u64, max_on_disk: u64) {
        self.0.max.store(max, Ordering::Relaxed);
        self.0.max_on_disk.store(max_on_disk, Ordering::Relaxed);
    }

    /// Bytes that are taken.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// What one fetch takes of it: nothing yet.
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            held: 0,
            on_disk: 0,
        }
    }
}

/// What one fetch has taken of a [`Budget`]. Given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    held: u64,
    on_disk: u64,
}

impl Share {
    /// Takes this many bytes, or says that there are not as many.
    pub fn try_take(&mut self, bytes: u64) -> bool {
        let Shared { max, used, .. } = &*self.budget.0;
        let held = self.held.saturating_add(bytes);
        let max = max.load(Ordering::Relaxed);
        let limit = if held <= SMALL { max } else { max / 4 * 3 };
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|used| *used <= limit)
        });
        if taken.is_ok() {
            self.held = held;
        }
        taken.is_ok()
    }

    /// Takes so many bytes of a temporary file, which are given back when this is dropped, or says that there are not as many.
    pub(super) fn try_take_disk(&mut self, bytes: u64) -> bool {
        let Shared {
            max_on_disk,
            on_disk,
            ..
        } = &*self.budget.0;
        let max_on_disk = max_on_disk.load(Ordering::Relaxed);
        let taken = on_disk.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|used| *used <= max_on_disk)
        });
        if taken.is_ok() {
            self.on_disk += bytes;
        }
        taken.is_ok()
    }

    /// Gives some of it back; at most what was taken.
    pub fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Moves all of it to another owner.
    pub(super) fn take(&mut self) -> Self {
        Self {
            budget: self.budget.clone(),
            held: std::mem::take(&mut self.held),
            on_disk: std::mem::take(&mut self.on_disk),
        }
    }

    /// Bytes that this fetch has taken.
    pub fn held(&self) -> u64 {
        self.held
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.held);
        let on_disk = &self.budget.0.on_disk;
        on_disk.fetch_sub(self.on_disk, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = Budget::new(8 << 20);
        let mut great = budget.share();
        assert!(great.try_take(6 << 20));
        assert!(!great.try_take(1));
        let mut small = budget.share();
        assert!(small.try_take(SMALL));
        assert!(!small.try_take(1), "no longer small");
        assert_eq!(budget.used(), (6 << 20) + SMALL);
        great.give_back(6 << 20);
        assert!(small.try_take(1));
        assert_eq!((great.held(), small.held()), (0, SMALL + 1));
        great.give_back(1);
        budget.resize(1 << 20, u64::MAX);
        assert!(!small.try_take(1 << 20), "half of it is taken");
        budget.resize(8 << 20, u64::MAX);
        assert!(small.try_take(1 << 20));
        drop((great, small));
        assert_eq!(budget.used(), 0);
        assert!(!budget.share().try_take(u64::MAX));
    }
}
