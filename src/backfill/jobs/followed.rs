//! Which collections a repository can be complete for: those that all workers take in.
//!
//! A collection that was chosen while daemons run is indexed here at once, and by another worker a while later. What that one drops
//! meanwhile is in no snapshot, so none is complete for the collection before all have said that they take it in.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::tools::Tools;
use crate::config::CollectionFilter;
use crate::ledger;
use crate::store::indexed::Chosen;
use crate::store::{Fact, StoreError};

/// Between two looks at the ledger while a worker does not follow.
const LOOK: Duration = Duration::from_secs(5);

/// What was known last.
#[derive(Debug, Default)]
pub struct Followed(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    /// What was indexed then,
    indexed: Arc<CollectionFilter>,
    /// and of that, taken in by all.
    followed: Arc<CollectionFilter>,
    looked: Instant,
}

impl Followed {
    /// What is indexed and taken in by all workers now.
    pub(super) async fn now(&self, tools: &Tools) -> Result<Arc<CollectionFilter>, StoreError> {
        let mut known = self.0.lock().await;
        let indexed = tools.indexed.now();
        if let Some(known) = &*known
            && Arc::ptr_eq(&known.indexed, &indexed)
            && (known.followed == known.indexed || known.looked.elapsed() < LOOK)
        {
            return Ok(known.followed.clone());
        }
        let lagging = lagging(tools).await?;
        let followed = match lagging.is_empty() {
            true => indexed.clone(),
            false => Arc::new(only(&indexed, |entry| !lagging.contains(entry))),
        };
        *known = Some(Known {
            indexed,
            followed: followed.clone(),
            looked: Instant::now(),
        });
        Ok(followed)
    }
}

/// The chosen collections that some worker may not take in, as the ledger says it.
async fn lagging(tools: &Tools) -> Result<BTreeSet<String>, StoreError> {
    let rows = Chosen::all(&*tools.store).await?.into_iter();
    let is_chosen = |(nsid, chosen): &(String, Chosen)| {
        matches!(chosen, Chosen::Indexed { .. }) && !tools.options.configured.wants(nsid)
    };
    let chosen: BTreeSet<String> = rows.filter(is_chosen).map(|(nsid, _)| nsid).collect();
    if chosen.is_empty() {
        return Ok(chosen);
    }
    Ok(missed(chosen, &tools.store.facts().await?))
}

fn missed(chosen: BTreeSet<String>, facts: &[Fact]) -> BTreeSet<String> {
    let missed = RefCell::new(BTreeSet::new());
    let all_told = ledger::all_follow(facts, |filter| {
        let of_slot = chosen.iter().filter(|nsid| !filter.wants(nsid));
        missed.borrow_mut().extend(of_slot.cloned());
        true
    });
    match all_told {
        true => missed.into_inner(),
        false => chosen,
    }
}

/// What a snapshot is complete for that was written for `written`, where this was followed before it was read.
pub(super) fn both(written: &CollectionFilter, followed: &CollectionFilter) -> CollectionFilter {
    let is_followed = |entry: &str| {
        let entry = CollectionFilter::parse(entry);
        entry.is_ok_and(|entry| followed.covers(&entry))
    };
    only(written, is_followed)
}

/// Some entries of a filter. What is configured is always among them, so that they are never none, which would be all.
fn only(filter: &CollectionFilter, keeps: impl Fn(&str) -> bool) -> CollectionFilter {
    let mut entries = filter.entries();
    entries.retain(|entry| keeps(entry));
    CollectionFilter::parse(&entries.join(",")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::SlotSet;
    use crate::store::FactKind;

    fn filter(text: &str) -> CollectionFilter {
        CollectionFilter::parse(text).unwrap()
    }

    fn fact(worker: u16, filter: &str) -> Fact {
        Fact {
            relay: "r".into(),
            generation: 0,
            run: u64::from(worker),
            from_seq: 0,
            to_seq: 10,
            from_time: 0,
            to_time: 10,
            slots: SlotSet::owned_by(worker, 2),
            filter: filter.into(),
            kind: FactKind::Live,
        }
    }

    #[test]
    fn a_chosen_collection_counts_once_all_workers_take_it_in() {
        let chosen = || BTreeSet::from(["a.b.d".to_owned(), "a.b.e".to_owned()]);
        let missed = |others| missed(chosen(), &[fact(0, "a.b.c,a.b.d,a.b.e"), fact(1, others)]);
        assert_eq!(missed("a.b.c"), chosen());
        assert_eq!(missed("a.b.c,a.b.d"), BTreeSet::from(["a.b.e".to_owned()]));
        assert_eq!(missed("a.b.c,a.b.d,a.b.e"), BTreeSet::new());
        let one = super::missed(chosen(), &[fact(0, "a.b.c,a.b.d,a.b.e")]);
        assert_eq!(one, chosen(), "the other one has said nothing");
    }

    #[test]
    fn what_was_chosen_while_a_repository_was_read_does_not_count() {
        let both = |written, followed| both(&filter(written), &filter(followed)).to_string();
        assert_eq!(both("a.b.c,a.b.d,e.f.*", "a.b.c,e.f.*"), "a.b.c,e.f.*");
        assert_eq!(both("a.b.c", "a.b.c,a.b.d"), "a.b.c");
        assert_eq!(both("", ""), "");
    }
}
