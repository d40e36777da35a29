//! Which repositories a job takes in: page after page, each once.
//!
//! A job that goes on after a stop lists again what it had listed before. Nothing of that is fetched: it is only known then.

use std::collections::HashSet;
use std::time::Duration;

use super::super::discover::{DiscoverError, Found, FoundPage, Source};
use super::super::record::Checkpoint;
use super::{LISTING_ATTEMPTS, Run, Step, Unit, hash};
use crate::slot::slot_of;

/// DIDs of which is known that they were listed; those beyond are asked for once more.
const MAX_LISTED: usize = 4 << 20;

impl Run {
    pub(super) fn ask(&mut self, at: Checkpoint, after: Duration) {
        let Some(source) = self.job.body.sources.get(at.source).cloned() else {
            return;
        };
        self.asking = true;
        let (tools, lister) = (self.tools.clone(), self.lister.clone());
        let cancel = self.cancel.clone();
        self.steps.spawn(async move {
            tokio::time::sleep(after).await;
            let cursor = at.cursor.as_deref();
            Step::Page(lister.page(&tools, &source, cursor, &cancel).await)
        });
    }

    /// A page that can't be had: elsewhere, without that host, or later; else gives why the job can't go on.
    pub(super) fn not_listed(&mut self, error: DiscoverError) -> Option<String> {
        self.asking = false;
        if error.is_unsupported() {
            return self.fall_back(&error);
        }
        let attempts = self.tools.limits.now().attempts;
        let at = self.next.as_ref().map_or(0, |at| at.source);
        let one_of_many = matches!(self.job.body.sources.get(at), Some(Source::Hosts { .. }));
        match error {
            DiscoverError::Host {
                host,
                error,
                next,
                again: true,
            } if one_of_many && self.job.body.put_off(at, &host) => {
                tracing::info!(job = self.job.id, host, %error, "a host is asked for its list after the others");
                self.found(FoundPage {
                    repos: Vec::new(),
                    next,
                });
                None
            }
            DiscoverError::Host {
                host,
                error,
                next,
                again,
            } if !again || self.listing_failures + 1 >= attempts.min(LISTING_ATTEMPTS) => {
                tracing::warn!(job = self.job.id, host, %error, "a host is left out of a backfill");
                self.job.body.lose_host(&host, &error);
                self.found(FoundPage {
                    repos: Vec::new(),
                    next,
                });
                None
            }
            error => self.ask_again(&error),
        }
    }

    /// Another way to the same repositories, if there is one.
    fn fall_back(&mut self, error: &DiscoverError) -> Option<String> {
        let at = self.next.clone()?;
        let Some(next) = self.job.body.fall_back(at.source) else {
            let lists = "the relay lists neither repositories nor hosts";
            return self.leave_out_relay(&format!("{lists}: {error}"));
        };
        let source = self.job.body.sources.get(next.source);
        tracing::warn!(job = self.job.id, %error, ?source, "a relay does not list what is asked for");
        self.listing_failures = 0;
        self.pages
            .begin::<Found>(&mut Vec::new(), |_| 0, next.clone());
        self.next = Some(next);
        None
    }

    /// Goes on without a relay, if another one was listed or is still to be; else gives why the job can't go on.
    fn leave_out_relay(&mut self, why: &str) -> Option<String> {
        let body = &mut self.job.body;
        let at = self.next.as_ref().map_or(0, |at| at.source);
        let Some(host) = body.relay_beside_others(at) else {
            return Some(why.to_owned());
        };
        tracing::warn!(
            job = self.job.id,
            host,
            why,
            "a relay is left out of a backfill"
        );
        body.lose_host(&host, &why);
        self.found(FoundPage::default());
        None
    }

    /// A listing that failed is asked for again, but not for ever.
    fn ask_again(&mut self, error: &DiscoverError) -> Option<String> {
        self.listing_failures += 1;
        tracing::warn!(job = self.job.id, %error, attempt = self.listing_failures, "a listing of repositories failed");
        if self.listing_failures >= LISTING_ATTEMPTS {
            return self.leave_out_relay(&error.to_string());
        }
        let wait =
            self.tools.limits.now().retry_wait * 2u32.saturating_pow(self.listing_failures - 1);
        if let Some(at) = self.next.clone() {
            self.ask(at, wait);
        }
        None
    }

    /// Takes a page in: what was listed before in this run is left out.
    pub(super) fn found(&mut self, page: FoundPage) {
        self.asking = false;
        self.listing_failures = 0;
        let Some(at) = self.next.take() else { return };
        let next = at.behind(page.next);
        let slots = self.job.body.slots;
        let mut repos = page.repos;
        repos.retain(|found| {
            let here = slots.is_none_or(|slots| slots.contains(slot_of(&found.did)));
            here && !self.is_listed(found)
        });
        let job = self.job.id;
        let by = |found: &Found| hash(job, &found.did);
        let number = self.pages.begin(&mut repos, by, next.clone());
        self.units += repos.len();
        for found in repos {
            self.find_host(Unit::new(found, number));
        }
        let more = next.source < self.job.body.sources.len();
        self.job.body.listed = !more;
        self.next = more.then_some(next);
    }

    /// Whether a repository was in a listing already; from now on it was.
    fn is_listed(&mut self, found: &Found) -> bool {
        let hash = self.hash(&found.did);
        let known = self.listed.contains(&hash);
        if !known && self.listed.len() < MAX_LISTED {
            self.listed.insert(hash);
        }
        match found.unlisted_only {
            true => known || self.before.seen.contains(&hash),
            false => known && !found.always,
        }
    }

    /// Takes in what was listed before this run, so that it is not asked for as what nobody listed. More may be listed by now: what
    /// is still to come is fetched all the same.
    pub(super) fn found_before(&mut self, page: Result<FoundPage, DiscoverError>) {
        self.asking = false;
        let (Some(at), Some(until)) = (self.before.at.take(), self.next.clone()) else {
            return;
        };
        let next = match page {
            Ok(page) => {
                let hashes = page.repos.iter().map(|found| self.hash(&found.did));
                let hashes: Vec<u64> = hashes.collect();
                self.before.seen.extend(hashes);
                at.behind(page.next)
            }
            Err(DiscoverError::Host { next, .. }) => at.behind(next),
            Err(error) if error.is_unsupported() => at.behind(None),
            Err(error) => {
                tracing::warn!(job = self.job.id, %error, "what a backfill had listed before can't be listed again: some is looked at twice");
                return;
            }
        };
        let room = self.before.seen.len() < MAX_LISTED;
        self.before.at =
            Some(next).filter(|next| room && next.source <= until.source && *next != until);
    }
}

/// Repositories that were listed before this run.
#[derive(Default)]
pub(super) struct Before {
    /// Where they are listed again; `None`: nowhere, or no more.
    pub at: Option<Checkpoint>,
    pub seen: HashSet<u64>,
}

impl Before {
    /// Of one source that is alone nothing has to be known.
    pub fn of(sources: &[Source], checkpoint: &Checkpoint) -> Self {
        let start = Checkpoint::default();
        let needed = sources.len() > 1 && *checkpoint != start && checkpoint.source < sources.len();
        Self {
            at: needed.then_some(start),
            seen: HashSet::new(),
        }
    }
}

impl Checkpoint {
    /// Behind a page of its source, which says where the next one is.
    fn behind(&self, next: Option<String>) -> Self {
        match next {
            Some(cursor) => Self {
                source: self.source,
                cursor: Some(cursor),
            },
            None => Self {
                source: self.source + 1,
                cursor: None,
            },
        }
    }
}
