//! Worker 0's replay: reads what slots miss of the relays' past, beside the live stream.
//!
//! Each round reads the ledger, takes the gap that is most at risk, asks the relay what it has of it, and then reads it in a
//! [pass](pass), or writes down why it can't be had. A gap that stays as it was is asked for in other ways, then given up.

mod attempts;
mod pass;
mod progress;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::merging::merge_ended;
use super::recorder::Recorder;
use super::status::Status;
use crate::backfill::limits::Limits;
use crate::backfill::look::{Place, Verdict, look};
use crate::backfill::plan::{self, Task};
use crate::clock::Clock;
use crate::config::{CollectionFilter, Config};
use crate::ledger::{self, Gap, Resume, Wanted};
use crate::pipeline::{Faults, Progress, Router};
use crate::relay::{ProbeLimits, Prober, RelayOptions, RelayUrl};
use crate::slot::SlotSet;
use crate::store::indexed::Indexed;
use crate::store::{Fact, FactKind, Store, StoreError};
use crate::telemetry::repeated;
use attempts::{Attempts, Away};
use progress::Shown;

/// How long after the live stream has begun a new span its fact is in the ledger.
const FACT_DELAY: Duration = Duration::from_millis(1_500);
/// How long a relay is waited for where there are others.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a store that does not answer is asked again.
const STORE_CHECK: Duration = Duration::from_secs(1);

/// What the replay is made of.
pub(super) struct WindowParts {
    pub config: Arc<Config>,
    /// What of the configuration may change.
    pub limits: Limits,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub relay: RelayOptions,
    /// One of the replay stream; each pass has another.
    pub router: Router,
    /// The collections that are stored.
    pub indexed: Indexed,
    /// Is told what passes store from now on, when nothing that one routed is on its way.
    pub replayed: watch::Sender<Arc<CollectionFilter>>,
    pub faults: Arc<Faults>,
    /// Is told how far the replay is.
    pub status: Arc<Status>,
    /// Is told when the live stream began a new span: there may be a gap before it.
    pub changed: Arc<Notify>,
    /// Tells the live stream that a relay's numbers are no longer those of a generation.
    pub counts_anew: watch::Sender<Option<(String, u32)>>,
}

/// What a pass that was stopped has not saved yet.
pub(super) struct Unsaved {
    pub recorder: Arc<Recorder>,
    pub progress: Arc<Progress>,
}

/// The replay of worker 0.
pub(super) struct Window {
    parts: WindowParts,
    attempts: Attempts,
    away: Away,
    shown: Shown,
}

impl Window {
    pub fn new(parts: WindowParts) -> Self {
        let shown = Shown::new(parts.status.clone());
        Self {
            parts,
            attempts: Attempts::default(),
            away: Away::default(),
            shown,
        }
    }

