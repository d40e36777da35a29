//! What needs no fetch: what is known to be held as its host has it.

use super::discover::Found;
use super::tools::Tools;
use super::unit::{Plan, asks_status};
use crate::config::CollectionFilter;
use crate::decode::Tid;
use crate::store::Repo;

/// How much older than a gap a revision must be before the gap can't have changed the repository: clocks differ.
const GAP_MARGIN: u64 = 3_600_000_000;

/// Whether an account may be shown otherwise than it is held: that changes without a commit.
pub(super) fn has_changed_status(plan: &Plan, found: &Found, held: Option<&Repo>) -> bool {
    held.is_some_and(|held| match found.active {
        Some(active) if active != held.active() => true,
        _ => asks_status(plan, found, held),
    })
}

/// Whether a listed revision needs no fetch.
pub(super) fn is_known(
    tools: &Tools,
    plan: &Plan,
    listed: Option<Tid>,
    held: Option<&Repo>,
) -> bool {
    let Some(listed) = listed else { return false };
    if let Some(from) = plan.from {
        let margin = if plan.windowed { 0 } else { GAP_MARGIN };
        if listed.micros().saturating_add(margin) < from {
            return true;
        }
    }
    is_complete(tools, listed, held)
}

/// Whether a revision is held as a whole already: by a snapshot that is not older, of all that is wanted, with nothing removed
/// since.
pub(super) fn is_complete(tools: &Tools, rev: Tid, held: Option<&Repo>) -> bool {
    let Some((held, complete)) = held.and_then(|held| Some((held, held.complete.as_ref()?))) else {
        return false;
    };
    let filter = CollectionFilter::parse(&complete.filter);
    let wide = filter.is_ok_and(|filter| filter.covers(&tools.indexed.now()));
    let removed = held
        .floors
        .iter()
        .any(|floor| floor.version >= complete.version);
    wide && !removed && held.active() && rev <= complete.rev
}
