//! Every key of the configuration, once: its name, variable, default, shape and meaning.
//!
//! The table drives reading, `config/penstock.toml`, `penstock config` and the reference. The doc text of a key is the
//! doc comment of its field. To add a key: one entry here, then `PENSTOCK_BLESS=1 cargo test --test config`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::collections::CollectionFilter;
use super::reader::Reader;
use super::relay_url::RelayUrl;
use super::secret::Secret;
use super::shape::{self, Literal, Shape};

/// What is known of a key before anything is read.
#[derive(Debug)]
pub struct Key {
    /// `section.key`, as in the file and after `--set`.
    pub name: &'static str,
    /// The short variable, where it has one. `PENSTOCK_SECTION__KEY` works for every key.
    pub alias: Option<&'static str>,
    /// The text of the default; empty for none.
    pub default: &'static str,
    /// What it means, a line each.
    pub doc: &'static [&'static str],
    /// Whether the value is never shown.
    pub secret: bool,
    /// Whether a running daemon takes a change up at SIGHUP; a change of any other key needs a restart.
    pub reread: bool,
    pub(crate) literal: Literal,
}

/// A section, in the order of the file.
#[derive(Debug)]
pub struct SectionInfo {
    /// What it is about, a line each.
    pub doc: &'static [&'static str],
    /// Its keys.
    pub keys: &'static [Key],
}

const fn literal_of<S: Shape>(_: &S) -> Literal {
    S::LITERAL
}

/// What sets a key apart: `secret` or `reread`.
macro_rules! is_secret {
    (secret) => {
        true
    };
    ($(reread)?) => {
        false
    };
}

macro_rules! is_reread {
    (reread) => {
        true
    };
    ($(secret)?) => {
        false
    };
}

macro_rules! variable {
    () => {
        None
    };
    ($name:literal) => {
        Some($name)
    };
}

macro_rules! sections {
    ($($(#[doc = $about:literal])+ $vis:vis struct $section:ident {
        $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $name:literal $([$alias:literal])?,
            $default:literal, $shape:expr $(, $mark:ident)?;)*
        $(nested $(#[doc = $ndoc:literal])+ $nested:ident: $ntype:ty;)*
    })*) => {
        $(
            $(#[doc = $about])+
            #[derive(Debug, Clone)]
            $vis struct $section {
                $($(#[doc = $doc])+ pub $field: $type,)*
                $($(#[doc = $ndoc])+ pub $nested: $ntype,)*
            }

            impl $section {
                const INFO: SectionInfo = SectionInfo {
                    doc: &[$($about),+],
                    keys: &[$(Key {
                        name: $name,
                        alias: variable!($($alias)?),
                        default: $default,
                        doc: &[$($doc),+],
                        secret: is_secret!($($mark)?),
                        reread: is_reread!($($mark)?),
                        literal: literal_of(&$shape),
                    }),*],
                };

                /// Reads every key, so that every mistake is found, before it gives up.
                pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
                    $(let $field = reader.read($name, &$shape);)*
                    $(let $nested = <$ntype>::read(reader);)*
                    Some(Self { $($field: $field?,)* $($nested: $nested?,)* })
                }
            }

            impl Section for $section {
                fn differing(&self, other: &Self) -> Vec<&'static str> {
                    let mut names = Vec::new();
                    $(if self.$field != other.$field {
                        names.push($name);
                    })*
                    $(names.extend(self.$nested.differing(&other.$nested));)*
                    names
                }

                fn take_up(&mut self, other: &Self) {
                    $(if is_reread!($($mark)?) {
                        self.$field.clone_from(&other.$field);
                    })*
                    $(self.$nested.take_up(&other.$nested);)*
                }
            }
        )*

        /// Every section, in the order of the file.
        pub const SECTIONS: &[SectionInfo] = &[$($section::INFO),*];
    };
}

/// How two readings of a section compare.
pub(crate) trait Section {
    /// The names of the keys whose values differ.
    fn differing(&self, other: &Self) -> Vec<&'static str>;

    /// Takes the values of those keys that are reread.
    fn take_up(&mut self, other: &Self);
}

/// How much of the relay's past is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackfillDays {
    /// Nothing: from the live head on.
    Off,
    /// So long before now, as far as the relay retains it.
    Window(Duration),
    /// All that the relay retains: from cursor 0 on.
    All,
}

/// Where the live stream begins where nothing is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveStart {
    /// At what is published next.
    Head,
    /// At the oldest frame that the relay has.
    Oldest,
}

/// The longest window: ten years.
const MAX_DAYS: f64 = 3_652.0;

/// Which CIDs are recomputed from their blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyCids {
    /// Those of every block of a frame.
    All,
    /// Those of the commit and of the records that are stored.
    Records,
    /// None.
    None,
}

/// What happens to the records of an account that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountAction {
    /// They are hidden, and deleted once the account's host confirms.
    Purge,
    /// They are hidden from readers and stay held.
    Hide,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

const ACCOUNT_ACTIONS: shape::Choice<AccountAction> = shape::Choice(&[
    ("purge", AccountAction::Purge),
    ("hide", AccountAction::Hide),
]);
/// How many copies of a row must acknowledge a write, or answer a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Most of those in this datacenter.
    LocalQuorum,
    /// Most of all.
    Quorum,
    /// Most of those in each datacenter; reads ask for LOCAL_QUORUM.
    EachQuorum,
    /// All.
    All,
}

