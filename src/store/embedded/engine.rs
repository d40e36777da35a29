//! The database: its keyspaces and how they are tuned, the names of collections, and what is counted.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::disk::Folder;
use super::filter::{self, Ranges};
use super::keys::{CollectionCode, collection_number, collection_text, read_collection};
use super::{EmbeddedOptions, FORMAT};
use crate::store::{Repair, StoreError};

/// Most collections that get a number; what comes later stays text in keys, so that nobody can fill the memory with names.
const MAX_COLLECTIONS: usize = 1 << 16;
/// Key of the format in `meta`.
const FORMAT_KEY: &[u8] = b"format";
/// Key of the bytes that the quarantine holds in `meta`.
const QUARANTINE_BYTES_KEY: &[u8] = b"quarantine_bytes";

/// An open database.
pub(super) struct Engine {
    pub(super) db: Database,
    pub(super) records: Keyspace,
    pub(super) hints: Keyspace,
    pub(super) ranges: Keyspace,
    pub(super) repos: Keyspace,
    pub(super) collections: Keyspace,
    pub(super) facts: Keyspace,
    pub(super) repairs: Keyspace,
    pub(super) quarantine: Keyspace,
    pub(super) quarantine_raw: Keyspace,
    pub(super) quarantine_ids: Keyspace,
    pub(super) jobs: Keyspace,
    pub(super) failures: Keyspace,
    pub(super) choices: Keyspace,
    pub(super) meta: Keyspace,
    pub(super) names: RwLock<Names>,
    repair_counts: Mutex<BTreeMap<String, u64>>,
    pub(super) quarantine_bytes: AtomicU64,
    /// Whether the writer waits for compactions.
    pub(super) waits: AtomicBool,
    filter_ranges: Arc<Ranges>,
    pub(super) folder: Folder,
}

impl Drop for Engine {
    /// The database's own configuration leads to this keyspace; left there, neither would ever be let go of.
    fn drop(&mut self) {
        self.filter_ranges.set(None);
    }
}

/// The collections that have a number.
#[derive(Default)]
pub(super) struct Names {
    codes: HashMap<String, Arc<[u8]>>,
    names: Vec<String>,
}

impl Names {
    /// The bytes of a collection; `None` if it has no number yet and is to get the next one.
    pub(super) fn code(&self, nsid: &str) -> Option<Arc<[u8]>> {
        if let Some(code) = self.codes.get(nsid) {
            return Some(code.clone());
        }
        (self.names.len() >= MAX_COLLECTIONS).then(|| collection_text(nsid).into())
    }

    /// Gives a collection the next number.
    pub(super) fn intern(&mut self, nsid: &str) -> (u16, Arc<[u8]>) {
        let id = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        let code: Arc<[u8]> = collection_number(id).into();
        self.names.push(nsid.to_owned());
        self.codes.insert(nsid.to_owned(), code.clone());
        (id, code)
    }

    /// The name behind a collection's bytes.
    pub(super) fn name(&self, code: &[u8]) -> Option<String> {
        match read_collection(code)? {
            CollectionCode::Number(id) => self.names.get(usize::from(id)).cloned(),
            CollectionCode::Text(text) => String::from_utf8(text.to_vec()).ok(),
        }
    }
}

impl Engine {
    /// Opens the store of a folder, and makes it if there is none.
    pub(super) fn open(options: &EmbeddedOptions) -> Result<Self, StoreError> {
        let folder = Folder::lock(&options.dir)?;
        if !folder.has_database()? {
            let creating = folder.fresh()?;
            create(&creating, options).map_err(|error| folder.error(error))?;
            folder.adopt(&creating)?;
        }
        let filter_ranges = Arc::new(Ranges::default());
        let db = open_database(&folder.database(), options, &filter_ranges)
            .map_err(|error| folder.error(error))?;
        check_format(&db, &folder)?;
        let engine = Self::with_keyspaces(db, options, filter_ranges, folder)?;
        engine.load()?;
        Ok(engine)
    }

    fn with_keyspaces(
        db: Database,
        options: &EmbeddedOptions,
        filter_ranges: Arc<Ranges>,
        folder: Folder,
    ) -> Result<Self, StoreError> {
        let open = |name| {
            db.keyspace(name, || keyspace_options(name, options))
                .map_err(|error| folder.error(error))
        };
        let ranges = open("ranges")?;
        filter_ranges.set(Some(ranges.clone()));
        Ok(Self {
            records: open("records")?,
            hints: open("records_by_collection")?,
            ranges,
            repos: open("repos")?,
            collections: open("collections")?,
            facts: open("facts")?,
            repairs: open("repairs")?,
            quarantine: open("quarantine")?,
            quarantine_raw: open("quarantine_raw")?,
            quarantine_ids: open("quarantine_ids")?,
            jobs: open("jobs")?,
            failures: open("job_failures")?,
            choices: open("choices")?,
            meta: open("meta")?,
            names: RwLock::default(),
            repair_counts: Mutex::default(),
            waits: AtomicBool::new(false),
            quarantine_bytes: AtomicU64::new(0),
            filter_ranges,
            db,
            folder,
        })
    }

