//! Every setting: its default, unit, check and meaning.
//!
//! Four sources, the later overruling the earlier: defaults, a TOML file, variables, flags. All values travel as text and
//! become types here, once; [`sections`] is the one table of keys. Every mistake of every source is reported together,
//! and nothing starts with one.

mod check;
mod collections;
mod mistake;
mod reader;
mod relay_url;
mod reread;
mod secret;
mod sections;
mod shape;
mod show;
mod skipped;
mod sources;
mod units;

pub use collections::CollectionFilter;
pub use mistake::{Mistake, Mistakes, Origin};
pub use relay_url::RelayUrl;
pub use reread::{Change, Changes};
pub use secret::Secret;
pub use sections::{
    AccountAction, Accounts, Backfill, BackfillDays, Consistency, Embedded, Faults, Identity, Key,
    LiveStart, Log, LogFormat, Net, Pipeline, Quarantine, Relay, Replication, SECTIONS, Scylla,
    SectionInfo, Shutdown, Store, Verify, VerifyCids, Worker, keys,
};
pub use show::{REREAD, Setting, default_file};
pub use sources::Sources;

use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that can be set, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is stored.
    pub collections: CollectionFilter,
    /// The relay whose firehose is followed.
    pub relay: Relay,
    /// What of the past is fetched.
    pub backfill: Backfill,
    /// Which part of the work this process does.
    pub worker: Worker,
    /// Decoding and its queues; `lanes` is never 0 here.
    pub pipeline: Pipeline,
    /// The store.
    pub store: Store,
    /// Health, metrics, reads and administration.
    pub http: Http,
    /// Identities.
    pub identity: Identity,
    /// Connections that Penstock opens.
    pub net: Net,
    /// What is checked.
    pub verify: Verify,
    /// What happens to records of accounts that are gone.
    pub accounts: Accounts,
    /// What could not be taken in.
    pub quarantine: Quarantine,
    /// Faults that hit everyone.
    pub faults: Faults,
    /// How the daemon ends.
    pub shutdown: Shutdown,
    /// Log lines.
    pub log: Log,
}

/// Health, metrics, reads and administration, with all that depends on other keys filled in.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where TCP is served.
    pub listen: SocketAddr,
    /// For all admin routes. None: they answer 503 over TCP.
    pub admin_token: Option<Secret>,
    /// For the admin routes that only read.
    pub read_token: Option<Secret>,
    /// The Unix socket, mode 0600, that serves all routes without a token.
    pub socket: PathBuf,
}

/// A configuration and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The typed values.
    pub config: Config,
    /// Every key, in the order of the file.
    pub settings: Vec<Setting>,
}

impl Config {
    /// Where repositories go that don't fit into memory: `backfill.temp_dir`, else a folder of the store's.
    pub fn spill_dir(&self) -> PathBuf {
        let set = self.backfill.temp_dir.clone();
        set.unwrap_or_else(|| self.store.embedded.dir.join("spill"))
    }

    /// Reads and checks all sources. Reads the files that keys name (tokens, certificate authorities), opens nothing else.
    pub fn load(sources: &Sources) -> Result<Loaded, Mistakes> {
        let (given, mistakes) = sources.gather();
        let mut reader = reader::Reader::new(&given, mistakes);
        let config = check::read_all(&mut reader);
        let mistakes = reader.into_mistakes();
        match config {
            Some(config) if mistakes.is_empty() => {
                let settings = show::settings(&config, &given);
                Ok(Loaded { config, settings })
            }
            _ => Err(Mistakes(mistakes)),
        }
    }
}
