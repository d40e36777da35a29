//! A world: a stream made from a seed, and what it must lead to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::corrupt::Corruption;
use crate::datetime;
use crate::history::History;
use crate::log::{FrameLog, LogWriter};
use crate::numbering::Numbering;
use crate::oracle::{Oracle, Tracker};
use crate::repo::{Curve, Key, Signatures};

/// What to make. The same spec with `end` given makes the same bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorldSpec {
    /// Seed of all randomness.
    pub seed: u64,
    /// Number of accounts.
    pub repos: usize,
    /// Number of events, besides what [`StreamFaults`] puts among them.
    pub events: u64,
    /// When the history begins, but for its past, in microseconds since the epoch; `None`: 400 events a second up to its end.
    pub start: Option<u64>,
    /// When it ends; `None`: 10 seconds ago.
    pub end: Option<u64>,
    /// So many of the events come before `start`.
    #[serde(default)]
    pub past_events: u64,
    /// Over how many microseconds these are spread, so that days of history take seconds to make.
    #[serde(default)]
    pub past: u64,
    /// How commits are signed.
    pub signatures: Signatures,
    /// Share of accounts that are created within the history; the others have records from before it, which no event tells of.
    pub fresh: f64,
    /// Mean number of records from before the history; more make deeper trees and larger frames.
    pub prefill: usize,
    /// Share of records that break the data model (a float, odd key order) under a CID that is right.
    pub odd_records: f64,
    /// Share of account and identity events whose `time` is older than the last one's or unreadable.
    pub odd_times: f64,
    /// Share of P-256 keys.
    pub p256: f64,
    /// The first number of the stream.
    pub first_seq: u64,
    /// Where the numbers begin anew.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// What is wrong with the stream.
    pub faults: StreamFaults,
}

impl Default for WorldSpec {
    fn default() -> Self {
        Self {
            seed: 1,
            repos: 100,
            events: 10_000,
            start: None,
            end: None,
            past_events: 0,
            past: 0,
            signatures: Signatures::Real,
            fresh: 0.25,
            prefill: 3_000,
            odd_records: 0.001,
            odd_times: 0.05,
            p256: 0.1,
            first_seq: 1,
            restart: None,
            faults: StreamFaults::default(),
        }
    }
}

/// A stream whose numbers begin anew, as those of a host that lost its database.
///
/// Once the first event after it is published, the relay ends all connections and has forgotten what it sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// After so many events.
    pub after: u64,
    /// With this number; below those before, or it is a hole in the numbers and no more.
    pub first_seq: u64,
}

impl WorldSpec {
    /// Start and end in microseconds, without [`past`](Self::past).
    pub fn span(&self) -> (u64, u64) {
        let end = self
            .end
            .unwrap_or_else(|| datetime::now_micros() - 10_000_000);
        let recent = self.events.saturating_sub(self.past_events);
        let start = self.start.unwrap_or(end - recent * 2_500);
        (start.min(end), end)
    }
}

/// Faults in the content of the stream. Shares are of frames; 0 is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamFaults {
    /// Share of commits after which a corrupt copy comes under a number of its own.
    pub corrupt: f64,
    /// Which classes; empty: all.
    pub corrupt_classes: Vec<Corruption>,
    /// So many frames of more than 16 MiB.
    pub oversized: u32,
    /// So many frames of 5.5 MB, above the protocol's limit of 5 MB.
    pub too_large: u32,
    /// So many numbers whose frame breaks the WebSocket protocol.
    pub poison: u32,
    /// Share of frames that are sent twice.
    pub duplicates: f64,
    /// Share of frames after which an earlier event comes again under a new number.
    pub renumbered: f64,
    /// Share of frames before which numbers are left out.
    pub gaps: f64,
    /// Share of neighbours of different DIDs that swap places.
    pub reordered: f64,
    /// Share of frames after which an `#info` comes.
    pub infos: f64,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Numbers of the stream that have a frame.
    pub frames: u64,
    /// The first number.
    pub first_seq: u64,
    /// The last number.
    pub last_seq: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// `#commit` events.
    pub commits: u64,
    /// `#sync` events.
    pub syncs: u64,
    /// `#identity` events.
    pub identities: u64,
    /// `#account` events.
    pub accounts: u64,
    /// Messages of retired and unknown types.
    pub passed_over: u64,
    /// `#info` messages in the middle of the stream.
    pub infos: u64,
    /// Operations that create.
    pub creates: u64,
    /// Operations that update.
    pub updates: u64,
    /// Operations that delete.
    pub deletes: u64,
    /// Blocks of all commits.
    pub blocks: u64,
    /// Records that break the data model; some may be gone in the end.
    pub odd_records: u64,
    /// Account and identity events whose `time` can't be read.
    pub unreadable_times: u64,
    /// Corrupt frames by class: what a quarantine must count.
    pub corrupt: BTreeMap<String, u64>,
    /// Their sum.
    pub corrupt_total: u64,
    /// Their numbers.
    pub corrupt_seqs: Vec<u64>,
    /// Numbers of frames above 16 MiB.
    pub oversized_seqs: Vec<u64>,
    /// Numbers of frames above 5 MB.
    pub too_large_seqs: Vec<u64>,
    /// Numbers whose frame breaks the connection.
    pub poison_seqs: Vec<u64>,
    /// Frames that were sent twice under one number.
    pub duplicates: u64,
    /// Events that came again under another number.
    pub renumbered: u64,
    /// Holes in the numbering.
    pub gaps: u64,
    /// Numbers in them.
    pub missing_seqs: u64,
    /// Neighbours that swapped.
    pub reordered: u64,
}

