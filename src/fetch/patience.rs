//! How long a request waits for a host that wants none just now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Everybody waits so long: less than any pause that a host asks for.
pub(super) const MOMENT: Duration = Duration::from_millis(500);
/// A wait for longer than this is a long one.
const LONG: Duration = Duration::from_secs(60);

/// How long requests wait for a host that wants none just now: until they are cancelled; those in a hurry wait a moment at most, and
/// come back with [`FetchError::Paused`](super::FetchError::Paused).
///
/// Who needs several answers and is sent back at each time would begin again for ever. So from its first answer on even who is in a
/// hurry waits for the others, if there is still a [place](WaitingPlaces) among those who do. It keeps that place for all its requests:
/// whoever has one comes to an end, and then another one does.
#[derive(Debug, Clone)]
pub struct Patience {
    cancel: CancellationToken,
    hurry: Option<Arc<Hurry>>,
}

/// The places of all who wait although they are in a hurry. Those whose waits are short need none of those who wait for hours.
#[derive(Debug, Clone)]
pub struct WaitingPlaces {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl WaitingPlaces {
    /// So many, half of them for long waits.
    pub fn new(number: usize) -> Self {
        Self {
            short: Arc::new(Semaphore::new(number - number / 2)),
            long: Arc::new(Semaphore::new(number / 2)),
        }
    }
}

/// What the requests of one who is in a hurry share.
#[derive(Debug)]
struct Hurry {
    answered: AtomicBool,
    places: WaitingPlaces,
    short: OnceLock<OwnedSemaphorePermit>,
    long: OnceLock<OwnedSemaphorePermit>,
}

impl Patience {
    /// Of one who has other things to do, until its first answer; from then on it may wait in one of these places.
    pub fn in_a_hurry(cancel: CancellationToken, places: WaitingPlaces) -> Self {
        let hurry = Hurry {
            answered: AtomicBool::new(false),
            places,
            short: OnceLock::new(),
            long: OnceLock::new(),
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
        let wait = until.saturating_duration_since(Instant::now());
        wait <= MOMENT || hurry.answered.load(Ordering::Relaxed) && hurry.has_place(wait)
    }

    /// A host gave an answer, which would be lost.
    pub(super) fn answered(&self) {
        if let Some(hurry) = &self.hurry {
            hurry.answered.store(true, Ordering::Relaxed);
        }
    }
}

impl Hurry {
    fn has_place(&self, wait: Duration) -> bool {
        let (place, places) = match wait > LONG {
            true => (&self.long, &self.places.long),
            false => (&self.short, &self.places.short),
        };
        if place.get().is_none()
            && let Ok(permit) = places.clone().try_acquire_owned()
        {
            // One that another request of the same took meanwhile is as good.
            let _ = place.set(permit);
        }
        place.get().is_some()
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
        let (now, places) = (Instant::now(), WaitingPlaces::new(2));
        let [soon, late, never] = [MOMENT / 2, LONG / 2, 2 * LONG].map(|wait| now + wait);
        let hurried = || Patience::in_a_hurry(CancellationToken::new(), places.clone());
        let (first, second) = (hurried(), hurried());
        assert!(first.lasts_until(soon) && !first.lasts_until(late));
        first.answered();
        second.answered();
        assert!(first.lasts_until(never) && first.clone().lasts_until(never));
        assert!(second.lasts_until(soon) && !second.lasts_until(never));
        // Who waits for long takes nothing from who waits for a while.
        assert!(second.lasts_until(late) && !first.lasts_until(late));
        drop(first);
        assert!(second.lasts_until(never));
        assert!(Patience::from(CancellationToken::new()).lasts_until(never));
    }
}
