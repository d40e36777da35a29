//! The folder of a store: its lock, what may stand in it, its free space, and what the engine's errors mean.
//!
//! ```text
//! DIR/LOCK       locked by the process that has the store open
//! DIR/db         the database
//! DIR/creating   a database that is being made; renamed to db once it is whole
//! ```

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// The folder of a store, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    _lock: File,
}

/// What may stand in a folder that is to hold a store.
const KNOWN: [&str; 5] = ["LOCK", "db", "creating", "lost+found", "spill"];

impl Folder {
    /// Makes the folder if it is absent, refuses one that holds anything else, and locks it.
    pub(super) fn lock(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|error| io_error(dir, &error))?;
        refuse_foreign(dir)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("LOCK"))
            .map_err(|error| io_error(dir, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                dir: dir.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(dir.display().to_string())),
            Err(TryLockError::Error(error)) => Err(io_error(dir, &error)),
        }
    }

    /// Where the database is.
    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("db")
    }

    /// Whether a database was made here.
    pub(super) fn has_database(&self) -> Result<bool, StoreError> {
        let found = self.database().try_exists();
        found.map_err(|error| io_error(&self.dir, &error))
    }

    /// An empty place to make a database in. What an interrupted attempt left there goes: nothing in it was ever
    /// acknowledged.
    pub(super) fn fresh(&self) -> Result<PathBuf, StoreError> {
        let creating = self.dir.join("creating");
        match fs::remove_dir_all(&creating) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error(&self.dir, &error))
            }
            _ => Ok(creating),
        }
    }

    /// Puts a database that is whole in its place.
    pub(super) fn adopt(&self, creating: &Path) -> Result<(), StoreError> {
        let put = || {
            fs::rename(creating, self.database())?;
            let dir = self.dir.canonicalize()?;
            File::open(&dir)?.sync_all()?;
            dir.parent()
                .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        put().map_err(|error| io_error(&self.dir, &error))
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Bytes that may still be written to its disk.
    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(&self.dir);
        let stat = stat.map_err(|error| io_error(&self.dir, &error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Refuses to go on below `min_free`.
    pub(super) fn check_free(&self, min_free: u64) -> Result<(), StoreError> {
        let free = self.free_bytes()?;
        if free >= min_free {
            return Ok(());
        }
        Err(StoreError::DiskFull {
            dir: self.dir.display().to_string(),
            detail: format!(
                "{free} bytes are free, store.embedded.min_free keeps {min_free} bytes free"
            ),
        })
    }

    /// What an error of the engine means here.
    pub(super) fn error(&self, error: fjall::Error) -> StoreError {
        let dir = self.dir.display().to_string();
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                io_error(&self.dir, &error)
            }
            fjall::Error::Locked => StoreError::Locked(dir),
            fjall::Error::InvalidVersion(found) => StoreError::Format {
                dir,
                found: format!("{found:?} of the engine"),
                known: "V3 of the engine".to_owned(),
                hint: "open it with the build that wrote it".to_owned(),
            },
            fjall::Error::Poisoned => self.poisoned(),
            error => StoreError::Corrupt {
                dir,
                detail: error.to_string(),
            },
        }
    }

    /// The engine takes no writes after one failed in the background and does not say why: a full disk shows.
    fn poisoned(&self) -> StoreError {
        const NEARLY_FULL: u64 = 16 << 20;
        match self.free_bytes() {
            Ok(free) if free >= NEARLY_FULL => StoreError::Failed(format!(
                "an earlier write to {} failed, see the log",
                self.dir.display()
            )),
            Ok(free) => StoreError::DiskFull {
                dir: self.dir.display().to_string(),
                detail: format!("{free} bytes are free and a write failed"),
            },
            Err(error) => error,
        }
    }

    /// An error for a row that can't be read.
    pub(super) fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt {
            dir: self.dir.display().to_string(),
            detail: format!("a row of {what} can't be read"),
        }
    }
}

/// A daemon's socket may stand in the store's folder, by any name, and a killed one leaves it.
fn is_socket(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|found| found.is_socket())
}

/// A worker that had a database left it there: its lock, and what names the machine.
fn is_of_worker(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name == "machine-id" || name.starts_with("worker-") && name.ends_with(".lock")
}

/// Whether a store was made in the folder. Makes nothing.
pub(super) fn is_in(dir: &Path) -> Result<bool, StoreError> {
    let found = dir.join("db").try_exists();
    found.map_err(|error| io_error(dir, &error))
}

fn refuse_foreign(dir: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(dir).map_err(|error| io_error(dir, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| io_error(dir, &error))?;
        let name = entry.file_name();
        let known = KNOWN.iter().any(|known| name == *known) || is_of_worker(&name);
        if !known && !is_socket(&entry) {
            return Err(StoreError::Format {
                dir: dir.display().to_string(),
                found: format!("none, but other files ({})", name.display()),
                known: super::FORMAT.to_owned(),
                hint: "choose an empty folder".to_owned(),
            });
        }
    }
    Ok(())
}

fn io_error(dir: &Path, error: &io::Error) -> StoreError {
    use io::ErrorKind::{InvalidData, NotFound, QuotaExceeded, StorageFull, UnexpectedEof};
    let dir = dir.display().to_string();
    match error.kind() {
        StorageFull | QuotaExceeded => StoreError::DiskFull {
            dir,
            detail: error.to_string(),
        },
        NotFound | UnexpectedEof | InvalidData => StoreError::Corrupt {
            dir,
            detail: error.to_string(),
        },
        _ => StoreError::Failed(format!("{dir}: {error}")),
    }
}