/// An account as a PLC directory knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// The DID.
    pub did: String,
    /// The handle at the end of the history.
    pub handle: String,
    /// The signing key, as `publicKeyMultibase`.
    pub key: String,
    /// Whether the key is of P-256.
    pub p256: bool,
}

/// All accounts; keys are computed when they are asked for.
#[derive(Debug, Default)]
pub struct Accounts(BTreeMap<String, (String, AccountKey)>);

#[derive(Debug)]
enum AccountKey {
    Pair(Key),
    Text(String, bool),
}

impl Accounts {
    /// One account.
    pub fn get(&self, did: &str) -> Option<Account> {
        let (handle, key) = self.0.get(did)?;
        let (key, p256) = match key {
            AccountKey::Pair(key) => (key.multibase(), key.curve() == Curve::P256),
            AccountKey::Text(key, p256) => (key.clone(), *p256),
        };
        Some(Account {
            did: did.to_owned(),
            handle: handle.clone(),
            key,
            p256,
        })
    }

    /// The DIDs in order.
    pub fn dids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The DID document, with its PDS at `pds`.
    pub fn document(&self, did: &str, pds: &str) -> Option<serde_json::Value> {
        let account = self.get(did)?;
        Some(serde_json::json!({
            "@context": [
                "https://www.w3.org/ns/did/v1",
                "https://w3id.org/security/multikey/v1",
            ],
            "id": did,
            "alsoKnownAs": [format!("at://{}", account.handle)],
            "verificationMethod": [{
                "id": format!("{did}#atproto"),
                "type": "Multikey",
                "controller": did,
                "publicKeyMultibase": account.key,
            }],
            "service": [{
                "id": "#atproto_pds",
                "type": "AtprotoPersonalDataServer",
                "serviceEndpoint": pds,
            }],
        }))
    }
}

/// A stream in memory and what it must lead to.
pub struct World {
    /// What it was made from.
    pub spec: WorldSpec,
    /// The frames.
    pub log: Arc<FrameLog>,
    /// The state that a consumer of all of them must hold.
    pub oracle: Arc<Oracle>,
    /// The accounts.
    pub accounts: Arc<Accounts>,
    /// What was made.
    pub summary: Summary,
}

struct Made {
    writer: LogWriter,
    tracker: Tracker,
    accounts: Accounts,
    dids: Vec<String>,
    summary: Summary,
}

