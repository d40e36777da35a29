//! One pass: from a place that was found to the end of what is missed behind it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::reader::{End, Pace, Pass, Reader, ReaderParts};
use super::super::recorder::Recorder;
use super::super::status::Status;
use super::progress::Shown;
use super::{Unsaved, Window};
use crate::backfill::plan::{Scope, Task};
use crate::ledger::{self, Resume, Wanted};
use crate::pipeline::{Progress, Stream};
use crate::relay::{RelayUrl, Subscription};
use crate::slot::SlotSet;
use crate::store::{FactKind, StoreError};

/// How often progress is measured.
const MEASURE: Duration = Duration::from_millis(500);

impl Window {
    /// Reads what the gaps of a task miss from a place on. Gives what is not saved yet, at the shutdown.
    pub(super) async fn read(
        &mut self,
        task: &Task,
        url: RelayUrl,
        start: Resume,
        shutdown: &CancellationToken,
    ) -> Result<Option<Unsaved>, StoreError> {
        let scope = task.scope(&task.gaps, start.seq);
        self.shown.begins(task, &start, scope.end());
        let (scopes, scope) = watch::channel(scope);
        let recorder = Arc::new(Recorder::new(self.parts.store.clone()));
        let pass = Pass {
            relay: task.first.relay.clone(),
            start: start.clone(),
            scope,
            until: task.to_time().saturating_add(self.clock_ahead()),
            pace: Pace::new(self.parts.limits.clone()),
        };
        let parts = self.reader_parts(url, recorder.clone());
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                tracing::error!(%error, "a gap can't be read");
                self.attempts.failed(&task.first);
                return Ok(None);
            }
        };
        let (reader, progress) = Reader::replay(parts, pass);
        let end = {
            let reading = reader.run(shutdown.child_token());
            self.attend(reading, task, &start, &scopes, &recorder, &progress)
                .await?
        };
        let last = progress.borrow().clone();
        let unsaved = Unsaved {
            recorder,
            progress: last,
        };
        if end == End::Shutdown || !settle(&unsaved, shutdown).await? {
            return Ok(Some(unsaved));
        }
        match &end {
            // What was read may be gone: it is read again.
            _ if unsaved.recorder.is_doubtful(&unsaved.progress) => {}
            End::Failed(why) => {
                tracing::warn!(relay = %task.first.relay, why, "a replay broke off");
                if self.attempts.broke_off(&task.first) {
                    self.away.leave(&task.first.relay);
                }
            }
            // What is left of it is another gap, or wanted by nobody.
            End::Cut => {}
            _ => self.attempts.read(&task.first),
        }
        self.shown.ends(unsaved.progress.head());
        Ok(None)
    }

    /// How far the frames' times may be ahead of our clock, microseconds.
    fn clock_ahead(&self) -> u64 {
        let ahead = self.parts.config.faults.clock_ahead;
        u64::try_from(ahead.as_micros()).unwrap_or(u64::MAX)
    }

    fn reader_parts(
        &self,
        url: RelayUrl,
        recorder: Arc<Recorder>,
    ) -> Result<ReaderParts, crate::relay::RelayError> {
        let mut relay = self.parts.relay.clone();
        relay.urls = vec![url];
        let config = &self.parts.config;
        Ok(ReaderParts {
            stream: Stream::Replay,
            subscription: Subscription::new(relay)?,
            router: self.parts.router.another(),
            recorder,
            faults: self.parts.faults.clone(),
            // Whether the live stream is followed is another matter.
            status: Arc::new(Status::default()),
            clock: self.parts.clock.clone(),
            slots: SlotSet::default(),
            indexed: self.parts.indexed.clone(),
            from_oldest: false,
            resume_within: config.relay.resume_within,
            clock_ahead: config.faults.clock_ahead,
            changed: Arc::default(),
            counts_anew: watch::channel(None).1,
        })
    }

    /// Lets a reading go on to its end; saves what is durable meanwhile, learns what others filled, and shows how far it is.
    async fn attend(
        &mut self,
        reading: impl Future<Output = Result<End, StoreError>> + Send + 'static,
        task: &Task,
        start: &Resume,
        scopes: &watch::Sender<Scope>,
        recorder: &Arc<Recorder>,
        progress: &watch::Receiver<Arc<Progress>>,
    ) -> Result<End, StoreError> {
        // Runs of now on are this pass's own.
        let begun = self.parts.clock.now_micros() & !0xff;
        let done = CancellationToken::new();
        let saving = recorder.clone().run(progress.clone(), done.clone());
        // Tasks of their own: reading is as busy as the live stream, and saving holds what we ask for below.
        let mut saving = AbortOnDropHandle::new(tokio::spawn(saving));
        let mut reading = AbortOnDropHandle::new(tokio::spawn(reading));
        let mut reread = interval(self.parts.config.backfill.reread);
        let mut measure = interval(MEASURE);
        for timer in [&mut reread, &mut measure] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer.reset();
        }
        // Whoever comes and goes meanwhile, this relay is read to the end.
        let relays = self.wanted().relays;
        let (store, changed) = (self.parts.store.clone(), self.parts.changed.clone());
        let mut new_span = pin!(super::new_span(&changed, &*store));
        loop {
            tokio::select! {
                end = &mut reading => {
                    done.cancel();
                    return unless_it_panicked(end);
                }
                // It ends before only with an error.
                saved = &mut saving => unless_it_panicked(saved)?,
                _ = measure.tick() => {
                    let head = progress.borrow().head();
                    self.shown.goes_on(head, self.parts.clock.now_micros());
                    if let Some(at) = recorder.claimed().await {
                        Shown::claimed(at);
                    }
                }
                () = &mut new_span => {
                    new_span.set(super::new_span(&changed, &*store));
                    reread.reset_immediately();
                }
                _ = reread.tick() => {
                    if let Ok(mut facts) = self.parts.store.facts().await {
                        // What this pass has read has no end yet where it goes on up to now.
                        facts.retain(|fact| fact.kind != FactKind::Replay || fact.run < begun);
                        let wanted = Wanted { relays: relays.clone(), ..self.wanted() };
                        let gaps = ledger::gaps(&facts, &wanted);
                        scopes.send_replace(task.scope(&gaps, start.seq));
                    }
                }
            }
        }
    }
}

fn unless_it_panicked<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Waits until all that a pass has read, which is durable, is claimed; false at the shutdown.
async fn settle(unsaved: &Unsaved, shutdown: &CancellationToken) -> Result<bool, StoreError> {
    let settling = unsaved.recorder.settle(&unsaved.progress);
    match shutdown.run_until_cancelled(settling).await {
        Some(settled) => settled.map(|()| true),
        None => Ok(false),
    }
}