/// How many copies of each row there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replication {
    /// So many in every datacenter.
    Everywhere(u16),
    /// So many in each of these.
    Datacenters(Vec<(String, u16)>),
}

const CONSISTENCIES: shape::Choice<Consistency> = shape::Choice(&[
    ("LOCAL_QUORUM", Consistency::LocalQuorum),
    ("QUORUM", Consistency::Quorum),
    ("EACH_QUORUM", Consistency::EachQuorum),
    ("ALL", Consistency::All),
]);
const START: shape::Choice<LiveStart> =
    shape::Choice(&[("head", LiveStart::Head), ("oldest", LiveStart::Oldest)]);

const CIDS: shape::Choice<VerifyCids> = shape::Choice(&[
    ("all", VerifyCids::All),
    ("records", VerifyCids::Records),
    ("none", VerifyCids::None),
]);
const LOG_FORMATS: shape::Choice<LogFormat> = shape::Choice(&[
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
]);

/// The largest size that can be asked for: 1 PiB.
const PIB: u64 = 1 << 50;
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

sections! {
    /// What is stored.
    pub(crate) struct Wanted {
        /// The collections to store: NSIDs, or prefixes such as "app.bsky.*" that end at a dot.
        /// None: all.
        collections: CollectionFilter = "collections" ["COLLECTIONS"], "", shape::Collections, reread;
    }

    /// The relay whose firehose is followed.
    pub struct Relay {
        /// One or more: host, http(s)://… or ws(s)://…; later ones are fallbacks for the first.
        urls: Vec<RelayUrl> = "relay.urls" ["RELAY_URL"], "wss://bsky.network", shape::Relays;
        /// How long connecting may take: name, TCP, TLS and WebSocket together.
        connect_timeout: Duration = "relay.connect_timeout", "20s", shape::Time(100, HOUR);
        /// A connection on which nothing arrives for so long is given up.
        read_timeout: Duration = "relay.read_timeout", "60s", shape::Time(100, DAY);
        /// How often the relay is asked for a sign of life. Below relay.read_timeout.
        ping_interval: Duration = "relay.ping_interval", "30s", shape::Time(50, DAY);
        /// A larger frame is passed by, and noted as missing.
        max_frame: u64 = "relay.max_frame", "16MiB", shape::Size(64 * KIB, 256 * MIB);
        /// The first wait before connecting again; it doubles with each failure, with jitter.
        backoff_min: Duration = "relay.backoff_min", "500ms", shape::Time(1, HOUR);
        /// The longest wait before connecting again.
        backoff_max: Duration = "relay.backoff_max", "60s", shape::Time(1, DAY);
        /// The live stream goes on where it ended if that is at most so long ago. Else it starts at the head, so that new events
        /// do not wait for old ones, and worker 0 replays what lies between.
        resume_within: Duration = "relay.resume_within", "1h", shape::Time(1_000, 7 * DAY);
        /// Where the live stream begins where nothing is held: `head`, or `oldest`: all that the relay has is then read in its
        /// order by one stream, and new events wait for the old ones.
        start: LiveStart = "relay.start", "head", START;
        /// Relays count on their own and their times differ: what two of them hold joins if it overlaps by so much.
        failover_overlap: Duration = "relay.failover_overlap", "60s", shape::Time(0, DAY);
    }

    /// What of the past is fetched.
    pub struct Backfill {
        /// How many days before now are held, as far as the relay retains them; fractions are allowed. 0: what is published from
        /// the first start on. -1: all that the relay retains. Gaps between what is held are filled in any case. Only worker 0
        /// replays, for all workers.
        days: BackfillDays = "backfill.days" ["BACKFILL_DAYS"], "0", Days;
        /// How often worker 0 reads the ledger again to see what is missing.
        reread: Duration = "backfill.reread", "60s", shape::Time(100, HOUR);
        /// A replay takes no more events a second than this. 0: as many as the live stream leaves room for.
        max_events_per_second: u32 = "backfill.max_events_per_second", "0", shape::Number(0, 100_000_000), reread;
        /// How many jobs that fetch repositories are at work at once; others wait.
        max_jobs: usize = "backfill.max_jobs", "2", shape::Number(1, 64), reread;
        /// Memory of all repositories that are being fetched together; beyond it they go to temporary files.
        max_bytes: u64 = "backfill.max_bytes", "256MiB", shape::Size(MIB, PIB), reread;
        /// The folder of those files; made if it is not there. They are gone whenever the process is. Best on a disk: a folder in
        /// memory would use up what backfill.max_bytes spares. None: spill in store.embedded.dir.
        temp_dir: Option<PathBuf> = "backfill.temp_dir", "", shape::Maybe(shape::Path);
        /// The most bytes of one repository.
        max_repo_bytes: u64 = "backfill.max_repo_bytes", "8GiB", shape::Size(MIB, PIB), reread;
        /// How long one repository may take, from the first byte of the answer on.
        repo_timeout: Duration = "backfill.repo_timeout", "30m", shape::Time(1_000, DAY), reread;
        /// The longest wait for an answer of a host, and the longest pause within one.
        repo_idle: Duration = "backfill.repo_idle", "60s", shape::Time(100, HOUR), reread;
        /// Fetches at once from one host, and from one address.
        per_host: usize = "backfill.per_host", "8", shape::Number(1, 256), reread;
        /// Requests a second to one host, until its RateLimit headers say something else.
        requests_per_second: u32 = "backfill.requests_per_second", "10", shape::Number(1, 10_000), reread;
        /// How often a repository is tried before it counts as failed.
        attempts: u32 = "backfill.attempts", "4", shape::Number(1, 100), reread;
        /// The wait after the first failure of a repository; it doubles with each one.
        retry_wait: Duration = "backfill.retry_wait", "5s", shape::Time(1, HOUR), reread;
        /// The pause between two repositories that the standing job takes from the repairs.
        repair_pause: Duration = "backfill.repair_pause", "100ms", shape::Time(0, HOUR), reread;
        /// A job of more repositories has the identities from the PLC directory's export, once a day, instead of asking for each.
        /// See identity.cache_entries.
        export_above: u64 = "backfill.export_above", "10000", shape::Number(0, 1_000_000_000), reread;
        /// DIDs that are fetched only by jobs that name them, and files of such (/path, ./path, file:path: a DID a line, comments
        /// behind a #; read at the start), comma separated.
        skip_dids: Vec<String> = "backfill.skip_dids", "", shape::Names;
        /// Who can be asked about these requests: an address or a page, sent with the user agent.
        contact: Option<String> = "backfill.contact", "", shape::Maybe(shape::Text);
    }

    /// Which part of the work this process does.
    pub struct Worker {
        /// From 0, below worker.count. This worker owns the slots s with s mod worker.count = worker.id.
        id: u16 = "worker.id" ["WORKER_ID"], "0", shape::Number(0, 255);
        /// How many workers share the work, 1 to 256. More than 1 needs store.scylla.nodes.
        count: u16 = "worker.count" ["WORKER_COUNT"], "1", shape::Number(1, 256);
    }

    /// Decoding. Frames wait in bounded queues; a full queue stops the reading of the socket.
    pub struct Pipeline {
        /// Decode threads. 0: as many as there are cores.
        lanes: usize = "pipeline.lanes", "0", shape::Number(0, 256);
        /// The most frames that may wait, over all lanes and streams.
        max_frames: usize = "pipeline.max_frames", "65536", shape::Number(256, 16_777_216);
        /// The most bytes of frames that may wait, over all lanes and streams. At least relay.max_frame.
        max_bytes: u64 = "pipeline.max_bytes", "48MiB", shape::Size(MIB, PIB);
        /// A batch goes to the store at so many operations,
        batch_ops: usize = "pipeline.batch_ops", "512", shape::Number(1, 65_536);
        /// or at so many bytes,
        batch_bytes: u64 = "pipeline.batch_bytes", "1MiB", shape::Size(4 * KIB, GIB);
        /// or when its first operation is so old.
        batch_age: Duration = "pipeline.batch_age", "20ms", shape::Time(1, 10_000);
        /// The most bytes in batches that the store has not acknowledged yet. At least pipeline.batch_bytes.
        in_flight_bytes: u64 = "pipeline.in_flight_bytes", "24MiB", shape::Size(MIB, PIB);
    }

    /// What both stores have in common.
    pub struct Store {
        /// Keep the JSON of a record beside its DAG-CBOR; else it is made when it is read.
        json: bool = "store.json", "false", shape::Flag;
        /// Keep the index per collection: what is new in a collection.
        index: bool = "store.index", "true", shape::Flag;
        nested
        /// The embedded store.
        embedded: Embedded;
        nested
        /// ScyllaDB.
        scylla: Scylla;
    }

    /// The embedded store: a folder of this process alone.
    pub struct Embedded {
        /// The folder; made if it is not there. Also the place of the socket.
        dir: PathBuf = "store.embedded.dir" ["DATA_DIR"], "penstock-data", shape::Path;
        /// With less free disk than this, ingestion stops and the process ends with code 75.
        min_free: u64 = "store.embedded.min_free", "2GiB", shape::Size(0, PIB);
        /// How often writes are synced to disk. They are acknowledged only then.
        sync_interval: Duration = "store.embedded.sync_interval", "200ms", shape::Time(1, 60_000);
        /// Memory for blocks that were read.
        cache: u64 = "store.embedded.cache", "32MiB", shape::Size(MIB, PIB);
        /// Memory for writes that are not in tables yet.
        write_buffer: u64 = "store.embedded.write_buffer", "64MiB", shape::Size(MIB, PIB);
    }

    /// ScyllaDB or Cassandra, for several workers, instead of the embedded store.
    pub struct Scylla {
        /// Contact points, host or host:port (9042 without one), comma separated. None: the embedded store.
        nodes: Vec<String> = "store.scylla.nodes" ["SCYLLA_NODES"], "", shape::Names;
        /// The keyspace; worker 0 makes it where it is not there.
        keyspace: String = "store.scylla.keyspace" ["SCYLLA_KEYSPACE"], "penstock", Keyspace;
        /// The user. None: no authentication.
        user: Option<String> = "store.scylla.user" ["SCYLLA_USER"], "", shape::Maybe(shape::Text);
        /// A file that holds the password; one newline at its end does not count.
        password_file: Option<PathBuf> = "store.scylla.password_file" ["SCYLLA_PASSWORD_FILE"], "", shape::Maybe(shape::Path);
        /// Speak TLS to the nodes. Authorities: the system's and net.ca_file.
        tls: bool = "store.scylla.tls", "false", shape::Flag;
        /// The datacenter of this worker: requests go to its nodes. None: to those of any.
        datacenter: Option<String> = "store.scylla.datacenter", "", shape::Maybe(shape::Text);
        /// Copies of each row where the keyspace is made: a number for every datacenter, or dc1:3,dc2:3.
        replication: Replication = "store.scylla.replication", "3", shape::Copies;
        /// How many copies must answer: LOCAL_QUORUM, QUORUM, EACH_QUORUM or ALL. Less could lose what was acknowledged.
        consistency: Consistency = "store.scylla.consistency", "LOCAL_QUORUM", CONSISTENCIES;
        /// The most requests that may be on their way; how many there are adapts to latency and errors.
        in_flight: usize = "store.scylla.in_flight", "1024", shape::Number(1, 32_768);
        /// A request that takes longer is sent again.
        request_timeout: Duration = "store.scylla.request_timeout", "10s", shape::Time(10, HOUR);
        /// How long connecting to a node may take.
        connect_timeout: Duration = "store.scylla.connect_timeout", "10s", shape::Time(10, HOUR);
        /// What is held is claimed so long after its acknowledgement: more than the servers' commitlog_sync_period (10s).
        sync_lag: Duration = "store.scylla.sync_lag", "15s", shape::Time(0, HOUR);
        /// A worker that could not renew its lease for so long stops writing, and another one may take its place.
        lease: Duration = "store.scylla.lease", "30s", shape::Time(2_000, HOUR);
        /// On ScyllaDB, make the tables records and repos with change data capture.
        cdc: bool = "store.scylla.cdc", "false", shape::Flag;
    }

    /// Health, metrics, reads and administration.
    pub(crate) struct HttpKeys {
        /// Address and port. None: 127.0.0.1:(8400 + worker.id).
        listen: Option<SocketAddr> = "http.listen" ["HTTP_LISTEN"], "", shape::Maybe(shape::Listen);
        /// For the admin routes. Without one they answer 503 over TCP. Better in a file than here.
        admin_token: Option<Secret> = "http.admin_token" ["ADMIN_TOKEN"], "", shape::Maybe(shape::Token), secret;
        /// A file that holds the admin token; one newline at its end does not count.
        admin_token_file: Option<PathBuf> = "http.admin_token_file" ["ADMIN_TOKEN_FILE"], "", shape::Maybe(shape::Path);
        /// For the admin routes that only read.
        read_token: Option<Secret> = "http.read_token" ["READ_TOKEN"], "", shape::Maybe(shape::Token), secret;
        /// A file that holds the read token.
        read_token_file: Option<PathBuf> = "http.read_token_file" ["READ_TOKEN_FILE"], "", shape::Maybe(shape::Path);
        /// A Unix socket, mode 0600, that serves all routes without a token.
        /// None: penstock.sock in store.embedded.dir (penstock-ID.sock for workers other than 0).
        socket: Option<PathBuf> = "http.socket", "", shape::Maybe(shape::Path);
    }

    /// Identities.
    pub struct Identity {
        /// The PLC directory, which knows the documents of did:plc.
        plc_url: String = "identity.plc_url" ["PLC_URL"], "https://plc.directory", shape::HttpOrigin;
        /// How many identities are remembered, each in about 100 bytes, at worst 200. The export of the PLC directory is of use as
        /// far as it fits: a job over the whole network wants 60000000 and 6 GB.
        cache_entries: usize = "identity.cache_entries", "2000000", shape::Number(1_000, 1_000_000_000);
    }

    /// Connections that Penstock opens.
    pub struct Net {
        /// Fetch from private and loopback addresses that a DID document names. Addresses in this configuration are always
        /// allowed.
        allow_private: bool = "net.allow_private", "false", shape::Flag;
        /// A PEM file of certificate authorities, trusted beside the system's.
        ca_file: Option<PathBuf> = "net.ca_file", "", shape::Maybe(shape::Path);
    }

    /// What is checked.
    pub struct Verify {
        /// Which CIDs are recomputed: all, records (the commit and the records that are stored), none.
        cids: VerifyCids = "verify.cids", "all", CIDS;
        /// Whether the signatures of repository snapshots are checked.
        signatures: bool = "verify.signatures", "true", shape::Flag;
    }

    /// Records of accounts that are gone are hidden from readers at once. What else happens to them.
    pub struct Accounts {
        /// A deleted account: purge or hide. Until its host confirms it, they are hidden.
        on_deleted: AccountAction = "accounts.on_deleted", "purge", ACCOUNT_ACTIONS;
        /// An account that was taken down: purge or hide. Until its host confirms it, they are hidden.
        on_takedown: AccountAction = "accounts.on_takedown", "hide", ACCOUNT_ACTIONS;
    }

    /// What could not be taken in.
    pub struct Quarantine {
        /// The most raw bytes kept. Beyond it the oldest bytes go; their rows stay.
        max_bytes: u64 = "quarantine.max_bytes", "1GiB", shape::Size(0, PIB);
    }

    /// Faults that hit everyone are taken for ours: ingestion pauses.
    pub struct Faults {
        /// Ingestion pauses while the median time of 100 frames is further ahead of our clock than this.
        clock_ahead: Duration = "faults.clock_ahead", "1m", shape::Time(1_000, DAY);
        /// Of so many frames
        window: usize = "faults.window", "1000", shape::Number(10, 1_000_000);
        /// a larger share than this that fails, from many DIDs, pauses ingestion,
        share: f64 = "faults.share", "5%", shape::Share;
        /// for so long at most, before what fails is put into the quarantine.
        pause: Duration = "faults.pause", "10m", shape::Time(100, DAY);
    }

    /// How the daemon ends.
    pub struct Shutdown {
        /// How long SIGTERM and SIGINT wait for queues to drain. A second signal waits no longer.
        timeout: Duration = "shutdown.timeout", "30s", shape::Time(100, HOUR);
    }

    /// Log lines, on standard error.
    pub struct Log {
        /// error, warn, info, debug, trace, or target=level pairs.
        level: String = "log.level" ["RUST_LOG"], "info", shape::LogFilter, reread;
        /// text, json, or auto: text on a terminal, else json.
        format: LogFormat = "log.format" ["LOG_FORMAT"], "auto", LOG_FORMATS, reread;
    }
}