fn make(
    spec: &WorldSpec,
    log: LogWriter,
    tracker: Tracker,
    progress: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Made> {
    let mut numbering = Numbering::new(spec, log);
    let mut history = History::new(spec, tracker)?;
    let mut made = 0;
    while let Some(message) = history.next()? {
        numbering.push(message, &mut history.summary)?;
        made += 1;
        if made % 8_192 == 0 {
            progress(made)?;
        }
    }
    let writer = numbering.finish(&mut history.summary)?;
    let dids = history.actors.iter().map(|actor| actor.repo.did.clone());
    let dids = dids.collect();
    let accounts = history.actors.into_iter().map(|actor| {
        let key = AccountKey::Pair(actor.repo.key);
        (actor.repo.did, (actor.handle, key))
    });
    Ok(Made {
        writer,
        tracker: history.tracker,
        accounts: Accounts(accounts.collect()),
        dids,
        summary: history.summary,
    })
}

impl World {
    /// Makes a world in memory. About 6 kB for each event; for more than some 100,000 see [`prepare`].
    ///
    /// # Panics
    /// If the simulator's own tree is broken.
    pub fn generate(spec: &WorldSpec) -> Self {
        let mut spec = spec.clone();
        (spec.start, spec.end) = {
            let (start, end) = spec.span();
            (Some(start), Some(end))
        };
        let tracker = Tracker::in_memory(spec.repos.max(1));
        let made = make(&spec, LogWriter::in_memory(), tracker, &mut |_| Ok(()));
        let made = made.expect("nothing in memory fails but the simulator's own tree");
        let dids: Vec<&str> = made.dids.iter().map(String::as_str).collect();
        let oracle = made.tracker.finish(&dids).expect("values lie in memory");
        let log = made.writer.finish().expect("the log lies in memory");
        Self {
            log: Arc::new(log),
            oracle: Arc::new(oracle),
            accounts: Arc::new(made.accounts),
            summary: made.summary,
            spec,
        }
    }

    /// The same with defaults but for the seed and the sizes.
    pub fn of(seed: u64, repos: usize, events: u64) -> Self {
        Self::generate(&WorldSpec {
            seed,
            repos,
            events,
            ..WorldSpec::default()
        })
    }
}

/// The description of a prepared folder, `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of the folder: 1.
    pub format: u32,
    /// What it was made from.
    pub spec: WorldSpec,
    /// What was made.
    pub summary: Summary,
}

/// Makes a world into a folder, within bounded memory: `frames.bin` and `frames.idx` ([`FrameLog`]), `oracle.jsonl`,
/// `accounts.jsonl`, `manifest.json`. The manifest comes last: a folder without one is not complete.
pub fn prepare(
    spec: &WorldSpec,
    dir: &Path,
    mut progress: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<Manifest> {
    let mut spec = spec.clone();
    let (start, end) = spec.span();
    (spec.start, spec.end) = (Some(start), Some(end));
    fs::create_dir_all(dir)?;
    let scratch = dir.join("values.tmp");
    let values = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&scratch)?;
    let tracker = Tracker::in_file(spec.repos.max(1), values);
    let made = make(&spec, LogWriter::create(dir)?, tracker, &mut progress)?;
    made.writer.finish()?;
    let dids: Vec<&str> = made.dids.iter().map(String::as_str).collect();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(dir.join("oracle.jsonl"))?);
    made.tracker.write(&dids, &mut out)?;
    out.flush()?;
    fs::remove_file(scratch)?;
    let mut out = BufWriter::new(File::create(dir.join("accounts.jsonl"))?);
    for account in made
        .accounts
        .dids()
        .filter_map(|did| made.accounts.get(did))
    {
        serde_json::to_writer(&mut out, &account)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    let manifest = Manifest {
        format: 1,
        spec,
        summary: made.summary,
    };
    fs::write(
        dir.join("manifest.json"),
        serde_json::to_vec_pretty(&manifest)?,
    )?;
    Ok(manifest)
}

/// A world that [`prepare`] made.
pub struct Prepared {
    /// What it is.
    pub manifest: Manifest,
    /// The frames.
    pub log: Arc<FrameLog>,
    /// The accounts.
    pub accounts: Arc<Accounts>,
    /// Where the oracle's lines are.
    pub oracle: std::path::PathBuf,
}

impl Prepared {
    /// Opens a folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let manifest: Manifest = serde_json::from_slice(&fs::read(dir.join("manifest.json"))?)?;
        let mut accounts = BTreeMap::new();
        for line in BufReader::new(File::open(dir.join("accounts.jsonl"))?).lines() {
            let account: Account = serde_json::from_str(&line?)?;
            let key = AccountKey::Text(account.key, account.p256);
            accounts.insert(account.did, (account.handle, key));
        }
        Ok(Self {
            manifest,
            log: Arc::new(FrameLog::open(dir)?),
            accounts: Arc::new(Accounts(accounts)),
            oracle: dir.join("oracle.jsonl"),
        })
    }
}
