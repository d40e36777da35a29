//! How long a request waits for a host that wants none just now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Everybody waits so long.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

/// How long requests wait for a host that wants none just now: until they are cancelled; those in a hurry wait a moment at most, and
/// come back with [`FetchError::Paused`](super::FetchError::Paused).
///
/// Who needs several answers and is sent back at each time would begin again for ever. So from its first answer on even who is in a
/// hurry waits for the others, if there is still a place among those who do. It keeps that place for all its requests: whoever has
/// one comes to an end, and then another one does.
#[derive(Debug, Clone)]
pub struct Patience {
    cancel: CancellationToken,
    hurry: Option<Arc<Hurry>>,
}

/// What the requests of one who is in a hurry share.
#[derive(Debug)]
struct Hurry {
    answered: AtomicBool,
    /// Of all who wait although they are in a hurry.
    places: Arc<Semaphore>,
    place: OnceLock<OwnedSemaphorePermit>,
}

impl Patience {
    /// Of one who has other things to do, until its first answer; from then on it may wait in one of these places.
    pub fn in_a_hurry(cancel: CancellationToken, places: Arc<Semaphore>) -> Self {
        let hurry = Hurry {
            answered: AtomicBool::new(false),
            places,
            place: OnceLock::new(),
        };
        Self {
            cancel,
            hurry: Some(Arc::new(hurry)),
        }
    }

    /// What ends all waiting.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Whether a wait until then is waited out.
    pub fn lasts_until(&self, until: Instant) -> bool {
        let Some(hurry) = &self.hurry else {
            return true;
        };
        until <= Instant::now() + MOMENT
            || hurry.answered.load(Ordering::Relaxed) && hurry.has_place()
    }

    /// A host gave an answer, which would be lost.
    pub(super) fn answered(&self) {
        if let Some(hurry) = &self.hurry {
            hurry.answered.store(true, Ordering::Relaxed);
        }
    }
}

impl Hurry {
    fn has_place(&self) -> bool {
        if self.place.get().is_none()
            && let Ok(place) = self.places.clone().try_acquire_owned()
        {
            // One that another request of the same took meanwhile is as good.
            let _ = self.place.set(place);
        }
        self.place.get().is_some()
    }
}

impl From<CancellationToken> for Patience {
    fn from(cancel: CancellationToken) -> Self {
        Self {
            cancel,
            hurry: None,
        }
    }
}

impl From<&CancellationToken> for Patience {
    fn from(cancel: &CancellationToken) -> Self {
        cancel.clone().into()
    }
}

impl From<&Self> for Patience {
    fn from(patience: &Self) -> Self {
        patience.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_in_a_hurry_waits_once_it_has_something_to_lose_and_there_is_a_place() {
        let (now, places) = (Instant::now(), Arc::new(Semaphore::new(1)));
        let [soon, late] = [now + MOMENT / 2, now + 100 * MOMENT];
        let hurried = || Patience::in_a_hurry(CancellationToken::new(), places.clone());
        let (first, second) = (hurried(), hurried());
        assert!(first.lasts_until(soon) && !first.lasts_until(late));
        first.answered();
        second.answered();
        assert!(first.lasts_until(late) && first.clone().lasts_until(late));
        assert!(second.lasts_until(soon) && !second.lasts_until(late));
        drop(first);
        assert!(second.lasts_until(late));
        assert!(Patience::from(CancellationToken::new()).lasts_until(late));
    }
}