struct Days;

impl Shape for Days {
    type Value = BackfillDays;
    const LITERAL: Literal = Literal::Bare;
    fn read(&self, text: &str) -> Result<BackfillDays, String> {
        let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-');
        let days: Option<f64> = text.parse().ok().filter(|_| text.chars().all(plain));
        match days {
            Some(0.0) => Ok(BackfillDays::Off),
            Some(-1.0) => Ok(BackfillDays::All),
            Some(days) if days > 0.0 && days <= MAX_DAYS => Ok(BackfillDays::Window(
                Duration::from_secs_f64((days * 86_400.0).max(1.0)),
            )),
            _ => Err(format!(
                "allowed: 0 (live only), a number of days up to {MAX_DAYS} such as 3 or 0.5, or -1 (all that the relay retains)"
            )),
        }
    }
}

struct Keyspace;

impl Shape for Keyspace {
    type Value = String;
    const LITERAL: Literal = Literal::Text;
    fn read(&self, text: &str) -> Result<String, String> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        match starts && text.len() <= 48 && text.bytes().all(word) {
            true => Ok(text.to_owned()),
            false => {
                Err("allowed: a letter, then up to 47 letters, digits and underscores".to_owned())
            }
        }
    }
}

/// Every key, in the order of the file.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

impl Key {
    /// The key of this name.
    pub fn named(name: &str) -> Option<&'static Key> {
        keys().find(|key| key.name == name)
    }

    /// The variable that every key has.
    pub fn variable(&self) -> String {
        let name = self.name.replace('.', "__").to_uppercase();
        format!("PENSTOCK_{name}")
    }
}