    /// Reads what is kept in memory: names of collections, counts of repairs, bytes of the quarantine.
    fn load(&self) -> Result<(), StoreError> {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        for row in self.collections.iter() {
            let (_, name) = row.into_inner().map_err(|error| self.error(error))?;
            let name = std::str::from_utf8(&name).map_err(|_| self.corrupt("collections"))?;
            names.intern(name);
        }
        drop(names);
        for row in self.repairs.iter() {
            let value = row.value().map_err(|error| self.error(error))?;
            let repair: Repair =
                serde_json::from_slice(&value).map_err(|_| self.corrupt("repairs"))?;
            self.count_repair(&repair.reason, 1);
        }
        let total = self.meta.get(QUARANTINE_BYTES_KEY);
        if let Some(total) = total.map_err(|error| self.error(error))? {
            let total = <[u8; 8]>::try_from(&*total).map_err(|_| self.corrupt("meta"))?;
            let total = u64::from_be_bytes(total);
            self.quarantine_bytes.store(total, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes all that was written so far survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.db
            .persist(PersistMode::SyncData)
            .map_err(|error| self.error(error))
    }

    /// Counts repairs that came or went.
    pub(super) fn count_repair(&self, reason: &str, change: i64) {
        let mut counts = self.counts();
        let count = counts.entry(reason.to_owned()).or_default();
        *count = count.saturating_add_signed(change);
        if *count == 0 {
            counts.remove(reason);
        }
    }

    /// Repairs that wait, by reason.
    pub(super) fn repair_counts(&self) -> BTreeMap<String, u64> {
        self.counts().clone()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.repair_counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the bytes that the quarantine is to hold to a batch that is about to be committed.
    pub(super) fn put_quarantine_bytes(&self, batch: &mut fjall::OwnedWriteBatch, total: u64) {
        batch.insert(&self.meta, QUARANTINE_BYTES_KEY, total.to_be_bytes());
    }

    /// The bytes of a collection that is known.
    pub(super) fn collection(&self, nsid: &str) -> Option<Arc<[u8]>> {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .code(nsid)
    }

    /// The name of a collection.
    pub(super) fn collection_name(&self, code: &[u8]) -> Result<String, StoreError> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.name(code).ok_or_else(|| self.corrupt("collections"))
    }

    /// What an error of the engine means.
    pub(super) fn error(&self, error: fjall::Error) -> StoreError {
        self.folder.error(error)
    }

    /// An error for a row that can't be read.
    pub(super) fn corrupt(&self, what: &str) -> StoreError {
        self.folder.corrupt(what)
    }

    /// Waits for memtables to be written and merges all files, so that what can be dropped is dropped.
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        for keyspace in [&self.ranges, &self.records, &self.hints, &self.repos] {
            keyspace
                .rotate_memtable_and_wait()
                .and_then(|()| keyspace.major_compact())
                .map_err(|error| self.error(error))?;
        }
        Ok(())
    }
}

/// Makes a database with nothing in it but its format.
fn create(path: &Path, options: &EmbeddedOptions) -> fjall::Result<()> {
    let db = open_database(path, options, &Arc::default())?;
    let meta = db.keyspace("meta", || keyspace_options("meta", options))?;
    meta.insert(FORMAT_KEY, FORMAT)?;
    db.persist(PersistMode::SyncAll)
}

fn open_database(
    path: &Path,
    options: &EmbeddedOptions,
    ranges: &Arc<Ranges>,
) -> fjall::Result<Database> {
    let ranges = ranges.clone();
    Database::builder(path)
        .cache_size(options.cache_bytes)
        .worker_threads(2)
        .max_cached_files(Some(256))
        .max_journaling_size(options.journal_bytes.max(64 << 20))
        .with_compaction_filter_factories(Arc::new(move |name| filter::factory(name, &ranges)))
        .open()
}

fn check_format(db: &Database, folder: &Folder) -> Result<(), StoreError> {
    let meta = db.keyspace_exists("meta").then(|| {
        db.keyspace("meta", KeyspaceCreateOptions::default)
            .and_then(|meta| meta.get(FORMAT_KEY))
    });
    let found = meta
        .transpose()
        .map_err(|error| folder.error(error))?
        .flatten();
    let found = found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if found.as_deref() == Some(FORMAT) {
        return Ok(());
    }
    Err(StoreError::Format {
        dir: folder.path().display().to_string(),
        found: found.unwrap_or_else(|| "none".to_owned()),
        known: FORMAT.to_owned(),
        hint: "use the build that wrote it, or another folder; a new store fills itself again"
            .to_owned(),
    })
}

/// Where most is written gets most of the memory. Only keyspaces that are asked for single keys have filters: scans by
/// prefix can't use them.
fn keyspace_options(name: &str, options: &EmbeddedOptions) -> KeyspaceCreateOptions {
    let keyspace = KeyspaceCreateOptions::default();
    let (share, block) = match name {
        "records" => (4, 8 << 10),
        "records_by_collection" => (8, 8 << 10),
        "repos" => (16, 8 << 10),
        "quarantine_raw" | "choices" => (16, 16 << 10),
        _ => (32, 4 << 10),
    };
    let memtable = (options.write_buffer_bytes / share).max(1 << 20);
    let keyspace = keyspace
        .max_memtable_size(memtable)
        .data_block_size_policy(BlockSizePolicy::all(block));
    match name {
        "records" | "records_by_collection" | "repos" | "ranges" => {
            keyspace.filter_policy(FilterPolicy::disabled())
        }
        _ => keyspace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_beyond_the_numbers_stay_text() {
        let mut names = Names::default();
        for at in 0..MAX_COLLECTIONS {
            let nsid = format!("com.example.c{at}");
            assert_eq!(names.code(&nsid), None);
            let (id, code) = names.intern(&nsid);
            assert_eq!(usize::from(id), at);
            assert_eq!(names.name(&code), Some(nsid.clone()));
            assert_eq!(names.code(&nsid), Some(code));
        }
        let code = names.code("com.example.late").unwrap();
        assert_eq!(names.name(&code).as_deref(), Some("com.example.late"));
    }
}
