//! Which collections a repository can be complete for: those that all workers take in.
//!
//! A collection that was chosen while daemons run, or that a configuration has since it was read again, is indexed here at once, and
//! by another worker a while later. What that one drops meanwhile is in no snapshot, so none is complete for the collection before
//! all have said that they take it in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::tools::Tools;
use crate::config::CollectionFilter;
use crate::ledger;
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
    followed: Option<Arc<CollectionFilter>>,
    looked: Instant,
}

impl Known {
    fn is_all(&self) -> bool {
        self.followed.as_ref() == Some(&self.indexed)
    }
}

impl Followed {
    /// What is indexed and taken in by all workers now; `None`: nothing yet.
    pub(super) async fn now(
        &self,
        tools: &Tools,
    ) -> Result<Option<Arc<CollectionFilter>>, StoreError> {
        let mut known = self.0.lock().await;
        let indexed = tools.indexed.now();
        if let Some(known) = &*known
            && Arc::ptr_eq(&known.indexed, &indexed)
            && (known.is_all() || known.looked.elapsed() < LOOK)
        {
            return Ok(known.followed.clone());
        }
        let settled = tools.indexed.settled();
        let followed = match &settled {
            Some(settled) if settled.covers(&indexed) => Some(indexed.clone()),
            settled => {
                let facts = tools.store.facts().await?;
                followed(&indexed, settled.as_deref(), &facts).map(Arc::new)
            }
        };
        *known = Some(Known {
            indexed,
            followed: followed.clone(),
            looked: Instant::now(),
        });
        Ok(followed)
    }
}

/// What all workers take in of what is indexed: what is settled, and what each has said in the ledger that it takes in.
fn followed(
    indexed: &CollectionFilter,
    settled: Option<&CollectionFilter>,
    facts: &[Fact],
) -> Option<CollectionFilter> {
    let told = ledger::newest_filters(facts);
    let all_tell = |is: &dyn Fn(&CollectionFilter) -> bool| {
        told.as_ref().is_some_and(|filters| filters.iter().all(is))
    };
    if indexed.is_all() {
        return match all_tell(&CollectionFilter::is_all) {
            true => Some(CollectionFilter::ALL),
            false => settled.cloned(),
        };
    }
    let mut entries = indexed.entries();
    entries.retain(|entry| {
        settled.is_some_and(|settled| covers(settled, entry))
            || all_tell(&|filter| covers(filter, entry))
    });
    let of_entries = CollectionFilter::of_entries(&entries);
    // Of a prefix only a part may be settled.
    match (
        of_entries,
        settled.and_then(|settled| settled.shared(indexed)),
    ) {
        (Some(one), Some(two)) => {
            CollectionFilter::of_entries(&[one.entries(), two.entries()].concat())
        }
        (one, two) => one.or(two),
    }
}

fn covers(filter: &CollectionFilter, entry: &str) -> bool {
    CollectionFilter::parse(entry).is_ok_and(|entry| filter.covers(&entry))
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

    fn said(indexed: &str, settled: Option<&str>, facts: &[Fact]) -> Option<String> {
        let settled = settled.map(filter);
        let followed = followed(&filter(indexed), settled.as_ref(), facts);
        followed.map(|followed| followed.to_string())
    }

    #[test]
    fn what_came_later_counts_once_all_workers_take_it_in() {
        let indexed = "a.b.c,a.b.d,a.b.e";
        let followed = |others: &str| {
            let facts = [fact(0, indexed), fact(1, others)];
            said(indexed, Some("a.b.c"), &facts).unwrap()
        };
        assert_eq!(followed("a.b.c"), "a.b.c");
        assert_eq!(followed("a.b.c,a.b.d"), "a.b.c,a.b.d");
        assert_eq!(followed(indexed), indexed);
        let one = said(indexed, Some("a.b.c"), &[fact(0, indexed)]);
        assert_eq!(
            one.as_deref(),
            Some("a.b.c"),
            "the other one has said nothing"
        );
    }

    #[test]
    fn of_another_configuration_nothing_counts_before_all_follow() {
        let facts = |one, two| [fact(0, one), fact(1, two)];
        let said = |indexed, settled, facts: [Fact; 2]| said(indexed, settled, &facts);
        assert_eq!(said("x.y.z", None, facts("x.y.z", "a.b.c")), None);
        let all = said("x.y.z", None, facts("x.y.z", "x.y.z"));
        assert_eq!(all.as_deref(), Some("x.y.z"));
        // All collections, which were some before.
        let some = said("", Some("a.b.c"), facts("", "a.b.c"));
        assert_eq!(some.as_deref(), Some("a.b.c"));
        assert_eq!(said("", None, facts("", "a.b.c")), None);
        let all = said("", Some("a.b.c"), facts("", ""));
        assert_eq!(all.as_deref(), Some(""));
        // A prefix, of which one name was there before.
        let prefix = said("a.b.*", Some("a.b.c"), facts("a.b.*", "a.b.c"));
        assert_eq!(prefix.as_deref(), Some("a.b.c"));
        let prefix = said("a.b.*", Some("a.b.c"), facts("a.b.*", "a.b.*"));
        assert_eq!(prefix.as_deref(), Some("a.b.*"));
    }
}
