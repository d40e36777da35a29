//! Questions on their way, shared by all who ask the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::cache::Key;
use super::{Identity, IdentityError};

/// Tells one flight from the next of the same DID.
pub(super) type Number = u64;

type Outcome = Result<Identity, IdentityError>;
type Question = BoxFuture<'static, Outcome>;

/// All flights. Each is driven by whoever waits for it, and ends when nobody does.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    last: Number,
    flying: HashMap<Key, (Number, WeakShared<Question>)>,
}

impl Flights {
    /// Joins the flight of a key, or starts one.
    pub(super) fn join<F>(&self, key: &Key, start: impl FnOnce(Number) -> F) -> Shared<Question>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut state = self.lock();
        if let Some((_, flying)) = state.flying.get(key)
            && let Some(shared) = flying.upgrade()
        {
            return shared;
        }
        state.last += 1;
        let number = state.last;
        let landing = Landing {
            flights: self.clone(),
            key: key.clone(),
            number,
        };
        let question = start(number);
        let question = async move {
            let _landing = landing;
            question.await
        };
        let shared = question.boxed().shared();
        if let Some(weak) = shared.downgrade() {
            state.flying.insert(key.clone(), (number, weak));
        }
        shared
    }

    /// Ends a flight; whether its answer still counts.
    pub(super) fn land(&self, key: &Key, number: Number) -> bool {
        let mut state = self.lock();
        let counts = state.flying.get(key).is_some_and(|(n, _)| *n == number);
        if counts {
            state.flying.remove(key);
        }
        counts
    }

    /// Nobody joins this key's flight any more, and its answer does not count.
    pub(super) fn forget(&self, key: &Key) {
        self.lock().flying.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clears a flight away that nobody waited for to the end.
struct Landing {
    flights: Flights,
    key: Key,
    number: Number,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.land(&self.key, self.number);
    }
}
