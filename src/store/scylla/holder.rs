//! Who holds a lease: a machine and a data directory, so that a restart finds its own lease again.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::store::StoreError;

/// Where the system keeps its id.
const MACHINE_ID: &str = "/etc/machine-id";
/// The file in the data directory that holds an id where the system has none.
const OWN_ID: &str = "machine-id";
/// Longest id that is read.
const LONGEST_ID: u64 = 128;

/// The only process on this machine that is this worker with this data directory; until it is dropped.
#[derive(Debug)]
pub struct Holder {
    name: String,
    _lock: File,
}

impl Holder {
    /// Finds out who we are, and that no other process on this machine is. Makes the data directory if it is not there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Lease`] if another process has the same data directory and worker, [`StoreError::Failed`] if the
    /// directory can't be written to.
    pub fn find(data_dir: &Path, worker_id: u32) -> Result<Self, StoreError> {
        let shown = data_dir.display();
        let failed = |error: std::io::Error| {
            StoreError::Failed(format!("store.embedded.dir (DATA_DIR) {shown}: {error}"))
        };
        std::fs::create_dir_all(data_dir).map_err(failed)?;
        let dir = data_dir.canonicalize().map_err(failed)?;
        let path = dir.join(format!("worker-{worker_id}.lock"));
        let mut open = File::options();
        let lock = open.create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(failed)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            return Err(StoreError::Lease(format!(
                "worker {worker_id} runs on this machine already, in the same data directory ({} is locked by another \
                 process): stop that process, or give this one a worker.id (WORKER_ID) of its own",
                path.display()
            )));
        }
        let machine = match machine_id(Path::new(MACHINE_ID)) {
            Some(id) => id,
            None => own_id(&dir).map_err(failed)?,
        };
        let name = format!("{machine}:{}", dir.display());
        Ok(Self { name, _lock: lock })
    }

    /// As it stands in the row: the same after a restart.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A name of this process that no other one ever has, and that tells people where it runs.
pub(super) fn session_name() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let process = std::process::id();
    format!("{:032x}@{host}/{process}", fastrand::u128(..))
}

/// Where the process of a session runs, for people.
pub(super) fn whereabouts(session: &str) -> String {
    let place = session
        .split_once('@')
        .and_then(|(_, at)| at.rsplit_once('/'));
    match place {
        Some((host, process)) => format!("process {process} on {host}"),
        None => format!("session {session}"),
    }
}

/// The id in this file, if it holds one.
fn machine_id(file: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(file).ok()?;
    file.take(LONGEST_ID).read_to_string(&mut text).ok()?;
    let id = text.trim();
    // Images that were never booted have an empty one, or this word.
    let is_one = id.len() >= 16 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    is_one.then(|| id.to_owned())
}

/// The id that is kept in the data directory, made at the first start.
fn own_id(dir: &Path) -> std::io::Result<String> {
    let path = dir.join(OWN_ID);
    if let Some(id) = machine_id(&path) {
        return Ok(id);
    }
    let id = format!("{:032x}", fastrand::u128(..));
    // Another worker in this directory may make it at the same time: a name is only taken once.
    let temporary = dir.join(format!("{OWN_ID}.{}", std::process::id()));
    let mut file = File::create(&temporary)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&temporary, &path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => Ok(id),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match machine_id(&path) {
            Some(id) => Ok(id),
            None => Err(std::io::Error::other(format!(
                "{} is not an id: remove it",
                path.display()
            ))),
        },
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_the_same_holder_and_a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Holder::find(dir.path(), 3).unwrap();
        let name = first.name().to_owned();
        assert!(name.ends_with(&dir.path().canonicalize().unwrap().display().to_string()));
        match Holder::find(dir.path(), 3) {
            Err(StoreError::Lease(why)) => {
                assert!(
                    why.contains("worker 3") && why.contains("worker-3.lock"),
                    "{why}"
                );
            }
            other => panic!("{other:?}"),
        }
        let neighbour = Holder::find(dir.path(), 4).unwrap();
        assert_eq!(neighbour.name(), name);
        drop(first);
        assert_eq!(Holder::find(dir.path(), 3).unwrap().name(), name);
    }

    #[test]
    fn an_id_of_our_own_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let id = own_id(dir.path()).unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(own_id(dir.path()).unwrap(), id);
        std::fs::write(dir.path().join(OWN_ID), "uninitialized\n").unwrap();
        let error = own_id(dir.path()).unwrap_err().to_string();
        assert!(error.contains("remove it"), "{error}");
        assert_eq!(machine_id(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_session_says_where_it_runs() {
        let (one, two) = (session_name(), session_name());
        assert_ne!(one, two);
        let where_it_is = whereabouts(&one);
        let process = format!("process {} on ", std::process::id());
        assert!(where_it_is.starts_with(&process), "{where_it_is}");
        assert_eq!(whereabouts("abc"), "session abc");
    }
}
