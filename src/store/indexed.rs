//! Which collections are indexed: those of the configuration, and those that operators chose while the daemon ran.
//!
//! The choices are rows of the store, so that every worker follows them. A name with a prefix or among all is none: what the
//! configuration covers is not chosen.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard, watch};

use super::{Choice, ChoiceKind, Store, StoreError};
use crate::config::CollectionFilter;

/// Choices read at once.
const PAGE: usize = 1000;

/// What was chosen for a collection: the body of its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Chosen {
    /// It is indexed.
    Indexed {
        /// Who asked for the job that fetches its past, until that job is made.
        due: Option<String>,
    },
    /// It is indexed no more, and its records are being removed.
    Purging {
        /// Up to where they are: a cursor of its records.
        cursor: Option<String>,
    },
}

impl Chosen {
    /// Reads a row's body. One that says nothing is of a collection that is indexed: rather too much is stored than too little.
    fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or(Self::Indexed { due: None })
    }

    /// Writes the row.
    pub async fn put(&self, store: &dyn Store, nsid: &str) -> Result<(), StoreError> {
        let body = serde_json::to_vec(self)
            .map_err(|error| StoreError::Failed(format!("the choice of {nsid}: {error}")))?;
        store
            .put_choice(&Choice {
                kind: ChoiceKind::Collection,
                name: nsid.to_owned(),
                body,
            })
            .await
    }

    /// What was chosen for a collection, if anything was.
    pub async fn of(store: &dyn Store, nsid: &str) -> Result<Option<Self>, StoreError> {
        let row = choice(store, ChoiceKind::Collection, nsid).await?;
        Ok(row.map(|row| Self::read(&row.body)))
    }

    /// Every collection for which something was chosen, by name.
    pub async fn all(store: &dyn Store) -> Result<Vec<(String, Self)>, StoreError> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let page = store
                .choices(ChoiceKind::Collection, "", cursor.as_deref(), PAGE)
                .await?;
            let rows = page.items.into_iter();
            all.extend(rows.map(|row| (row.name, Self::read(&row.body))));
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }
}

/// Under which name is kept when a collection was last removed.
const NARROWED: &str = "narrowed";

/// Notes that a collection is removed now (microseconds): who works over all that is indexed can't claim that collection any more.
pub async fn note_narrowing(store: &dyn Store, now: u64) -> Result<(), StoreError> {
    store
        .put_choice(&Choice {
            kind: ChoiceKind::Mark,
            name: NARROWED.to_owned(),
            body: now.to_string().into_bytes(),
        })
        .await
}

/// When a collection was last removed (microseconds).
pub async fn narrowed(store: &dyn Store) -> Result<Option<u64>, StoreError> {
    let row = choice(store, ChoiceKind::Mark, NARROWED).await?;
    Ok(row.and_then(|row| serde_json::from_slice(&row.body).ok()))
}

/// One row of a list.
pub async fn choice(
    store: &dyn Store,
    kind: ChoiceKind,
    name: &str,
) -> Result<Option<Choice>, StoreError> {
    // Of all names that begin with it, its own is the first.
    let page = store.choices(kind, name, None, 1).await?;
    Ok(page.items.into_iter().find(|row| row.name == name))
}

/// What is indexed, and why.
#[derive(Debug, PartialEq)]
struct State {
    indexed: Arc<CollectionFilter>,
    configured: Arc<CollectionFilter>,
    settled: Option<Arc<CollectionFilter>>,
}

impl State {
    /// As a process begins.
    fn configured(filter: &CollectionFilter) -> Self {
        let filter = Arc::new(filter.clone());
        Self {
            indexed: filter.clone(),
            configured: filter.clone(),
            settled: Some(filter),
        }
    }
}

/// Tells what is indexed now.
#[derive(Debug, Clone)]
pub struct Indexed(watch::Receiver<State>);

impl Indexed {
    /// What never changes.
    pub fn fixed(filter: CollectionFilter) -> Self {
        Self(watch::channel(State::configured(&filter)).1)
    }

    /// What is indexed now; the very same as long as nothing of it changed.
    pub fn now(&self) -> Arc<CollectionFilter> {
        self.0.borrow().indexed.clone()
    }

    /// What the configuration says now.
    pub fn configured(&self) -> Arc<CollectionFilter> {
        self.0.borrow().configured.clone()
    }

    /// What the configuration has said since this process began: workers take it in from their first frame on. Of what came
    /// later each says in the ledger from when on it takes it in.
    pub fn settled(&self) -> Option<Arc<CollectionFilter>> {
        self.0.borrow().settled.clone()
    }

    /// Resolves when that changed since the last time.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody changes it any more.
            std::future::pending().await
        }
    }
}

/// What is indexed by this worker, as the configuration and the choices say it.
#[derive(Debug)]
pub struct Index {
    now: watch::Sender<State>,
    /// Held while the choices are read or changed: what was read before a change never replaces what was read after it.
    changing: Mutex<()>,
}

impl Index {
    /// Reads the choices.
    pub async fn read(
        configured: &CollectionFilter,
        store: &dyn Store,
    ) -> Result<Arc<Self>, StoreError> {
        let index = Self {
            now: watch::channel(State::configured(configured)).0,
            changing: Mutex::default(),
        };
        index.refresh(store).await?;
        Ok(Arc::new(index))
    }

    /// What the configuration says.
    pub fn configured(&self) -> Arc<CollectionFilter> {
        self.now.borrow().configured.clone()
    }

