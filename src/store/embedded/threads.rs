//! The threads of a store: one that writes, one that sweeps, and as many as answer questions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{Semaphore, oneshot};

use crate::store::StoreError;

/// Threads that answer questions. Their number does not grow under load, as that of the runtime's threads for blocking work would: each
/// takes a few MiB.
const READERS: usize = 16;
/// Questions that are asked at once, with those that wait for a thread.
const QUESTIONS: usize = 64;

type Question = Box<dyn FnOnce() + Send>;

/// Asks questions. Cheap to clone; the threads end when all clones are gone.
#[derive(Clone)]
pub(super) struct Readers {
    questions: Sender<Question>,
    places: Arc<Semaphore>,
}

impl Readers {
    /// Starts the threads.
    pub fn start(threads: &mut Vec<JoinHandle<()>>) -> Result<Self, StoreError> {
        let (questions, asked) = crossbeam_channel::unbounded();
        for _ in 0..READERS {
            let asked = asked.clone();
            threads.push(spawn("store-reader", move || answer(&asked))?);
        }
        let places = Arc::new(Semaphore::new(QUESTIONS));
        Ok(Self { questions, places })
    }

    /// Asks a question on a thread that may block.
    pub async fn ask<T: Send + 'static>(
        self,
        question: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::Failed("its thread ended".to_owned());
        // Never closed.
        let place = self.places.acquire_owned().await.ok();
        let (reply, answer) = oneshot::channel();
        let asked = self.questions.send(Box::new(move || {
            let _place = place;
            // Who asked may have given up.
            if !reply.is_closed() {
                let _ = reply.send(question());
            }
        }));
        asked.map_err(|_| ended())?;
        drop(self.questions);
        answer.await.map_err(|_| ended())?
    }
}

fn answer(asked: &Receiver<Question>) {
    for question in asked {
        if catch_unwind(AssertUnwindSafe(question)).is_err() {
            tracing::error!("a question to the store panicked");
        }
    }
}

/// Starts a thread.
pub(super) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work);
    thread.map_err(|error| StoreError::Failed(format!("no thread: {error}")))
}