    /// Reads what is missing until the shutdown. Its router is gone afterwards.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<Option<Unsaved>, StoreError> {
        while let Some(facts) = self.facts(&shutdown).await? {
            self.parts.replayed.send_replace(self.parts.indexed.now());
            let gaps = ledger::gaps(&facts, &self.wanted());
            self.attempts.keep(&gaps);
            self.shown.missing(&gaps);
            let Some(task) = plan::next(&gaps, |gap| self.attempts.is_due(gap)) else {
                if self.tidy(&facts, &shutdown).await? == 0 && self.rest(&shutdown).await.is_none()
                {
                    break;
                }
                continue;
            };
            if let Some(unsaved) = self.work(&task, &facts, &shutdown).await? {
                return Ok(Some(unsaved));
            }
        }
        Ok(None)
    }

    fn wanted(&self) -> Wanted {
        let now = self.parts.clock.now_micros();
        let wanted = Wanted::configured(&self.parts.config, SlotSet::ALL, now);
        Wanted {
            filter: (*self.parts.indexed.now()).clone(),
            relays: self.away.there(wanted.relays),
            ..wanted
        }
    }

    /// Every fact; waits for a store that does not answer now. `None` at the shutdown.
    async fn facts(&self, shutdown: &CancellationToken) -> Result<Option<Vec<Fact>>, StoreError> {
        loop {
            let read = self.parts.store.facts();
            match shutdown.run_until_cancelled(read).await {
                None => return Ok(None),
                Some(Err(error @ StoreError::Unavailable(_))) => {
                    tracing::warn!(%error, "the replay goes on once the ledger can be read");
                    let wait = tokio::time::sleep(STORE_CHECK);
                    let _ = shutdown.run_until_cancelled(wait).await;
                }
                Some(read) => return read.map(Some),
            }
        }
    }

    /// Keeps the ledger small; gives how many rows went.
    async fn tidy(
        &self,
        facts: &[Fact],
        shutdown: &CancellationToken,
    ) -> Result<usize, StoreError> {
        let merging = merge_ended(&*self.parts.store, facts, self.parts.clock.now_micros());
        match shutdown.run_until_cancelled(merging).await {
            Some(Err(StoreError::Unavailable(_))) | None => Ok(0),
            Some(merged) => merged,
        }
    }

    /// Waits until the ledger is worth reading again; `None` at the shutdown.
    async fn rest(&mut self, shutdown: &CancellationToken) -> Option<()> {
        let every = self.parts.config.backfill.reread;
        let due = self.attempts.next_due().map_or(every, |due| due.min(every));
        tokio::select! {
            () = tokio::time::sleep(due) => Some(()),
            () = self.parts.indexed.changed() => Some(()),
            () = new_span(&self.parts.changed, &*self.parts.store) => Some(()),
            () = shutdown.cancelled() => None,
        }
    }

    /// Does what can be done about some gaps now. Gives what is not saved yet, at the shutdown.
    async fn work(
        &mut self,
        task: &Task,
        facts: &[Fact],
        shutdown: &CancellationToken,
    ) -> Result<Option<Unsaved>, StoreError> {
        let gap = &task.first;
        // Where all goes well there is no such gap the next time.
        self.attempts.asked(gap);
        if ledger::newest_generation(facts, &gap.relay).is_some_and(|new| new > gap.generation) {
            // The relay counts anew: of these numbers it has nothing.
            self.lost(task, u64::MAX, gap.to_time, FactKind::Expired)
                .await?;
            return Ok(None);
        }
        let urls = &self.parts.relay.urls;
        let Some(url) = urls.iter().find(|url| url.host() == gap.relay).cloned() else {
            self.attempts.failed(gap);
            return Ok(None);
        };
        let witness = ledger::another_place(facts, gap);
        let Some(verdict) = self.look(gap, &url, witness, shutdown).await else {
            return Ok(None);
        };
        match verdict {
            Verdict::Later(_) => self.away.failed(&gap.relay),
            _ => self.away.answered(&gap.relay),
        }
        match verdict {
            Verdict::Read(start) => self.read(task, url, start, shutdown).await,
            Verdict::Hole => {
                let to_seq = gap.to_seq.unwrap_or_default();
                tracing::info!(relay = %gap.relay, from_seq = gap.from_seq, to_seq, "the relay never used these numbers");
                let fact = self.fact(gap, to_seq, gap.to_time, FactKind::Replay);
                self.put(&[fact]).await?;
                Ok(None)
            }
            Verdict::Expired { to_seq, to_time } => {
                let rest = gap.to_seq.is_none_or(|end| to_seq < end);
                let start = Resume {
                    generation: gap.generation,
                    seq: to_seq,
                    time: to_time,
                    anchored: false,
                };
                // First what can still be had: the relay goes on forgetting.
                let unsaved = match rest {
                    true => self.read(task, url, start, shutdown).await?,
                    false => None,
                };
                if unsaved.is_none() {
                    self.lost(task, to_seq, to_time, FactKind::Expired).await?;
                }
                Ok(unsaved)
            }
            Verdict::Skipped => {
                let only = Task {
                    first: gap.clone(),
                    gaps: vec![gap.clone()],
                };
                self.lost(&only, u64::MAX, gap.to_time, FactKind::Skipped)
                    .await?;
                Ok(None)
            }
            Verdict::CountsAnew => {
                self.attempts.failed(gap);
                self.parts
                    .counts_anew
                    .send_replace(Some((gap.relay.clone(), gap.generation)));
                Ok(None)
            }
            Verdict::Later(why) => {
                self.attempts.failed(gap);
                if let Some(held_back) = repeated("replay_later", why) {
                    tracing::warn!(relay = %gap.relay, from_seq = gap.from_seq, why, held_back, "a gap can't be read now");
                }
                Ok(None)
            }
        }
    }

    /// Asks the relay for a gap; `None`: it can't be asked, or the process stops.
    async fn look(
        &mut self,
        gap: &Gap,
        url: &RelayUrl,
        witness: Option<Place>,
        shutdown: &CancellationToken,
    ) -> Option<Verdict> {
        let mut limits = ProbeLimits::default();
        if self.parts.relay.urls.len() > 1 {
            // Another one may have it.
            limits.patience = limits.patience.min(PATIENCE);
        }
        let mut prober = Prober::new(self.parts.relay.clone(), url.clone(), limits);
        let looked = look(&mut prober, gap, self.attempts.of(gap), witness);
        match shutdown.run_until_cancelled(looked).await? {
            Ok(verdict) => {
                tracing::debug!(?gap, ?verdict, "looked at a gap");
                Some(verdict)
            }
            Err(error) => {
                self.attempts.failed(gap);
                self.away.failed(&gap.relay);
                if let Some(held_back) = repeated("replay_probe", error.reason.as_str()) {
                    tracing::warn!(%error, held_back, "a gap can't be asked for now");
                }
                None
            }
        }
    }

    /// Writes down that the relay can't serve the gaps up to a number.
    async fn lost(
        &mut self,
        task: &Task,
        to_seq: u64,
        to_time: u64,
        kind: FactKind,
    ) -> Result<(), StoreError> {
        let mut facts = Vec::new();
        for gap in &task.gaps {
            let (last, time) = match gap.to_seq.filter(|end| *end <= to_seq) {
                Some(end) => (end, gap.to_time),
                None => (to_seq, to_time),
            };
            if last > gap.from_seq.unwrap_or_default() {
                facts.push(self.fact(gap, last, time, kind));
            }
        }
        for fact in &facts {
            tracing::warn!(
                relay = %fact.relay,
                from_seq = fact.from_seq,
                to_seq = fact.to_seq,
                from = %crate::decode::time::format_datetime(fact.from_time),
                to = %crate::decode::time::format_datetime(fact.to_time),
                slots = fact.slots.len(),
                reason = fact.kind.as_str(),
                "the relay can't serve this any more: it has to be repaired from the repositories"
            );
        }
        self.put(&facts).await
    }

    fn fact(&self, gap: &Gap, to_seq: u64, to_time: u64, kind: FactKind) -> Fact {
        Fact {
            relay: gap.relay.clone(),
            generation: gap.generation,
            // Rows of different slots that begin alike are different rows.
            run: self.parts.clock.now_micros() & !0xff
                | u64::from(gap.slots.iter().next().unwrap_or_default()),
            from_seq: gap.from_seq.unwrap_or_default(),
            to_seq,
            from_time: gap.from_time,
            to_time,
            slots: gap.slots,
            filter: self.parts.indexed.now().to_string(),
            kind,
        }
    }

    async fn put(&self, facts: &[Fact]) -> Result<(), StoreError> {
        match facts.is_empty() {
            true => Ok(()),
            false => self.parts.store.put_facts(facts).await,
        }
    }
}

/// Resolves once a span that the live stream began is in the ledger.
async fn new_span(changed: &Notify, store: &dyn Store) {
    changed.notified().await;
    tokio::time::sleep(FACT_DELAY + store.sync_lag()).await;
}