    /// Tells what is indexed.
    pub fn indexed(&self) -> Indexed {
        Indexed(self.now.subscribe())
    }

    /// Nobody else changes the choices meanwhile.
    pub async fn lock(&self) -> Changing<'_> {
        Changing {
            index: self,
            _changing: self.changing.lock().await,
        }
    }

    /// Follows what was chosen.
    pub async fn refresh(&self, store: &dyn Store) -> Result<(), StoreError> {
        self.lock().await.follow(store).await
    }
}

/// The choices while they are changed.
pub struct Changing<'a> {
    index: &'a Index,
    _changing: MutexGuard<'a, ()>,
}

impl Changing<'_> {
    /// What was chosen for a collection, until it is changed here.
    pub async fn chosen(
        &self,
        store: &dyn Store,
        nsid: &str,
    ) -> Result<Option<Chosen>, StoreError> {
        Chosen::of(store, nsid).await
    }

    /// Follows what was chosen.
    pub async fn follow(&self, store: &dyn Store) -> Result<(), StoreError> {
        let configured = self.index.configured();
        self.configure(store, &configured).await
    }

    /// Follows what was chosen, and what the configuration says from now on. Where the store does not answer nothing changes.
    pub async fn configure(
        &self,
        store: &dyn Store,
        configured: &CollectionFilter,
    ) -> Result<(), StoreError> {
        let chosen = Chosen::all(store).await?;
        let indexed = chosen.iter().filter_map(|(nsid, chosen)| match chosen {
            Chosen::Indexed { .. } => Some(nsid.as_str()),
            Chosen::Purging { .. } => None,
        });
        let filter = indexed.fold(configured.clone(), |filter, nsid| {
            filter.with(nsid).unwrap_or_else(|| {
                tracing::warn!(nsid, "a choice of a collection that is none is left out");
                filter
            })
        });
        self.index.now.send_if_modified(|now| {
            let before = now.indexed.clone();
            if *before != filter {
                tracing::info!(collections = %filter, "what is indexed has changed");
                now.indexed = Arc::new(filter);
            }
            if *now.configured != *configured {
                now.configured = Arc::new(configured.clone());
                let settled = now.settled.take();
                now.settled = settled.and_then(|settled| settled.shared(configured).map(Arc::new));
            }
            !Arc::ptr_eq(&before, &now.indexed)
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn what_was_chosen_is_indexed_beside_what_is_configured() {
        let store = MemoryStore::new();
        let configured = CollectionFilter::parse("a.b.c").unwrap();
        let index = Index::read(&configured, &store).await.unwrap();
        let mut indexed = index.indexed();
        assert_eq!(*indexed.now(), configured);
        for nsid in ["x.y.z", "x.y.zz"] {
            let chosen = Chosen::Indexed { due: None };
            chosen.put(&store, nsid).await.unwrap();
        }
        index.refresh(&store).await.unwrap();
        indexed.changed().await;
        assert_eq!(indexed.now().to_string(), "a.b.c,x.y.z,x.y.zz");
        let purging = Chosen::Purging { cursor: None };
        purging.put(&store, "x.y.z").await.unwrap();
        index.refresh(&store).await.unwrap();
        assert_eq!(indexed.now().to_string(), "a.b.c,x.y.zz");
        assert_eq!(Chosen::of(&store, "x.y.z").await, Ok(Some(purging)));
        assert_eq!(Chosen::of(&store, "x.y").await, Ok(None));
        // The same again is no change.
        indexed.changed().await;
        index.refresh(&store).await.unwrap();
        let again = tokio::time::timeout(std::time::Duration::from_millis(10), indexed.changed());
        assert!(again.await.is_err());
    }

    #[tokio::test]
    async fn what_the_configuration_did_not_have_from_the_start_is_not_settled() {
        let store = MemoryStore::new();
        let chosen = Chosen::Indexed { due: None };
        chosen.put(&store, "x.y.z").await.unwrap();
        let filter = |text| CollectionFilter::parse(text).unwrap();
        let index = Index::read(&filter("a.b.c,d.e.*"), &store).await.unwrap();
        let said = |index: &Index| {
            let indexed = index.indexed();
            let settled = indexed.settled().map(|settled| settled.to_string());
            (indexed.now().to_string(), settled)
        };
        let settled = |text: &str| Some(text.to_owned());
        assert_eq!(
            said(&index),
            ("a.b.c,d.e.*,x.y.z".into(), settled("a.b.c,d.e.*"))
        );
        for (configured, indexed, since_the_start) in [
            (
                "a.b.c,d.e.*,f.g.h",
                "a.b.c,d.e.*,f.g.h,x.y.z",
                settled("a.b.c,d.e.*"),
            ),
            ("d.e.f,f.g.h", "d.e.f,f.g.h,x.y.z", settled("d.e.f")),
            // What was left out for a while was missed for a while.
            ("a.b.c,d.e.*", "a.b.c,d.e.*,x.y.z", settled("d.e.f")),
            ("", "", settled("d.e.f")),
            ("a.b.c", "a.b.c,x.y.z", None),
            ("", "", None),
        ] {
            let changing = index.lock().await;
            changing
                .configure(&store, &filter(configured))
                .await
                .unwrap();
            drop(changing);
            assert_eq!(
                said(&index),
                (indexed.into(), since_the_start),
                "{configured}"
            );
            assert_eq!(*index.configured(), filter(configured));
        }
    }
}
